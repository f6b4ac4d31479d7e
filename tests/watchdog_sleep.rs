// SPDX-License-Identifier: GPL-2.0-only
//! A host that sleeps (S3) may reset its watchdog, and a driver need not start it again (Linux
//! drivers/watchdog/i6300esb.c does not): then kicks succeed and nothing would ever fire. A BMC
//! counts on instead (drivers/char/ipmi/ipmi_watchdog.c has no word on sleeps).
#![allow(clippy::expect_used)] // how tests fail

use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use xenwarden::sys::clock::Suspended;
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::HostWatchdog;
use xenwarden::watchdog::device::{Asked, Driver, Hardware};
use xenwarden::watchdog::quirks::Quirk;
use xenwarden::watchdog::sysfs::Attributes;

/// What was done to the device, and for how long its host has slept.
#[derive(Default)]
struct Seen {
    kicks: u32,
    timeout_s: u32,
    started_again: u32,
    tried: u32,
    /// What starting it again fails with, which stops it.
    start_fails: Option<Errno>,
    slept_ms: u64,
    /// How long it still counts, where it runs. It counts whether or not the host sleeps.
    left_ms: Option<u64>,
}

impl Seen {
    fn count_anew(&mut self) {
        self.left_ms = Some(u64::from(self.timeout_s) * 1000);
    }

    /// The host sleeps for so long, and the device counts on.
    fn sleep_ms(&mut self, ms: u64) {
        self.slept_ms += ms;
        self.left_ms = self.left_ms.map(|left_ms| left_ms - ms);
    }
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

fn with<T>(change: impl FnOnce(&mut Seen) -> T) -> T {
    SEEN.with(|seen| change(&mut seen.borrow_mut()))
}

/// A device that runs with its driver's own timeout once it was started.
struct Sleeper;

impl Driver for Sleeper {
    fn open(_: &Path) -> io::Result<Self> {
        with(Seen::count_anew);
        Ok(Self)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        Ok(WatchdogInfo::default())
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        with(|seen| seen.timeout_s = timeout_s);
        Ok(())
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(with(|seen| seen.timeout_s))
    }

    fn keepalive(&self) -> Result<(), Errno> {
        with(|seen| {
            seen.kicks += 1;
            // What does not run is not started by a kick.
            if seen.left_ms.is_some() {
                seen.count_anew();
            }
        });
        Ok(())
    }

    fn start_again(&self) -> Result<(), Errno> {
        with(|seen| {
            seen.tried += 1;
            if let Some(errno) = seen.start_fails {
                seen.left_ms = None;
                return Err(errno);
            }
            (seen.started_again, seen.timeout_s) = (seen.started_again + 1, 30);
            seen.count_anew();
            Ok(())
        })
    }

    fn suspended_ns(_: &Suspended) -> u64 {
        with(|seen| seen.slept_ms * 1_000_000)
    }

    fn disarm(self) -> io::Result<()> {
        Ok(())
    }

    fn attributes(_: &Path) -> Attributes {
        Attributes::default()
    }

    fn ask_hardware(_: &Quirk) -> Asked {
        Asked::NoWay
    }

    fn nowayout(_: &Quirk) -> Option<bool> {
        None
    }
}

/// Armed on a host that had slept before, and kicked: the arming is a kick, too.
fn armed() -> Hardware<Sleeper> {
    with(|seen| seen.slept_ms = 7_000);
    let mut armed = Hardware::arm(Path::new("/dev/watchdog7"), 5).expect("armed");
    armed.kick().expect("a kick");
    assert_eq!(with(|seen| seen.started_again), 0, "it slept before");
    armed
}

#[test]
fn what_forgot_in_a_sleep_that_it_ran_is_started_again_with_the_next_kick() {
    let mut armed = armed();
    for slept in 1..=2 {
        with(|seen| seen.slept_ms += 1_000);
        for _ in 0..3 {
            armed.kick().expect("a kick");
        }
        let (times, timeout_s) = with(|seen| (seen.started_again, seen.timeout_s));
        assert_eq!((times, timeout_s), (slept, 5), "with its timeout");
    }
    assert_eq!(with(|seen| seen.kicks), 8);
}

#[test]
fn two_clocks_that_are_not_read_at_once_are_no_sleep() {
    let mut armed = armed();
    with(|seen| seen.slept_ms += 300);
    armed.kick().expect("a kick");
    assert_eq!(with(|seen| seen.started_again), 0);
}

#[test]
fn what_can_never_be_started_again_is_tried_once_for_each_sleep() {
    for errno in [Errno::EBUSY, Errno::EOPNOTSUPP] {
        with(|seen| *seen = Seen::default());
        let mut armed = armed();
        for slept in 1..=2 {
            with(|seen| (seen.slept_ms, seen.start_fails) = (slept * 60_000, Some(errno)));
            for _ in 0..3 {
                armed.kick().expect_err("it may never fire");
            }
            assert_eq!(u64::from(with(|seen| seen.tried)), slept);
        }
    }
}

#[test]
fn a_device_that_ran_on_without_a_guard_may_have_slept_meanwhile() {
    with(|seen| seen.slept_ms = 7_000);
    let mut kept = Hardware::take_over(Path::new("/dev/watchdog7"), Sleeper, 5);
    kept.kick().expect("a kick");
    kept.kick().expect("a kick");
    assert_eq!(with(|seen| seen.started_again), 1);
}

#[test]
fn what_counts_on_in_a_sleep_is_started_once_with_the_first_kick_after_it() {
    let mut armed = armed();
    let look = || with(|seen| (seen.kicks, seen.started_again, seen.left_ms));
    assert_eq!(look(), (2, 0, Some(5_000)));
    with(|seen| seen.sleep_ms(4_000));
    assert_eq!(look(), (2, 0, Some(1_000)), "the guard has not run yet");
    armed.kick().expect("the first kick");
    assert_eq!(look(), (3, 1, Some(5_000)), "its whole timeout from here");
    with(|seen| seen.left_ms = Some(4_750));
    armed.kick().expect("the second");
    assert_eq!(look(), (4, 1, Some(5_000)), "no second start");
}

#[test]
fn a_start_after_a_sleep_that_fails_is_tried_with_each_kick() {
    let mut armed = armed();
    with(|seen| {
        seen.sleep_ms(4_000);
        seen.start_fails = Some(Errno::EIO);
    });
    for _ in 0..2 {
        let error = armed.kick().expect_err("told");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(with(|seen| seen.left_ms), None, "it does not run");
    with(|seen| seen.start_fails = None);
    armed.kick().expect("a kick");
    armed.kick().expect("and another");
    let (started, left_ms) = with(|seen| (seen.started_again, seen.left_ms));
    assert_eq!((started, left_ms), (1, Some(5_000)));
    assert_eq!(with(|seen| seen.kicks), 6, "each was a kick as well");
}

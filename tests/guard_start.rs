// SPDX-License-Identifier: GPL-2.0-only
//! The order of the guard's start: it asks whether everything is served, and opens the host
//! watchdog, which kicks it, only then.
#![allow(clippy::expect_used)] // how tests fail

use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use xenwarden::config::{self, Policy};
use xenwarden::event::Coverage;
use xenwarden::exit::UNAVAILABLE;
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::page::Writer;
use xenwarden::guard::sight::Sight;
use xenwarden::guard::start::arm;
use xenwarden::sys::clock::Monotonic;
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::device::{Driver, Hardware};
use xenwarden::watchdog::sysfs::Attributes;

thread_local! {
    /// What happened, in order.
    static STORY: RefCell<Vec<&'static str>> = RefCell::default();
}

fn note(what: &'static str) {
    STORY.with(|story| story.borrow_mut().push(what));
}

fn story() -> Vec<&'static str> {
    STORY.with(RefCell::take)
}

/// A device that notes what is done to it.
struct Noted;

impl Driver for Noted {
    fn open(_: &Path) -> io::Result<Self> {
        note("open");
        Ok(Self)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        Ok(WatchdogInfo::default())
    }

    fn set_timeout_s(&self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(5)
    }

    fn keepalive(&self) -> Result<(), Errno> {
        note("kick");
        Ok(())
    }

    fn disarm(self) -> io::Result<()> {
        note("disarm");
        Ok(())
    }

    fn attributes(_: &Path) -> Attributes {
        Attributes::default()
    }
}

/// A host that is as the verdicts say, look by look, and stays as the last.
struct Looks<'a> {
    verdicts: &'a [Verdict],
    looked: usize,
    /// Set at this look.
    stop: Option<(usize, &'a AtomicBool)>,
}

impl Sight for Looks<'_> {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        note("look");
        let at = self.looked.min(self.verdicts.len() - 1);
        self.looked += 1;
        if let Some((_, stop)) = self.stop.filter(|(look, _)| *look == self.looked) {
            stop.store(true, Ordering::Relaxed);
        }
        (*self.verdicts.get(at).expect("a verdict"), clock())
    }

    fn coverage(&self) -> Coverage {
        Coverage::Full
    }
}

fn policy() -> Policy {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guard-start.conf");
    std::fs::write(&path, b"[host-watchdog]\ndevice = \"/dev/watchdog7\"\n").expect("written");
    let mut policy = config::load(&path).expect("a policy");
    policy.sample_ns = 20_000_000;
    policy
}

type Armed = Option<(Monotonic, Hardware<Noted>, Writer)>;

fn start(sight: &mut Looks<'_>, stop: &AtomicBool) -> Result<Armed, xenwarden::exit::Failure> {
    arm(&policy(), sight, stop, || {
        note("page");
        Ok(Writer::private().expect("memory"))
    })
}

const SERVED: Verdict = Verdict::Served { excused: None };
const UNPROVEN: Verdict = Verdict::Unknown(Unknown::Unproven { cpu: 0 });
const LAGGING: Verdict = Verdict::Lagging {
    work: Work::PcpuTimers(0),
    overdue_ns: 600_000_000,
};

#[test]
fn the_device_is_opened_after_the_look_that_finds_everything_served() {
    let mut sight = Looks {
        verdicts: &[UNPROVEN, LAGGING, UNPROVEN, SERVED],
        looked: 0,
        stop: None,
    };
    let armed = start(&mut sight, &AtomicBool::new(false)).expect("no failure");
    assert!(armed.is_some());
    let expected = ["look", "look", "look", "look", "page", "open", "kick"];
    assert_eq!(story(), expected);
}

#[test]
fn a_host_that_is_not_served_is_given_ten_seconds_and_never_opened() {
    let mut sight = Looks {
        verdicts: &[LAGGING],
        looked: 0,
        stop: None,
    };
    let refused = start(&mut sight, &AtomicBool::new(false)).err();
    let refused = refused.expect("not armed");
    assert_eq!(refused.code, UNAVAILABLE);
    assert!(
        refused.message.contains("timers of pcpu 0"),
        "{}",
        refused.message
    );
    let story = story();
    assert!(
        story.len() > 10 && story.iter().all(|what| *what == "look"),
        "{story:?}"
    );
}

#[test]
fn a_stop_before_the_arming_arms_nothing() {
    // While it waits, and in the very look that finds everything served.
    for verdicts in [&[UNPROVEN][..], &[UNPROVEN, SERVED]] {
        let stop = AtomicBool::new(false);
        let mut sight = Looks {
            verdicts,
            looked: 0,
            stop: Some((2, &stop)),
        };
        let armed = start(&mut sight, &stop).expect("no failure");
        assert!(armed.is_none());
        assert_eq!(story(), ["look", "look"]);
    }
    let mut sight = Looks {
        verdicts: &[SERVED],
        looked: 0,
        stop: None,
    };
    assert!(
        start(&mut sight, &AtomicBool::new(true))
            .expect("no failure")
            .is_none()
    );
    assert_eq!(story(), <[&str; 0]>::default(), "asked to stop at once");
}

// SPDX-License-Identifier: GPL-2.0-only
//! Arming the host watchdog, over drivers that are made up after real ones (drivers/watchdog,
//! drivers/char/ipmi): what is refused is disarmed, and what runs and cannot be is kicked.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::HostWatchdog;
use xenwarden::watchdog::device::{ArmError, Driver, Hardware};
use xenwarden::watchdog::sysfs::Attributes;

const SETTIMEOUT: u32 = 0x80;
const MAGICCLOSE: u32 = 0x100;
const KEEPALIVE: u32 = 0x8000;
const ALL: u32 = SETTIMEOUT | MAGICCLOSE | KEEPALIVE;

/// A driver's ways, and what was done to it.
#[derive(Clone, Default)]
struct Ways {
    identity: &'static str,
    options: u32,
    /// It does this timeout whatever is asked for.
    rounds_to: Option<u32>,
    /// The kernel's nowayout, and whether sysfs tells of it.
    nowayout: bool,
    no_sysfs: bool,
    /// What it answers when it is asked what it is.
    no_info: Option<Errno>,
    timeout_s: u32,
    running: bool,
    opened: u32,
    kicks: u32,
    /// It is open now.
    open: bool,
}

thread_local! {
    static DEVICE: RefCell<Ways> = RefCell::default();
}

fn with<T>(change: impl FnOnce(&mut Ways) -> T) -> T {
    DEVICE.with(|device| change(&mut device.borrow_mut()))
}

struct Fake;

impl Driver for Fake {
    fn open(_: &Path) -> io::Result<Self> {
        with(|d| {
            d.opened += 1;
            d.open = true;
            // ipmi_watchdog alone does not start at open.
            d.running |= d.options != 0;
        });
        Ok(Self)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        with(|d| {
            if let Some(errno) = d.no_info {
                return Err(errno);
            }
            let mut info = WatchdogInfo {
                options: d.options,
                ..WatchdogInfo::default()
            };
            let bytes = d.identity.bytes();
            info.text
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
            Ok(info)
        })
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        with(|d| d.timeout_s = d.rounds_to.unwrap_or(timeout_s));
        Ok(())
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(with(|d| d.timeout_s))
    }

    fn keepalive(&self) -> Result<(), Errno> {
        with(|d| {
            d.kicks += 1;
            d.running = true;
        });
        Ok(())
    }

    fn disarm(self) -> io::Result<()> {
        with(|d| {
            d.open = false;
            d.running &= d.nowayout;
        });
        Ok(())
    }

    fn attributes(_: &Path) -> Attributes {
        with(|d| {
            if d.no_sysfs {
                return Attributes::default();
            }
            let state = if d.running { "active" } else { "inactive" };
            Attributes {
                nowayout: Some(d.nowayout),
                state: Some(state.to_owned()),
                ..Attributes::default()
            }
        })
    }
}

fn arm(ways: Ways) -> Result<Hardware<Fake>, ArmError> {
    with(|d| *d = ways);
    Hardware::arm(Path::new("/dev/watchdog7"), 5)
}

fn i6300esb() -> Ways {
    Ways {
        identity: "i6300ESB timer",
        options: ALL,
        ..Ways::default()
    }
}

fn ipmi() -> Ways {
    Ways {
        identity: "IPMI",
        options: 0,
        no_sysfs: true,
        ..Ways::default()
    }
}

#[test]
fn a_driver_that_announces_nothing_is_tried_and_not_refused() {
    let armed = arm(ipmi()).expect("ipmi_watchdog does all that is needed");
    assert_eq!((armed.timeout_s, armed.weakness.as_deref()), (5, None));
    let (running, kicks) = with(|d| (d.running, d.kicks));
    assert!(running && kicks == 1, "its first kick arms it");
}

#[test]
fn a_driver_that_announces_options_can_do_those_alone() {
    for missing in [MAGICCLOSE, KEEPALIVE] {
        let ways = Ways {
            options: ALL & !missing,
            ..i6300esb()
        };
        let error = arm(ways).err().expect("refused").to_string();
        assert!(error.contains("driver"), "{error}");
        assert!(!with(|d| d.running), "disarmed again");
    }
}

#[test]
fn a_device_that_rounds_is_refused_and_disarmed() {
    let ways = Ways {
        rounds_to: Some(6),
        ..i6300esb()
    };
    let error = arm(ways).err().expect("refused").to_string();
    assert!(
        error.contains("timeout_s = 5") && error.contains("6 s"),
        "{error}"
    );
    let (running, open) = with(|d| (d.running, d.open));
    assert!(!running && !open);
}

#[test]
fn a_device_that_rounds_and_cannot_be_disarmed_goes_on_being_kicked() {
    let ways = Ways {
        rounds_to: Some(6),
        nowayout: true,
        ..i6300esb()
    };
    let mut armed = arm(ways).expect("it runs, so it is kicked");
    assert_eq!(armed.timeout_s, 6, "the timeout that really runs");
    let weakness = armed.weakness.clone().expect("said");
    assert!(weakness.contains("6 s") && weakness.contains("cannot be disarmed"));
    let before = with(|d| d.kicks);
    armed.kick().expect("a kick");
    let (opened, kicks) = with(|d| (d.opened, d.kicks));
    assert_eq!((opened, kicks), (1, before + 1), "never let go of");
    assert!(armed.disarm().is_err(), "and a stop says that it runs on");
}

#[test]
fn what_is_not_hardware_but_runs_and_cannot_be_disarmed_is_kicked_and_said() {
    let ways = Ways {
        identity: "Software Watchdog",
        nowayout: true,
        ..i6300esb()
    };
    let armed = arm(ways).expect("it runs, so it is kicked");
    assert!(armed.weakness.expect("said").contains("not hardware"));
}

#[test]
fn what_is_no_watchdog_is_left_alone() {
    let ways = Ways {
        no_info: Some(Errno::ENOTTY),
        ..i6300esb()
    };
    assert!(matches!(arm(ways), Err(ArmError::NotAWatchdog { .. })));
    assert_eq!(with(|d| d.kicks), 0);
}

#[test]
fn a_watchdog_that_does_not_say_what_it_is_is_disarmed_again() {
    let ways = Ways {
        no_info: Some(Errno::EIO),
        ..i6300esb()
    };
    assert!(matches!(arm(ways), Err(ArmError::Unsuitable { .. })));
    assert!(!with(|d| d.running), "opening had armed it");
}

// SPDX-License-Identifier: GPL-2.0-only
//! Arming the host watchdog, over drivers that are made up after real ones (drivers/watchdog,
//! drivers/char/ipmi): what is refused is disarmed, and what runs and cannot be is kicked.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use xenwarden::sys::notify::Notifier;
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::device::{Asked, Driver, Hardware};
use xenwarden::watchdog::error::ArmError;
use xenwarden::watchdog::quirks::Quirk;
use xenwarden::watchdog::set::Set;
use xenwarden::watchdog::sysfs::Attributes;
use xenwarden::watchdog::{HostWatchdog, LetGo};

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
    /// It takes no timeout below this.
    least_s: u32,
    /// Its module's nowayout, and what its hardware says.
    module_nowayout: Option<bool>,
    hardware: Option<Asked>,
    /// What it answers when it is asked what it is.
    no_info: Option<Errno>,
    timeout_s: u32,
    running: bool,
    opened: u32,
    kicks: u32,
    /// It is open now.
    open: bool,
    /// It takes no timeout above this, where it is not 0.
    most_s: u32,
    /// There is a service manager, and whether it keeps what it is given.
    manager: bool,
    keeps: bool,
    /// It has no room for what it is given.
    full: bool,
    /// Somebody wrote the magic character last.
    marked: bool,
}

/// No device is there.
const MISSING: &str = "/dev/watchdog9";

thread_local! {
    static DEVICE: RefCell<Ways> = RefCell::default();
}

fn with<T>(change: impl FnOnce(&mut Ways) -> T) -> T {
    DEVICE.with(|device| change(&mut device.borrow_mut()))
}

struct Fake;

impl Driver for Fake {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new(MISSING) {
            return Err(io::ErrorKind::NotFound.into());
        }
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
        assert_ne!(timeout_s, 0, "some drivers reset at once");
        with(|d| {
            if timeout_s < d.least_s || d.most_s != 0 && timeout_s > d.most_s {
                return Err(Errno::EINVAL);
            }
            d.timeout_s = d.rounds_to.unwrap_or(timeout_s);
            Ok(())
        })
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

    fn unmark(&self) -> io::Result<()> {
        with(|d| d.marked = false);
        Ok(self.keepalive()?)
    }

    fn keep(&self, _: &Notifier, name: &str) -> Result<bool, Errno> {
        assert_eq!(name, "watchdog7");
        with(|d| {
            if d.full {
                Err(Errno::EAGAIN)
            } else {
                Ok(d.manager)
            }
        })
    }

    fn disarm(self) -> io::Result<()> {
        with(|d| {
            d.open = false;
            d.marked = true;
            d.running &= d.nowayout || d.keeps;
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

    fn ask_hardware(_: &Quirk) -> Asked {
        with(|d| d.hardware.clone().unwrap_or(Asked::NoWay))
    }

    fn nowayout(_: &Quirk) -> Option<bool> {
        with(|d| d.module_nowayout)
    }
}

fn refused(ways: Ways) -> String {
    arm(ways).err().expect("refused").to_string()
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
        error.contains("timeout of 5 s") && error.contains("6 s"),
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

#[test]
fn a_timeout_that_the_device_counts_down_twice_is_halved() {
    let itco = Ways {
        identity: "iTCO_wdt",
        least_s: 3,
        ..i6300esb()
    };
    let armed = arm(itco).expect("armed");
    assert_eq!((armed.timeout_s, armed.latest_s), (3, 6));
    let weakness = armed.weakness.expect("said");
    assert!(weakness.contains("6 s instead of 5 s"), "{weakness}");
    let ib700 = Ways {
        identity: "IB700 WDT",
        no_sysfs: true,
        ..i6300esb()
    };
    let armed = arm(ib700).expect("armed");
    assert_eq!((armed.timeout_s, armed.latest_s), (4, 4));
    assert_eq!(armed.weakness, None);
}

#[test]
fn what_takes_kicks_and_never_resets_is_refused_and_disarmed() {
    let why = "the BMC's action is 0, which is no reset";
    let toothless = Ways {
        hardware: Some(Asked::DoesNot(why.to_owned())),
        ..ipmi()
    };
    let error = refused(toothless);
    assert!(error.contains(why), "{error}");
    assert!(!with(|d| d.running));
    let silent = Ways {
        hardware: Some(Asked::Silent("/dev/ipmi0: no such file".to_owned())),
        ..ipmi()
    };
    let weakness = arm(silent).expect("armed").weakness.expect("said");
    assert!(weakness.contains("/dev/ipmi0"), "{weakness}");
    let sound = Ways {
        hardware: Some(Asked::Runs),
        ..ipmi()
    };
    assert_eq!(arm(sound).expect("armed").weakness, None);
}

#[test]
fn a_driver_without_sysfs_that_must_not_be_disarmed_is_not_said_to_be() {
    let ways = Ways {
        module_nowayout: Some(true),
        nowayout: true,
        ..ipmi()
    };
    let armed = arm(ways).expect("armed");
    assert!(armed.disarm().is_err(), "it runs on");
}

/// Two devices of one kind: the second is refused, as it is not there.
#[test]
fn of_several_watchdogs_all_are_armed_or_none() {
    let both = [
        PathBuf::from("/dev/watchdog7"),
        PathBuf::from("/dev/watchdog8"),
    ];
    with(|d| *d = i6300esb());
    let mut set = Set::<Fake>::arm(&both, 5).expect("both");
    assert_eq!(with(|d| d.kicks), 2);
    set.kick().expect("kicked");
    assert_eq!(with(|d| d.kicks), 4, "each of them");
    assert_eq!(set.devices(), "/dev/watchdog7, /dev/watchdog8");
    let missing = [PathBuf::from("/dev/watchdog7"), PathBuf::from(MISSING)];
    with(|d| *d = i6300esb());
    assert!(Set::<Fake>::arm(&missing, 5).is_err());
    assert!(!with(|d| d.running), "the first is disarmed again");
    let nowayout = Ways {
        nowayout: true,
        ..i6300esb()
    };
    with(|d| *d = nowayout);
    let mut set = Set::<Fake>::arm(&missing, 5).expect("the first runs, so it is kicked");
    let weakness = set.weakness().expect("said");
    assert!(weakness.contains(MISSING), "{weakness}");
    let before = with(|d| d.kicks);
    set.kick().expect("kicked");
    assert_eq!(with(|d| d.kicks), before + 1);
}

/// How a guard that may run on for 60 s lets go of such a device; and with which timeout.
fn let_go(ways: Ways) -> (LetGo, u32) {
    let mut armed = arm(ways).expect("armed");
    armed.keep(&Notifier::from_environment(), 60);
    (armed.let_go(), with(|d| d.timeout_s))
}

#[test]
fn what_the_service_manager_does_not_take_is_told_and_disarmed_at_a_stop() {
    let mut armed = arm(Ways {
        manager: true,
        full: true,
        ..i6300esb()
    })
    .expect("armed");
    armed.keep(&Notifier::from_environment(), 60);
    let weakness = armed.weakness.clone().expect("said");
    assert!(weakness.contains("leaves a gap"), "{weakness}");
    assert!(matches!(armed.let_go(), LetGo::Disarmed));
}

#[test]
fn what_a_guard_lets_go_of_is_disarmed_or_has_the_time_for_another_to_come() {
    let (outcome, _) = let_go(i6300esb());
    assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
    let managed = Ways {
        manager: true,
        keeps: true,
        ..i6300esb()
    };
    let (outcome, timeout_s) = let_go(managed.clone());
    assert!(
        matches!(outcome, LetGo::Kept { after_s: 10 }),
        "{outcome:?}"
    );
    assert_eq!(timeout_s, 10, "twice what was promised, and no more");
    assert!(with(|d| d.running && d.marked), "its close disarms");
    // A manager that was told to keep nothing.
    let keeps = false;
    let (outcome, _) = let_go(Ways {
        keeps,
        ..managed.clone()
    });
    assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
    // Of a driver without sysfs nobody knows.
    let no_sysfs = true;
    let (outcome, _) = let_go(Ways {
        no_sysfs,
        ..managed.clone()
    });
    assert!(
        matches!(outcome, LetGo::Kept { after_s: 10 }),
        "{outcome:?}"
    );
    let nowayout = true;
    for ways in [i6300esb(), managed] {
        let (outcome, timeout_s) = let_go(Ways { nowayout, ..ways });
        let runs = matches!(
            outcome,
            LetGo::Runs {
                within_s: Some(60),
                ..
            }
        );
        assert!(runs && timeout_s == 60, "{outcome:?}");
    }
}

#[test]
fn a_device_that_cannot_do_the_long_timeout_is_given_the_longest_half_of_it_that_it_can() {
    for (most_s, expected) in [(30, 30), (29, 15), (5, 5)] {
        let ways = Ways {
            nowayout: true,
            most_s,
            ..i6300esb()
        };
        assert_eq!(let_go(ways).1, expected);
    }
}

#[test]
fn what_is_taken_over_is_not_opened_and_a_close_does_not_disarm_it_any_more() {
    let left = Ways {
        running: true,
        marked: true,
        timeout_s: 60,
        ..i6300esb()
    };
    with(|d| *d = left.clone());
    let taken = Hardware::take_over(Path::new("/dev/watchdog7"), Fake, 5);
    assert_eq!((taken.timeout_s, taken.weakness.as_deref()), (5, None));
    let (opened, marked, kicks, timeout_s) = with(|d| (d.opened, d.marked, d.kicks, d.timeout_s));
    assert_eq!((opened, marked, timeout_s), (0, false, 5));
    assert!(kicks > 0 && taken.ran_on());
    // Nothing that is wrong with it is a reason to leave it unkicked.
    let rounds_to = Some(60);
    with(|d| *d = Ways { rounds_to, ..left });
    let mut taken = Hardware::take_over(Path::new("/dev/watchdog7"), Fake, 5);
    let weakness = taken.weakness.clone().expect("said");
    assert!(weakness.contains("60 s") && taken.timeout_s == 60);
    taken.kick().expect("kicked");
    assert!(with(|d| !d.marked && d.running));
}

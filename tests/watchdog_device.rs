// SPDX-License-Identifier: GPL-2.0-only
//! Arming the host watchdog: what is refused is disarmed, and what runs and cannot be is kicked.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod fake_watchdog;

use fake_watchdog::*;
use nix::errno::Errno;
use std::path::PathBuf;
use xenwarden::watchdog::HostWatchdog;
use xenwarden::watchdog::device::Asked;
use xenwarden::watchdog::error::ArmError;
use xenwarden::watchdog::set::Set;

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

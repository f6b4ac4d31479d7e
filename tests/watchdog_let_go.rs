// SPDX-License-Identifier: GPL-2.0-only
//! How a guard that ends leaves the host watchdog, and how the next one finds it.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod fake_watchdog;

use fake_watchdog::*;
use std::path::Path;
use xenwarden::sys::notify::Notifier;
use xenwarden::watchdog::device::Hardware;
use xenwarden::watchdog::set::Set;
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo, RunsOn};

const RUNS_ON: RunsOn = RunsOn {
    stopped_s: 60,
    shutdown_s: 600,
};

/// It has a service manager that keeps what it is given.
fn managed() -> Ways {
    Ways {
        manager: true,
        keeps: true,
        ..i6300esb()
    }
}

/// How a guard that may run on for 60 s lets go of such a device; and with which timeout.
fn let_go(ways: Ways) -> (LetGo, u32) {
    let mut armed = arm(ways).expect("armed");
    armed.keep(&Notifier::from_environment(), RUNS_ON);
    (armed.let_go(Ends::Stopped), with(|d| d.timeout_s))
}

#[test]
fn what_the_service_manager_does_not_take_is_told_and_disarmed_at_a_stop() {
    let mut armed = arm(Ways {
        manager: true,
        full: true,
        ..i6300esb()
    })
    .expect("armed");
    armed.keep(&Notifier::from_environment(), RUNS_ON);
    let weakness = armed.weakness.clone().expect("said");
    assert!(weakness.contains("leaves a gap"), "{weakness}");
    assert!(matches!(armed.let_go(Ends::Stopped), LetGo::Disarmed));
}

#[test]
fn what_a_guard_lets_go_of_is_disarmed_or_has_the_time_for_another_to_come() {
    let (outcome, _) = let_go(i6300esb());
    assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
    let managed = managed();
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

/// How a guard of a host that shuts down lets go of such a device; and with which timeout.
fn shut_down(ways: Ways, shutdown_s: u32) -> (LetGo, u32) {
    let mut armed = arm(ways).expect("armed");
    let runs_on = RunsOn {
        shutdown_s,
        ..RUNS_ON
    };
    armed.keep(&Notifier::from_environment(), runs_on);
    (armed.let_go(Ends::Shutdown), with(|d| d.timeout_s))
}

#[test]
fn at_a_shutdown_it_runs_on_until_what_hangs_is_reset() {
    let managed = managed();
    let nowayout = Ways {
        nowayout: true,
        ..i6300esb()
    };
    for ways in [i6300esb(), managed, nowayout] {
        let (outcome, timeout_s) = shut_down(ways, 600);
        assert!(
            matches!(outcome, LetGo::Shutdown { within_s: 600 }),
            "{outcome:?}"
        );
        assert_eq!(timeout_s, 600);
        assert!(with(|d| d.running && !d.marked), "no close disarms it");
    }
}

#[test]
fn at_a_shutdown_it_is_told_when_it_resets_by_what_the_device_says_and_is_known_for() {
    let mut armed = arm(i6300esb()).expect("armed");
    armed.keep(&Notifier::from_environment(), RUNS_ON);
    with(|d| d.rounds_to = Some(510));
    let outcome = armed.let_go(Ends::Shutdown);
    assert!(
        matches!(outcome, LetGo::Shutdown { within_s: 510 }),
        "{outcome:?}"
    );
    // Its first countdown does nothing.
    let identity = "iTCO_wdt";
    let (outcome, timeout_s) = shut_down(
        Ways {
            identity,
            ..i6300esb()
        },
        600,
    );
    assert!(
        matches!(outcome, LetGo::Shutdown { within_s: 1200 }),
        "{outcome:?}"
    );
    assert_eq!(timeout_s, 600);
}

#[test]
fn at_a_shutdown_what_was_taken_over_runs_on_as_well() {
    let left = Ways {
        running: true,
        marked: true,
        manager: true,
        keeps: true,
        timeout_s: 60,
        ..i6300esb()
    };
    with(|d| *d = left);
    let mut taken = Hardware::take_over(Path::new("/dev/watchdog7"), Fake, 5);
    taken.keep(&Notifier::from_environment(), RUNS_ON);
    let outcome = taken.let_go(Ends::Shutdown);
    assert!(
        matches!(outcome, LetGo::Shutdown { within_s: 600 }),
        "{outcome:?}"
    );
    assert!(with(|d| d.running && !d.marked && d.timeout_s == 600));
}

#[test]
fn all_devices_are_let_go_of_for_the_same_end() {
    let both = ["/dev/watchdog7", "/dev/other/watchdog7"].map(Into::into);
    for (why, disarmed) in [(Ends::Stopped, 2), (Ends::Shutdown, 0)] {
        with(|d| *d = i6300esb());
        let mut set = Set::<Fake>::arm(&both, 5).expect("armed");
        set.keep(&Notifier::from_environment(), RUNS_ON);
        let outcome = set.let_go(why);
        let runs = matches!(outcome, LetGo::Shutdown { within_s: 600 });
        assert_eq!(runs, why == Ends::Shutdown, "{outcome:?}");
        assert_eq!(with(|d| d.disarmed), disarmed, "{why:?}");
    }
}

#[test]
fn at_a_shutdown_a_device_has_the_time_for_one_in_order_or_is_let_go_of_as_at_a_stop() {
    for (most_s, expected) in [(511, 300), (299, 150), (150, 150)] {
        let (outcome, timeout_s) = shut_down(
            Ways {
                most_s,
                ..i6300esb()
            },
            600,
        );
        let runs = matches!(outcome, LetGo::Shutdown { within_s } if within_s == expected);
        assert!(runs && timeout_s == expected, "{outcome:?}");
    }
    for (most_s, shutdown_s) in [(149, 600), (0, 0)] {
        let (outcome, timeout_s) = shut_down(
            Ways {
                most_s,
                ..i6300esb()
            },
            shutdown_s,
        );
        assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
        assert_eq!(timeout_s, 5);
        assert!(with(|d| !d.running));
    }
    // The hardware's own is longer than the half that the device would do.
    let mut armed = arm(Ways {
        most_s: 500,
        ..i6300esb()
    })
    .expect("armed");
    armed.keep(&Notifier::from_environment(), RUNS_ON);
    armed.timeout_s = 400;
    assert!(matches!(
        armed.let_go(Ends::Shutdown),
        LetGo::Shutdown { within_s: 400 }
    ));
    // As long as the hardware has anyway.
    assert!(matches!(
        shut_down(i6300esb(), 5).0,
        LetGo::Shutdown { within_s: 5 }
    ));
    let nowayout = Ways {
        nowayout: true,
        most_s: 30,
        ..i6300esb()
    };
    let (outcome, timeout_s) = shut_down(nowayout, 600);
    let runs = matches!(
        outcome,
        LetGo::Runs {
            within_s: Some(30),
            ..
        }
    );
    assert!(runs && timeout_s == 30, "{outcome:?}");
}

#[test]
fn a_device_that_takes_a_timeout_and_does_less_is_not_left_to_reset_a_shutdown_in_order() {
    for (does_s, expected) in [(149, None), (4, None), (150, Some(150)), (599, Some(599))] {
        let mut armed = arm(i6300esb()).expect("armed");
        armed.keep(&Notifier::from_environment(), RUNS_ON);
        with(|d| d.rounds_to = Some(does_s));
        let outcome = armed.let_go(Ends::Shutdown);
        let left = match outcome {
            LetGo::Shutdown { within_s } => Some(within_s),
            LetGo::Disarmed => None,
            _ => panic!("{outcome:?}"),
        };
        assert_eq!(left, expected, "it does {does_s} s");
        assert_eq!(with(|d| d.running), expected.is_some());
    }
}

#[test]
fn of_several_that_end_otherwise_the_one_that_resets_soonest_is_told() {
    let shutdown = || LetGo::Shutdown { within_s: 600 };
    let runs = |within_s| LetGo::Runs {
        error: std::io::ErrorKind::Other.into(),
        within_s,
    };
    for other in [
        LetGo::Disarmed,
        LetGo::Kept { after_s: 10 },
        LetGo::Shutdown { within_s: 900 },
    ] {
        let said = format!("{other:?}");
        let worse = shutdown().worse(other);
        assert!(matches!(worse, LetGo::Shutdown { within_s: 600 }), "{said}");
    }
    // What nobody can disarm comes first, however late it resets; with its own timeout it is soonest.
    for worse in [
        shutdown().worse(runs(Some(30))),
        runs(Some(30)).worse(shutdown()),
        shutdown().worse(runs(Some(900))),
        runs(Some(900)).worse(shutdown()),
    ] {
        assert!(matches!(worse, LetGo::Runs { .. }));
    }
    for worse in [
        runs(None).worse(runs(Some(30))),
        runs(Some(30)).worse(runs(None)),
    ] {
        assert!(matches!(worse, LetGo::Runs { within_s: None, .. }));
    }
    let kept = |after_s| LetGo::Kept { after_s };
    for worse in [kept(10).worse(kept(60)), kept(60).worse(kept(10))] {
        assert!(matches!(worse, LetGo::Kept { after_s: 10 }));
    }
}

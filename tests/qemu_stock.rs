// SPDX-License-Identifier: GPL-2.0-only
//! The alarms of a real guest of a stock QEMU, whose watchdog device really expires.
//!
//! XENWARDEN_TEST_QEMU names another QEMU than the one that is installed, as `tests/qemu/run` does with those that it builds, unpatched
//! and patched. Each test says that it is skipped where there is none.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod qemu_stage;

use nix::sys::signal::Signal;
use qemu_stage::machine::{Machine, UUID, program};
use qemu_stage::{Follower, directory, until};
use serde_json::json;
use xenwarden::event::{Cause, Closing, Kind};
use xenwarden::guests::report::{AlarmPhase, DomainState};

const I6300ESB: [&str; 4] = ["-device", "i6300esb,id=wd0", "-action", "watchdog=reset"];

/// A machine and its follower; the guest has booted.
fn stage(name: &str, more: &[&str]) -> Option<(Machine, Follower)> {
    let directory = directory(name);
    let mut machine = Machine::start(&directory, more)?;
    let follower = Follower::start(&directory);
    machine.boots();
    follower.until_guest("it is seen", |guest| guest.state == DomainState::Running);
    Some((machine, follower))
}

/// Its watchdog is armed, and nobody feeds it.
fn expire(machine: &mut Machine, follower: &Follower) {
    machine.order(b'X');
    follower.until_guest("an alarm", |guest| guest.alarm.is_some());
}

#[test]
fn an_alarm_outlives_a_reset_and_a_boot_that_fails_and_the_first_feed_clears_it_once() {
    let Some((mut machine, follower)) = stage("story", &I6300ESB) else {
        return;
    };
    assert!(!machine.traces(), "nobody needs to know");
    expire(&mut machine, &follower);
    machine.boots();
    follower.until_phase(AlarmPhase::Rebooted);
    machine.until_seen();
    // It does not come up.
    machine.hang();
    machine.call("system_reset", json!({}));
    machine.boots();
    follower.until_guest("it is told", |guest| {
        guest.alarm.as_ref().is_some_and(|alarm| alarm.reboots == 2)
    });
    // What a driver writes when it is loaded, and when it arms, is no feed.
    machine.order(b'R');
    machine.order(b'R');
    machine.order(b'L');
    follower.until_phase(AlarmPhase::Recovering);
    let alarm = follower.alarm().expect("open");
    assert_eq!((alarm.expiries, alarm.reboots), (1, 2));
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    machine.order(b'F');
    machine.order(b'F');
    until("the trace is off", || !machine.traces());
    follower.has_events("alarm.raised", 1);
    follower.has_events("alarm.cleared", 1);
    follower.has_events("guest.rebooted", 2);
    let Some(_) = follower.told() else { return };
    until("the monitor knows", || {
        follower.told().is_some_and(|told| told.len() == 4)
    });
    let told = follower.told().expect("root");
    for told in &told {
        let guest = told.guest.as_ref().expect("a guest's");
        assert_eq!(guest.uuid.expect("a UUID").to_string(), UUID);
        assert_eq!(guest.name.as_deref(), Some("web"));
    }
    let kinds: Vec<&Kind> = told.iter().map(|told| &told.what).collect();
    assert!(
        matches!(
            kinds[..],
            [
                Kind::AlarmRaised { expiries: 1 },
                Kind::GuestRebooted {
                    cause: Cause::Watchdog,
                    ..
                },
                Kind::GuestRebooted {
                    cause: Cause::Reboot,
                    ..
                },
                Kind::AlarmCleared {
                    expiries: 1,
                    reboots: 2,
                    feeds: 1,
                    ..
                },
            ]
        ),
        "{kinds:?}"
    );
}

#[test]
fn a_guest_that_boots_anew_and_expires_again_is_one_alarm_with_two_expiries() {
    let Some((mut machine, follower)) = stage("twice", &I6300ESB) else {
        return;
    };
    expire(&mut machine, &follower);
    machine.boots();
    follower.until_phase(AlarmPhase::Rebooted);
    // It arms, and does not feed.
    machine.order(b'X');
    machine.boots();
    follower.until_guest("a second expiry", |guest| {
        guest
            .alarm
            .as_ref()
            .is_some_and(|alarm| alarm.expiries == 2)
    });
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    follower.has_events("alarm.cleared", 1);
}

#[test]
fn feeds_after_an_expiry_that_left_the_guest_running_do_not_clear_until_it_arms_again() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=none"];
    let Some((mut machine, follower)) = stage("none", &more) else {
        return;
    };
    machine.order(b'A');
    follower.until_phase(AlarmPhase::Raised);
    machine.until_seen();
    machine.order(b'F');
    machine.order(b'F');
    if !machine.patched {
        follower.until_logged("but the device is off", 1);
    }
    assert!(follower.alarm().is_some(), "the device is off");
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
}

#[test]
fn an_alarm_outlives_a_restart_which_neither_raises_nor_clears_it() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let Some((mut machine, mut follower)) = stage("restart", &I6300ESB) else {
            return;
        };
        expire(&mut machine, &follower);
        machine.boots();
        follower.until_phase(AlarmPhase::Rebooted);
        machine.until_seen();
        follower.stop(signal);
        let left_on = signal == Signal::SIGKILL && !machine.patched;
        assert_eq!(machine.traces(), left_on);
        // It is armed and fed while nobody looks.
        machine.order(b'L');
        machine.order(b'F');
        follower.start_again();
        follower.until_guest("it is seen", |guest| guest.state == DomainState::Running);
        let alarm = follower.alarm().expect("open");
        assert_eq!((alarm.expiries, alarm.reboots), (1, 1));
        until("the trace is on", || machine.traces());
        // It feeds as a guest that works does.
        until("it is clear", || {
            machine.order(b'F');
            follower.alarm().is_none()
        });
        follower.has_events("alarm.raised", 1);
        follower.has_events("alarm.cleared", 1);
        until("the trace is off", || !machine.traces());
    }
}

#[test]
fn a_trace_that_a_killed_process_left_on_is_switched_off_by_the_next() {
    let Some((mut machine, mut follower)) = stage("left-on", &I6300ESB) else {
        return;
    };
    if machine.patched {
        return;
    }
    expire(&mut machine, &follower);
    machine.boots();
    machine.until_seen();
    let closed = follower.ask(&format!("close {UUID}"));
    assert!(closed.contains("closed"), "{closed}");
    // It is off once it feeds, as it was started again and has not fed since.
    assert!(machine.traces());
    machine.order(b'L');
    follower.stop(Signal::SIGKILL);
    machine.order(b'F');
    machine.order(b'D');
    assert!(machine.traces());
    follower.start_again();
    follower.until_guest("it is seen", |guest| guest.state == DomainState::Running);
    assert!(follower.alarm().is_none());
    machine.order(b'L');
    // It may have done so before the log goes to where it is read.
    until("the trace is off", || {
        machine.order(b'F');
        !machine.traces()
    });
    follower.has_events("alarm.closed", 1);
}

#[test]
fn a_paused_vm_does_not_expire_and_a_vm_that_its_watchdog_paused_has_an_alarm() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=pause"];
    let Some((mut machine, follower)) = stage("pause", &more) else {
        return;
    };
    machine.order(b'M');
    machine.call("stop", json!({}));
    follower.until_guest("it is paused", |guest| guest.state == DomainState::Paused);
    // Its clock stands still with it: more than its timeout tells nothing.
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert!(follower.alarm().is_none());
    machine.call("cont", json!({}));
    follower.until_phase(AlarmPhase::Raised);
    follower.until_guest("it is paused", |guest| guest.state == DomainState::Paused);
    machine.call("cont", json!({}));
    follower.until_guest("it runs", |guest| guest.state == DomainState::Running);
    assert!(follower.alarm().is_some());
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
}

#[test]
fn feeds_in_vain_of_a_vm_that_goes_on_at_once_after_its_watchdog_paused_it_do_not_clear() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=pause"];
    let Some((mut machine, follower)) = stage("goes-on", &more) else {
        return;
    };
    machine.order(b'A');
    // Before anybody has asked what it is doing, most likely.
    machine.event("STOP");
    machine.call("cont", json!({}));
    follower.until_phase(AlarmPhase::Raised);
    for _ in 0..4 {
        machine.order(b'F');
        std::thread::sleep(std::time::Duration::from_millis(1_100));
    }
    assert!(follower.alarm().is_some(), "the device is off");
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    follower.has_events("alarm.raised", 1);
    follower.has_events("alarm.cleared", 1);
}

#[test]
fn a_snapshot_that_is_loaded_into_a_vm_that_its_watchdog_paused_clears_by_feeding() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=pause"];
    let Some((mut machine, follower)) = stage("loaded-paused", &more) else {
        return;
    };
    machine.order(b'M');
    machine.order(b'F');
    machine.human("savevm armed");
    machine.hang();
    follower.until_phase(AlarmPhase::Raised);
    until("the trace is on", || machine.traces());
    follower.until_guest("it is paused", |guest| guest.state == DomainState::Paused);
    machine.human("loadvm armed");
    machine.call("cont", json!({}));
    follower.until_guest("it runs", |guest| guest.state == DomainState::Running);
    assert!(follower.alarm().is_some(), "nobody has fed");
    until("it is clear", || {
        machine.order(b'F');
        follower.alarm().is_none()
    });
    follower.has_events("alarm.raised", 1);
    follower.has_events("alarm.cleared", 1);
}

#[test]
fn a_snapshot_that_is_loaded_neither_clears_nor_raises_and_its_guest_clears_by_feeding() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=none"];
    let Some((mut machine, follower)) = stage("snapshot", &more) else {
        return;
    };
    machine.order(b'M');
    machine.order(b'F');
    machine.human("savevm armed");
    machine.hang();
    follower.until_phase(AlarmPhase::Raised);
    machine.until_seen();
    // The guest is back where it was armed and fed.
    machine.human("loadvm armed");
    until("the trace is on", || machine.traces());
    let alarm = follower.alarm().expect("open");
    assert_eq!((alarm.expiries, alarm.reboots), (1, 0));
    until("it is clear", || {
        machine.order(b'F');
        follower.alarm().is_none()
    });
    follower.has_events("alarm.raised", 1);
    follower.has_events("alarm.cleared", 1);
}

#[test]
fn a_guest_that_migrates_away_takes_no_alarm_along_and_its_alarm_here_is_moved() {
    let Some((mut machine, follower)) = stage("migrates", &I6300ESB) else {
        return;
    };
    expire(&mut machine, &follower);
    machine.boots();
    follower.until_phase(AlarmPhase::Rebooted);
    machine.until_seen();
    let other = directory("migrates-to");
    let uri = format!("unix:{}", other.join("migration").display());
    let incoming = [&I6300ESB[..], &["-incoming", &uri]].concat();
    let mut target = Machine::start(&other, &incoming).expect("as before");
    let there = Follower::start(&other);
    there.until_guest("it waits", |guest| guest.state == DomainState::Suspended);
    machine.call("migrate", json!({ "uri": uri }));
    there.until_guest("it runs there", |guest| guest.state == DomainState::Running);
    follower.until_guest("it is elsewhere", |guest| {
        guest.state == DomainState::Suspended
    });
    assert!(there.alarm().is_none());
    machine.quit();
    follower.until_phase(AlarmPhase::Moved);
    follower.has_events("alarm.moved", 1);
    follower.has_events("alarm.cleared", 0);
    target.order(b'X');
    there.until_guest("an alarm there", |guest| guest.alarm.is_some());
}

#[test]
fn an_expiry_that_nobody_saw_is_told_where_the_vm_still_shows_it() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=pause"];
    let Some((mut machine, mut follower)) = stage("unseen", &more) else {
        return;
    };
    follower.stop(Signal::SIGTERM);
    machine.order(b'A');
    machine.event("WATCHDOG");
    machine.event("STOP");
    follower.start_again();
    follower.until_phase(AlarmPhase::Raised);
    follower.stop(Signal::SIGTERM);
    follower.start_again();
    follower.until_guest("it is seen", |guest| guest.state == DomainState::Paused);
    assert_eq!(follower.alarm().expect("open").expiries, 1);
    follower.has_events("alarm.raised", 1);
}

#[test]
fn a_vm_that_its_watchdog_ends_keeps_its_alarm_until_its_next_qemu_is_fed() {
    let more = ["-device", "i6300esb,id=wd0", "-action", "watchdog=poweroff"];
    let Some((mut machine, follower)) = stage("poweroff", &more) else {
        return;
    };
    machine.order(b'A');
    follower.until_guest("it is gone", |guest| {
        guest.state == DomainState::Gone(Cause::Watchdog) && guest.alarm.is_some()
    });
    machine.kill();
    machine.start_again(&program().expect("as before"), &more);
    machine.boots();
    follower.until_phase(AlarmPhase::Rebooted);
    machine.until_seen();
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    follower.has_events("guest.gone", 1);
    follower.has_events("guest.rebooted", 1);
}

#[test]
fn a_killed_qemu_keeps_the_alarm_and_a_guest_that_was_destroyed_closes_it() {
    let Some((mut machine, follower)) = stage("killed", &I6300ESB) else {
        return;
    };
    expire(&mut machine, &follower);
    machine.boots();
    follower.until_phase(AlarmPhase::Rebooted);
    machine.kill();
    follower.until_guest("it is gone", |guest| {
        guest.state == DomainState::Gone(Cause::Unknown) && guest.alarm.is_some()
    });
    machine.start_again(&program().expect("as before"), &I6300ESB);
    machine.boots();
    follower.until_guest("it is back", |guest| guest.state == DomainState::Running);
    assert_eq!(follower.alarm().expect("open").reboots, 2);
    machine.quit();
    follower.until_guest("it is closed", |guest| {
        guest.state == DomainState::Gone(Cause::Destroyed) && guest.alarm.is_none()
    });
    follower.has_events("alarm.closed", 1);
    follower.has_events("alarm.cleared", 0);
    let closed = |kind: &Kind| {
        let cause = Closing::Destroyed;
        matches!(kind, Kind::AlarmClosed { cause: by, .. } if *by == cause)
    };
    let told = || follower.told();
    until("the monitor knows", || {
        told().is_none_or(|told| told.iter().any(|told| closed(&told.what)))
    });
}

#[test]
fn an_ib700_is_armed_by_its_first_write_and_its_alarm_cleared_by_the_next() {
    let more = ["-device", "ib700", "-action", "watchdog=none"];
    let Some((mut machine, follower)) = stage_without_guest("ib700", &more) else {
        return;
    };
    // Of its times 0xe is 2 s (hw/watchdog/wdt_ib700.c).
    machine.human("o /b 0x443 0xe");
    follower.until_phase(AlarmPhase::Raised);
    machine.until_seen();
    machine.human("o /b 0x443 0x0");
    follower.until_phase(AlarmPhase::Recovering);
    machine.human("o /b 0x443 0x0");
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    until("the trace is off", || !machine.traces());
    follower.has_events("alarm.cleared", 1);
}

/// The guest says only that it has no i6300esb.
fn stage_without_guest(name: &str, more: &[&str]) -> Option<(Machine, Follower)> {
    let directory = directory(name);
    let mut machine = Machine::start(&directory, more)?;
    let follower = Follower::start(&directory);
    machine.says(b'?');
    follower.until_guest("it is seen", |guest| guest.state == DomainState::Running);
    Some((machine, follower))
}

#[test]
fn a_qemu_that_gave_up_root_may_write_its_trace() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // Gone from 10.0 on.
    let old = qemu_stage::machine::has_option("-runas");
    let gives_up = if old {
        ["-runas", "nobody"]
    } else {
        ["-run-with", "user=nobody"]
    };
    let more = [&I6300ESB[..], &gives_up].concat();
    let Some((mut machine, follower)) = stage("nobody", &more) else {
        return;
    };
    expire(&mut machine, &follower);
    machine.boots();
    machine.until_seen();
    machine.order(b'L');
    machine.order(b'F');
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
}

#[test]
fn where_feeds_cannot_be_told_apart_nothing_clears_and_the_report_says_why() {
    let more = [
        "-device",
        "ib700",
        "-device",
        "i6300esb",
        "-action",
        "watchdog=none",
    ];
    let Some((mut machine, follower)) = stage("two", &more) else {
        return;
    };
    if machine.patched {
        return;
    }
    machine.order(b'A');
    follower.until_phase(AlarmPhase::Raised);
    machine.order(b'L');
    machine.order(b'F');
    assert!(!machine.traces(), "it would show nothing that counts");
    let guest = follower.guest().expect("seen");
    assert!(guest.alarm.is_some());
    assert!(
        guest
            .feeds_unseen
            .expect("a reason")
            .contains("2 watchdog devices")
    );
    let closed = follower.ask(&format!("close {UUID}"));
    assert!(closed.contains("closed"), "{closed}");
    assert!(follower.alarm().is_none());
}

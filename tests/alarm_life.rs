// SPDX-License-Identifier: GPL-2.0-only
//! What is told of one guest over its life: expiries, reboots, and what ends it.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::{NOTHING, TIMEOUT_S, World, uuid};
use xenwarden::event::{Cause, Closing, Kind, Uuid};
use xenwarden::guests::report::{AlarmPhase, DomainState};
use xenwarden::xen::table::Shutdown;

#[test]
fn a_reboot_does_not_clear_and_the_first_feed_does_exactly_once() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.start(2, 1);
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    assert_eq!(w.phase(1), Some(AlarmPhase::Rebooted));
    w.seconds(301);
    let Kind::GuestBootFailed { waited_ms } = w.only() else {
        panic!("no failed boot");
    };
    assert!((300_000..301_001).contains(&waited_ms), "{waited_ms}");
    assert!(w.guest(1).boot_failed);
    w.end(2, Shutdown::Crash);
    w.start(3, 1);
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    w.xen.arm(3, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), ["guest.armed"], "an arm clears nothing");
    w.feed(3);
    let told = w.take();
    assert_eq!(told[0].what.kind(), "guest.first_fed");
    let Kind::AlarmCleared {
        open_ms,
        expiries,
        reboots,
        feeds,
    } = told[1].what
    else {
        panic!("{told:?}");
    };
    assert_eq!((expiries, reboots, feeds), (1, 2, 1));
    assert!((301_000..304_000).contains(&open_ms), "{open_ms}");
    for _ in 0..20 {
        w.feed(3);
    }
    assert_eq!(w.kinds(), NOTHING, "exactly once");
}

#[test]
fn what_a_domain_did_when_it_went_decides_what_becomes_of_its_alarm() {
    let closed = |cause| {
        Some(Kind::AlarmClosed {
            cause,
            open_ms: 500,
        })
    };
    let moved = Kind::AlarmMoved {
        cause: Cause::Suspend,
        open_ms: 500,
    };
    let cases = [
        (None, Cause::Destroyed, closed(Closing::Destroyed)),
        (
            Some(Shutdown::Poweroff),
            Cause::Poweroff,
            closed(Closing::Poweroff),
        ),
        (Some(Shutdown::Suspend), Cause::Suspend, Some(moved)),
        (Some(Shutdown::Reboot), Cause::Reboot, None),
        (Some(Shutdown::Crash), Cause::Crash, None),
        (Some(Shutdown::Watchdog), Cause::Watchdog, None),
        (Some(Shutdown::SoftReset), Cause::Reboot, None),
        (Some(Shutdown::Other(77)), Cause::Unknown, None),
    ];
    for (shutdown, cause, expected) in cases {
        let mut w = World::with_an_alarm();
        w.destroy(1);
        w.xen.create(2, uuid(1));
        w.take();
        if let Some(why) = shutdown {
            w.xen.shut_down(2, why);
        }
        w.xen.kill(2);
        w.sample();
        let told = w.take();
        assert_eq!(told[0].what.kind(), "guest.rebooted", "{shutdown:?}");
        assert_eq!(told[1].what, Kind::GuestGone { cause });
        assert_eq!(told.get(2).map(|h| h.what.clone()), expected);
        assert_eq!(w.guest(1).state, DomainState::Gone(cause));
        let ended = matches!(expected, Some(Kind::AlarmClosed { .. }));
        assert_eq!(w.guest(1).alarm.is_none(), ended);
        // From being destroyed to not being there nothing more happens.
        w.destroy(2);
        assert_eq!(w.kinds(), NOTHING);
    }
}

#[test]
fn fifty_guests_that_expire_and_are_destroyed_within_one_look_lose_no_event() {
    let mut w = World::new();
    for n in 1..=50 {
        w.xen.create(n, uuid(n));
        w.xen.arm(n, 0, TIMEOUT_S);
    }
    w.sample();
    w.take();
    for n in 1..=50 {
        w.xen.feed(n, 0);
        w.xen.expire(n, 0);
        w.xen.destroy(n);
    }
    w.sample();
    let told = w.take();
    assert_eq!(told.len(), 200);
    for n in 1..=50 {
        let mine: Vec<_> = told.iter().filter(|h| h.guest.domid == n).collect();
        let kinds: Vec<_> = mine.iter().map(|h| h.what.kind()).collect();
        let expected = [
            "guest.first_fed",
            "guest.expired",
            "alarm.raised",
            "guest.gone",
        ];
        assert_eq!(kinds, expected);
        assert!(mine.iter().all(|h| h.guest.uuid == Some(uuid(n))));
        let cause = Cause::Watchdog;
        assert_eq!(mine[3].what, Kind::GuestGone { cause });
    }
}

#[test]
fn a_domain_that_comes_expires_and_goes_between_two_looks_is_told() {
    let mut w = World::new();
    w.xen.create(1, uuid(1));
    w.xen.arm(1, 1, 1);
    w.xen.expire(1, 1);
    w.xen.destroy(1);
    w.sample();
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    assert_eq!(
        kinds,
        ["guest.armed", "guest.expired", "alarm.raised", "guest.gone"]
    );
    let expired = Kind::GuestExpired {
        slot: 2,
        timeout_s: 0,
        unfed_ms: 0,
        expiries: 1,
    };
    assert_eq!(
        told[1].what, expired,
        "what it had set is lost with its end"
    );
    assert!(w.guest(1).alarm.is_some());
}

#[test]
fn an_expiry_says_for_how_long_the_guest_was_seen_not_to_feed() {
    let mut w = World::with_a_fed_guest();
    w.samples(11);
    w.expire(1);
    let told = w.take();
    let expired = Kind::GuestExpired {
        slot: 1,
        timeout_s: TIMEOUT_S,
        unfed_ms: 11_250,
        expiries: 1,
    };
    assert_eq!(told[0].what, expired);
    // Resumed, it expires again: of that it is the second time.
    w.xen.resume(1);
    w.feed(1);
    w.take();
    w.pass(20_000);
    w.expire(1);
    let Kind::GuestExpired {
        unfed_ms, expiries, ..
    } = w.take()[0].what
    else {
        panic!("no expiry");
    };
    assert_eq!((unfed_ms, expiries), (10_000, 2), "nobody looked");
}

#[test]
fn a_feed_that_races_with_the_expiry_clears_nothing_unless_the_domain_runs_on() {
    for resumed in [false, true] {
        for seen in [false, true] {
            let mut w = World::with_a_fed_guest();
            w.xen.expire(1, 0);
            if seen {
                w.sample();
            }
            w.xen.feed(1, 0);
            w.xen.arm(1, 1, TIMEOUT_S);
            w.xen.feed(1, 1);
            if resumed {
                w.xen.resume(1);
            }
            w.sample();
            let told = w.kinds();
            assert_eq!(told.contains(&"alarm.cleared"), resumed, "{seen}: {told:?}");
            assert_eq!(
                told.contains(&"guest.fed_again"),
                resumed,
                "{seen}: {told:?}"
            );
            assert_eq!(told.iter().filter(|k| **k == "alarm.raised").count(), 1);
            if !resumed {
                // Resumed later: what it feeds then is a sign of life.
                w.xen.resume(1);
                w.sample();
                assert_eq!(w.kinds(), NOTHING);
                assert_eq!(w.guest(1).state, DomainState::Running);
                assert_eq!(w.phase(1), Some(AlarmPhase::Raised));
                w.feed(1);
                assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"]);
            }
        }
    }
}

#[test]
fn a_slot_that_was_armed_as_its_domain_went_down_counts_once_that_is_resumed() {
    let mut w = World::with_a_fed_guest();
    w.xen.disarm(1, 0);
    w.xen.arm(1, 1, TIMEOUT_S);
    w.sample();
    w.xen.expire(1, 1);
    w.sample();
    w.take();
    w.xen.disarm(1, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.disarmed"]);
    w.xen.arm(1, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), NOTHING);
    w.xen.resume(1);
    w.feed(1);
    assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"]);
}

#[test]
fn a_domain_that_is_down_or_being_destroyed_does_not_expire() {
    for why in [Shutdown::Poweroff, Shutdown::Crash, Shutdown::Suspend] {
        let mut w = World::with_a_fed_guest();
        w.xen.shut_down(1, why);
        w.expire(1);
        assert_eq!(w.kinds(), NOTHING, "{why:?}");
    }
    let mut w = World::with_a_fed_guest();
    w.xen.kill(1);
    w.expire(1);
    w.destroy(1);
    assert_eq!(w.kinds(), ["guest.gone"]);
}

#[test]
fn a_shutdown_code_that_was_set_in_advance_hides_no_expiry() {
    let cause = Cause::Watchdog;
    for code in [Shutdown::Poweroff, Shutdown::Suspend, Shutdown::Other(77)] {
        for seen in [true, false] {
            let mut w = World::with_a_fed_guest();
            w.xen.expire(1, 0);
            w.xen.shut_down(1, code);
            if seen {
                w.samples(1);
                assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"], "{code:?}");
                assert_eq!(w.guest(1).state, DomainState::ShutDown(cause));
            }
            w.destroy(1);
            let told = w.take();
            assert_eq!(told.last().expect("gone").what, Kind::GuestGone { cause });
            assert_eq!(told.len(), if seen { 1 } else { 3 });
            assert_eq!(w.phase(1), Some(AlarmPhase::Raised), "{code:?}");
        }
    }
}

#[test]
fn the_second_slot_of_a_guest_that_expired_raises_nothing_more() {
    let mut w = World::with_a_fed_guest();
    w.xen.arm(1, 1, TIMEOUT_S);
    w.sample();
    w.xen.expire(1, 0);
    w.xen.expire(1, 1);
    w.samples(2);
    assert_eq!(w.kinds(), ["guest.armed", "guest.expired", "alarm.raised"]);
    assert_eq!(w.guest(1).slots.iter().filter(|s| s.expired).count(), 1);
}

#[test]
fn a_guest_that_is_paused_or_not_looked_at_does_not_fail_to_boot() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.start(2, 1);
    w.take();
    w.samples(200);
    w.xen.pause(2, true);
    w.samples(200);
    w.xen.pause(2, false);
    w.sample();
    w.pass(600_000);
    w.look();
    assert_eq!(w.kinds(), NOTHING);
    w.samples(99);
    assert_eq!(w.kinds(), NOTHING, "that time does not count");
    w.samples(2);
    assert_eq!(w.kinds(), ["guest.boot_failed"]);
}

#[test]
fn a_boot_that_failed_is_reported_until_the_guest_feeds_or_is_wanted_no_more() {
    for (ends, still) in [
        (None, false),
        (Some(Shutdown::Poweroff), false),
        (Some(Shutdown::Crash), true),
    ] {
        let mut w = World::with_a_fed_guest();
        w.end(1, Shutdown::Reboot);
        w.start(2, 1);
        w.seconds(299);
        assert!(!w.guest(1).boot_failed);
        w.seconds(3);
        assert_eq!(w.kinds().last(), Some(&"guest.boot_failed"));
        assert!(w.guest(1).boot_failed && w.guest(1).alarm.is_none());
        w.restart();
        w.sample();
        assert!(w.guest(1).boot_failed, "also after a restart");
        w.xen.arm(2, 0, TIMEOUT_S);
        w.sample();
        assert!(w.guest(1).boot_failed, "an arm is no feed");
        match ends {
            Some(why) => w.end(2, why),
            None => w.feed(2),
        }
        assert_eq!(w.guest(1).boot_failed, still, "{ends:?}");
    }
}

#[test]
fn an_operator_acknowledges_and_closes() {
    let mut w = World::with_a_fed_guest();
    assert!(w.registry.acknowledge(uuid(1), 0, w.at).is_err());
    let refused = w.registry.close(uuid(7), w.at).expect_err("nobody");
    assert!(refused.to_string().contains("no guest of this UUID"));
    w.expire(1);
    let urgent = w.registry.changes().urgent;
    let told = w.registry.acknowledge(uuid(1), 7, w.at).expect("open");
    assert_eq!(told[0].what, Kind::AlarmAcknowledged { uid: 7 });
    assert_eq!(w.registry.changes().urgent, urgent + 1);
    let again = w.registry.acknowledge(uuid(1), 7, w.at).expect("open");
    assert_eq!(again, []);
    assert!(w.guest(1).alarm.is_some_and(|a| a.acknowledged));
    let told = w.registry.close(uuid(1), w.at).expect("open");
    let Kind::AlarmClosed { cause, .. } = told[0].what else {
        panic!("{told:?}");
    };
    assert_eq!(cause, Closing::Operator);
    assert!(w.guest(1).alarm.is_none());
}

#[test]
fn dom0s_own_watchdog_is_no_guests() {
    let mut w = World::new();
    w.xen.arm(0, 0, TIMEOUT_S);
    w.xen.feed(0, 0);
    w.expire(0);
    assert_eq!(w.kinds(), NOTHING);
    assert_eq!(w.registry.domains().count(), 0);
}

#[test]
fn the_report_tells_ages_by_our_clock_and_what_is_unknown_when_nobody_looked() {
    let mut w = World::with_a_fed_guest();
    w.samples(2);
    w.xen.pause(1, true);
    w.sample();
    w.xen.pause(1, false);
    w.pass(1_750);
    w.look();
    let slot = &w.guest(1).slots[0];
    assert_eq!(
        (slot.slot, slot.timeout_s, slot.expired),
        (1, TIMEOUT_S, false)
    );
    assert_eq!((slot.last_fed_age_ms, slot.margin_ms), (4_000, 6_000));
    assert_eq!(w.guest(1).state, DomainState::Running);
    w.pass(4_000);
    assert_eq!(w.guest(1).state, DomainState::Running);
    w.pass(1);
    let report = w.registry.report(w.at.ns);
    assert_eq!(report.evidence_age_ms, Some(4_001));
    assert_eq!(report.guests[0].state, DomainState::Unknown);
    // Of a domain without a watchdog there is nothing to tell.
    w.xen.create(9, Uuid::from_u128(9));
    w.sample();
    assert_eq!(w.registry.report(w.at.ns).guests.len(), 1);
}

#[test]
fn an_order_before_a_look_takes_the_time_that_nobody_looked_for_none_of_the_guests() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.start(2, 1);
    w.take();
    w.restart();
    w.pass(600_000);
    w.registry.acknowledge(uuid(1), 7, w.at).expect("open");
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING, "that time does not count");
    // Nor while this monitor, which has looked, does not for long.
    w.pass(600_000);
    w.registry.acknowledge(uuid(1), 7, w.at).expect("open");
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING);
    w.samples(295);
    assert_eq!(w.kinds(), NOTHING);
    w.samples(3);
    assert_eq!(w.kinds(), ["guest.boot_failed"]);
}

// SPDX-License-Identifier: GPL-2.0-only
//! Guests that were saved, migrated away, or started elsewhere, with an open alarm or without.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::{HOUR_MS, NOTHING, TIMEOUT_S, World, uuid};
use xenwarden::event::{Cause, Closing, Kind};
use xenwarden::guests::RequestError;
use xenwarden::guests::alarm::Moment;
use xenwarden::guests::report::AlarmPhase;
use xenwarden::xen::table::Shutdown;

const DAY_MS: i64 = 24 * HOUR_MS;

#[test]
fn a_guest_that_was_migrated_away_with_an_alarm_has_moved_until_it_is_back() {
    let mut w = World::with_an_alarm();
    w.xen.resume(1);
    w.sample();
    w.end(1, Shutdown::Suspend);
    assert_eq!(w.kinds(), ["guest.gone", "alarm.moved"]);
    assert_eq!(w.phase(1), Some(AlarmPhase::Moved));
    w.restart();
    w.pass(DAY_MS - 5_000);
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING);
    // Back, the alarm stands until the guest feeds here.
    w.start(2, 1);
    assert_eq!(w.phase(1), Some(AlarmPhase::Raised));
    w.seconds(10);
    w.xen.arm(2, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), ["guest.armed"]);
    w.feed(2);
    assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"]);
}

#[test]
fn the_alarm_of_a_guest_that_does_not_come_back_is_closed_after_a_day() {
    for reset in [false, true] {
        let mut w = World::with_an_alarm();
        w.destroy(1);
        w.pass(HOUR_MS - 2_000);
        w.samples(1);
        assert_eq!(w.kinds(), ["guest.gone"]);
        assert_eq!(w.phase(1), Some(AlarmPhase::Raised));
        // Restarted elsewhere, by the cluster.
        w.samples(2);
        let moved = w.only();
        let Kind::AlarmMoved { cause, open_ms } = moved else {
            panic!("{moved:?}");
        };
        assert_eq!(cause, Cause::Watchdog);
        assert!((3_600_000..3_603_000).contains(&open_ms), "{open_ms}");
        if reset {
            w.reset_host();
        }
        w.pass(DAY_MS - 65_000);
        w.samples(2);
        assert_eq!(w.phase(1), Some(AlarmPhase::Moved));
        assert_eq!(w.kinds(), NOTHING);
        w.pass(63_000);
        w.samples(2);
        let Kind::AlarmClosed { cause, .. } = w.only() else {
            panic!("not closed");
        };
        assert_eq!(cause, Closing::Moved, "{reset}");
        w.samples(2);
        assert_eq!(w.kinds(), NOTHING);
        assert!(w.of(uuid(1)).is_none());
    }
}

#[test]
fn the_alarm_of_a_guest_that_feeds_elsewhere_ends_here_only_once_it_is_not_here() {
    let mut w = World::with_an_alarm();
    let elsewhere = |w: &mut World, expiries| {
        let at = w.at;
        w.registry.fed_elsewhere(uuid(1), expiries, at)
    };
    // Its domain is here: its feeds here are what counts.
    assert_eq!(elsewhere(&mut w, 1), Err(RequestError::MaybeHere));
    w.destroy(1);
    w.sample();
    w.take();
    // The pool did not know of its last expiry.
    assert_eq!(elsewhere(&mut w, 2), Err(RequestError::AnotherAlarm));
    // Nobody has looked for long: it may be back.
    let blind = w.at;
    let later = Moment {
        ns: blind.ns + 60_000_000_000,
        ..blind
    };
    let late = w.registry.fed_elsewhere(uuid(1), 1, later);
    assert_eq!(late, Err(RequestError::MaybeHere));
    assert_eq!(w.phase(1), Some(AlarmPhase::Raised));
    let ended = elsewhere(&mut w, 1).expect("it ends");
    let cause = match &ended.first().expect("an event").what {
        Kind::AlarmClosed { cause, .. } => *cause,
        other => panic!("{other:?}"),
    };
    assert_eq!((ended.len(), cause), (1, Closing::FedElsewhere));
    assert_eq!(elsewhere(&mut w, 1), Err(RequestError::NoAlarm));
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING);
}

#[test]
fn a_guest_that_the_cluster_started_elsewhere_and_here_again_goes_on_with_its_alarm() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.pass(2 * HOUR_MS);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "alarm.moved"]);
    w.start(7, 1);
    assert_eq!(w.kinds(), ["guest.rebooted"]);
    assert_eq!(w.phase(1), Some(AlarmPhase::Rebooted));
    w.feeds(7);
    assert_eq!(w.kinds().last(), Some(&"alarm.cleared"));
}

#[test]
fn a_saved_guest_that_is_started_afresh_and_does_not_feed_failed_to_boot() {
    for armed in [true, false] {
        let mut w = World::with_a_fed_guest();
        if !armed {
            w.xen.disarm(1, 0);
            w.sample();
        }
        w.end(1, Shutdown::Suspend);
        w.take();
        w.start(2, 1);
        w.seconds(298);
        assert_eq!(w.kinds(), NOTHING, "neither rebooted nor restored is known");
        w.seconds(3);
        let expected: &[&str] = if armed { &["guest.boot_failed"] } else { &[] };
        assert_eq!(w.kinds(), expected);
    }
    // Saved for two hours and restored it feeds, and that is no first time.
    let mut w = World::with_a_fed_guest();
    w.end(1, Shutdown::Suspend);
    w.pass(2 * HOUR_MS);
    w.start(2, 1);
    w.feeds(2);
    assert_eq!(w.kinds(), ["guest.gone", "guest.armed", "guest.fed_again"]);
    w.seconds(400);
    assert_eq!(w.kinds(), NOTHING);
}

// SPDX-License-Identifier: GPL-2.0-only
//! Feeds, late ones and those after a break; arms and disarms.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::{NOTHING, TIMEOUT_S, World};
use xenwarden::event::{Cause, Gap, Kind};
use xenwarden::guests::alarm::Rules;
use xenwarden::guests::report::{AlarmPhase, DomainState};
use xenwarden::xen::table::Shutdown;

#[test]
fn a_feed_before_the_domain_shut_down_on_its_own_is_one() {
    for why in [Shutdown::Crash, Shutdown::Suspend, Shutdown::Reboot] {
        let mut w = World::with_an_alarm();
        w.xen.resume(1);
        w.sample();
        w.xen.feed(1, 0);
        w.xen.shut_down(1, why);
        w.sample();
        assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"], "{why:?}");
    }
}

#[test]
fn pauses_are_no_missed_feeds() {
    let mut w = World::with_a_fed_guest();
    w.xen.pause(1, true);
    w.samples(5);
    assert_eq!(w.guest(1).state, DomainState::Paused);
    w.xen.pause(1, false);
    w.feed(1);
    let Kind::GuestFedAgain { after, gap_ms, .. } = w.only() else {
        panic!("not fed again");
    };
    assert_eq!((after, gap_ms), (Gap::Paused, Some(5_250)));
    w.feed(1);
    assert_eq!(w.kinds(), NOTHING);
}

#[test]
fn late_feeds_are_told_once_a_minute_with_their_count() {
    let mut w = World::with_a_fed_guest();
    let mut late = Vec::new();
    for _ in 0..15 {
        w.samples(9);
        w.feed(1);
        for event in w.take() {
            let Kind::GuestLate {
                count, margin_ms, ..
            } = event.what
            else {
                panic!("{event:?}");
            };
            assert_eq!(margin_ms, 1_000);
            late.push(count);
        }
    }
    assert_eq!(late, [1, 7, 7]);
}

#[test]
fn a_look_of_a_moment_before_the_latest_look_dates_nothing_back() {
    let mut w = World::with_a_fed_guest();
    // Another thread has read the clock, and is held up.
    let held_up = w.at;
    w.samples(3);
    w.xen.feed(1, 0);
    let told = w.registry.turn(held_up, &w.xen.table());
    assert!(told.is_empty(), "{told:?}");
    // Six seconds and a half after that feed.
    for _ in 0..26 {
        w.sample();
    }
    w.feed(1);
    assert_eq!(w.kinds(), NOTHING);
}

#[test]
fn a_disarm_is_told_and_an_arm_after_it_is_no_feed() {
    let mut w = World::with_a_fed_guest();
    w.xen.disarm(1, 0);
    w.sample();
    assert_eq!(w.guest(1).slots, []);
    w.xen.arm(1, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), ["guest.disarmed", "guest.armed"]);
    w.feed(1);
    assert_eq!(w.kinds(), ["guest.fed_again"]);
    // Both within one look, either way.
    w.xen.disarm(1, 0);
    w.xen.arm(1, 0, TIMEOUT_S);
    w.xen.arm(1, 1, TIMEOUT_S);
    w.xen.disarm(1, 1);
    w.sample();
    let expected = [
        "guest.disarmed",
        "guest.armed",
        "guest.armed",
        "guest.disarmed",
    ];
    assert_eq!(w.kinds(), expected);
}

#[test]
fn a_guest_that_toggles_its_slots_is_told_of_twenty_times_a_minute_and_slot() {
    let mut w = World::with_a_fed_guest();
    let storm = |w: &mut World| {
        for slot in [0, 1] {
            w.xen.disarm(1, slot);
            w.xen.arm(1, slot, TIMEOUT_S);
            w.xen.feed(1, slot);
        }
        w.sample();
    };
    w.xen.arm(1, 1, TIMEOUT_S);
    w.sample();
    w.take();
    for _ in 0..58 * 4 {
        storm(&mut w);
    }
    // The first arm of each slot was told before.
    assert_eq!(w.take().len(), 38);
    let before = w.registry.changes();
    storm(&mut w);
    assert_eq!(w.registry.changes(), before, "nothing to save");
    w.samples(2);
    storm(&mut w);
    let told = w.take();
    let left_out = |h: &Kind| match h {
        Kind::GuestArmed { left_out, .. }
        | Kind::GuestDisarmed { left_out, .. }
        | Kind::GuestFedAgain { left_out, .. } => *left_out,
        other => panic!("{other:?}"),
    };
    let left_out: u32 = told.iter().map(|h| left_out(&h.what)).sum();
    assert_eq!((told.len(), left_out), (6, 233 * 3 * 2 - 38));
    // What matters is told all the same.
    w.expire(1);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
}

#[test]
fn clear_after_feeds_counts_the_feeds_of_the_present_domain_only() {
    let rules = Rules {
        clear_after_feeds: 3,
        ..Rules::default()
    };
    let mut w = World::with_one_fed(rules);
    w.expire(1);
    w.xen.resume(1);
    w.feed(1);
    w.feed(1);
    assert_eq!(w.phase(1), Some(AlarmPhase::Recovering));
    w.take();
    w.end(1, Shutdown::Suspend);
    w.start(2, 1);
    assert_eq!(w.phase(1), Some(AlarmPhase::Raised));
    w.feeds(2);
    w.feed(2);
    assert!(w.guest(1).alarm.is_some(), "two of three here");
    let saved = w.saved();
    w.feed(2);
    assert_eq!(w.kinds().last(), Some(&"alarm.cleared"));
    // A restart keeps the count, with what was fed meanwhile.
    w.begin_with(saved);
    w.sample();
    let Kind::AlarmCleared { feeds, .. } = w.only() else {
        panic!("not cleared");
    };
    assert_eq!(feeds, 3);
}

#[test]
fn an_arm_and_a_disarm_are_told_of_the_slot_that_they_are_of() {
    let mut w = World::with_a_fed_guest();
    w.xen.arm(1, 1, TIMEOUT_S);
    w.sample();
    let armed = w.only();
    assert!(
        matches!(armed, Kind::GuestArmed { slot: 2, .. }),
        "{armed:?}"
    );
    w.xen.disarm(1, 1);
    w.sample();
    let disarmed = w.only();
    assert!(
        matches!(disarmed, Kind::GuestDisarmed { slot: 2, .. }),
        "{disarmed:?}"
    );
}

#[test]
fn a_slot_is_shown_as_expired_until_it_is_fed() {
    let mut w = World::with_a_fed_guest();
    let expired = |w: &World| w.guest(1).slots[0].expired;
    assert!(!expired(&w), "never expired");
    w.expire(1);
    assert!(expired(&w));
    w.xen.resume(1);
    w.sample();
    assert!(expired(&w), "not fed yet");
    w.feed(1);
    assert!(!expired(&w));
}

#[test]
fn a_guest_that_is_gone_stays_so_when_nobody_looks_any_more() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 2);
    w.feeds(2);
    w.end(1, Shutdown::Crash);
    w.pass(10_000);
    assert_eq!(w.guest(1).state, DomainState::Gone(Cause::Crash));
    assert_eq!(w.guest(2).state, DomainState::Unknown);
}

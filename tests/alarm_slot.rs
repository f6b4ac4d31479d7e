// SPDX-License-Identifier: GPL-2.0-only
//! One watchdog slot from look to look: what two records of the table prove.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use xenwarden::event::Gap;
use xenwarden::guests::alarm::Nanoseconds;
use xenwarden::guests::slot::{Change, Slot};
use xenwarden::xen::table;
const S: Nanoseconds = 1_000_000_000;

/// A slot that is armed for 10 s and was seen to be fed at 100 s.
fn fed() -> Slot {
    Slot {
        sets: 5,
        armed: true,
        timeout_s: 10,
        disarms: 3,
        set_ns: 100 * S,
        ..Slot::default()
    }
}

fn shown(sets: u32, disarms: u32, armed: bool) -> table::Slot {
    table::Slot {
        sets,
        disarms,
        armed: armed.then_some(10),
        ..table::Slot::default()
    }
}

#[test]
fn arms_feeds_and_disarms_between_two_looks_are_told_apart() {
    let unarmed = Slot {
        armed: false,
        ..fed()
    };
    // (before, sets, disarms, armed now) to (arms, feeds)
    let cases = [
        (fed(), 5, 3, true, (0, 0)),
        (fed(), 6, 3, true, (0, 1)),
        (fed(), 8, 3, true, (0, 3)),
        // Disarmed and armed again: no feed.
        (fed(), 6, 4, true, (1, 0)),
        (fed(), 7, 4, true, (1, 1)),
        (fed(), 8, 5, true, (2, 1)),
        (fed(), 5, 4, false, (0, 0)),
        (fed(), 6, 4, false, (0, 1)),
        (unarmed, 6, 3, true, (1, 0)),
        (unarmed, 7, 3, true, (1, 1)),
        (unarmed, 6, 4, false, (1, 0)),
        (unarmed, 7, 4, false, (1, 1)),
        (unarmed, 7, 4, true, (2, 0)),
        // Disarmed, and not counted yet.
        (fed(), 6, 3, false, (0, 1)),
        (unarmed, 6, 3, false, (1, 0)),
        // Never seen before: an arm, then feeds.
        (Slot::default(), 1, 0, true, (1, 0)),
        (Slot::default(), 3, 0, true, (1, 2)),
    ];
    for (before, sets, disarms, armed, expected) in cases {
        let change = before.change(&shown(sets, disarms, armed), None, false);
        let found = (change.arms, change.feeds);
        assert_eq!(found, expected, "{before:?} {sets} {disarms} {armed}");
    }
}

#[test]
fn a_disarm_that_is_counted_a_look_later_is_one_disarm() {
    let mut slot = fed();
    let early = shown(5, 3, false);
    let change = slot.change(&early, None, false);
    slot.update(&early, &change, 0);
    slot.update(&early, &slot.change(&early, None, false), 0);
    let armed = shown(7, 3, true);
    let change = slot.change(&armed, None, false);
    assert_eq!((change.arms, change.feeds), (1, 1));
    let counted = shown(7, 4, true);
    let change = slot.change(&counted, None, false);
    assert_eq!((change.arms, change.feeds), (1, 1));
    // So is one of an arm that was not seen.
    let mut unseen = Slot {
        armed: false,
        ..fed()
    };
    let early = shown(6, 3, false);
    unseen.update(&early, &unseen.change(&early, None, false), 0);
    let change = unseen.change(&shown(8, 4, true), None, false);
    assert_eq!((change.arms, change.feeds), (1, 1));
    // Several at once are taken over as well.
    let several = shown(8, 6, true);
    slot.update(&several, &slot.change(&several, None, false), 0);
    let fed = slot.change(&shown(9, 6, true), None, false);
    assert_eq!((fed.arms, fed.feeds), (0, 1));
}

#[test]
fn of_sets_around_an_expiry_an_arm_is_taken_for_the_later() {
    let change = |was_armed, arms, feeds, sets_after| Change {
        was_armed,
        is_armed: true,
        arms,
        feeds,
        expired: sets_after > 0,
        sets_after,
        late_margin_ms: None,
    };
    let all = |c: Change| (c.was_armed, c.arms, c.feeds);
    // To those before it, and those after.
    let cases = [
        (change(true, 0, 3, 0), (true, 0, 3), (true, 0, 0)),
        (change(true, 0, 3, 2), (true, 0, 1), (true, 0, 2)),
        (change(true, 1, 3, 2), (true, 0, 2), (true, 1, 1)),
        (change(true, 3, 1, 2), (true, 1, 1), (true, 2, 0)),
        (change(false, 1, 3, 2), (false, 1, 1), (true, 0, 2)),
        (change(false, 3, 1, 2), (false, 1, 1), (true, 2, 0)),
    ];
    for (change, before, after) in cases {
        let parts = change.split(true, true);
        assert_eq!((all(parts.0), all(parts.1)), (before, after), "{change:?}");
        let (_, after) = change.split(true, false);
        assert_eq!((after.arms, after.feeds), (0, 0), "it does not run");
        let (before, after) = change.split(false, true);
        assert_eq!((before.arms, before.feeds), (0, 0), "nothing counts");
        assert_eq!((after.arms, after.feeds), (0, 0));
    }
}

#[test]
fn a_feed_is_late_in_the_last_fifth_of_its_timeout_only() {
    // The time of the look before, and the margin that the feed after it had at most.
    let cases = [
        (None, None),
        (Some(107 * S), None),
        (Some(108 * S), None),
        (Some(108 * S + 1), Some(1_999)),
        (Some(110 * S), Some(0)),
        (Some(112 * S), Some(0)),
    ];
    for (before, margin) in cases {
        let change = fed().change(&shown(6, 3, true), before, false);
        assert_eq!(change.late_margin_ms, margin, "{before:?}");
    }
    let paused = Slot {
        after: Some(Gap::Paused),
        ..fed()
    };
    let late = Some(110 * S);
    let others = [
        paused.change(&shown(6, 3, true), late, false),
        fed().change(&shown(5, 3, true), late, false),
        fed().change(&shown(6, 4, true), late, false),
    ];
    assert!(others.iter().all(|c| c.late_margin_ms.is_none()));
}

#[test]
fn an_expiry_is_a_new_value_of_acted_with_the_sets_after_it() {
    let acted = |acted, sets| table::Slot {
        acted,
        done: acted,
        ..shown(sets, 3, true)
    };
    let before = Slot { acted: 2, ..fed() };
    for (now, expired, after) in [
        (acted(2, 7), false, 0),
        (acted(5, 5), true, 0),
        (acted(6, 6), true, 0),
        (acted(6, 8), true, 2),
        (acted(0, 5), false, 0),
    ] {
        let change = before.change(&now, None, false);
        assert_eq!((change.expired, change.sets_after), (expired, after));
    }
}

#[test]
fn how_long_it_was_unfed_is_at_least_the_timeout_and_no_more_than_was_seen() {
    let slot = fed();
    assert_eq!(slot.unfed_ms(5, 110 * S + S / 4, Some(110 * S)), 10_250);
    assert_eq!(slot.unfed_ms(5, 109 * S, Some(108 * S)), 10_000);
    assert_eq!(slot.unfed_ms(6, 115 * S, Some(114 * S)), 10_000);
    assert_eq!(slot.unfed_ms(5, 9_000 * S, None), 10_000);
}

#[test]
fn a_slot_of_a_domain_that_is_gone_was_armed_although_its_flag_is_lost() {
    let change = fed().change(&shown(6, 3, false), None, true);
    assert!(change.is_armed);
    assert_eq!((change.arms, change.feeds), (0, 1));
}

#[test]
fn counters_that_wrap_leave_zero_out() {
    let last = |armed| Slot {
        sets: u32::MAX,
        armed,
        ..fed()
    };
    // Fed once; armed once; disarmed and armed again: no feed.
    for (before, disarms, expected) in [
        (last(true), 3, (0, 1)),
        (last(false), 3, (1, 0)),
        (last(true), 4, (1, 0)),
    ] {
        let change = before.change(&shown(1, disarms, true), None, false);
        assert_eq!((change.arms, change.feeds), expected, "{before:?}");
    }
    // Expired for the last set before it wrapped, then fed once.
    let shows = table::Slot {
        acted: u32::MAX,
        ..shown(1, 3, true)
    };
    let before = Slot {
        sets: u32::MAX - 1,
        ..fed()
    };
    let change = before.change(&shows, None, false);
    assert_eq!((change.feeds, change.sets_after), (2, 1));
}

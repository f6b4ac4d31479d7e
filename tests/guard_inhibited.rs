// SPDX-License-Identifier: GPL-2.0-only
//! The kick path while an operator inhibits the guard.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod guard_stage;

use guard_stage::{PERIOD_NS, Turn, play};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::EntryKind;

#[test]
fn a_guard_that_is_inhibited_kicks_on_a_wedge_and_withholds_as_soon_as_it_is_not() {
    let mut kicks = Vec::new();
    let outcome = play(|turn, _, device| {
        kicks.push(device.kicks.get());
        if turn == 50 {
            device.inhibited.set(device.now.get() + 100 * PERIOD_NS);
        }
        match turn {
            60..200 => Turn::Wedged,
            220.. => Turn::Stop,
            _ => Turn::Served,
        }
    });
    assert_eq!(kicks[149], kicks[49] + 100, "whatever the evidence says");
    assert_eq!(kicks[199], kicks[150], "and not for a look longer");
    let kinds = outcome.kinds();
    let lag = |reason: &Reason| matches!(reason, Reason::Lagging { .. });
    assert!(
        matches!(
            &kinds[..],
            [
                EntryKind::Inhibited { .. },
                EntryKind::Ignored(ignored),
                EntryKind::InhibitEnded { early: false },
                EntryKind::Withhold(reason),
                EntryKind::Resume,
                EntryKind::Disarmed
            ] if lag(ignored) && lag(reason)
        ),
        "{kinds:?}"
    );
    let [served, ignoring, ended] = [55, 100, 170].map(|turn: usize| outcome.statuses[turn]);
    assert!(served.inhibited.is_some() && served.ignored.is_none());
    assert!(ignoring.ignored.is_some() && ignoring.decision == Decision::Kick);
    assert_eq!(ignoring.served, ignoring.last_kick, "no fence level fires");
    assert_eq!((ended.inhibited, ended.ignored), (None, None));
    assert_ne!(ended.decision, Decision::Kick);
}

#[test]
fn an_inhibition_that_is_ended_or_moved_is_told() {
    let outcome = play(|turn, _, device| {
        let until = |looks: u64| device.inhibited.set(device.now.get() + looks * PERIOD_NS);
        match turn {
            50 => until(100),
            60 => until(200),
            70 => device.inhibited.set(0),
            _ => {}
        }
        if turn > 80 { Turn::Stop } else { Turn::Served }
    });
    let kinds = outcome.kinds();
    let [
        EntryKind::Inhibited { until },
        EntryKind::Inhibited { until: later },
        EntryKind::InhibitEnded { early: true },
        EntryKind::Disarmed,
    ] = kinds[..]
    else {
        panic!("{kinds:?}");
    };
    assert!(later > until);
}

#[test]
fn a_guard_that_is_stopped_kicks_on_while_a_strict_lease_runs() {
    let mut kicks = Vec::new();
    let outcome = play(|turn, _, device| {
        kicks.push(device.kicks.get());
        device.promised.set((20..150).contains(&turn));
        if turn < 50 { Turn::Served } else { Turn::Stop }
    });
    assert_eq!(kicks.len(), 150, "and no longer");
    assert_eq!(kicks[149], kicks[49] + 100);
    assert!(outcome.device.disarmed.get());
}

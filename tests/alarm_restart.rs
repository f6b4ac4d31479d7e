// SPDX-License-Identifier: GPL-2.0-only
//! The monitor ends and comes again, at every step of a guest's life; the host does.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::{NOTHING, TIMEOUT_S, World, uuid};
use xenwarden::event::Kind;
use xenwarden::guests::alarm::Boot;
use xenwarden::guests::report::AlarmPhase;
use xenwarden::xen::table::Shutdown;

/// One life of a guest, with all that it can go through.
const LIFE: [fn(&mut World); 20] = [
    |w| w.create_paused(1, 1),
    |w| w.xen.pause(1, false),
    |w| w.xen.arm(1, 0, TIMEOUT_S),
    |w| w.xen.feed(1, 0),
    |w| w.xen.expire(1, 0),
    |w| w.xen.kill(1),
    |w| w.xen.destroy(1),
    |w| w.create_paused(2, 1),
    |w| w.xen.pause(2, false),
    |w| w.xen.arm(2, 0, TIMEOUT_S),
    |w| w.xen.expire(2, 0),
    |w| w.xen.destroy(2),
    |w| _ = w.xen.create(1, uuid(1)),
    |w| w.seconds(301),
    |w| w.xen.arm(1, 1, TIMEOUT_S),
    |w| w.xen.feed(1, 1),
    |w| w.xen.shut_down(1, Shutdown::Suspend),
    |w| _ = w.xen.create(3, uuid(1)),
    |w| w.xen.arm(3, 0, TIMEOUT_S),
    |w| w.xen.feed(3, 0),
];

/// What is told of it when the monitor is restarted after or (`blind`) over one of its steps.
fn live(restart_at: Option<usize>, blind: bool) -> Vec<&'static str> {
    let mut w = World::new();
    for (n, act) in LIFE.iter().enumerate() {
        let saved = w.saved();
        act(&mut w);
        if restart_at == Some(n) && blind {
            // It died before the step, and comes back after it.
            w.begin_with(saved);
        }
        w.sample();
        if restart_at == Some(n) && !blind {
            w.restart();
        }
        w.sample();
    }
    w.kinds()
}

#[test]
fn a_restart_in_the_middle_of_anything_tells_nothing_twice_and_loses_nothing() {
    let undisturbed = live(None, false);
    let expected = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
        "guest.armed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
        "guest.boot_failed",
        "guest.armed",
        "guest.first_fed",
        "alarm.cleared",
        "guest.armed",
        "guest.fed_again",
    ];
    assert_eq!(undisturbed, expected);
    for n in 0..LIFE.len() {
        assert_eq!(live(Some(n), false), undisturbed, "after step {n}");
        // (The boot deadline is looked at, not slept through.)
        if n != 13 {
            assert_eq!(live(Some(n), true), undisturbed, "over step {n}");
        }
    }
}

#[test]
fn what_happened_while_the_monitor_was_down_is_told_in_the_order_of_creation() {
    let mut w = World::with_a_fed_guest();
    let saved = w.saved();
    w.xen.expire(1, 0);
    w.xen.destroy(1);
    // Restarted twice, under domids that are no order.
    w.xen.create(9, uuid(1));
    w.xen.arm(9, 0, TIMEOUT_S);
    w.xen.expire(9, 0);
    w.xen.destroy(9);
    w.xen.create(4, uuid(1));
    w.pass(600_000);
    w.begin_with(saved);
    w.sample();
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    let expected = [
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
        "guest.armed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(told[6].what, Kind::AlarmRaised { expiries: 2 });
    w.restart();
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING);
    assert_eq!(
        (w.guest(1).domid, w.phase(1)),
        (4, Some(AlarmPhase::Rebooted))
    );
}

#[test]
fn a_guest_whose_domid_was_used_again_meanwhile_takes_no_other_with_it() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 2);
    w.feeds(2);
    w.take();
    let saved = w.saved();
    w.xen.destroy(1);
    w.xen.create(1, uuid(3));
    w.begin_with(saved);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone"]);
    let guests = w.saved().guests;
    assert!(guests.iter().all(|g| g.others.is_empty()), "{guests:?}");
    assert_eq!(w.registry.domains().collect::<Vec<_>>(), [(1, 4), (2, 3)]);
    w.feed(2);
    w.destroy(2);
    assert_eq!(w.kinds(), ["guest.gone"]);
}

#[test]
fn alarms_outlive_a_reset_of_the_host_and_clear_there() {
    let mut w = World::with_an_alarm();
    w.reset_host();
    // Before the monitor is back the guest runs again, as the same domid and creation.
    w.xen.create(1, uuid(1));
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    w.feeds(1);
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    assert_eq!(kinds, ["guest.armed", "guest.first_fed", "alarm.cleared"]);
    let Kind::AlarmCleared { open_ms, .. } = told[2].what else {
        panic!("{told:?}");
    };
    assert!((60_000..62_000).contains(&open_ms), "{open_ms}");
}

#[test]
fn what_a_new_boot_of_the_host_saw_before_the_monitor_came_is_told() {
    let mut w = World::with_a_fed_guest();
    w.reset_host();
    w.xen.create(1, uuid(1));
    w.xen.arm(1, 0, TIMEOUT_S);
    w.xen.expire(1, 0);
    w.xen.destroy(1);
    w.sample();
    let expected = [
        "guest.gone",
        "guest.rebooted",
        "guest.armed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
    ];
    assert_eq!(w.kinds(), expected);
}

#[test]
fn a_boot_that_is_not_known_is_another_boot() {
    let mut w = World::with_a_fed_guest();
    let mut saved = w.saved();
    saved.boot_id = String::new();
    w.begin_with(saved);
    w.sample();
    let told = w.kinds();
    assert_eq!(told[..2], ["guest.gone", "guest.rebooted"]);
}

#[test]
fn the_times_of_an_alarm_are_those_of_the_wall_over_a_reset_of_the_host() {
    let mut w = World::with_an_alarm();
    let raised = w.guest(1).alarm.expect("open").raised;
    w.reset_host();
    w.sample();
    assert_eq!(w.guest(1).alarm.expect("open").raised, raised);
    let guest = &w.saved().guests[0];
    let alarm = guest.lifecycle.alarm.expect("open");
    assert_eq!(alarm.raised_ns, w.at.ns - 60_250_000_000);
    assert_eq!(
        guest.lifecycle.since_ns, w.at.ns,
        "gone since the first look"
    );
    // A wall clock that was set back in between: no time has passed.
    let mut w = World::with_an_alarm();
    let mut saved = w.saved();
    saved.time.0 += 3_600_000_000;
    w.reset_host();
    w.begin_with(saved);
    let guest = &w.saved().guests[0];
    let alarm = guest.lifecycle.alarm.expect("open");
    assert_eq!(alarm.raised_ns, w.at.ns);
}

#[test]
fn the_time_that_a_guest_takes_to_boot_is_kept_over_a_restart() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.start(2, 1);
    w.seconds(200);
    w.restart();
    w.pass(500_000);
    w.look();
    let Boot::Awaited { waited_ns } = w.saved().guests[0].lifecycle.boot else {
        panic!("not awaited");
    };
    assert_eq!(waited_ns, 200_000_000_000);
    w.take();
    w.seconds(99);
    assert_eq!(w.kinds(), NOTHING);
    w.seconds(1);
    assert_eq!(w.kinds(), ["guest.boot_failed"]);
}

#[test]
fn a_domain_that_dies_slowly_is_not_followed_anew_by_a_monitor_that_restarts() {
    let mut w = World::with_an_alarm();
    w.xen.kill(1);
    w.sample();
    w.start(2, 1);
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    w.restart();
    w.samples(5);
    w.destroy(1);
    w.samples(5);
    assert_eq!(w.kinds(), NOTHING);
    assert_eq!(w.guest(1).domid, 2);
}

#[test]
fn alarms_and_comings_and_goings_are_urgent_to_save_and_feeds_are_nothing_to_save() {
    let mut w = World::new();
    let mut changes = w.registry.changes();
    let mut changed = |w: &World| {
        let before = std::mem::replace(&mut changes, w.registry.changes());
        let now = w.registry.changes();
        let of = |before, now| u8::from(before != now);
        (
            of(before.any, now.any),
            of(before.urgent, now.urgent),
            of(before.domains, now.domains),
        )
    };
    w.start(1, 1);
    assert_eq!(changed(&w), (0, 0, 1), "no watchdog yet");
    w.xen.arm(1, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(changed(&w), (1, 0, 0));
    w.feed(1);
    assert_eq!(changed(&w), (1, 1, 0), "fed first");
    w.feed(1);
    assert_eq!(changed(&w), (0, 0, 0));
    w.xen.pause(1, true);
    w.sample();
    assert_eq!(changed(&w), (1, 0, 0));
    w.xen.pause(1, false);
    w.sample();
    changed(&w);
    w.expire(1);
    assert_eq!(changed(&w), (1, 1, 0));
    w.destroy(1);
    assert_eq!(changed(&w), (1, 1, 1));
    w.samples(1);
    assert_eq!(changed(&w), (0, 0, 0));
    w.pass(3_600_000);
    w.look();
    assert_eq!(changed(&w), (1, 1, 0), "moved");
    w.registry.close(uuid(1), w.at).expect("open");
    assert_eq!(changed(&w), (1, 1, 0));
    w.samples(1);
    assert_eq!(changed(&w), (1, 0, 0), "forgotten");
}

// SPDX-License-Identifier: GPL-2.0-only
//! Who is who: two domains of one guest, domids that are used again, UUIDs that are not
//! set or change.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::{HOUR_MS, NOTHING, TIMEOUT_S, World, uuid};
use std::sync::Arc;
use xenwarden::event::{Cause, Closing, Gap, Kind, Uuid};
use xenwarden::guests::DomainNames;
use xenwarden::guests::guest::identity;
use xenwarden::guests::registry::MOST_GONE;
use xenwarden::guests::report::DomainState;
use xenwarden::xen::table::Shutdown;

const DAY_MS: i64 = 24 * HOUR_MS;

/// The one alarm that was closed, and why.
fn closed(w: &mut World) -> Vec<Closing> {
    let told = w.take();
    let closed = told.iter().filter_map(|h| match h.what {
        Kind::AlarmClosed { cause, .. } => Some(cause),
        _ => None,
    });
    closed.collect()
}

#[test]
fn a_local_migration_is_followed_from_domain_to_domain_and_back_if_it_fails() {
    for fails in [false, true] {
        let mut w = World::with_a_fed_guest();
        w.create_paused(2, 1);
        w.feed(1);
        w.xen.shut_down(1, Shutdown::Suspend);
        w.sample();
        assert_eq!(w.guest(1).state, DomainState::Suspended);
        if fails {
            w.xen.destroy(2);
            w.xen.resume(1);
            w.feed(1);
            assert_eq!(w.kinds(), ["guest.fed_again"]);
            w.expire(1);
        } else {
            w.xen.pause(2, false);
            w.sample();
            assert_eq!(
                (w.guest(1).domid, w.guest(1).state),
                (2, DomainState::Running)
            );
            w.destroy(1);
            w.feeds(2);
            let told = w.take();
            assert_eq!(told[0].what.kind(), "guest.armed");
            let again = Kind::GuestFedAgain {
                slot: 1,
                timeout_s: TIMEOUT_S,
                after: Gap::Suspended,
                gap_ms: None,
                left_out: 0,
            };
            assert_eq!(told[1].what, again);
            w.expire(2);
        }
        assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"], "{fails}");
        assert_eq!(w.registry.report(w.at.ns).guests.len(), 1);
    }
}

#[test]
fn a_local_migration_whose_source_goes_before_its_target_runs_ends_there() {
    let mut w = World::with_an_alarm();
    w.xen.resume(1);
    w.create_paused(2, 1);
    w.sample();
    w.xen.shut_down(1, Shutdown::Suspend);
    w.destroy(1);
    assert_eq!(
        (w.guest(1).domid, w.guest(1).state),
        (2, DomainState::Paused)
    );
    w.xen.pause(2, false);
    w.sample();
    assert_eq!(w.kinds(), NOTHING);
    w.feeds(2);
    assert_eq!(
        w.kinds(),
        ["guest.armed", "guest.fed_again", "alarm.cleared"]
    );
}

#[test]
fn an_expiry_of_either_of_two_domains_is_the_guests() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.xen.arm(2, 0, TIMEOUT_S);
    w.xen.feed(2, 0);
    w.sample();
    assert_eq!(
        w.kinds(),
        NOTHING,
        "the one that has been for longest is current"
    );
    w.expire(2);
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    assert_eq!(kinds, ["guest.expired", "alarm.raised"]);
    assert!(told.iter().all(|h| h.guest.domid == 2));
    // The other's feeds do not show that this one works.
    for _ in 0..5 {
        w.feed(1);
    }
    assert_eq!(w.kinds(), NOTHING);
    assert!(w.registry.acknowledge(uuid(1), 0, w.at).is_ok());
    // Once it is gone, the guest is the other one, which works.
    w.destroy(2);
    w.feed(1);
    assert_eq!(w.kinds(), ["alarm.cleared"]);
}

#[test]
fn a_guest_goes_on_in_its_other_domain_when_the_current_one_expires() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.xen.arm(2, 0, TIMEOUT_S);
    w.sample();
    w.expire(1);
    let told = w.kinds();
    let expected = [
        "guest.expired",
        "alarm.raised",
        "guest.rebooted",
        "guest.armed",
    ];
    assert_eq!(told, expected);
    assert_eq!(w.guest(1).domid, 2);
    w.feed(2);
    assert_eq!(
        w.kinds(),
        ["guest.first_fed"],
        "the one that expired is still there"
    );
    w.feed(2);
    assert_eq!(w.kinds(), NOTHING, "fed first once");
    w.destroy(1);
    w.feed(2);
    assert_eq!(w.kinds(), ["alarm.cleared"]);
    w.destroy(2);
    assert_eq!(w.kinds(), ["guest.gone"]);
}

#[test]
fn a_restart_beside_two_domains_tells_nothing_twice() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.xen.arm(2, 0, TIMEOUT_S);
    w.expire(2);
    w.take();
    w.restart();
    w.samples(2);
    w.feed(1);
    assert_eq!(w.kinds(), NOTHING);
    w.destroy(2);
    w.feed(1);
    assert_eq!(w.kinds(), ["alarm.cleared"]);
}

#[test]
fn a_domid_that_is_used_again_is_another_domain() {
    // Equal counters in both, and the end of the first unseen.
    for down in [false, true] {
        for guest in [1, 2] {
            let mut w = World::with_an_alarm();
            let saved = w.saved();
            w.xen.destroy(1);
            w.xen.create(1, uuid(guest));
            w.xen.arm(1, 0, TIMEOUT_S);
            w.xen.feed(1, 0);
            if down {
                w.begin_with(saved);
            }
            w.sample();
            let told = w.kinds();
            assert_eq!(told[0], "guest.gone", "{down} {guest}");
            assert_eq!(told.contains(&"guest.rebooted"), guest == 1);
            // It was fed after it was armed, in this domain.
            assert_eq!(told.contains(&"alarm.cleared"), guest == 1, "{told:?}");
            assert!(!told.contains(&"guest.expired"), "{told:?}");
            assert_eq!(w.guest(1).alarm.is_some(), guest == 2);
        }
    }
}

#[test]
fn a_fed_guests_domid_that_is_used_again_is_another_domain_though_that_feeds_at_once() {
    for guest in [1, 2] {
        let mut w = World::with_a_fed_guest();
        w.take();
        w.xen.destroy(1);
        w.xen.create(1, uuid(guest));
        w.xen.arm(1, 0, TIMEOUT_S);
        (0..9).for_each(|_| w.xen.feed(1, 0));
        w.sample();
        let told = w.kinds();
        assert_eq!(told.first(), Some(&"guest.gone"), "{guest}: {told:?}");
        assert_eq!(told.contains(&"guest.rebooted"), guest == 1, "{told:?}");
        // And it is followed: its expiry is told.
        w.take();
        w.expire(1);
        w.sample();
        assert!(w.kinds().contains(&"guest.expired"), "{guest}");
    }
}

#[test]
fn equal_counters_of_different_creations_are_neither_a_feed_nor_an_expiry() {
    let mut w = World::with_an_alarm();
    let saved = w.saved();
    w.end(1, Shutdown::Suspend);
    // Restored while the monitor was down, under the same domid, with as many sets.
    w.xen.create(1, uuid(1));
    w.begin_with(saved);
    w.take();
    w.samples(2);
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    assert!(w.guest(1).alarm.is_some());
    w.xen.arm(1, 0, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), ["guest.armed"], "no false alarm.cleared");
    w.expire(1);
    let told = w.take();
    assert_eq!(told[1].what, Kind::AlarmRaised { expiries: 2 });
}

#[test]
fn the_record_of_a_domain_that_is_gone_raises_nothing_a_second_time() {
    let mut w = World::with_an_alarm();
    w.destroy(1);
    w.registry.close(uuid(1), w.at).expect("open");
    w.take();
    for _ in 0..3 {
        w.restart();
        w.seconds(700);
    }
    assert_eq!(w.kinds(), NOTHING);
    assert_eq!(w.registry.report(w.at.ns).guests, []);
    // A first start takes what is gone for told.
    w.registry = xenwarden::guests::registry::Registry::new(w.rules);
    w.samples(2);
    assert_eq!(w.kinds(), NOTHING);
}

#[test]
fn a_domain_without_a_uuid_is_a_guest_of_its_own_that_cannot_come_back() {
    let mut w = World::new();
    w.xen.create(1, Uuid::nil());
    w.xen.create(2, Uuid::nil());
    w.sample();
    let of = |w: &World, domid| identity(&w.xen.table().domain(domid).expect("there"));
    assert_eq!(
        of(&w, 1).to_string(),
        "00000000-0000-8000-8000-000000000002"
    );
    assert_eq!(
        of(&w, 2).to_string(),
        "00000000-0000-8000-8000-000000000003"
    );
    w.feeds(1);
    w.expire(1);
    assert_eq!(w.kinds().last(), Some(&"alarm.raised"));
    let own = |number: u128| Uuid::from_u128(0x8000_8000_0000_0000_0000 + number);
    assert_eq!(of(&w, 1), own(2));
    assert!(w.registry.acknowledge(of(&w, 1), 0, w.at).is_ok());
    w.end(1, Shutdown::Suspend);
    assert_eq!(closed(&mut w), [Closing::Unidentified]);
    w.samples(1);
    assert!(w.of(own(2)).is_none());
    w.xen.create(1, Uuid::nil());
    w.sample();
    assert_eq!(w.kinds(), NOTHING);
    // Nor does its alarm outlive the host's boot.
    w.feeds(1);
    w.expire(1);
    w.take();
    w.reset_host();
    (1..4).for_each(|domid| _ = w.xen.create(domid, Uuid::nil()));
    assert_eq!(of(&w, 3), own(4), "the same number");
    w.samples(1);
    let kinds = w.kinds();
    assert_eq!(kinds, ["guest.gone", "alarm.closed"], "and another domain");
    assert_eq!(w.saved().guests.len(), 3);
}

#[test]
fn whatever_its_uuid_a_guest_comes_back() {
    for uuid in [
        0x0f9b_bd6e_5f0a_4a39_8a8e_0123_4567_89ab,
        0x0000_0000_0000_8000_0000_0000_0000_0005,
        5,
    ] {
        let mut w = World::new();
        let uuid = Uuid::from_u128(uuid);
        w.xen.create(1, uuid);
        w.sample();
        w.feeds(1);
        w.expire(1);
        w.destroy(1);
        w.samples(2);
        w.xen.create(2, uuid);
        w.sample();
        w.take();
        w.feeds(2);
        assert_eq!(w.kinds().last(), Some(&"alarm.cleared"), "{uuid}");
    }
}

#[test]
fn three_domains_of_one_guest_are_told_apart() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.start(3, 1);
    for domid in [3, 2] {
        w.xen.arm(domid, 0, TIMEOUT_S);
        w.expire(domid);
        let told = w.take();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|h| h.guest.domid == domid));
    }
    w.xen.resume(3);
    w.destroy(2);
    w.destroy(1);
    assert_eq!(w.guest(1).domid, 3);
    assert_eq!(w.kinds(), ["guest.rebooted", "guest.armed"]);
}

#[test]
fn a_twin_that_runs_hinders_no_alarm_from_clearing() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.expire(1);
    w.xen.resume(1);
    w.xen.pause(2, true);
    w.sample();
    w.take();
    w.feed(1);
    assert!(w.kinds().contains(&"alarm.cleared"));
}

#[test]
fn a_uuid_that_is_set_late_or_changed_takes_the_domain_and_leaves_the_alarm() {
    // Set late: what was told of the domain is not told again.
    let mut w = World::new();
    w.start(1, 9);
    w.feeds(1);
    w.take();
    w.xen.rename(1, uuid(1));
    w.sample();
    assert_eq!(
        w.kinds(),
        ["guest.gone"],
        "of the guest under the UUID before"
    );
    w.expire(1);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
    assert!(w.guest(1).alarm.is_some());
    // Expired, kept under another UUID, and started again, as `rename-restart` does.
    w.xen.rename(1, uuid(8));
    w.start(2, 1);
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    assert!(w.of(uuid(8)).is_none(), "it has nothing to tell of");
    w.feeds(2);
    assert_eq!(w.kinds().last(), Some(&"alarm.cleared"));
    // A restart in between does not tell more.
    w.xen.rename(2, uuid(3));
    w.restart();
    w.samples(2);
    assert_eq!(w.kinds(), ["guest.gone"]);
    assert_eq!(w.guest(1).state, DomainState::Gone(Cause::Unknown));
}

#[test]
fn guests_that_are_gone_without_an_alarm_are_forgotten() {
    let mut w = World::with_a_fed_guest();
    w.xen.create(5, uuid(5));
    w.sample();
    w.destroy(5);
    w.end(1, Shutdown::Poweroff);
    w.samples(1);
    assert_eq!(w.saved().guests.len(), 1, "who had no watchdog at once");
    w.pass(597_000);
    w.look();
    assert_eq!(w.saved().guests.len(), 1);
    w.pass(4_000);
    w.look();
    assert_eq!(w.saved().guests, []);
    // A saved one may come back much later.
    let mut w = World::with_a_fed_guest();
    w.end(1, Shutdown::Suspend);
    w.pass(DAY_MS - 2_000);
    w.look();
    assert_eq!(w.saved().guests.len(), 1);
    w.pass(3_000);
    w.look();
    assert_eq!(w.saved().guests, []);
}

#[test]
fn alarms_of_guests_that_are_gone_are_bounded_and_end_with_an_event() {
    let mut w = World::new();
    let surplus = 3;
    let most = u16::try_from(MOST_GONE).expect("few");
    for n in 1..=most + surplus {
        w.xen.create(n, uuid(n));
        w.xen.arm(n, 0, TIMEOUT_S);
        w.xen.expire(n, 0);
        w.xen.destroy(n);
        if n == surplus {
            w.sample();
        }
    }
    w.samples(1);
    assert_eq!(closed(&mut w), [Closing::Evicted; 3]);
    assert_eq!(w.saved().guests.len(), MOST_GONE);
    assert!(
        (1..=surplus).all(|n| w.of(uuid(n)).is_none()),
        "the oldest go"
    );
}

#[test]
fn a_name_is_that_of_the_domain_with_its_creation_number() {
    let mut w = World::with_a_fed_guest();
    let named = |created, name: &str| {
        Arc::new(DomainNames {
            by_domain: [(created, name.into())].into(),
            trouble: Some("none".to_owned()),
        })
    };
    w.registry.rename(&named(7, "other"));
    assert_eq!(w.guest(1).name, None);
    let before = w.registry.changes().any;
    w.registry.rename(&named(2, "web"));
    assert_eq!(w.guest(1).name.as_deref(), Some("web"));
    assert_eq!(w.registry.changes().any, before + 1);
    w.registry.rename(&named(2, "web"));
    assert_eq!(w.registry.changes().any, before + 1);
    w.registry.rename(&Arc::default());
    assert_eq!(
        w.guest(1).name.as_deref(),
        Some("web"),
        "what is known stays"
    );
    w.expire(1);
    assert_eq!(w.take()[0].guest.name.as_deref(), Some("web"));
}

#[test]
fn a_migration_that_fails_after_its_target_ran_goes_on_in_the_source() {
    let mut w = World::with_a_fed_guest();
    w.create_paused(2, 1);
    w.xen.shut_down(1, Shutdown::Suspend);
    w.xen.pause(2, false);
    w.sample();
    assert_eq!(w.guest(1).domid, 2);
    // Destroyed before it fed; the source, whose watchdog stayed armed, is resumed.
    w.xen.destroy(2);
    w.xen.resume(1);
    w.sample();
    assert_eq!(w.guest(1).domid, 1);
    for _ in 0..310 {
        w.feed(1);
        w.pass(750);
    }
    let told = w.kinds();
    assert!(!told.contains(&"guest.boot_failed"), "{told:?}");
    assert!(told.iter().any(|k| k.contains("fed")), "{told:?}");
}

#[test]
fn what_a_twin_fed_before_it_expired_clears_nothing_once_it_is_the_guest() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.xen.arm(2, 0, TIMEOUT_S);
    for _ in 0..3 {
        w.feed(2);
    }
    w.expire(2);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
    w.xen.resume(2);
    w.sample();
    w.destroy(1);
    assert_eq!(w.guest(1).domid, 2);
    let told = w.kinds();
    assert!(!told.contains(&"alarm.cleared"), "{told:?}");
    w.feed(2);
    assert!(w.kinds().contains(&"alarm.cleared"));
}

#[test]
fn what_a_twin_fed_before_the_other_expired_clears_nothing() {
    let mut w = World::with_a_fed_guest();
    w.start(2, 1);
    w.xen.arm(2, 0, TIMEOUT_S);
    for _ in 0..3 {
        w.feed(2);
    }
    w.take();
    w.samples(5);
    w.xen.expire(1, 0);
    w.destroy(1);
    let told = w.kinds();
    assert!(told.contains(&"alarm.raised"), "{told:?}");
    assert!(!told.contains(&"alarm.cleared"), "{told:?}");
    w.feed(2);
    assert!(w.kinds().contains(&"alarm.cleared"));
}

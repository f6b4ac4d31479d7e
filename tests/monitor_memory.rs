// SPDX-License-Identifier: GPL-2.0-only
//! How much memory the monitor's parts take for a thousand guests, by counts of what is allocated.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;
use xenwarden::event::bus::Bus;
use xenwarden::event::{Kind, Timestamp};
use xenwarden::guests::alarm::{Moment, Rules};
use xenwarden::guests::guest::Guest;
use xenwarden::guests::registry::{Registry, Saved};
use xenwarden::guests::{DomainNames, GuestEvent};
use xenwarden::state::store::Store;
use xenwarden::sys::allocator::{
    CountingAllocator, bytes_of_this_thread, forget_peak_of_this_thread,
};
use xenwarden::xen::simulation::Simulation;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const GUESTS: u16 = 1_000;
const LOOK_NS: i64 = 250_000_000;

/// A host, and how far its time is.
struct Host {
    xen: Simulation,
    at: Moment,
}

impl Host {
    fn new() -> Self {
        let xen = Simulation::sized(1, 2_048);
        xen.create(0, Uuid::nil());
        let at = Moment {
            ns: 1_000_000_000_000,
            wall: Timestamp(1_800_000_000_000_000),
        };
        Self { xen, at }
    }

    fn look(&mut self, registry: &mut Registry) -> Vec<GuestEvent> {
        self.at.ns += LOOK_NS;
        self.at.wall.0 += LOOK_NS / 1_000;
        registry.turn(self.at, &self.xen.table())
    }

    /// Each guest comes and arms, a few between two looks, and later feeds, many times.
    fn run(&mut self, registry: &mut Registry) {
        for domid in 1..=GUESTS {
            // In no order.
            let uuid = u128::from(domid) << 100 | u128::from(domid.swap_bytes().reverse_bits());
            self.xen
                .create(domid, Uuid::from_u128(uuid.rotate_left(28)));
            self.xen.arm(domid, 0, 30);
            if domid % 20 == 0 {
                self.look(registry);
            }
        }
        let named = (1..=u64::from(GUESTS)).map(|n| (n + 1, format!("guest-{n}").into()));
        registry.rename(&Arc::new(DomainNames {
            by_domain: named.collect(),
            trouble: None,
        }));
        for _ in 0..100 {
            (1..=GUESTS).for_each(|domid| self.xen.feed(domid, 0));
            self.look(registry);
        }
    }
}

/// A registry that knows them.
fn registry() -> (Host, Registry) {
    let mut host = Host::new();
    let mut registry = Registry::new(Rules::default());
    host.look(&mut registry);
    host.run(&mut registry);
    (host, registry)
}

/// Bytes that `act` leaves, and those that it needs besides.
fn takes<T>(act: impl FnOnce() -> T) -> (T, i64, i64) {
    let before = bytes_of_this_thread().live;
    forget_peak_of_this_thread();
    let done = act();
    let after = bytes_of_this_thread();
    (
        done,
        after.live - before,
        after.peak - after.live.max(before),
    )
}

#[test]
fn a_thousand_guests_take_less_than_500_bytes_each() {
    let mut host = Host::new();
    let mut registry = Registry::new(Rules::default());
    let ((), live, _) = takes(|| host.run(&mut registry));
    let named = registry.report(host.at.ns).guests;
    assert_eq!(named.len(), usize::from(GUESTS));
    assert!(named.iter().all(|guest| guest.name.is_some()));
    assert!(live < 500 * i64::from(GUESTS), "{live}");
}

#[test]
fn looks_at_guests_that_feed_leave_nothing_behind() {
    let (mut host, mut registry) = registry();
    let ((), live, peak) = takes(|| {
        for _ in 0..100 {
            (1..=GUESTS).for_each(|domid| host.xen.feed(domid, 0));
            assert_eq!(host.look(&mut registry), []);
        }
    });
    assert_eq!((live, peak), (0, 0));
}

#[test]
fn a_save_of_a_thousand_guests_takes_a_copy_of_them_and_a_buffer() {
    let (host, registry) = registry();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory-save");
    let _ = std::fs::remove_dir_all(&directory);
    let store = Store::new(&directory);
    let (saved, copy, peak) = takes(|| registry.saved("boot", host.at));
    let guests = i64::try_from(size_of::<Guest>()).expect("few") * i64::from(GUESTS);
    assert!(copy < guests + 1_024, "{copy}");
    assert_eq!(peak, 0);
    let (written, left, peak) = takes(|| store.save(&saved));
    written.expect("saved");
    assert_eq!(left, 0);
    assert!(peak < 16 << 10, "{peak}");
    let (loaded, told) = store.load::<Saved>();
    assert_eq!((loaded, told), (Some(saved), None));
}

#[test]
fn sinks_queues_take_no_memory_for_events_that_do_not_wait() {
    let bus = Bus::new("testhost".into(), 1);
    let names = ["a", "b", "c", "d"];
    let (queues, live, _) = takes(|| names.map(|name| bus.attach(name, 4_096)));
    assert!(live < 8 << 10, "{live}");
    let ((), live, peak) = takes(|| {
        for _ in 0..10_000 {
            bus.publish(None, Kind::AlarmRaised { expiries: 1 });
            queues
                .iter()
                .for_each(|queue| _ = queue.try_recv().expect("an event"));
        }
    });
    assert!(live + peak < 8 << 10, "{live} {peak}");
}

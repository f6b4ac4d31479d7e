// SPDX-License-Identifier: GPL-2.0-only
//! Promise 6: the kick path allocates nothing and faults no page once it runs.
//!
//! The real sampler and the real kicker run over the simulated hypervisor's real wire
//! format, with memory locked, under an allocator that counts each thread's calls.
#![allow(clippy::expect_used)] // how tests fail

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use xenwarden::guard::ledger::Ledger;
use xenwarden::guard::{kicker, sampler};
use xenwarden::sys::allocator::{CountingAllocator, calls_of_this_thread};
use xenwarden::sys::clock::Monotonic;
use xenwarden::sys::realtime::{lock_memory, page_faults_of_this_thread};
use xenwarden::watchdog::Barrel;
use xenwarden::xen::Hypervisor;
use xenwarden::xen::patched::Patched;
use xenwarden::xen::simulated::{Scene, Simulated};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PERIOD_NS: u64 = 2_000_000;
/// Kicks within which the loops must have come to rest.
const WARM_UP: u64 = 5;
const KICKS: u64 = 200;

/// Kind a loop cost its thread after the warm-up.
#[derive(Default)]
struct Cost {
    allocations: AtomicU64,
    faults: AtomicU64,
}

/// Counts from the end of the warm-up to the latest turn.
struct Meter {
    cost: Arc<Cost>,
    turns: u64,
    base: (u64, u64),
}

impl Meter {
    fn new(cost: &Arc<Cost>) -> Self {
        let cost = Arc::clone(cost);
        Self {
            cost,
            turns: 0,
            base: (0, 0),
        }
    }

    fn turn(&mut self) {
        let faults = page_faults_of_this_thread().expect("getrusage");
        let now = (calls_of_this_thread(), faults.minor + faults.major);
        self.turns += 1;
        if self.turns <= WARM_UP {
            self.base = now;
        }
        let (allocations, faults) = (now.0 - self.base.0, now.1 - self.base.1);
        self.cost.allocations.store(allocations, Ordering::Relaxed);
        self.cost.faults.store(faults, Ordering::Relaxed);
    }
}

struct MeteredBarrel {
    meter: Meter,
    kicks: Arc<AtomicU64>,
}

impl Barrel for MeteredBarrel {
    fn kick(&mut self) -> io::Result<()> {
        self.meter.turn();
        self.kicks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn disarm(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct MeteredHypervisor {
    inner: Patched<Simulated>,
    meter: Meter,
}

impl Hypervisor for MeteredHypervisor {
    fn look(
        &mut self,
        copy: Option<&xenwarden::xen::snapshot::Snapshots>,
    ) -> xenwarden::guard::evidence::Evidence {
        let evidence = self.inner.look(copy);
        self.meter.turn();
        evidence
    }

    fn coverage(&self) -> xenwarden::xen::Coverage {
        self.inner.coverage()
    }
}

#[test]
fn the_kick_path_allocates_nothing_and_faults_no_page() {
    // Without the privilege to lock memory the faults cannot be promised, nor tested.
    let locked = lock_memory().is_ok();
    let ledger = Arc::new(Ledger::new());
    let (sampling, kicking) = (Arc::new(Cost::default()), Arc::new(Cost::default()));
    let kicks = Arc::new(AtomicU64::new(0));
    let scene = Scene::healthy(64, 300);
    let mut hypervisor = MeteredHypervisor {
        inner: Patched::new(Simulated::in_real_time(&scene)),
        meter: Meter::new(&sampling),
    };
    let barrel = Box::new(MeteredBarrel {
        meter: Meter::new(&kicking),
        kicks: Arc::clone(&kicks),
    });
    thread::scope(|s| {
        s.spawn(|| sampler::run(&mut hypervisor, &ledger, PERIOD_NS));
        s.spawn(|| kicker::run(barrel, &ledger, Monotonic::now(), PERIOD_NS, 500_000_000));
        while kicks.load(Ordering::Relaxed) < KICKS {
            thread::yield_now();
        }
        ledger.stop.store(true, Ordering::Relaxed);
    });
    for (name, cost) in [("sampler", sampling), ("kicker", kicking)] {
        assert_eq!(
            cost.allocations.load(Ordering::Relaxed),
            0,
            "{name} allocates"
        );
        if locked {
            assert_eq!(
                cost.faults.load(Ordering::Relaxed),
                0,
                "{name} faults pages"
            );
        }
    }
    assert!(
        locked,
        "memory cannot be locked here: run the tests as root or raise RLIMIT_MEMLOCK"
    );
}

// SPDX-License-Identifier: GPL-2.0-only
//! Promise 6: the kick path allocates nothing and faults no page once it runs.
//!
//! The real loop runs over a table with 2,000 armed slots, with memory locked, under an
//! allocator that counts each thread's calls; then over the words of probes.
#![allow(clippy::expect_used)] // how tests fail

mod guard_told;

use guard_told::{info, status};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;
use xenwarden::config::leases::{Lease, LeaseName, Leases as Policy};
use xenwarden::guard::deadlines::Deadlines;
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::leases::Leases;
use xenwarden::guard::leases::page::Page;
use xenwarden::guard::page::Writer;
use xenwarden::guard::probes::Words;
use xenwarden::guard::run::{World, run};
use xenwarden::guard::sight::{Patched, Sight, Stock};
use xenwarden::sys::allocator::{CountingAllocator, calls_of_this_thread};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, sleep_until};
use xenwarden::sys::realtime::{lock_memory, page_faults_of_this_thread};
use xenwarden::watchdog::fence::{Judged, SYSRQ_AFTER, judge};
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo};
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Starved;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Looks within which the loop must have come to rest; the host is proven in them.
const WARM_UP: u64 = 10;
const LOOKS: u64 = 100;
const WEDGE: std::ops::RangeInclusive<u64> = LOOKS / 2..=LOOKS / 2 + 40;
/// Long enough for a look without optimisation: evidence that is older than a period is stale.
const PERIOD_NS: u64 = 50 * NS_PER_MS;

struct Kicked(Rc<Cell<u64>>);

impl HostWatchdog for Kicked {
    fn kick(&mut self) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn disarm(self) -> io::Result<()> {
        Ok(())
    }
}

struct Metered<'a> {
    /// What the host does between two looks; the number of looks so far.
    host: &'a dyn Fn(u64),
    looks: u64,
    base: (u64, u64),
    cost: (u64, u64),
    deadlines: Deadlines,
    leases: Leases<'static>,
}

impl World for Metered<'_> {
    fn now(&self) -> Monotonic {
        Monotonic::now()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        sleep_until(when);
        (self.host)(self.looks);
    }

    fn ends(&self) -> Option<Ends> {
        (self.looks >= LOOKS).then_some(Ends::Stopped)
    }

    fn inhibited(&self, now: Monotonic) -> Option<Monotonic> {
        self.deadlines.until(0, now)
    }

    fn leases(&self, now: Monotonic) -> Option<Reason> {
        self.leases.against(now)
    }

    fn strict_leases(&self, now: Monotonic) -> Option<Reason> {
        self.leases.strictly_against(now)
    }

    fn looked(&mut self) {
        let faults = page_faults_of_this_thread().expect("getrusage");
        let now = (calls_of_this_thread(), faults.minor + faults.major);
        self.looks += 1;
        if self.looks == WARM_UP {
            self.base = now;
        }
        self.cost = (now.0 - self.base.0, now.1 - self.base.1);
    }
}

/// All of them required, and held for as long as the test takes.
fn a_hundred_leases(name: &str) -> Page {
    let lease = |n| Lease {
        name: LeaseName::new(&format!("lease-{n}")).expect("a name"),
        uid: 0,
        timeout_ns: 3_600 * NS_PER_S,
        required: true,
        strict: false,
    };
    let policy = Policy {
        leases: (0..100).map(lease).collect(),
        begin_ns: 3_600 * NS_PER_S,
        unserved_ns: 3_600 * NS_PER_S,
        mux: None,
    };
    let file = format!("xenwarden-leases-{name}-{}", std::process::id());
    let file = std::env::temp_dir().join(file);
    let page = Page::create(&file, &policy, Monotonic::now()).expect("a page");
    std::fs::remove_file(&file).expect("removed");
    page
}

#[test]
fn the_kick_path_allocates_nothing_and_faults_no_page() {
    let xen = Simulation::new(64);
    for domid in 1..=1_000 {
        xen.create(domid, Uuid::from_u128(u128::from(domid)));
        xen.arm(domid, 0, 3_600);
        xen.arm(domid, 1, 3_600);
    }
    let host = |looks| {
        // A wedge in the middle: withholding costs no more than kicking.
        if !WEDGE.contains(&looks) {
            xen.tick_all();
        }
        // And before that vCPUs starve.
        for cpu in 0..xen.table().nr_pcpus() {
            let starved = Starved {
                ms: u32::try_from(looks * 100).unwrap_or(u32::MAX),
                domid: 7,
                vcpu: 0,
            };
            let starves = (20..30).contains(&looks);
            xen.scan(cpu, true, starves.then_some(starved));
        }
    };
    // All evidence that can be asked for.
    let mut sight = Patched::new(xen.table()).starved_after(Some(PERIOD_NS));
    costs_nothing("table", &mut sight, &host);
}

#[test]
fn nor_does_it_without_a_table() {
    const VCPUS: usize = 64;
    let words = Arc::new(Words::new(VCPUS, true));
    let host = |looks| {
        if !WEDGE.contains(&looks) {
            (0..VCPUS).for_each(|vcpu| words.count(vcpu));
            words.sent(u32::try_from(looks).expect("small"), 1, 3);
            words.back(true);
        } else if looks == *WEDGE.start() {
            words.sent(u32::try_from(looks).expect("small"), 1, 3);
        }
    };
    host(0);
    let mut sight = Stock::over(Arc::clone(&words), PERIOD_NS);
    costs_nothing("probes", &mut sight, &host);
}

fn costs_nothing(name: &str, sight: &mut dyn Sight, host: &dyn Fn(u64)) {
    let mut page = Writer::private().expect("a page");
    let kicks = Rc::new(Cell::new(0));
    let file = format!("xenwarden-kick-path-{name}-{}", std::process::id());
    let file = std::env::temp_dir().join(file);
    let mut world = Metered {
        host,
        looks: 0,
        base: (0, 0),
        cost: (0, 0),
        deadlines: Deadlines::open(&file, PERIOD_NS).expect("a file"),
        leases: Leases::new(a_hundred_leases(name).leak(), Monotonic::now()),
    };
    std::fs::remove_file(&file).expect("removed");
    // Without the privilege to lock memory the faults cannot be promised, nor tested.
    lock_memory().expect("memory can be locked: run as root, or raise RLIMIT_MEMLOCK");
    let watchdog = Kicked(Rc::clone(&kicks));
    let armed = Monotonic::now();
    let outcome = run(watchdog, sight, &mut world, &mut page, armed, PERIOD_NS);
    assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
    let withholds = page
        .reader()
        .status()
        .map(|status| status.counters.withholds);
    assert!(withholds > Some(0), "nothing was withheld");
    assert!(kicks.get() > LOOKS / 4, "it kicked {} times", kicks.get());
    assert_eq!(world.cost.0, 0, "the kick path allocates");
    assert_eq!(world.cost.1, 0, "the kick path faults pages");
}

#[test]
fn a_fence_level_allocates_nothing_for_its_look() {
    let page = Writer::private().expect("a page");
    let now = Monotonic::now();
    page.info(&info());
    page.status(&status(Decision::Kick));
    let read = page.reader();
    let before = calls_of_this_thread();
    let told = read.vitals();
    let judged = judge(told, 77, Monotonic(0), now, SYSRQ_AFTER);
    assert_eq!(calls_of_this_thread(), before, "a level allocates");
    assert_ne!(judged, Judged::NotYet);
}

// SPDX-License-Identifier: GPL-2.0-only
//! What a look costs: nanoseconds of [`Evidence::look`] over a simulated table, as it is on most hosts and as it is at worst; and of
//! [`Leases::against`].
//!
//! `make bench-look` runs it; it asserts nothing, as times depend on the machine. Each figure is of many runs of many looks, the caches
//! warm, with what changes from look to look (a canary, a feed) made outside of the time that is taken.
#![allow(missing_docs)] // a program of its own

use std::hint::black_box;
use std::time::Instant;
use uuid::Uuid;
use xenwarden::config::leases::{Lease, LeaseName, Leases as Policy};
use xenwarden::guard::evidence::Evidence;
use xenwarden::guard::leases::Leases;
use xenwarden::guard::leases::page::Page;
use xenwarden::sys::clock::{Monotonic, NS_PER_S};
use xenwarden::xen::simulation::Simulation;

/// How often a run is repeated: its minimum, median and maximum are told.
const RUNS: usize = 51;
/// For how long a run goes on, about.
const RUN_NS: u128 = 5_000_000;
/// Guests' timeout, s: none of them expires here.
const TIMEOUT_S: u32 = 1_000_000;
/// The first domid that is used.
const FIRST: u16 = 1;

/// Tells what `look` costs; `prepare` is done before each run, outside of the time that is taken.
fn measure(name: &str, prepare: impl Fn(), mut look: impl FnMut()) {
    let mut looks = |count: u32| {
        let began = Instant::now();
        (0..count).for_each(|_| look());
        began.elapsed().as_nanos()
    };
    let mut count = 1;
    while looks(count) < RUN_NS {
        count *= 2;
    }
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            prepare();
            looks(1);
            looks(count) as f64 / f64::from(count)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    let at = |n: usize| runs.get(n).copied().unwrap_or(f64::NAN);
    println!(
        "{name}: min {:.0} ns, median {:.0} ns, max {:.0} ns a look ({RUNS} runs of {count})",
        at(0),
        at(RUNS / 2),
        at(RUNS - 1),
    );
}

/// What one table costs to look at.
fn table(name: &str, pcpus: usize, domains: u16) {
    let xen = Simulation::new(pcpus);
    for domid in FIRST..FIRST + domains {
        xen.create(domid, Uuid::from_u128(u128::from(domid)));
        for slot in 0..2 {
            xen.arm(domid, slot, TIMEOUT_S);
        }
    }
    let table = xen.table();
    let mut evidence = Evidence::new(&table);
    let prepare = || {
        xen.tick_all();
        (FIRST..FIRST + domains).for_each(|domid| xen.feed(domid, 0));
    };
    measure(name, prepare, || {
        black_box(evidence.look(black_box(&table), Monotonic::now));
    });
}

/// What so many leases cost, all of them held.
fn leases(name: &str, count: usize) -> std::io::Result<()> {
    let lease = |n| {
        Some(Lease {
            name: LeaseName::new(&format!("lease-{n}"))?,
            uid: 0,
            timeout_ns: u64::from(TIMEOUT_S) * NS_PER_S,
            required: true,
            strict: false,
        })
    };
    let policy = Policy {
        leases: (0..count).filter_map(lease).collect(),
        begin_ns: u64::from(TIMEOUT_S) * NS_PER_S,
        unserved_ns: u64::from(TIMEOUT_S) * NS_PER_S,
        mux: None,
    };
    let path = std::env::temp_dir().join(format!("xenwarden-look-{}", std::process::id()));
    let page = Page::create(&path, &policy, Monotonic::now())?;
    std::fs::remove_file(&path)?;
    let leases = Leases::new(page.words(), Monotonic::now());
    measure(
        name,
        || (),
        || {
            black_box(leases.against(black_box(Monotonic::now())));
        },
    );
    Ok(())
}

fn main() -> std::io::Result<()> {
    table("2 pCPUs, 4 armed slots", 2, 2);
    table("2 pCPUs, 10,000 armed slots", 2, 5_000);
    table("256 pCPUs, 10,000 armed slots", 256, 5_000);
    leases("no lease", 0)?;
    leases("100 leases", 100)
}

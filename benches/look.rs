// SPDX-License-Identifier: GPL-2.0-only
//! What a look costs: nanoseconds of [`Evidence::look`] over a simulated table, as it is on most hosts and as it is at worst.
//!
//! `make bench` runs it; it asserts nothing, as times depend on the machine. Each figure is of many runs of many looks, the caches
//! warm, with what changes from look to look (a canary, a feed) made outside of the time that is taken.
#![allow(missing_docs)] // a program of its own

use std::hint::black_box;
use std::time::Instant;
use uuid::Uuid;
use xenwarden::guard::evidence::Evidence;
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::simulation::Simulation;

/// How often a run is repeated: its minimum, median and maximum are told.
const RUNS: usize = 51;
/// For how long a run goes on, about.
const RUN_NS: u128 = 5_000_000;
/// Guests' timeout, s: none of them expires here.
const TIMEOUT_S: u32 = 1_000_000;
/// The first domid that is used.
const FIRST: u16 = 1;

/// What one table costs to look at.
fn bench(name: &str, pcpus: usize, domains: u16) {
    let xen = Simulation::new(pcpus);
    for domid in FIRST..FIRST + domains {
        xen.create(domid, Uuid::from_u128(u128::from(domid)));
        for slot in 0..2 {
            xen.arm(domid, slot, TIMEOUT_S);
        }
    }
    let table = xen.table();
    let mut evidence = Evidence::new(&table);
    let mut looks = |count: u32| {
        let began = Instant::now();
        for _ in 0..count {
            black_box(evidence.look(black_box(&table), Monotonic::now));
        }
        began.elapsed().as_nanos()
    };
    let mut count = 1;
    while looks(count) < RUN_NS {
        count *= 2;
    }
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            xen.tick_all();
            (FIRST..FIRST + domains).for_each(|domid| xen.feed(domid, 0));
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

fn main() {
    bench("2 pCPUs, 4 armed slots", 2, 2);
    bench("2 pCPUs, 10,000 armed slots", 2, 5_000);
    bench("256 pCPUs, 10,000 armed slots", 256, 5_000);
}

// SPDX-License-Identifier: GPL-2.0-only
//! The sampler: one look at the hypervisor each period, its evidence put on the ledger.
//!
//! It may be lost in a hypercall that never returns: its evidence then goes stale, and
//! that is the detection. It allocates nothing and takes no lock.

use crate::guard::ledger::{Ledger, record_faults};
use crate::sys::clock::{Monotonic, sleep_until};
use crate::sys::realtime::page_faults_of_this_thread;
use crate::xen::Hypervisor;
use std::sync::atomic::Ordering;

/// Looks every `period_ns` until the kicker has ended.
pub fn run(hypervisor: &mut dyn Hypervisor, ledger: &Ledger, period_ns: u64) {
    let counters = &ledger.counters;
    let base = page_faults_of_this_thread().unwrap_or_default();
    let mut next = Monotonic::now();
    while !ledger.ended.load(Ordering::Relaxed) {
        let evidence = hypervisor.look(Some(&ledger.snapshots));
        ledger.put_evidence(evidence);
        counters.samples.fetch_add(1, Ordering::Relaxed);
        let end = Monotonic::now();
        counters
            .max_look_ns
            .fetch_max(end.since_ns(evidence.taken), Ordering::Relaxed);
        if let Ok(now) = page_faults_of_this_thread() {
            record_faults(&counters.sampler_faults, base, now);
        }
        next = next_tick(next, end, period_ns);
        sleep_until(next);
    }
}

/// The tick after `last`; ticks that were missed are not made up for.
#[must_use]
pub fn next_tick(last: Monotonic, now: Monotonic, period_ns: u64) -> Monotonic {
    let next = last.plus_ns(period_ns);
    if next < now { now } else { next }
}

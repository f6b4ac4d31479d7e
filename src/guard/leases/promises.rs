// SPDX-License-Identifier: GPL-2.0-only
//! Strict leases that others count on, over restarts of the guard.
//!
//! In: the leases of the configuration, those of the page before. Out: the leases of the next page. Promise: none that is strict and
//! runs is missing there, or less than strict. Pure.

use super::page::View;
use crate::config::leases::{Lease, MOST};

/// Others were told that this host goes down with the end of a strict lease. So one that runs is strict also for a guard whose
/// configuration has it no more, no longer as strict, or for another user, until its client gives it back. Where there is no room it takes the place of
/// another, the last that nobody counts on: one that is not strict, if there is any.
pub(super) fn keep_promises(all: &mut Vec<(Lease, u64)>, before: &[View]) {
    let is_promised = |old: &&View| old.strict && old.is_running() && !old.claimed;
    let promised: Vec<&View> = before.iter().filter(is_promised).collect();
    let is_of = |lease: &Lease, old: &View| (lease.name, lease.uid) == (old.name, old.uid);
    // Of one name there is one socket, and it is of whoever holds the lease.
    for (lease, _) in all.iter_mut() {
        if let Some(old) = promised.iter().find(|old| old.name == lease.name) {
            (lease.uid, lease.strict) = (old.uid, true);
        }
    }
    for old in &promised {
        if all.iter().any(|(lease, _)| is_of(lease, old)) {
            continue;
        }
        if all.len() >= MOST {
            let is_free = |lease: &Lease| !promised.iter().any(|old| is_of(lease, old));
            let last = all.iter().rposition(|(lease, _)| !lease.strict);
            let last = last.or_else(|| all.iter().rposition(|(lease, _)| is_free(lease)));
            last.map(|at| all.remove(at));
        }
        let lease = Lease {
            name: old.name,
            uid: old.uid,
            timeout_ns: old.timeout_ns,
            required: false,
            strict: true,
        };
        all.push((lease, 0));
    }
}

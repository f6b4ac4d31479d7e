// SPDX-License-Identifier: GPL-2.0-only
//! Starving: a pCPU idles while a runnable vCPU that is placed on it waits.
//!
//! In: a pCPU's record, look by look. Out: who waits, and for how long that is proved. Nothing
//! is allocated.
//!
//! The hypervisor goes over all vCPUs once a second, from pCPU 0 (1,024 vCPUs at a time), and
//! writes down whether each pCPU idles and who waits longest on it. The fields are stored one
//! by one, and a pCPU may idle for a moment between two vCPUs: so one record proves nothing.
//! What is proved reaches from the look that saw it first to the one that first saw the
//! hypervisor find the same again: the pCPU idle, the same vCPU, its wait grown. Nor is it ever
//! longer than the hypervisor says that this one wait is: a vCPU that ran meanwhile begins anew.
//! What the hypervisor last found stands until it looks again.

use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::xen::table::{Pcpu, Starved};

/// What was seen of one pCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Starving(Option<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    starved: Starved,
    since: Monotonic,
    /// The look that first saw what the hypervisor found last.
    confirmed: Monotonic,
}

/// A vCPU that waits on a pCPU that idles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who, and for how long by the hypervisor's own count.
    pub starved: Starved,
    /// For how long it is proved, ns.
    pub proved_ns: u64,
    /// Until when.
    pub until: Monotonic,
}

impl Starving {
    /// Takes in what a look at `now` finds; gives who waits, if anybody does.
    pub fn see(&mut self, record: &Pcpu, now: Monotonic) -> Option<Waiting> {
        let found = record.starved.filter(|_| record.online && record.idle);
        let Some(starved) = found else {
            self.0 = None;
            return None;
        };
        let anew = Seen {
            starved,
            since: now,
            confirmed: now,
        };
        let seen = match self.0 {
            Some(seen) if seen.is_before(&starved) => Seen {
                since: seen.since,
                ..anew
            },
            Some(seen) if seen.starved == starved => seen,
            _ => anew,
        };
        self.0 = Some(seen);
        Some(seen.waiting())
    }

    /// Another has seen this wait to be longer than `granted_ns`, and its evidence is lost.
    pub fn overdue(&mut self, record: &Pcpu, granted_ns: u64, now: Monotonic) {
        self.see(record, now);
        if let Some(seen) = &mut self.0 {
            let before = granted_ns.saturating_add(NS_PER_MS);
            seen.since = Monotonic(now.0.saturating_sub(before));
        }
    }

    /// What was seen first in a look that was interrupted counts from its end.
    pub fn count_from(&mut self, began: Monotonic, ended: Monotonic) {
        if let Some(seen) = self.0.as_mut().filter(|seen| seen.since == began) {
            (seen.since, seen.confirmed) = (ended, ended);
        }
    }
}

impl Seen {
    /// The wait that was seen before this, which goes on.
    fn is_before(&self, now: &Starved) -> bool {
        let Starved { ms, domid, vcpu } = self.starved;
        (domid, vcpu) == (now.domid, now.vcpu) && ms < now.ms
    }

    fn waiting(&self) -> Waiting {
        let told_ns = u64::from(self.starved.ms) * NS_PER_MS;
        Waiting {
            starved: self.starved,
            proved_ns: self.confirmed.since_ns(self.since).min(told_ns),
            until: self.confirmed,
        }
    }
}

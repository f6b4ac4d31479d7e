// SPDX-License-Identifier: GPL-2.0-only
//! A hypervisor without the liveness patches: partial coverage.
//!
//! In: one hypercall a look. Out: evidence that the hypervisor answers and that dom0
//! ran the sampler; nothing on guest watchdogs, nor on pCPUs that run no part of dom0.
//! Used only where the configuration says `coverage = "partial"`.

use crate::guard::evidence::{Evidence, Unknown, Verdict, Work};
use crate::sys::clock::Monotonic;
use crate::sys::hypercall::Privcmd;
use crate::xen::snapshot::Snapshots;
use crate::xen::{Coverage, Hypervisor};

/// Stock Xen.
#[derive(Debug)]
pub struct Stock {
    privcmd: Privcmd,
    /// For how long an answer proves anything, ns.
    good_for_ns: u64,
}

impl Stock {
    /// Over an open privcmd; an answer is good for `good_for_ns` nanoseconds.
    #[must_use]
    pub fn new(privcmd: Privcmd, good_for_ns: u64) -> Self {
        Self {
            privcmd,
            good_for_ns,
        }
    }
}

impl Hypervisor for Stock {
    fn look(&mut self, _copy: Option<&Snapshots>) -> Evidence {
        let taken = Monotonic::now();
        let verdict = match self.privcmd.version() {
            Ok(_) => Verdict::Served {
                good_until: taken.plus_ns(self.good_for_ns),
                next: Work::PcpuScheduler(0),
            },
            Err(errno) => Verdict::Unknown(Unknown::Hypercall {
                errno: errno as i32,
            }),
        };
        Evidence { taken, verdict }
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial
    }
}

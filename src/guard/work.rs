// SPDX-License-Identifier: GPL-2.0-only
//! The work that the hypervisor owes, and why nothing can be said of it: words for evidence of
//! either kind, [`super::evidence`] and [`super::probes`].

use super::probes::UNKNOWN;
use super::starving::Waiting;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use std::fmt;

/// A piece of work that the hypervisor owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// The handler of a domain's watchdog slot (counted from 1).
    GuestWatchdog {
        /// The domain.
        domid: u16,
        /// The slot, from 1.
        slot: u8,
    },
    /// The timers of a pCPU.
    PcpuTimers(u32),
    /// The scheduler of a pCPU.
    PcpuScheduler(u32),
    /// A turn for a runnable vCPU, on a pCPU that idles.
    PcpuStarving {
        /// The pCPU.
        cpu: u32,
        /// The vCPU's domain.
        domid: u16,
        /// Its number in that domain.
        vcpu: u16,
    },
    /// A turn for a vCPU of dom0, where there is no table.
    Vcpu(u32),
    /// The return of a vCPU of dom0 that was sent to a pCPU, where there is no table; or that it
    /// leaves this one, whose number may be [`UNKNOWN`].
    Probe(u32),
}

impl Work {
    /// Of a vCPU that waits.
    pub(super) fn starving(cpu: u32, waiting: &Waiting) -> Self {
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Self::PcpuStarving {
            cpu,
            domid: short(waiting.starved.domid),
            vcpu: short(waiting.starved.vcpu),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestWatchdog { domid, slot } => {
                write!(f, "guest watchdog of domain {domid}, slot {slot}")
            }
            Self::PcpuTimers(cpu) => write!(f, "timers of pcpu {cpu}"),
            Self::PcpuScheduler(cpu) => write!(f, "scheduler of pcpu {cpu}"),
            Self::Vcpu(vcpu) => write!(f, "dom0 vcpu {vcpu}"),
            Self::Probe(cpu) if *cpu == u32::from(UNKNOWN) => write!(f, "probe of an unknown pcpu"),
            Self::Probe(cpu) => write!(f, "probe of pcpu {cpu}"),
            Self::PcpuStarving { cpu, domid, vcpu } => {
                write!(
                    f,
                    "runnable vcpu {vcpu} of domain {domid} on idle pcpu {cpu}"
                )
            }
        }
    }
}

/// Why nothing can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// A pCPU has not been seen to make progress yet.
    Unproven {
        /// Which.
        cpu: u32,
    },
    /// The table shows no pCPU that is online.
    NoPcpu,
    /// The hypervisor's canaries are switched off.
    NoCanaries,
    /// A vCPU of dom0 has not, where there is no table.
    UnprovenVcpu {
        /// Which.
        vcpu: u32,
    },
    /// Nor any of them.
    NoVcpu,
    /// The guard was held up between looking and deciding.
    Stale {
        /// Age of what it saw, ns.
        age_ns: u64,
    },
    /// The monitor has looked after no lease for longer than it may, and one of them should have
    /// been renewed meanwhile.
    Leases {
        /// For how long, ns.
        age_ns: u64,
    },
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproven { cpu } => write!(f, "pcpu {cpu} has not been seen to make progress"),
            Self::NoPcpu => write!(f, "the liveness table shows no pcpu online"),
            Self::NoCanaries => write!(
                f,
                "the hypervisor's canaries are switched off (command line: liveness)"
            ),
            Self::UnprovenVcpu { vcpu } => {
                write!(f, "dom0 vcpu {vcpu} has not been seen to make progress")
            }
            Self::NoVcpu => write!(f, "no dom0 vcpu has been seen to make progress"),
            Self::Leases { age_ns } => write!(
                f,
                "leases not looked after for {} s: is the monitor gone?",
                age_ns / NS_PER_S
            ),
            Self::Stale { age_ns } => write!(f, "evidence stale: {} ms old", age_ns / NS_PER_MS),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The gate: evidence in, kick or withhold out. Pure.
//!
//! Kick if and only if everything is served right now; the seconds of patience are the
//! hardware's. There is no grace period here and no verdict that latches.

use super::evidence::{Unknown, Verdict, Work};
use crate::config::leases::LeaseName;
use crate::sys::clock::NS_PER_MS;
use std::fmt;

/// Why kicks are withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The hypervisor does not service due work.
    Lagging {
        /// What has been due longest.
        work: Work,
        /// For how long, ns.
        overdue_ns: u64,
    },
    /// Nobody renewed a lease in time.
    Lease {
        /// The one that is overdue longest.
        name: LeaseName,
        /// For how long, ns.
        overdue_ns: u64,
    },
    /// The evidence does not tell.
    Unknown(Unknown),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lagging { work, overdue_ns } => {
                write!(f, "{work} not serviced for {} ms", overdue_ns / NS_PER_MS)
            }
            Self::Lease { name, overdue_ns } => {
                write!(f, "lease {name} lapsed {} ms ago", overdue_ns / NS_PER_MS)
            }
            Self::Unknown(why) => why.fmt(f),
        }
    }
}

impl Reason {
    /// The same cause, whatever its age.
    #[must_use]
    pub fn same_cause(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lagging { work: a, .. }, Self::Lagging { work: b, .. }) => a == b,
            (Self::Lease { name: a, .. }, Self::Lease { name: b, .. }) => a == b,
            (Self::Unknown(Unknown::Stale { .. }), Self::Unknown(Unknown::Stale { .. }))
            | (Self::Unknown(Unknown::Leases { .. }), Self::Unknown(Unknown::Leases { .. })) => {
                true
            }
            _ => self == other,
        }
    }
}

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Kick the host watchdog.
    Kick,
    /// Do not.
    Withhold(Reason),
}

/// What comes of a decision where leases are `against` a kick. What the hypervisor owes comes first.
#[must_use]
pub fn and_leases(decision: Decision, against: Option<Reason>) -> Decision {
    match (decision, against) {
        (Decision::Kick, Some(reason)) => Decision::Withhold(reason),
        _ => decision,
    }
}

/// What comes of a decision while an operator inhibits the guard: it kicks whatever the evidence
/// says, and withholds again as soon as nobody does. Not against strict leases, of which others
/// have been told what comes of their lapse.
#[must_use]
pub fn overrule(decision: Decision, inhibited: bool, strict: Option<Reason>) -> Decision {
    match (inhibited, strict) {
        (true, Some(reason)) => Decision::Withhold(reason),
        (true, None) => Decision::Kick,
        (false, _) => decision,
    }
}

/// Decides over a verdict that is `age_ns` old, of which anything older than `max_age_ns`
/// proves nothing any more.
#[must_use]
pub fn decide(verdict: Verdict, age_ns: u64, max_age_ns: u64) -> Decision {
    Decision::Withhold(match verdict {
        Verdict::Lagging { work, overdue_ns } => Reason::Lagging { work, overdue_ns },
        Verdict::Unknown(why) => Reason::Unknown(why),
        Verdict::Served { .. } if age_ns > max_age_ns => Reason::Unknown(Unknown::Stale { age_ns }),
        Verdict::Served { .. } => return Decision::Kick,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_leases_have_against_a_kick_withholds_it_and_a_lag_comes_first() {
        let unserved = Reason::Unknown(Unknown::Leases { age_ns: 7 });
        let withheld = Decision::Withhold(unserved);
        assert_eq!(and_leases(Decision::Kick, Some(unserved)), withheld);
        assert_eq!(and_leases(Decision::Kick, None), Decision::Kick);
        let lag = Reason::Lagging {
            work: Work::PcpuTimers(1),
            overdue_ns: 9,
        };
        let lagging = Decision::Withhold(lag);
        assert_eq!(and_leases(lagging, Some(unserved)), lagging);
    }
}

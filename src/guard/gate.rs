// SPDX-License-Identifier: GPL-2.0-only
//! The gate: evidence in, kick or withhold out. Pure.
//!
//! Kick if and only if everything is served right now; the seconds of patience are the
//! hardware's. There is no grace period here and no verdict that latches.

use crate::guard::evidence::{Evidence, SLACK_NS, Unknown, Verdict, Work};
use crate::guard::words;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use std::fmt;

/// Why kicks are withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The hypervisor does not service due work.
    Lagging {
        /// The most overdue work.
        work: Work,
        /// For how long it has been due, ns.
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
            Self::Unknown(why) => why.fmt(f),
        }
    }
}

impl Reason {
    /// The same cause, whatever its age.
    #[must_use]
    pub fn same_cause(&self, other: &Self) -> bool {
        let [kind, detail, _] = words::of_reason(*self);
        let [other_kind, other_detail, _] = words::of_reason(*other);
        (kind, detail) == (other_kind, other_detail)
    }
}

/// Kind the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Kick the host watchdog.
    Kick,
    /// Do not.
    Withhold(Reason),
}

/// Decides at `now` over the latest evidence, of which anything older than `max_age_ns`
/// (two samples) counts as unknown.
#[must_use]
pub fn decide(now: Monotonic, evidence: Option<Evidence>, max_age_ns: u64) -> Decision {
    let unknown = |why| Decision::Withhold(Reason::Unknown(why));
    let Some(Evidence { taken, verdict }) = evidence else {
        return unknown(Unknown::NoSample);
    };
    let age_ns = now.since_ns(taken);
    match verdict {
        Verdict::Lagging { work, since } => Decision::Withhold(Reason::Lagging {
            work,
            overdue_ns: now.since_ns(since),
        }),
        // Never of a clock that can be read.
        _ if taken > now => unknown(Unknown::ClockStalled),
        _ if age_ns > max_age_ns => unknown(Unknown::Stale { age_ns }),
        Verdict::Unknown(why) => unknown(why),
        Verdict::Served { good_until, next } if now >= good_until => {
            unknown(Unknown::Unconfirmed {
                work: next,
                overdue_ns: now.since_ns(good_until) + SLACK_NS,
            })
        }
        Verdict::Served { .. } => Decision::Kick,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: u64 = 500 * NS_PER_MS;
    const T: Monotonic = Monotonic(50_000_000_000);

    fn at(ms: u64, verdict: Verdict) -> Decision {
        let evidence = Evidence { taken: T, verdict };
        decide(T.plus_ns(ms * NS_PER_MS), Some(evidence), MAX_AGE)
    }

    fn served(good_for_ms: u64) -> Verdict {
        Verdict::Served {
            good_until: T.plus_ns(good_for_ms * NS_PER_MS),
            next: Work::PcpuTimers(1),
        }
    }

    fn withheld(decision: Decision) -> Reason {
        match decision {
            Decision::Withhold(reason) => reason,
            Decision::Kick => panic!("kicked"),
        }
    }

    #[test]
    fn fresh_served_evidence_kicks() {
        assert_eq!(at(0, served(600)), Decision::Kick);
        assert_eq!(at(500, served(600)), Decision::Kick);
    }

    #[test]
    fn nothing_but_fresh_served_evidence_kicks() {
        let lagging = Verdict::Lagging {
            work: Work::PcpuTimers(0),
            since: T,
        };
        let cases = [
            (decide(T, None, MAX_AGE), "no sample"),
            (at(501, served(10_000)), "stale"),
            (at(100, served(100)), "ran out"),
            (at(1, Verdict::Unknown(Unknown::NoPcpu)), "no pcpu"),
            (at(600, lagging), "timers of pcpu 0 not serviced for 600 ms"),
        ];
        for (decision, text) in cases {
            let reason = withheld(decision).to_string();
            assert!(reason.contains(text), "{reason}");
        }
    }

    #[test]
    fn evidence_that_ran_out_names_the_work_and_since_when_it_is_due() {
        let reason = withheld(at(150, served(100)));
        let overdue_ns = SLACK_NS + 50 * NS_PER_MS;
        let work = Work::PcpuTimers(1);
        assert_eq!(
            reason,
            Reason::Unknown(Unknown::Unconfirmed { work, overdue_ns })
        );
    }
}

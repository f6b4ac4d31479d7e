// SPDX-License-Identifier: GPL-2.0-only
//! How verdicts and decisions travel over the boards: as plain 64-bit words.
//!
//! Every encoder has its decoder beside it; words that no encoder wrote decode to an
//! unknown, never to served.

use crate::guard::evidence::{Evidence, Unknown, Verdict, Work};
use crate::guard::gate::{Decision, Reason};
use crate::sys::clock::Monotonic;
use crate::xen::liveness::Malformed;

/// Words that an [`Evidence`] takes.
pub const EVIDENCE_WORDS: usize = 4;
/// Words that a [`Decision`] takes.
pub const DECISION_WORDS: usize = 3;

const SERVED: u64 = 1;
const LAGGING: u64 = 2;
const KICK: u64 = 3;
/// The kinds of [`Unknown`] follow from here.
const UNKNOWN: u64 = 16;

fn of_work(work: Work) -> u64 {
    match work {
        Work::GuestWatchdog { domid, slot } => 1 << 32 | u64::from(domid) << 8 | u64::from(slot),
        Work::PcpuTimers(cpu) => 2 << 32 | u64::from(cpu),
        Work::PcpuScheduler(cpu) => 3 << 32 | u64::from(cpu),
    }
}

fn work(word: u64) -> Option<Work> {
    let low = u32::try_from(word & 0xffff_ffff).ok()?;
    match word >> 32 {
        1 => Some(Work::GuestWatchdog {
            domid: u16::try_from(low >> 8).ok()?,
            slot: u8::try_from(low & 0xff).ok()?,
        }),
        2 => Some(Work::PcpuTimers(low)),
        3 => Some(Work::PcpuScheduler(low)),
        _ => None,
    }
}

fn of_malformed(how: Malformed) -> u64 {
    match how {
        Malformed::Truncated => 0,
        Malformed::Magic => 1,
        Malformed::Lengths => 2,
        Malformed::Index => 3,
        Malformed::Pages => 4,
        Malformed::Field => 5,
        Malformed::Abi(abi) => 1 << 16 | u64::from(abi),
    }
}

fn malformed(word: u64) -> Malformed {
    match word {
        0 => Malformed::Truncated,
        1 => Malformed::Magic,
        2 => Malformed::Lengths,
        3 => Malformed::Index,
        4 => Malformed::Pages,
        5 => Malformed::Field,
        abi => Malformed::Abi(u16::try_from(abi & 0xffff).unwrap_or(u16::MAX)),
    }
}

/// [kind, detail, age]: the detail tells causes apart, the age does not.
fn of_unknown(why: Unknown) -> [u64; 3] {
    match why {
        Unknown::NoSample => [UNKNOWN, 0, 0],
        Unknown::Stale { age_ns } => [UNKNOWN + 1, 0, age_ns],
        Unknown::Unconfirmed { work, overdue_ns } => [UNKNOWN + 2, of_work(work), overdue_ns],
        Unknown::Hypercall { errno } => [UNKNOWN + 3, u64::from(errno.unsigned_abs()), 0],
        Unknown::Malformed(how) => [UNKNOWN + 4, of_malformed(how), 0],
        Unknown::Torn { page } => [UNKNOWN + 5, u64::from(page), 0],
        Unknown::ClockStalled => [UNKNOWN + 6, 0, 0],
        Unknown::Untracked { count } => [UNKNOWN + 7, u64::from(count), 0],
        Unknown::NoCanary { cpu } => [UNKNOWN + 8, u64::from(cpu), 0],
        Unknown::NoPcpu => [UNKNOWN + 9, 0, 0],
    }
}

fn unknown([kind, detail, age]: [u64; 3]) -> Unknown {
    let detail32 = u32::try_from(detail).unwrap_or(u32::MAX);
    match kind.wrapping_sub(UNKNOWN) {
        1 => Unknown::Stale { age_ns: age },
        2 => match work(detail) {
            Some(work) => Unknown::Unconfirmed {
                work,
                overdue_ns: age,
            },
            None => Unknown::NoSample,
        },
        3 => Unknown::Hypercall {
            errno: i32::try_from(detail).unwrap_or(i32::MAX),
        },
        4 => Unknown::Malformed(malformed(detail)),
        5 => Unknown::Torn { page: detail32 },
        6 => Unknown::ClockStalled,
        7 => Unknown::Untracked { count: detail32 },
        8 => Unknown::NoCanary { cpu: detail32 },
        9 => Unknown::NoPcpu,
        _ => Unknown::NoSample,
    }
}

/// Encodes a sample's outcome.
#[must_use]
pub fn of_evidence(evidence: Evidence) -> [u64; EVIDENCE_WORDS] {
    let [kind, detail, time] = match evidence.verdict {
        Verdict::Served { good_until, next } => [SERVED, of_work(next), good_until.0],
        Verdict::Lagging { work, since } => [LAGGING, of_work(work), since.0],
        Verdict::Unknown(why) => of_unknown(why),
    };
    [evidence.taken.0, kind, detail, time]
}

/// Decodes what [`of_evidence`] encoded.
#[must_use]
pub fn evidence([taken, kind, detail, time]: [u64; EVIDENCE_WORDS]) -> Evidence {
    let verdict = match (kind, work(detail)) {
        (SERVED, Some(next)) => Verdict::Served {
            good_until: Monotonic(time),
            next,
        },
        (LAGGING, Some(work)) => Verdict::Lagging {
            work,
            since: Monotonic(time),
        },
        _ => Verdict::Unknown(unknown([kind, detail, time])),
    };
    Evidence {
        taken: Monotonic(taken),
        verdict,
    }
}

/// Encodes a reason: [kind, detail, age].
#[must_use]
pub fn of_reason(reason: Reason) -> [u64; DECISION_WORDS] {
    match reason {
        Reason::Lagging { work, overdue_ns } => [LAGGING, of_work(work), overdue_ns],
        Reason::Unknown(why) => of_unknown(why),
    }
}

/// Encodes a decision.
#[must_use]
pub fn of_decision(decision: Decision) -> [u64; DECISION_WORDS] {
    match decision {
        Decision::Kick => [KICK, 0, 0],
        Decision::Withhold(reason) => of_reason(reason),
    }
}

/// Decodes what [`of_decision`] encoded.
#[must_use]
pub fn decision([kind, detail, age]: [u64; DECISION_WORDS]) -> Decision {
    match (kind, work(detail)) {
        (KICK, _) => Decision::Kick,
        (LAGGING, Some(work)) => Decision::Withhold(Reason::Lagging {
            work,
            overdue_ns: age,
        }),
        _ => Decision::Withhold(Reason::Unknown(unknown([kind, detail, age]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: [Work; 3] = [
        Work::GuestWatchdog {
            domid: 32751,
            slot: 2,
        },
        Work::PcpuTimers(4095),
        Work::PcpuScheduler(0),
    ];

    fn unknowns() -> Vec<Unknown> {
        let mut all = vec![
            Unknown::NoSample,
            Unknown::Stale { age_ns: 7 },
            Unknown::Hypercall { errno: 38 },
            Unknown::Torn { page: 1039 },
            Unknown::ClockStalled,
            Unknown::Untracked { count: 9 },
            Unknown::NoCanary { cpu: 3 },
            Unknown::NoPcpu,
        ];
        all.extend(WORKS.map(|work| Unknown::Unconfirmed {
            work,
            overdue_ns: 5,
        }));
        let malformed = [
            Malformed::Truncated,
            Malformed::Magic,
            Malformed::Abi(0),
            Malformed::Abi(65535),
            Malformed::Lengths,
            Malformed::Index,
            Malformed::Pages,
            Malformed::Field,
        ];
        all.extend(malformed.map(Unknown::Malformed));
        all
    }

    #[test]
    fn every_verdict_comes_back_as_it_was() {
        let mut verdicts: Vec<Verdict> = unknowns().into_iter().map(Verdict::Unknown).collect();
        for work in WORKS {
            let at = Monotonic(123);
            verdicts.push(Verdict::Lagging { work, since: at });
            verdicts.push(Verdict::Served {
                good_until: at,
                next: work,
            });
        }
        for verdict in verdicts {
            let taken = Monotonic(99);
            let original = Evidence { taken, verdict };
            assert_eq!(evidence(of_evidence(original)), original);
        }
    }

    #[test]
    fn every_decision_comes_back_as_it_was() {
        let mut decisions = vec![Decision::Kick];
        decisions.extend(
            unknowns()
                .into_iter()
                .map(|u| Decision::Withhold(Reason::Unknown(u))),
        );
        decisions.extend(WORKS.map(|work| {
            Decision::Withhold(Reason::Lagging {
                work,
                overdue_ns: 1,
            })
        }));
        for original in decisions {
            assert_eq!(decision(of_decision(original)), original);
        }
    }

    #[test]
    fn words_that_nobody_wrote_are_never_served() {
        for kind in (0..64).filter(|k| *k != SERVED && *k != LAGGING) {
            let decoded = evidence([1, kind, u64::MAX, u64::MAX]);
            assert!(matches!(decoded.verdict, Verdict::Unknown(_)));
        }
        assert!(matches!(
            evidence([1, SERVED, 0, 9]).verdict,
            Verdict::Unknown(_)
        ));
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What the monitor sees of the pCPUs: for people; the guard judges by itself.
//!
//! In: looks at the liveness table. Out: each pCPU's [`Pcpu`] status. A value counts from the
//! look that saw it first, so that an age is never told too great.

use crate::control::status::{Pcpu, Starved};
use crate::guard::evidence::Work;
use crate::state::withhold::PcpuEvidence;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::xen::table::{self, Table};

/// What was seen of each pCPU, by number.
#[derive(Debug, Default)]
pub struct Pcpus(Vec<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    record: table::Pcpu,
    canary_at: Monotonic,
    decided_at: Monotonic,
}

impl Pcpus {
    /// Looks once.
    pub fn look(&mut self, table: &Table<'_>, now: Monotonic) {
        for n in 0..table.nr_pcpus() {
            let Some(record) = table.pcpu(n) else {
                continue;
            };
            let Some(seen) = self.0.get_mut(n) else {
                self.0.push(Seen {
                    record,
                    canary_at: now,
                    decided_at: now,
                });
                continue;
            };
            if seen.record.canary != record.canary || !seen.record.online {
                seen.canary_at = now;
            }
            let before = &seen.record;
            // Owed since the first look that saw a request after this decision.
            if before.decided != record.decided || before.requested == before.decided {
                seen.decided_at = now;
            }
            seen.record = record;
        }
    }

    /// As of a look that was just taken: what is due is late by as much as it is, without the
    /// allowance for a look that is yet to come. `proved`: what the guard withholds for, and for how long it has not been serviced, ns:
    /// it looks more often, and so knows of more.
    #[must_use]
    pub fn evidence(
        &self,
        period_ms: u32,
        now: Monotonic,
        proved: Option<(Work, u64)>,
    ) -> Vec<PcpuEvidence> {
        let all = self.0.iter().zip(0u32..);
        let all = all.map(|(seen, cpu)| seen.evidence(cpu, u64::from(period_ms), now));
        all.map(|evidence| match proved {
            Some((work, overdue_ns)) => with(evidence, work, overdue_ns, period_ms),
            None => evidence,
        })
        .collect()
    }

    /// As of now; `period_ms` is that of the canaries, 0 where they are switched off.
    #[must_use]
    pub fn status(&self, period_ms: u32, now: Monotonic) -> Vec<Pcpu> {
        let all = self.0.iter().zip(0u32..);
        all.map(|(seen, cpu)| seen.status(cpu, u64::from(period_ms), now))
            .collect()
    }
}

impl Seen {
    fn evidence(&self, cpu: u32, period_ms: u64, now: Monotonic) -> PcpuEvidence {
        let decided_age_ms = now.since_ns(self.decided_at) / NS_PER_MS;
        let canary_age_ms = now.since_ns(self.canary_at) / NS_PER_MS;
        PcpuEvidence {
            cpu,
            online: self.record.online,
            canary_age_ms,
            canary_overdue_ms: self.canary_overdue_ms(canary_age_ms, period_ms, 0),
            request_age_ms: if self.owes() { decided_age_ms } else { 0 },
        }
    }

    fn owes(&self) -> bool {
        self.record.online && self.record.requested != self.record.decided
    }

    /// Beyond its period and what is allowed on top; 0 where there is no canary.
    fn canary_overdue_ms(&self, age_ms: u64, period_ms: u64, allowed_ms: u64) -> u64 {
        match (self.record.online, period_ms) {
            (true, 1..) => age_ms.saturating_sub(period_ms + allowed_ms),
            _ => 0,
        }
    }

    fn status(&self, cpu: u32, period_ms: u64, now: Monotonic) -> Pcpu {
        let online = self.record.online;
        let canary_age_ms = now.since_ns(self.canary_at) / NS_PER_MS;
        Pcpu {
            cpu,
            online,
            canary_age_ms,
            canary_overdue_ms: self.canary_overdue_ms(canary_age_ms, period_ms, LOOK_MS),
            sched_overdue_ms: match now.since_ns(self.decided_at) / NS_PER_MS {
                // Two looks apart it is nearly always another request.
                ms if self.owes() && ms > LOOK_MS => ms,
                _ => 0,
            },
            canary_runs: self.record.canary,
            idle: online && self.record.idle,
            starved: self
                .record
                .starved
                .filter(|_| online)
                .map(|starved| Starved {
                    waited_ms: starved.ms,
                    domid: starved.domid,
                    vcpu: starved.vcpu,
                }),
        }
    }
}

/// The same with what the guard has proved of this pCPU, if it has.
fn with(evidence: PcpuEvidence, work: Work, overdue_ns: u64, period_ms: u32) -> PcpuEvidence {
    let PcpuEvidence {
        cpu,
        canary_age_ms,
        canary_overdue_ms,
        request_age_ms,
        online,
    } = evidence;
    let overdue_ms = overdue_ns / NS_PER_MS;
    match work {
        Work::PcpuTimers(late) if late == cpu && online => PcpuEvidence {
            canary_age_ms: canary_age_ms.max(overdue_ms.saturating_add(period_ms.into())),
            canary_overdue_ms: canary_overdue_ms.max(overdue_ms),
            ..evidence
        },
        Work::PcpuScheduler(late) if late == cpu && online => PcpuEvidence {
            request_age_ms: request_age_ms.max(overdue_ms),
            ..evidence
        },
        _ => evidence,
    }
}

/// The time between two looks, at most, ms: what is seen may be older by that.
const LOOK_MS: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::NS_PER_S;
    use crate::xen::simulation::Simulation;

    const PERIOD_MS: u32 = 1_000;

    /// A host whose pCPU 1 was wedged right after a watcher looked, and is looked at again when the guard withholds.
    fn seen() -> (Pcpus, Monotonic) {
        let xen = Simulation::new(2);
        xen.tick_all();
        let mut pcpus = Pcpus::default();
        let first = Monotonic(100 * NS_PER_S);
        pcpus.look(&xen.table(), first);
        // The canary that had run before that look was seen late.
        let now = first.plus_ns(900 * NS_PER_MS);
        pcpus.look(&xen.table(), now);
        (pcpus, now)
    }

    #[test]
    fn what_the_guard_proved_of_a_pcpu_is_evidence_though_no_watcher_saw_so_much() {
        let (pcpus, now) = seen();
        let alone = pcpus.evidence(PERIOD_MS, now, None);
        assert!(alone.iter().all(|pcpu| pcpu.canary_overdue_ms == 0));
        let proved = Some((Work::PcpuTimers(1), 501 * NS_PER_MS));
        let evidence = pcpus.evidence(PERIOD_MS, now, proved);
        assert_eq!(evidence.first(), alone.first());
        let late = evidence
            .get(1)
            .map(|pcpu| (pcpu.canary_age_ms, pcpu.canary_overdue_ms));
        assert_eq!(late, Some((1_501, 501)));
        let proved = Some((Work::PcpuScheduler(0), 620 * NS_PER_MS));
        let evidence = pcpus.evidence(PERIOD_MS, now, proved);
        assert_eq!(evidence.first().map(|pcpu| pcpu.request_age_ms), Some(620));
        assert_eq!(evidence.get(1), alone.get(1));
    }

    #[test]
    fn what_a_watcher_saw_to_be_later_than_the_guard_stands() {
        let (pcpus, now) = seen();
        let later = now.plus_ns(3 * NS_PER_S);
        let proved = Some((Work::PcpuTimers(1), 501 * NS_PER_MS));
        let evidence = pcpus.evidence(PERIOD_MS, later, proved);
        let late = evidence
            .get(1)
            .map(|pcpu| (pcpu.canary_age_ms, pcpu.canary_overdue_ms));
        assert_eq!(late, Some((3_900, 2_900)));
    }
}

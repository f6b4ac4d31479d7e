// SPDX-License-Identifier: GPL-2.0-only
//! What the monitor sees of the pCPUs: for people; the guard judges by itself.
//!
//! In: looks at the liveness table. Out: each pCPU's [`Pcpu`] status. A value counts from the
//! look that saw it first, so that an age is never told too great.

use crate::control::status::{Pcpu, Starved};
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
    /// allowance for a look that is yet to come.
    #[must_use]
    pub fn evidence(&self, period_ms: u32, now: Monotonic) -> Vec<PcpuEvidence> {
        let all = self.0.iter().zip(0u32..);
        all.map(|(seen, cpu)| seen.evidence(cpu, u64::from(period_ms), now))
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

/// The time between two looks, at most, ms: what is seen may be older by that.
const LOOK_MS: u64 = 500;

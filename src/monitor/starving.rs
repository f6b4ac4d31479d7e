// SPDX-License-Identifier: GPL-2.0-only
//! Which pCPUs starve, for people: the guard judges by itself, and only where it is asked to.
//!
//! In: looks at the liveness table. Out: news, each with a number that rises, until somebody
//! has told it: that a pCPU idles while a runnable vCPU of its own waits, and the end of that.
//! Bounded: of each pCPU one beginning a minute, and its end.

use crate::event::Kind;
use crate::guard::starving::{Starving, Waiting};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::xen::table::{Pcpu, Table};
use std::collections::VecDeque;

/// How long a wait must be proved for to be told, ns. A vCPU that may run elsewhere is taken
/// there within milliseconds; the hypervisor looks once a second, and two looks must agree.
pub const STARVING_NS: u64 = 2 * NS_PER_S;
/// Between two beginnings on one pCPU that are told, ns.
const EACH_NS: u64 = 60 * NS_PER_S;

/// What was seen of each pCPU, by number, and what is to be told.
#[derive(Debug)]
pub struct StarvingPcpus {
    pcpus: Vec<Seen>,
    news: VecDeque<(u64, Kind)>,
    /// The number of the next.
    next: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    starving: Starving,
    /// When the wait began whose beginning was told, until its end is.
    began: Option<Monotonic>,
    /// When a beginning was told last.
    told: Option<Monotonic>,
}

impl StarvingPcpus {
    /// Nothing seen yet; numbers begin after `last`.
    #[must_use]
    pub fn new(last: u64) -> Self {
        Self {
            pcpus: Vec::new(),
            news: VecDeque::new(),
            next: last.saturating_add(1),
        }
    }

    /// Looks once.
    pub fn look(&mut self, table: &Table<'_>, now: Monotonic) {
        self.pcpus.resize(table.nr_pcpus(), Seen::default());
        for (n, (seen, cpu)) in self.pcpus.iter_mut().zip(0u32..).enumerate() {
            let record = table.pcpu(n).unwrap_or_default();
            if let Some(what) = seen.look(cpu, &record, now) {
                self.news.push_back((self.next, what));
                self.next = self.next.saturating_add(1);
            }
        }
    }

    /// What nobody has told yet, where the last that was told is number `told`.
    pub fn news(&mut self, told: u64) -> Vec<(u64, Kind)> {
        self.news.retain(|(number, _)| *number > told);
        self.news.iter().cloned().collect()
    }
}

impl Seen {
    fn look(&mut self, cpu: u32, record: &Pcpu, now: Monotonic) -> Option<Kind> {
        let waiting = self.starving.see(record, now);
        let waiting = waiting.filter(|waiting| waiting.proved_ns >= STARVING_NS);
        match (self.began, waiting) {
            (None, Some(waiting)) => self.begin(cpu, &waiting, now),
            (Some(began), None) => {
                self.began = None;
                let starved_ms = now.since_ns(began) / NS_PER_MS;
                Some(Kind::HostStarvingEnded { cpu, starved_ms })
            }
            _ => None,
        }
    }

    fn begin(&mut self, cpu: u32, waiting: &Waiting, now: Monotonic) -> Option<Kind> {
        if self.told.is_some_and(|told| now.since_ns(told) < EACH_NS) {
            return None;
        }
        self.told = Some(now);
        let starved = waiting.starved;
        let waited_ms = u64::from(starved.ms);
        self.began = Some(Monotonic(now.0.saturating_sub(waited_ms * NS_PER_MS)));
        Some(Kind::HostStarving {
            cpu,
            domid: starved.domid,
            vcpu: starved.vcpu,
            waited_ms,
        })
    }
}

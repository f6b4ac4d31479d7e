// SPDX-License-Identifier: GPL-2.0-only
//! What a guard can know: when its looks saw which work done last, kept from outside.
//!
//! It is the specification's rule anew, in other words than the guard's: work that was last seen
//! done in a look that ended at `seen` may be kicked for until `seen` and what that work is
//! granted, and for one sample more.

use super::plan::{GUESTS, PCPUS};
use xenwarden::sys::clock::{NS_PER_MS as MS, NS_PER_S as S};

/// A canary's period and the slack; the slack.
const TIMERS: u64 = 1500 * MS;
const SLACK: u64 = 500 * MS;
/// A guest's times are kept in steps of 17 ms.
const STEPS: u64 = 2 << 24;
/// What the clocks differ by over 20 s, and a little.
const CLOCKS: u64 = 11 * MS;

/// A piece of work that is to be done by and by.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// Since when it is due as it is; none: it is not.
    since: Option<u64>,
    /// The end of this guard's first look that saw it so.
    seen: Option<u64>,
    /// The last guard has told that it is overdue.
    told: bool,
}

impl Work {
    fn begin(&mut self, now: u64) {
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
    }

    /// The last moment to decide for a kick, if it is known.
    fn until(&self, granted: u64) -> u64 {
        match (self.since, self.seen) {
            (Some(_), _) if self.told => 0,
            (Some(_), Some(seen)) => seen + granted,
            _ => u64::MAX,
        }
    }
}

/// What there is to see, and what was seen of it.
#[derive(Debug, Default)]
pub struct Eyes {
    canaries: [Work; PCPUS],
    schedulers: [Work; PCPUS],
    slots: [(Work, u64); GUESTS],
    /// A pCPU has run a timer and decided since this guard first saw it online.
    ran: [bool; PCPUS],
    decided: [bool; PCPUS],
    proven: bool,
    looked: bool,
    read_at: u64,
    /// When this guard came to its decision about its last look.
    decision: Option<u64>,
}

impl Eyes {
    fn works(&mut self) -> impl Iterator<Item = &mut Work> {
        let slots = self.slots.iter_mut().map(|(work, _)| work);
        self.canaries
            .iter_mut()
            .chain(&mut self.schedulers)
            .chain(slots)
    }

    pub fn canary_ran(&mut self, cpu: usize, now: u64) {
        self.canaries[cpu].begin(now);
        self.ran[cpu] = true;
    }

    pub fn asked(&mut self, cpu: usize, now: u64) {
        if self.schedulers[cpu].since.is_none() {
            self.schedulers[cpu].begin(now);
        }
    }

    pub fn has_decided(&mut self, cpu: usize) {
        self.schedulers[cpu] = Work::default();
        self.decided[cpu] = true;
    }

    pub fn offline(&mut self, cpu: usize) {
        self.canaries[cpu] = Work::default();
        self.schedulers[cpu] = Work::default();
    }

    pub fn slot_set(&mut self, guest: usize, timeout_s: u32, now: u64) {
        self.slots[guest].0.begin(now);
        self.slots[guest].1 = u64::from(timeout_s) * S;
    }

    pub fn slot_served(&mut self, guest: usize) {
        self.slots[guest].0 = Work::default();
    }

    /// Another guard begins, and has seen nothing. The one before it told of this guest's slot.
    pub fn begin(&mut self, told: Option<usize>) {
        self.works().for_each(|work| work.seen = None);
        self.looked = false;
        self.proven = false;
        self.decision = None;
        if let Some((work, _)) = told.and_then(|guest| self.slots.get_mut(guest)) {
            work.told = work.since.is_some();
        }
    }

    /// It reads the table.
    pub fn read(&mut self, now: u64, online: &[bool; PCPUS]) {
        self.read_at = now;
        self.decision = None;
        let first = !std::mem::replace(&mut self.looked, true);
        for (cpu, online) in online.iter().enumerate() {
            self.ran[cpu] &= *online && !first;
            self.decided[cpu] &= *online && !first;
        }
        let proven = |cpu: usize| !online[cpu] || self.ran[cpu] && self.decided[cpu];
        self.proven |= (0..PCPUS).all(proven);
    }

    /// That look ends.
    pub fn looked(&mut self, now: u64) {
        let read_at = self.read_at;
        let seen = self
            .works()
            .filter(|work| work.since.is_some_and(|since| since <= read_at));
        for work in seen {
            work.seen = work.seen.or(Some(now));
        }
    }

    /// It reads its clock: the first time after a look it decides.
    pub fn reads_clock(&mut self, now: u64) {
        self.decision = self.decision.or(Some(now));
    }

    /// What is known not to be served, where a guard that looks each `sample` decides for a kick.
    pub fn unserved(&self, sample: u64, excused: bool) -> Option<String> {
        let decision = self.decision.unwrap_or(0).saturating_sub(sample + CLOCKS);
        let timers = self
            .canaries
            .iter()
            .map(|work| (work.until(TIMERS), "timers"));
        let schedulers = self
            .schedulers
            .iter()
            .map(|work| (work.until(SLACK), "scheduler"));
        let schedulers = schedulers.filter(|_| !excused);
        let slot = |(work, timeout): &(Work, u64)| (work.until(timeout + SLACK + STEPS), "guest");
        let all = timers.chain(schedulers).chain(self.slots.iter().map(slot));
        let first = all.min_by_key(|(until, _)| *until)?;
        let late = decision.checked_sub(first.0).filter(|late| *late > 0)?;
        Some(format!(
            "{} overdue, by {} ms more than was granted",
            first.1,
            late / MS
        ))
    }

    /// Each pCPU has been seen to make progress.
    pub fn proven(&self) -> bool {
        self.proven
    }
}

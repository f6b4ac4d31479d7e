// SPDX-License-Identifier: GPL-2.0-only
//! A simulated table, for tests without a hypervisor: it does to the words what Xen does.
//!
//! In: what happens to domains and pCPUs. Out: words that [`super::table`] reads, stored in the
//! order that Xen's barriers (`smp_wmb()`) give them, and no other. It is
//! shared by reference, as the real table is: those who read it see it change.

use super::table::{
    ABI, HANDLE_LEN, HEADER_LEN, MAGIC, MAX_DOMAINS, RECORD_LEN, Shutdown, Starved, Table,
};
use crate::sys::mapping::PAGE;
use crate::sys::word::Word;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// The period of the simulated canaries.
pub const CANARY_PERIOD_MS: u32 = 1000;

/// A table and those who write to it.
#[derive(Debug)]
pub struct Simulation<W = AtomicU64> {
    words: Vec<W>,
    domains: usize,
    handles: usize,
}

const STATE: usize = 4;
const CREATED: usize = 5;
const DISARMS: usize = 6;

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or(0)
}

fn bytes(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Simulation {
    /// A host with so many pCPUs, all online and idle, and no domain.
    #[must_use]
    pub fn new(pcpus: usize) -> Self {
        Self::sized(pcpus, MAX_DOMAINS)
    }

    /// The same with a table for so many domids alone.
    #[must_use]
    pub fn sized(pcpus: usize, nr_domains: usize) -> Self {
        let mut simulation = Self::of(pcpus, nr_domains, AtomicU64::new);
        let len = simulation.words.len().next_multiple_of(PAGE / 8);
        simulation.words.resize_with(len, AtomicU64::default);
        simulation
    }
}

impl<W: Word> Simulation<W> {
    /// The same, of words that `word` makes, and not rounded up to whole pages.
    #[must_use]
    pub fn of(pcpus: usize, nr_domains: usize, word: impl Fn(u64) -> W) -> Self {
        let domains = HEADER_LEN + pcpus * RECORD_LEN;
        let handles = domains + nr_domains * RECORD_LEN;
        let len = (handles + nr_domains * HANDLE_LEN) / 8;
        let simulation = Self {
            words: (0..len).map(|_| word(0)).collect(),
            domains: domains / 8,
            handles: handles / 8,
        };
        let abi = u32::from(ABI) | bytes(HEADER_LEN) << 16;
        let header = [
            pair(MAGIC, abi),
            pair(bytes(HEADER_LEN), bytes(RECORD_LEN)),
            pair(bytes(pcpus), bytes(domains)),
            pair(bytes(RECORD_LEN), bytes(nr_domains)),
            pair(bytes(handles), bytes(HANDLE_LEN)),
            pair(CANARY_PERIOD_MS, 0),
        ];
        for (n, word) in header.into_iter().enumerate() {
            simulation.store(n, word);
        }
        for cpu in 0..pcpus {
            simulation.online(cpu, true);
        }
        simulation
    }

    /// The words, as they are mapped.
    #[must_use]
    pub fn words(&self) -> &[W] {
        &self.words
    }

    /// The table over them.
    ///
    /// # Panics
    /// When the words were spoilt beforehand.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a simulation's own header is sound")]
    pub fn table(&self) -> Table<'_, W> {
        Table::parse(&self.words).expect("a sound table")
    }

    /// Stores a word, whatever it means.
    pub fn store(&self, n: usize, word: u64) {
        if let Some(cell) = self.words.get(n) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    fn load(&self, n: usize) -> u64 {
        self.words.get(n).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    fn change(&self, n: usize, change: impl FnOnce(u64) -> u64) {
        self.store(n, change(self.load(n)));
    }

    fn pcpu(cpu: usize) -> usize {
        (HEADER_LEN + cpu * RECORD_LEN) / 8
    }

    fn domain(&self, domid: u16) -> usize {
        self.domains + usize::from(domid) * RECORD_LEN / 8
    }

    /// Takes a pCPU on- or offline.
    pub fn online(&self, cpu: usize, online: bool) {
        self.change(Self::pcpu(cpu), |word| word >> 32 << 32 | u64::from(online));
    }

    /// A pCPU's canary runs and asks its scheduler, which decides.
    pub fn tick(&self, cpu: usize) {
        self.canary(cpu);
        self.request(cpu);
        self.decide(cpu);
    }

    /// Each pCPU ticks.
    pub fn tick_all(&self) {
        (0..self.table().nr_pcpus()).for_each(|cpu| self.tick(cpu));
    }

    /// A pCPU's canary runs, and no more.
    pub fn canary(&self, cpu: usize) {
        self.change(Self::pcpu(cpu), |word| word.wrapping_add(1 << 32));
    }

    /// A pCPU's canary asks its scheduler; a request that is outstanding stays.
    pub fn request(&self, cpu: usize) {
        let advance = |word: u64| word >> 32 << 32 | u64::from(low(word).wrapping_add(1));
        let is_decided = |word: u64| word >> 32 == u64::from(low(word));
        self.change(Self::pcpu(cpu) + 1, |word| match is_decided(word) {
            true => advance(word),
            false => word,
        });
    }

    /// A pCPU's scheduler decides.
    pub fn decide(&self, cpu: usize) {
        self.change(Self::pcpu(cpu) + 1, |word| pair(low(word), low(word)));
    }

    /// The hypervisor has looked for vCPUs that wait: this pCPU idles or not, and this one
    /// (domain, number) has waited longest on it, if any waits.
    pub fn scan(&self, cpu: usize, idle: bool, starved: Option<Starved>) {
        let at = Self::pcpu(cpu);
        let who = starved.map_or(0, |starved| pair(starved.domid, starved.vcpu));
        self.store(at + 3, who);
        let ms = starved.map_or(0, |starved| starved.ms);
        self.store(at + 2, pair(idle.into(), ms));
    }

    /// So many debug-key handlers run.
    pub fn excuse(&self, count: u32) {
        self.change(5, |word| pair(low(word), count));
    }

    /// A domain is created, and gives the host-wide number that it got.
    pub fn create(&self, domid: u16, uuid: Uuid) -> u64 {
        let at = self.domain(domid);
        let created = self.load(6) + 1;
        self.store(at + CREATED, 0);
        W::fence(Ordering::Release);
        for n in [STATE, 0, 1, 2, 3, DISARMS] {
            self.store(at + n, 0);
        }
        self.rename(domid, uuid);
        W::fence(Ordering::Release);
        self.store(at + CREATED, created);
        self.store(6, created);
        let used = u64::from(domid) + 1;
        self.change(7, |word| word.max(used));
        W::fence(Ordering::Release);
        self.store(at + STATE, 1);
        created
    }

    /// The toolstack gives a domain another UUID, as it may at any time.
    pub fn rename(&self, domid: u16, uuid: Uuid) {
        let handle = self.handles + usize::from(domid) * HANDLE_LEN / 8;
        let (first, second) = uuid.as_u64_pair();
        self.store(handle, first.swap_bytes());
        self.store(handle + 1, second.swap_bytes());
    }

    fn state(&self, domid: u16, byte: u32, value: u8) {
        let shift = byte * 8;
        self.change(self.domain(domid) + STATE, |word| {
            word & !(0xff << shift) | u64::from(value) << shift
        });
    }

    /// The toolstack pauses or unpauses it.
    pub fn pause(&self, domid: u16, paused: bool) {
        self.state(domid, 1, paused.into());
    }

    /// It shuts down.
    pub fn shut_down(&self, domid: u16, why: Shutdown) {
        self.state(domid, 3, why.code().saturating_add(1));
    }

    /// It is resumed after it had shut down.
    pub fn resume(&self, domid: u16) {
        self.state(domid, 3, 0);
    }

    /// It begins to be destroyed: its watchdog is stopped.
    pub fn kill(&self, domid: u16) {
        self.state(domid, 2, 1);
        for slot in 0..2 {
            if self
                .table()
                .slot(domid, slot)
                .is_some_and(|s| s.armed.is_some())
            {
                self.change(self.domain(domid) + 2 * slot, |word| u64::from(low(word)));
            }
        }
    }

    /// It is destroyed; its record stays.
    pub fn destroy(&self, domid: u16) {
        self.kill(domid);
        self.state(domid, 0, 0);
    }

    /// A guest arms a slot (0 or 1).
    pub fn arm(&self, domid: u16, slot: usize, timeout_s: u32) {
        self.change(self.domain(domid) + 2 * slot, |word| {
            pair(
                low(word).wrapping_add(1).max(1),
                timeout_s.saturating_add(1),
            )
        });
    }

    /// A guest feeds a slot that it has armed.
    pub fn feed(&self, domid: u16, slot: usize) {
        let armed = self.table().slot(domid, slot).and_then(|s| s.armed);
        self.arm(domid, slot, armed.unwrap_or(0));
    }

    /// A guest disarms a slot.
    pub fn disarm(&self, domid: u16, slot: usize) {
        let at = self.domain(domid);
        self.change(at + 2 * slot, |word| u64::from(low(word)));
        W::fence(Ordering::Release);
        self.change(at + DISARMS, |word| match slot {
            0 => pair(low(word).wrapping_add(1), low(word >> 32)),
            _ => pair(low(word), low(word >> 32).wrapping_add(1)),
        });
    }

    /// The handler of a slot runs: it shuts the domain down unless that is down already.
    pub fn expire(&self, domid: u16, slot: usize) {
        let at = self.domain(domid) + 2 * slot;
        let sets = low(self.load(at));
        let up = self
            .table()
            .domain(domid)
            .is_some_and(|d| d.shutdown.is_none() && !d.dying);
        if up {
            self.change(at + 1, |word| pair(sets, low(word >> 32)));
            self.shut_down(domid, Shutdown::Watchdog);
        }
        W::fence(Ordering::Release);
        self.change(at + 1, |word| pair(low(word), sets));
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! A hypervisor made of numbers, for unit tests: never reachable from the daemon.
//!
//! In: a [`Scene`] that a test paints. Out: the same bytes that a patched Xen would
//! answer, so that decoder, evidence, sampler and kicker are tested on the real format.

use crate::sys::clock::Monotonic;
use crate::xen::liveness::{
    ABI, Doing, HEADER_LEN, MAGIC_STATE, MAGIC_TIMERS, PcpuRecord, RECORD_LEN, Shutdown,
    TIMERS_PER_PAGE, TimerRecord,
};
use crate::xen::snapshot::{Snapshot, Snapshots};
use crate::xen::{Page, PageReader, ReadError};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;

/// A record that never had an owner.
pub const FREE: TimerRecord = TimerRecord {
    seq: 0,
    domid: 0,
    slot: 0,
    used: false,
    armed: false,
    timeout_s: 0,
    sets: 0,
    set: 0,
    deadline: 0,
    fired: 0,
    done: 0,
    nr_fired: 0,
    generation: 0,
    domain: None,
    acted: 0,
};

/// Kind the simulated hypervisor would say.
#[derive(Clone, Debug)]
pub struct Scene {
    /// NOW(), ns.
    pub now: u64,
    /// The pCPUs' records.
    pub pcpus: Vec<PcpuRecord>,
    /// The guest watchdogs' records.
    pub timers: Vec<TimerRecord>,
    /// Armed guest watchdogs without a record.
    pub untracked: u32,
    /// Shutdown codes that domains set in advance (`SCHEDOP_shutdown_code`).
    pub codes: BTreeMap<u16, Shutdown>,
}

impl Scene {
    /// `pcpus` CPUs that are served and `timers` guest watchdogs that are fed, at 100 s.
    #[must_use]
    pub fn healthy(pcpus: u32, timers: u16) -> Self {
        let now = 100 * SECOND;
        Self {
            now,
            pcpus: (0..pcpus)
                .map(|cpu| PcpuRecord {
                    cpu,
                    online: true,
                    canary: true,
                    softirq: now - 1000,
                    next: now + 1000,
                    canary_due: now + SECOND / 2,
                    canary_ran: now - SECOND / 2,
                    sched: now - 500,
                    sched_req: now - 600,
                    canary_runs: 100,
                    max_late_us: 50,
                })
                .collect(),
            timers: (0..timers)
                .map(|n| TimerRecord {
                    seq: 2,
                    domid: 1 + n / 2,
                    slot: 1 + u8::from(n % 2 == 1),
                    used: true,
                    armed: true,
                    timeout_s: 10,
                    sets: 5,
                    set: now - SECOND,
                    deadline: now + 9 * SECOND,
                    fired: 0,
                    done: 0,
                    nr_fired: 0,
                    generation: 1,
                    domain: Some(Doing::default()),
                    acted: 0,
                })
                .collect(),
            untracked: 0,
            codes: BTreeMap::new(),
        }
    }

    /// A host without guests, at 100 s.
    #[must_use]
    pub fn empty() -> Self {
        Self::healthy(1, 0)
    }

    /// Moves on by `ms`; who does not feed in that time expires, and its domain shuts down
    /// unless it is down already, as Xen has it (`domain_watchdog_timeout()`).
    pub fn pass_ms(&mut self, ms: u64) {
        self.now += ms * 1_000_000;
        let now = self.now;
        let is_due = |t: &TimerRecord| t.used && t.armed && t.deadline <= now;
        let timers = self.timers.iter().enumerate();
        let due = timers.filter(|(_, t)| is_due(t) && t.done < t.deadline);
        let mut due: Vec<_> = due.map(|(n, t)| (t.deadline, n)).collect();
        due.sort_unstable();
        for (_, n) in due {
            let Some(t) = self.timers.get_mut(n) else {
                continue;
            };
            t.fired = t.deadline + 20_000;
            t.done = t.fired + 5_000;
            t.nr_fired = t.nr_fired.wrapping_add(1);
            let down = t.domain.is_some_and(|d| d.dying || d.shutdown.is_some());
            if !down {
                t.acted = t.acted.wrapping_add(1);
                let domid = t.domid;
                self.shut_down(domid, Shutdown::Watchdog);
            }
        }
    }

    /// Creates a domain. Released records are reused only once the page is full.
    pub fn create(&mut self, domid: u16) {
        for slot in 1..=2 {
            let full = self.timers.len() % TIMERS_PER_PAGE == 0;
            let free = self.timers.iter().position(|t| full && !t.used);
            let at = free.unwrap_or(self.timers.len());
            if free.is_none() {
                self.timers.push(FREE);
            }
            if let Some(t) = self.timers.get_mut(at) {
                *t = TimerRecord {
                    seq: t.seq.wrapping_add(2),
                    domid,
                    slot,
                    used: true,
                    generation: t.generation.wrapping_add(1),
                    domain: Some(Doing::default()),
                    ..FREE
                };
            }
        }
    }

    /// Destroys a domain: its records lose the flags and keep the rest.
    pub fn destroy(&mut self, domid: u16) {
        for t in self.of(domid) {
            t.seq = t.seq.wrapping_add(2);
            (t.used, t.armed) = (false, false);
            if let Some(doing) = &mut t.domain {
                doing.dying = true;
            }
        }
    }

    /// A guest arms or feeds a slot, now.
    pub fn poke(&mut self, domid: u16, slot: u8, timeout_s: u32) {
        let now = self.now;
        for t in self.of(domid).filter(|t| t.slot == slot) {
            t.seq = t.seq.wrapping_add(2);
            t.armed = true;
            t.timeout_s = timeout_s;
            t.sets = t.sets.wrapping_add(1);
            t.set = now;
            t.deadline = now + u64::from(timeout_s) * SECOND;
        }
    }

    /// A guest disarms a slot.
    pub fn disarm(&mut self, domid: u16, slot: u8) {
        for t in self.of(domid).filter(|t| t.slot == slot) {
            t.seq = t.seq.wrapping_add(2);
            t.armed = false;
        }
    }

    /// A domain shuts down; the first reason holds, also one that it set in advance.
    pub fn shut_down(&mut self, domid: u16, why: Shutdown) {
        let why = self.codes.get(&domid).copied().unwrap_or(why);
        for doing in self.of(domid).filter_map(|t| t.domain.as_mut()) {
            doing.shutdown = doing.shutdown.or(Some(why));
        }
    }

    /// The toolstack changes what a domain is doing.
    pub fn set_doing(&mut self, domid: u16, doing: Option<Doing>) {
        for t in self.of(domid) {
            t.domain = doing;
        }
    }

    fn of(&mut self, domid: u16) -> impl Iterator<Item = &mut TimerRecord> {
        let timers = self.timers.iter_mut();
        timers.filter(move |t| t.used && t.domid == domid)
    }

    /// Kind a look at `taken` leaves for status and guests, by way of the real format.
    ///
    /// # Panics
    /// When the scene cannot be encoded: a test that paints such a scene is wrong.
    #[must_use]
    #[allow(clippy::expect_used)] // only tests call it
    pub fn snapshot(&self, taken: Monotonic) -> Snapshot {
        let snapshots = Snapshots::of_pages(self.nr_pages());
        let mut copying = snapshots.begin(taken, &self.state_page());
        for n in 0..self.nr_pages() {
            copying.timers(&self.timers_page(n));
        }
        copying.finish();
        snapshots.latest().expect("a sound scene")
    }

    fn nr_pages(&self) -> u32 {
        u32::try_from(self.timers.len().div_ceil(TIMERS_PER_PAGE)).unwrap_or(u32::MAX)
    }

    fn header(&self, magic: u32, index: u32, records: usize) -> Vec<u8> {
        let armed = self.timers.iter().filter(|t| t.armed).count();
        let mut b = Vec::with_capacity(HEADER_LEN + records * RECORD_LEN);
        b.extend(magic.to_le_bytes());
        for half in [ABI, 64, 64, u16::try_from(records).unwrap_or(u16::MAX)] {
            b.extend(half.to_le_bytes());
        }
        b.extend(index.to_le_bytes());
        b.extend(self.now.to_le_bytes());
        for word in [
            self.nr_pages(),
            u32::try_from(armed).unwrap_or(u32::MAX),
            self.untracked,
            0,
        ] {
            b.extend(word.to_le_bytes());
        }
        b.extend([0; 16]);
        b.extend(1000u32.to_le_bytes());
        b.extend(0u32.to_le_bytes());
        b
    }

    /// The bytes of `/liveness/state`.
    #[must_use]
    pub fn state_page(&self) -> Vec<u8> {
        let mut b = self.header(MAGIC_STATE, 0, self.pcpus.len());
        for p in &self.pcpus {
            let flags = u32::from(p.online) | u32::from(p.canary) << 1;
            b.extend(p.cpu.to_le_bytes());
            b.extend(flags.to_le_bytes());
            let times = [
                p.softirq,
                p.next,
                p.canary_due,
                p.canary_ran,
                p.sched,
                p.sched_req,
            ];
            b.extend(times.iter().flat_map(|t| t.to_le_bytes()));
            b.extend(p.canary_runs.to_le_bytes());
            b.extend(p.max_late_us.to_le_bytes());
        }
        b
    }

    /// The bytes of `/liveness/timers/<index>`.
    #[must_use]
    pub fn timers_page(&self, index: u32) -> Vec<u8> {
        let mut b = self.header(MAGIC_TIMERS, index, TIMERS_PER_PAGE);
        let first = usize::try_from(index).unwrap_or(usize::MAX) * TIMERS_PER_PAGE;
        for t in self.timers.iter().skip(first).take(TIMERS_PER_PAGE) {
            b.extend(t.seq.to_le_bytes());
            b.extend(t.domid.to_le_bytes());
            b.extend([t.slot, u8::from(t.used) | u8::from(t.armed) << 1]);
            b.extend(t.timeout_s.to_le_bytes());
            b.extend(t.sets.to_le_bytes());
            let times = [t.set, t.deadline, t.fired, t.done];
            b.extend(times.iter().flat_map(|t| t.to_le_bytes()));
            b.extend(t.nr_fired.to_le_bytes());
            b.extend(t.generation.to_le_bytes());
            b.extend(t.domain.map_or(0, Doing::to_word).to_le_bytes());
            b.extend(t.domain.map_or(0, |_| t.acted).to_le_bytes());
        }
        b.resize(HEADER_LEN + TIMERS_PER_PAGE * RECORD_LEN, 0);
        b
    }
}

/// Kind happens to the scene between samples.
enum Script {
    /// Nothing: time stands still.
    Still,
    /// Every time in the replies moves on with the real clock, in place: everything is served.
    RealTime(Monotonic),
    /// The n-th sample (from 0) sees the scene that this paints.
    Each(Box<dyn FnMut(u64) -> Scene + Send>),
}

/// Answers with replies that were encoded beforehand, so that reading allocates nothing
/// (but for [`Simulated::scripted`]).
pub struct Simulated {
    state: Vec<u8>,
    timers: Vec<Vec<u8>>,
    script: Script,
    reads: u64,
}

impl Simulated {
    fn with(scene: &Scene, script: Script) -> Self {
        Self {
            state: scene.state_page(),
            timers: (0..scene.nr_pages())
                .map(|n| scene.timers_page(n))
                .collect(),
            script,
            reads: 0,
        }
    }

    /// Always answers with `scene`.
    #[must_use]
    pub fn still(scene: &Scene) -> Self {
        Self::with(scene, Script::Still)
    }

    /// `scene`, with all its times going on as the real clock does.
    #[must_use]
    pub fn in_real_time(scene: &Scene) -> Self {
        Self::with(scene, Script::RealTime(Monotonic::now()))
    }

    /// Answers the n-th sample (from 0) with `script(n)`.
    #[must_use]
    pub fn scripted(mut script: impl FnMut(u64) -> Scene + Send + 'static) -> Self {
        let first = script(0);
        Self::with(&first, Script::Each(Box::new(script)))
    }

    /// Answers with these bytes, whatever they are.
    #[must_use]
    pub fn raw(state: Vec<u8>, timers: Vec<Vec<u8>>) -> Self {
        Self {
            state,
            timers,
            script: Script::Still,
            reads: 0,
        }
    }

    fn turn(&mut self) {
        match &mut self.script {
            Script::Still => {}
            Script::RealTime(last) => {
                let now = Monotonic::now();
                let elapsed = now.since_ns(*last);
                *last = now;
                shift(&mut self.state, &[8, 16, 24, 32, 40, 48], elapsed);
                for page in &mut self.timers {
                    shift(page, &[16, 24], elapsed);
                }
            }
            Script::Each(script) => {
                let scene = script(self.reads);
                self.state = scene.state_page();
                self.timers = (0..scene.nr_pages())
                    .map(|n| scene.timers_page(n))
                    .collect();
            }
        }
        self.reads += 1;
    }
}

fn shift(page: &mut [u8], times: &[usize], ns: u64) {
    add(page, 16, ns);
    let mut record = HEADER_LEN;
    while record + RECORD_LEN <= page.len() {
        for at in times {
            add(page, record + at, ns);
        }
        record += RECORD_LEN;
    }
}

fn add(page: &mut [u8], at: usize, ns: u64) {
    if let Some(word) = page.get_mut(at..at + 8) {
        let value = word
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        word.copy_from_slice(&value.wrapping_add(ns).to_le_bytes());
    }
}

impl PageReader for Simulated {
    fn read(&mut self, page: Page) -> Result<&[u8], ReadError> {
        if page == Page::State {
            self.turn();
        }
        let reply = match page {
            Page::State => Some(&self.state),
            Page::Timers(n) => usize::try_from(n).ok().and_then(|n| self.timers.get(n)),
        };
        reply
            .map(Vec::as_slice)
            .ok_or(ReadError::Errno(nix::errno::Errno::ENOENT))
    }
}

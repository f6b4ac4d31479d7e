// SPDX-License-Identifier: GPL-2.0-only
//! Probes: what is seen of a hypervisor without a table, and what it proves.
//!
//! In: words that the probe threads ([`super::probing`]) write, look by look. Out: a
//! [`Verdict`]. Nothing is allocated after [`Evidence::new`], and no hypercall is made here.
//!
//! | work | lags when |
//! |---|---|
//! | a vCPU of dom0 | it is online, and the thread that is bound to it has not counted on for the patience |
//! | a pCPU | a vCPU that was sent there has not come back for the patience, less what it was sent too late |
//!
//! A wedge may hold up the sending itself, between two visits of a pCPU: what passed since the last one
//! beyond the time of a walk counts as well. A vCPU that Linux has taken offline is no evidence. No one absence of the reader is taken for silence:
//! between two looks nothing ages by more than half of the patience. Those that are shorter count, as a
//! wedge may hold up the reader again and again, between kicks that still come in time. Until each vCPU has counted, and
//! the first walk over the pCPUs has come to its end, all is unknown.

use super::evidence::{Unknown, Verdict, Work};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::word::Word;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the thread of a vCPU says: nothing of a vCPU that is offline.
const ABSENT: u64 = 0;
/// It is to run there, and has not yet.
const EXPECTED: u64 = 1;

/// What the thread that sends a vCPU to the pCPUs says: nothing.
const OFF: u64 = 0;
/// It has not been everywhere yet.
const WALKING: u64 = 1;
/// It is back, and has been everywhere.
const BACK: u64 = 2;
/// Above these, from the low end: the pCPU, the vCPU, how late it was sent (ms), and a count.
const VCPU_SHIFT: u32 = 16;
const LATE_SHIFT: u32 = 32;
const COUNT_SHIFT: u32 = 48;

/// In the place of a pCPU's number: nobody knows it.
pub const UNKNOWN: u16 = u16::MAX;

/// Words that the probe threads write and the kick path reads. A look that sees a word sees all
/// that the vCPU which wrote it had written before.
#[derive(Debug)]
pub struct Words<W = AtomicU64> {
    vcpus: Box<[W]>,
    sent: W,
}

impl Words {
    /// For so many vCPUs, each of which is to be seen; a vCPU is sent to pCPUs if `sends`.
    #[must_use]
    pub fn new(vcpus: usize, sends: bool) -> Self {
        Self::of(vcpus, sends, AtomicU64::new)
    }
}

impl<W: Word> Words<W> {
    /// The same, of words that `word` makes.
    #[must_use]
    pub fn of(vcpus: usize, sends: bool, word: impl Fn(u64) -> W) -> Self {
        Self {
            vcpus: (0..vcpus).map(|_| word(EXPECTED)).collect(),
            sent: word(if sends { WALKING } else { OFF }),
        }
    }

    /// How many vCPUs there may be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vcpus.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vcpus.is_empty()
    }

    /// The vCPUs that have counted since they came online.
    pub fn counting(&self) -> impl Iterator<Item = usize> + '_ {
        let counts = |word: &W| word.load(Ordering::Relaxed) > EXPECTED;
        let all = self.vcpus.iter().enumerate();
        all.filter(move |(_, word)| counts(word)).map(|(n, _)| n)
    }

    /// No vCPU is expected any more.
    #[must_use]
    pub fn settled(&self) -> bool {
        let mut words = self.vcpus.iter();
        words.all(|word| word.load(Ordering::Relaxed) != EXPECTED)
    }

    /// A vCPU is offline.
    pub fn absent(&self, vcpu: usize) {
        self.store(vcpu, ABSENT);
    }

    /// A thread is about to be bound to a vCPU, and may never run again.
    pub fn expected(&self, vcpu: usize) {
        self.store(vcpu, EXPECTED);
    }

    /// The thread of a vCPU runs on it.
    pub fn count(&self, vcpu: usize) {
        if let Some(word) = self.vcpus.get(vcpu) {
            let next = word.load(Ordering::Relaxed).saturating_add(1);
            word.store(next.max(EXPECTED + 1), Ordering::Release);
        }
    }

    fn store(&self, vcpu: usize, value: u64) {
        if let Some(word) = self.vcpus.get(vcpu) {
            word.store(value, Ordering::Release);
        }
    }

    /// A vCPU is about to be sent to a pCPU, for the `count`th time (modulo 65,535), and may never
    /// come back.
    pub fn sent(&self, count: u32, vcpu: u16, pcpu: u16) {
        self.sent_late(count, vcpu, pcpu, 0);
    }

    /// The same, so many ms after the time at which that pCPU was to be visited.
    pub fn sent_late(&self, count: u32, vcpu: u16, pcpu: u16, late_ms: u16) {
        let who = u64::from(vcpu) << VCPU_SHIFT | u64::from(pcpu);
        let late = u64::from(late_ms) << LATE_SHIFT;
        let count = u64::from(count % u32::from(u16::MAX)) + 1;
        self.sent
            .store(count << COUNT_SHIFT | late | who, Ordering::Release);
    }

    /// It is back, and has, or has not, been everywhere.
    pub fn back(&self, everywhere: bool) {
        let word = if everywhere { BACK } else { WALKING };
        self.sent.store(word, Ordering::Release);
    }

    /// Nothing is sent for now.
    pub fn off(&self) {
        self.sent.store(OFF, Ordering::Release);
    }

    /// Whether a vCPU is sent to pCPUs.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.sent.load(Ordering::Relaxed) != OFF
    }
}

/// A word, and for how long it has been the same.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    word: u64,
    age_ns: u64,
}

impl Progress {
    fn see(&mut self, word: u64, passed_ns: u64) {
        self.see_from(word, passed_ns, 0);
    }

    /// A word that is new is as old as this.
    fn see_from(&mut self, word: u64, passed_ns: u64, begins_ns: u64) {
        let age_ns = self.age_ns.saturating_add(passed_ns);
        *self = Self {
            word,
            age_ns: if word == self.word { age_ns } else { begins_ns },
        };
    }
}

/// How late the vCPU was sent that is away, ns; 0 where none is.
fn late_ns(word: u64) -> u64 {
    let [_, _, _, _, a, b, ..] = word.to_le_bytes();
    match word >> COUNT_SHIFT {
        0 => 0,
        _ => u64::from(u16::from_le_bytes([a, b])) * NS_PER_MS,
    }
}

/// What was seen so far.
#[derive(Debug)]
pub struct Evidence {
    vcpus: Box<[Progress]>,
    sent: Progress,
    looked: Option<Monotonic>,
    patience_ns: u64,
    /// Each vCPU has counted, and the vCPU that is sent has been everywhere.
    counted: bool,
    walked: bool,
}

impl Evidence {
    /// Nothing seen yet; allocates all it will ever need.
    #[must_use]
    pub fn new(vcpus: usize, patience_ns: u64) -> Self {
        Self {
            vcpus: vec![Progress::default(); vcpus].into(),
            sent: Progress::default(),
            looked: None,
            patience_ns,
            counted: false,
            walked: false,
        }
    }

    /// Looks at the words once. `clock` is read before.
    pub fn look<W: Word>(
        &mut self,
        words: &Words<W>,
        clock: impl Fn() -> Monotonic,
    ) -> (Verdict, Monotonic) {
        let now = clock();
        let passed_ns = self.looked.map_or(0, |last| now.since_ns(last));
        self.looked = Some(now);
        (self.judge(words, passed_ns.min(self.patience_ns / 2)), now)
    }

    fn judge<W: Word>(&mut self, words: &Words<W>, passed_ns: u64) -> Verdict {
        let word = words.sent.load(Ordering::Acquire);
        // What was late may have been a debug key, and the next one holds up this visit: the longest of them is left to it.
        let late_ns = late_ns(word).min(self.patience_ns / 10 * 3);
        self.sent.see_from(word, passed_ns, late_ns);
        let away = self.away();
        let mut longest: Option<(Work, u64)> = None;
        let (mut unproven, mut counting) = (None, false);
        for ((word, progress), vcpu) in words.vcpus.iter().zip(&mut self.vcpus).zip(0u32..) {
            progress.see(word.load(Ordering::Acquire), passed_ns);
            match progress.word {
                ABSENT => continue,
                EXPECTED => unproven = unproven.or(Some(vcpu)),
                _ => counting = true,
            }
            // One that is away cannot count: that is the pCPU's fault.
            let (work, age_ns) = match away {
                Some((who, pcpu)) if who == vcpu => (Work::Probe(pcpu), self.sent.age_ns),
                _ => (Work::Vcpu(vcpu), progress.age_ns),
            };
            let is_longest = longest.is_none_or(|(_, other_ns)| age_ns > other_ns);
            if age_ns > self.patience_ns && is_longest {
                longest = Some((work, age_ns));
            }
        }
        self.counted |= unproven.is_none() && counting;
        self.walked |= matches!(self.sent.word, OFF | BACK);
        match longest {
            Some((work, overdue_ns)) => Verdict::Lagging { work, overdue_ns },
            None if !counting && !self.counted => Verdict::Unknown(Unknown::NoVcpu),
            None if !self.counted => Verdict::Unknown(Unknown::UnprovenVcpu {
                vcpu: unproven.unwrap_or_default(),
            }),
            None if !self.walked => Verdict::Unknown(Unknown::Unproven {
                cpu: away.map_or(0, |(_, pcpu)| pcpu),
            }),
            None => Verdict::Served { excused: None },
        }
    }

    /// The vCPU that is sent, and where it is, while it is away.
    fn away(&self) -> Option<(u32, u32)> {
        let [a, b, c, d, ..] = self.sent.word.to_le_bytes();
        let number = |bytes| u32::from(u16::from_le_bytes(bytes));
        let is_away = self.sent.word >> COUNT_SHIFT != 0;
        is_away.then_some((number([c, d]), number([a, b])))
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The ledger: what the two real-time threads leave for each other and for everybody else.
//!
//! The sampler writes evidence, the kicker decisions and kicks; ordinary threads read.
//! Every cell has one writer; nobody waits for anybody. `stop` goes the other way.

use crate::guard::board::{DoubleBuffer, Ring, load_words, store_words};
use crate::guard::evidence::Evidence;
use crate::guard::gate::Decision;
use crate::guard::words::{self, DECISION_WORDS, EVIDENCE_WORDS};
use crate::sys::clock::Monotonic;
use crate::sys::realtime::PageFaults;
use crate::xen::snapshot::Snapshots;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Notes that may wait for the narrator; at one a decision, more than a minute's worth.
const NOTES: usize = 256;
/// tag, time, three words of decision or errno, last kick.
const NOTE_WORDS: usize = 6;

/// Something the kicker did that a human wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The decision, or its cause, changed.
    Decided {
        /// When.
        at: Monotonic,
        /// To what.
        decision: Decision,
        /// When the host watchdog had last been kicked.
        last_kick: Monotonic,
    },
    /// The device refused a kick.
    KickFailed {
        /// When.
        at: Monotonic,
        /// With what errno.
        errno: i32,
    },
    /// The host watchdog is disarmed.
    Disarmed,
    /// The host watchdog could not be disarmed: it will fire.
    DisarmFailed {
        /// With what errno.
        errno: i32,
    },
}

impl Note {
    fn to_words(self) -> [u64; NOTE_WORDS] {
        let error = |errno: i32| u64::from(errno.unsigned_abs());
        match self {
            Self::Decided {
                at,
                decision,
                last_kick,
            } => {
                let [kind, detail, age] = words::of_decision(decision);
                [1, at.0, kind, detail, age, last_kick.0]
            }
            Self::KickFailed { at, errno } => [2, at.0, error(errno), 0, 0, 0],
            Self::Disarmed => [3, 0, 0, 0, 0, 0],
            Self::DisarmFailed { errno } => [4, 0, error(errno), 0, 0, 0],
        }
    }

    fn from_words([tag, at, a, b, c, last_kick]: [u64; NOTE_WORDS]) -> Self {
        let at = Monotonic(at);
        let errno = i32::try_from(a).unwrap_or(i32::MAX);
        match tag {
            2 => Self::KickFailed { at, errno },
            3 => Self::Disarmed,
            4 => Self::DisarmFailed { errno },
            _ => Self::Decided {
                at,
                decision: words::decision([a, b, c]),
                last_kick: Monotonic(last_kick),
            },
        }
    }
}

/// Counters and stamps of the kick path. Each has one writer.
#[derive(Debug, Default)]
pub struct Counters {
    /// Looks at the hypervisor that came to their end.
    pub samples: AtomicU64,
    /// The longest look, ns.
    pub max_look_ns: AtomicU64,
    /// Kicks that the device took.
    pub kicks: AtomicU64,
    /// Kicks that the device refused.
    pub failed_kicks: AtomicU64,
    /// The last kick, CLOCK_MONOTONIC ns; the arming counts as the first.
    pub last_kick: AtomicU64,
    /// The longest time between two kicks, ns.
    pub max_kick_gap_ns: AtomicU64,
    /// The longest kick (the ioctl itself), ns.
    pub max_kick_ns: AtomicU64,
    /// Times that the gate went from kick to withhold.
    pub withholds: AtomicU64,
    /// Page faults of the sampler since its loop began, minor then major.
    pub sampler_faults: [AtomicU64; 2],
    /// Page faults of the kicker since its loop began, minor then major.
    pub kicker_faults: [AtomicU64; 2],
}

/// Writes a thread's page faults since `base`.
pub fn record_faults(to: &[AtomicU64; 2], base: PageFaults, now: PageFaults) {
    let [minor, major] = to;
    minor.store(now.minor.saturating_sub(base.minor), Ordering::Relaxed);
    major.store(now.major.saturating_sub(base.major), Ordering::Relaxed);
}

/// Kind the real-time threads and the others share.
#[derive(Debug)]
pub struct Ledger {
    /// Copies of what the sampler saw.
    pub snapshots: Snapshots,
    /// Counters of the kick path.
    pub counters: Counters,
    /// Asks the kicker to disarm, once the evidence allows it.
    pub stop: AtomicBool,
    /// The kicker has ended.
    pub ended: AtomicBool,
    /// It has disarmed the host watchdog.
    pub disarmed: AtomicBool,
    evidence: DoubleBuffer,
    decision: DoubleBuffer,
    notes: Ring<NOTE_WORDS>,
}

impl Ledger {
    /// An empty ledger; allocates all it will ever need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            snapshots: Snapshots::new(),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            disarmed: AtomicBool::new(false),
            evidence: DoubleBuffer::new(EVIDENCE_WORDS),
            decision: DoubleBuffer::new(DECISION_WORDS + 1),
            notes: Ring::new(NOTES),
        }
    }

    /// Publishes the latest evidence. For the sampler.
    pub fn put_evidence(&self, evidence: Evidence) {
        store_words(self.evidence.back(), words::of_evidence(evidence));
        self.evidence.publish();
    }

    /// The latest evidence.
    pub fn evidence(&self) -> Option<Evidence> {
        self.evidence
            .read(|cells| words::evidence(load_words(cells)))
    }

    /// Publishes the decision in force and since when it is. For the kicker.
    pub fn put_decision(&self, decision: Decision, since: Monotonic) {
        let [kind, detail, age] = words::of_decision(decision);
        store_words(self.decision.back(), [kind, detail, age, since.0]);
        self.decision.publish();
    }

    /// The decision in force and since when kick or withhold is.
    pub fn decision(&self) -> Option<(Decision, Monotonic)> {
        self.decision.read(|cells| {
            let [kind, detail, age, since] = load_words(cells);
            (words::decision([kind, detail, age]), Monotonic(since))
        })
    }

    /// Leaves a note for the narrator. For the kicker.
    pub fn note(&self, note: Note) {
        self.notes.push(note.to_words());
    }

    /// Takes the oldest note. For the narrator.
    pub fn take_note(&self) -> Option<Note> {
        self.notes.pop().map(Note::from_words)
    }

    /// Notes that were lost because the narrator did not run.
    pub fn dropped_notes(&self) -> u64 {
        self.notes.dropped()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

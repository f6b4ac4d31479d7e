// SPDX-License-Identifier: GPL-2.0-only
//! The sequence numbers of events: they never repeat, whatever ends the monitor.
//!
//! In: the first number that no monitor before has used. Out: numbers. They are reserved on
//! disk in blocks, ahead of use ([`crate::state::sequence`]): after a kill the next monitor
//! begins behind the block, and leaves the rest of it out. Taking a number never waits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers reserved at a time.
pub const BLOCK: u64 = 1 << 17;

/// The numbers.
#[derive(Debug)]
pub struct Sequence {
    next: AtomicU64,
    reserved: AtomicU64,
}

impl Sequence {
    /// The next number, without taking it.
    #[must_use]
    pub fn peek(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The next number. Never waits.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Half of the block is used: it is time to reserve the next.
    #[must_use]
    pub fn runs_low(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) < self.peek().saturating_add(BLOCK / 2)
    }

    /// Every number below `end` is reserved.
    pub(crate) fn reserved_up_to(&self, end: u64) {
        self.reserved.store(end, Ordering::Relaxed);
    }
}

impl From<u64> for Sequence {
    /// Numbers from `first` on, reserved nowhere.
    fn from(first: u64) -> Self {
        Self {
            next: AtomicU64::new(first),
            reserved: AtomicU64::new(first),
        }
    }
}

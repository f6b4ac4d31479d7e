// SPDX-License-Identifier: GPL-2.0-only
//! The sequence numbers of events: counted here, reserved on disk by
//! [`crate::state::sequence`].
//!
//! In: the first number that no daemon before has used. Out: numbers, each once. Taking one
//! never waits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers reserved at a time.
pub const BLOCK: u64 = 1 << 16;

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

    /// Numbers below `next` are reserved.
    pub fn reserved_to(&self, next: u64) {
        self.reserved.store(next, Ordering::Relaxed);
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

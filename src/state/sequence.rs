// SPDX-License-Identifier: GPL-2.0-only
//! The sequence numbers of events: they never repeat, whatever ends the daemon.
//!
//! In: the first number that no daemon before has used. Out: numbers. They are reserved on
//! disk in blocks, ahead of use: after a kill the next daemon begins behind the block, and
//! leaves the rest of it out. Taking a number never waits.

use crate::event::{Kind, Timestamp};
use crate::state::store::{Store, Stored};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers reserved at a time.
pub const BLOCK: u64 = 1 << 16;

#[derive(Debug, Serialize, Deserialize)]
struct Reserved {
    version: u32,
    /// The first number that is not reserved.
    next_seq: u64,
}

impl Stored for Reserved {
    const FILE: &'static str = "seq.json";
    const VERSION: u32 = 1;
}

/// The numbers.
#[derive(Debug)]
pub struct Sequence {
    next: AtomicU64,
    reserved: AtomicU64,
}

impl Sequence {
    /// Goes on behind what was reserved before, and reserves a block. Blocks as long as the
    /// disk does.
    #[must_use]
    pub fn open(store: &Store) -> (Self, Option<Kind>) {
        let (reserved, set_aside) = store.load::<Reserved>();
        let first = match (&reserved, &set_aside) {
            (Some(reserved), _) => reserved.next_seq.max(1),
            (None, None) => 1,
            (None, Some(_)) => behind_all(Timestamp::now()),
        };
        let sequence = Self {
            next: AtomicU64::new(first),
            reserved: AtomicU64::new(first),
        };
        if let Err(error) = sequence.reserve(store) {
            log::error!("cannot reserve event numbers: {error}; after a kill they may repeat");
        }
        (sequence, set_aside)
    }

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
        let next = self.next.load(Ordering::Relaxed);
        self.reserved.load(Ordering::Relaxed) < next.saturating_add(BLOCK / 2)
    }

    /// Reserves a block from the next number on. Blocks as long as the disk does.
    ///
    /// # Errors
    /// The errno of the disk.
    pub fn reserve(&self, store: &Store) -> io::Result<()> {
        let next = self.next.load(Ordering::Relaxed);
        let next_seq = next.saturating_add(BLOCK);
        let version = Reserved::VERSION;
        store.save(&Reserved { version, next_seq })?;
        self.reserved.store(next_seq, Ordering::Relaxed);
        Ok(())
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

/// Where to begin when what was reserved is lost: at the milliseconds since 1970, behind all
/// that a host can have used that began at 1 and made fewer than a thousand events a second.
fn behind_all(now: Timestamp) -> u64 {
    (now.0.max(0).unsigned_abs() / 1_000).max(1)
}

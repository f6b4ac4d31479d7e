// SPDX-License-Identifier: GPL-2.0-only
//! The sequence numbers of events on disk: they never repeat, whatever ends the monitor.
//!
//! In: the numbers that are used up. Out: blocks that are reserved ahead of use. After a
//! kill the next monitor begins behind the block, and leaves the rest of it out.

use crate::event::sequence::{BLOCK, Sequence};
use crate::event::{Kind, Timestamp};
use crate::state::store::{Store, Stored};
use serde::{Deserialize, Serialize};
use std::io;

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

/// Goes on behind what was reserved before, and reserves a block. Blocks as long as the
/// disk does.
#[must_use]
pub fn open(store: &Store) -> (Sequence, Option<Kind>) {
    let (reserved, set_aside) = store.load::<Reserved>();
    let first = match (&reserved, &set_aside) {
        (Some(reserved), _) => reserved.next_seq.max(1),
        (None, None) => 1,
        (None, Some(_)) => behind_all(Timestamp::now()),
    };
    let sequence = Sequence::from(first);
    if let Err(error) = reserve(&sequence, store) {
        log::error!("cannot reserve event numbers: {error}; after a kill they may repeat");
    }
    (sequence, set_aside)
}

/// Reserves a block from the next number on. Blocks as long as the disk does.
///
/// # Errors
/// The errno of the disk.
pub fn reserve(sequence: &Sequence, store: &Store) -> io::Result<()> {
    let next_seq = sequence.peek().saturating_add(BLOCK);
    let version = Reserved::VERSION;
    store.save(&Reserved { version, next_seq })?;
    sequence.reserved_up_to(next_seq);
    Ok(())
}

/// Where to begin when what was reserved is lost: at the milliseconds since 1970, behind all
/// that a host can have used that began at 1 and made fewer than a thousand events a second.
fn behind_all(now: Timestamp) -> u64 {
    (now.0.max(0).unsigned_abs() / 1_000).max(1)
}

// SPDX-License-Identifier: GPL-2.0-only
//! What the watchers have told: shared by them, and by the monitors that follow.
//!
//! In: keys that rise, each of something that is to be told once. Out: leave to tell it, for
//! one watcher. A watcher that does not come back from telling (its vCPU may be the one that
//! is wedged) is replaced by another after a moment. Promises: nothing is left out, and
//! nothing is told twice unless a monitor or a watcher was stopped in the middle of it.
//!
//! It is a page of memory in a file under /run: what was told is known at once to whoever
//! comes next, even if this monitor is killed, and goes with the boot as the guard's
//! entries do.

use crate::state::file::open_plain;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::mapping::{Mapping, PAGE};
use crate::sys::word::Word;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::ProtFlags;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where it is kept.
pub const PATH: &str = "/run/xenwarden/reported";
/// `XWTL` and the version of the layout.
const MAGIC: u64 = 0x0000_0001_4c54_5758;
/// How long a watcher may take to tell something before another does.
const TIMEOUT_MS: u32 = 300;
/// Bits of a key that are an entry's number; the others are the guard's start.
const NUMBER_BITS: u32 = 24;

/// What is told by itself, each in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The guard's entries, as lines.
    Lines,
    /// The same, as events.
    Events,
    /// That the guard fell silent.
    Silent,
    /// That it is back.
    Back,
    /// That pCPUs starve, and no longer do.
    Starving,
}

/// What was told.
#[derive(Debug)]
pub struct Reported {
    mapping: Mapping,
}

/// The key of an entry of the guard that started then. Those of a later guard are greater.
#[must_use]
pub fn key(started: Monotonic, number: u64) -> u64 {
    let number = number.saturating_add(1).min((1 << NUMBER_BITS) - 1);
    (started.0 / NS_PER_MS) << NUMBER_BITS | number
}

impl Reported {
    /// What the monitors before have told; where the file cannot be had, nothing, and what is
    /// told from now on is forgotten at the end.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mapping = map(path).or_else(|error| {
            log::warn!(
                "{}: {error}: a restart may tell things again",
                path.display()
            );
            Mapping::private(PAGE)
        })?;
        let reported = Self { mapping };
        if reported.word(0).load(Ordering::Acquire) != MAGIC {
            for n in 0..WORDS {
                reported.word(n).store(0, Ordering::Relaxed);
            }
            reported.word(0).store(MAGIC, Ordering::Release);
        }
        Ok(reported)
    }

    fn word(&self, n: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        self.mapping.words().get(n).unwrap_or(&NONE)
    }

    fn words(&self, stream: Stream) -> (&AtomicU64, &AtomicU64) {
        let n = 1 + 2 * stream as usize;
        (self.word(n), self.word(n + 1))
    }

    /// The greatest key that was told.
    #[must_use]
    pub fn last(&self, stream: Stream) -> u64 {
        self.words(stream).0.load(Ordering::Acquire)
    }

    /// The number of the next entry to tell of the guard that started then.
    #[must_use]
    pub fn next_entry(&self, stream: Stream, started: Monotonic) -> u64 {
        // An entry's key holds the number after its own.
        let first = key(started, 0) - 1;
        self.last(stream).saturating_sub(first)
    }

    /// Has `act` tell what has this key, unless it was told, or another watcher is at it.
    /// Whether it is told now.
    pub fn once(&self, stream: Stream, key: u64, now: Monotonic, act: impl FnOnce()) -> bool {
        once(self.words(stream), key, now, act)
    }
}

/// [`Reported::once`] by a stream's two words: the greatest key that was told, and who tells now.
pub fn once<W: Word>(
    (done, claim): (&W, &W),
    key: u64,
    now: Monotonic,
    act: impl FnOnce(),
) -> bool {
    if done.load(Ordering::Acquire) >= key {
        return true;
    }
    let before = claim.load(Ordering::Acquire);
    let (mine, now_ms) = (low(key), low(now.0 / NS_PER_MS));
    if high(before) == mine && now_ms.wrapping_sub(low(before)) < TIMEOUT_MS {
        return false;
    }
    let after = u64::from(mine) << 32 | u64::from(now_ms);
    let claimed = claim.exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
    // Another may have told it and claimed the next since.
    if !claimed || done.load(Ordering::Acquire) >= key {
        return false;
    }
    act();
    done.fetch_max(key, Ordering::AcqRel);
    true
}

const WORDS: usize = 11;

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}

fn map(path: &Path) -> io::Result<Mapping> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = open_plain(path)?;
    // Memory that there is none for would end the process at the first word.
    let len = i64::try_from(PAGE).map_err(io::Error::other)?;
    fallocate(&file, FallocateFlags::empty(), 0, len)?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    Ok(Mapping::new(&file, PAGE, prot)?)
}

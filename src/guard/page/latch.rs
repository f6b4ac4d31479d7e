// SPDX-License-Identifier: GPL-2.0-only
//! The latch: until when a start must take this host for one that is being withheld.
//!
//! In: what the guard tells. Out: for the guard that follows, whether the one before it withheld
//! to the last. It is two words at the beginning of the guard page, the same in every version of
//! its layout, and each whole by itself: the guard may be killed at any moment, and followed by
//! another version.

use super::{Info, MAGIC, Phase, Reader, Status};
use crate::guard::evidence::Unknown;
use crate::guard::gate::{Decision, Reason};
use crate::sys::clock::{Monotonic, NS_PER_S};
use crate::sys::word::Word;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;

/// When the guard last looked, while it withholds, or 0.
const LOOKED: usize = 1;
/// For how long from then that matters, ns.
const LASTS: usize = 2;
/// A device may reset so much later than it says, ns: SPECIFICATION.md's G.
const GRANULARITY_NS: u64 = NS_PER_S;
/// The part of the magic that every version has.
const MARK: u64 = 0xffff_ffff;
/// Nothing that a guard withheld for matters for longer than this, whatever the latch says.
const AT_MOST_NS: u64 = 3_600 * NS_PER_S;

fn set<W: Word>(words: &[W], n: usize, value: u64) {
    if let Some(word) = words.get(n) {
        word.store(value, Ordering::Relaxed);
    }
}

pub(super) fn store<W: Word>(words: &[W], [looked, lasts]: [u64; 2]) {
    set(words, LOOKED, looked);
    set(words, LASTS, lasts);
}

/// For how long what this guard withholds for matters.
///
/// That guard was killed before the device fired, which the closing kicked once more: a host
/// that lives on for longer was not brought down by what was withheld for.
pub fn lasts<W: Word>(words: &[W], info: &Info) {
    let each_ns = info.latest_ns.saturating_add(GRANULARITY_NS);
    set(words, LASTS, each_ns.saturating_mul(2));
}

/// What a guard that looks has decided.
pub fn tell<W: Word>(words: &[W], status: &Status) {
    let armed = matches!(status.phase, Phase::Armed | Phase::Stopping);
    let withholds = match status.decision {
        // Evidence that came late says nothing against the host: it was served.
        Decision::Kick | Decision::Withhold(Reason::Unknown(Unknown::Stale { .. })) => false,
        Decision::Withhold(_) => true,
    };
    let looked = status.looked.0.max(1);
    set(words, LOOKED, if armed && withholds { looked } else { 0 });
}

/// Whether a guard that has ended withheld to the last, not long ago; none where there is no
/// page that could tell. Reads pages of every version, even of a guard that was killed while it
/// wrote.
#[must_use]
pub fn withheld(path: &Path, now: Monotonic) -> Option<bool> {
    Some(holds(load(path)?, now))
}

fn holds([looked, lasts_ns]: [u64; 2], now: Monotonic) -> bool {
    let ago = now.0.checked_sub(looked).filter(|_| looked != 0);
    ago.is_some_and(|ago| ago < lasts_ns.min(AT_MOST_NS))
}

/// The same, of the words of a page.
pub fn read<W: Word>(words: &[W], now: Monotonic) -> bool {
    let word = |n| {
        words
            .get(n)
            .map_or(0, |word: &W| word.load(Ordering::Relaxed))
    };
    holds([word(LOOKED), word(LASTS)], now)
}

impl Reader {
    /// Whether the guard of this page withholds to the last; see [`withheld`].
    #[must_use]
    pub fn withheld(&self, now: Monotonic) -> bool {
        read(self.words(), now)
    }
}

pub(super) fn load(path: &Path) -> Option<[u64; 2]> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    let mut bytes = [0; 24];
    file.metadata().ok()?.is_file().then_some(())?;
    file.read_exact_at(&mut bytes, 0).ok()?;
    let mut words = bytes.chunks_exact(8).map(|bytes| {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        u64::from_ne_bytes(word)
    });
    let magic = words.next()?;
    (magic & MARK == MAGIC & MARK).then_some([words.next()?, words.next()?])
}

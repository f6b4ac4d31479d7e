// SPDX-License-Identifier: GPL-2.0-only
//! Leases: other programs as conditions of the host's life, as the guard sees them.
//!
//! In: the lease page, memory that the guard makes at its start and the monitor writes to
//! ([`page`]): one deadline for each lease, and when the monitor last looked at their sockets. Out:
//! why kicks are to be withheld, if they are. To look reads three words for each lease: no client
//! can make it take longer, nor the monitor.
//!
//! | a lease | by its words | the guard |
//! |---|---|---|
//! | waits | its deadline is for its first renewal, if it is required; else it has none | kicks |
//! | is held | its deadline has not passed | kicks |
//! | is released | its client said `STOPPING=1` | kicks |
//! | has lapsed | its deadline passed, and the monitor looked after that: nobody renewed it | withholds |
//! | is not known | its deadline passed, and the monitor has not looked since | kicks, for a while |
//!
//! Nothing latches: a lease that is renewed late is held again.
//!
//! The last row is what keeps the monitor no condition of the host's life: killed, upgraded and started
//! again it may be away for `unserved` (five minutes by default); then kicks are withheld, as nobody
//! can tell any more who has lapsed. A page without leases asks for nothing.

pub mod page;

use super::gate::Reason;
use super::work::Unknown;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::word::Word;
use page::{Deadline, SLOT, SLOTS_AT, UNSERVED, WORDS_OF_A_SLOT};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The name of a lease: 1 to 16 of `a` to `z`, digits, `-` and `_`, and no `-` first, so that it is
/// a file's name in any directory and an argument of any command. Copied whole into what the guard tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName([u8; 16]);

impl LeaseName {
    /// The lease of this name; none where it cannot be one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let is_one = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        };
        if bytes.is_empty() || bytes.first() == Some(&b'-') || !bytes.iter().all(is_one) {
            return None;
        }
        let mut name = [0; 16];
        name.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(name))
    }

    /// As two words.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        let (low, high) = self.0.split_at(8);
        [low, high].map(|half| u64::from_le_bytes(half.try_into().unwrap_or_default()))
    }

    /// From two words; none where they are no name.
    #[must_use]
    pub fn from_words([low, high]: [u64; 2]) -> Option<Self> {
        let mut name = [0; 16];
        let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
        name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let end = name.iter().position(|byte| *byte == 0);
        let end = end.unwrap_or(name.len());
        let text = std::str::from_utf8(name.get(..end)?).ok()?;
        Self::new(text).filter(|read| read.0 == name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0);
        let name = self.0.get(..end.unwrap_or(self.0.len()));
        std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The guard's end of the lease page.
#[derive(Debug)]
pub struct Leases<'a, W: Word = AtomicU64> {
    words: &'a [W],
    /// When this guard began: the monitor is given its time from there at least.
    since: Monotonic,
}

impl<'a, W: Word> Leases<'a, W> {
    /// Over the page's words, from `since` on.
    #[must_use]
    pub fn new(words: &'a [W], since: Monotonic) -> Self {
        Self { words, since }
    }

    /// Why leases are against a kick at `now`, if they are: the one that is overdue longest, or that
    /// nobody serves them. Allocates nothing.
    #[must_use]
    pub fn against(&self, now: Monotonic) -> Option<Reason> {
        // Before any deadline: whoever looks after a renewal has written that deadline first.
        let served = page::served(self.words);
        let mut lapsed: Option<(LeaseName, u64)> = None;
        let mut is_unknown = false;
        for words in self.slots() {
            let Some(Deadline::At(deadline)) = words.get(SLOT.deadline).map(Deadline::load) else {
                continue;
            };
            let overdue_ns = now.since_ns(deadline);
            if overdue_ns == 0 {
                continue;
            }
            if served <= deadline {
                is_unknown = true;
                continue;
            }
            let name = page::name_of(words);
            if lapsed.is_none_or(|(_, longest_ns)| overdue_ns > longest_ns) {
                lapsed = name.map(|name| (name, overdue_ns)).or(lapsed);
            }
        }
        let lapsed = lapsed.map(|(name, overdue_ns)| Reason::Lease { name, overdue_ns });
        lapsed.or_else(|| is_unknown.then(|| self.unserved(served, now)).flatten())
    }

    fn unserved(&self, served: Monotonic, now: Monotonic) -> Option<Reason> {
        let most_ns = self.words.get(UNSERVED)?.load(Ordering::Relaxed);
        let age_ns = now.since_ns(served.max(self.since));
        (age_ns > most_ns).then_some(Reason::Unknown(Unknown::Leases { age_ns }))
    }

    fn slots(&self) -> impl Iterator<Item = &'a [W]> + use<'a, W> {
        let slots = self.words.get(SLOTS_AT..).unwrap_or_default();
        slots
            .chunks_exact(WORDS_OF_A_SLOT)
            .take(page::count(self.words))
    }
}

/// What is said of a lease that nobody renewed.
pub(super) fn lapsed_text(
    f: &mut fmt::Formatter<'_>,
    name: &LeaseName,
    overdue_ns: u64,
) -> fmt::Result {
    write!(f, "lease {name} lapsed {} ms ago", overdue_ns / NS_PER_MS)
}

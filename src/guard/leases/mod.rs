// SPDX-License-Identifier: GPL-2.0-only
//! Leases: other programs as conditions of the host's life, as the guard sees them.
//!
//! In: the lease page, memory that the guard makes at its start and the monitor writes to
//! ([`page`]): one deadline for each lease, and when the monitor last looked at their sockets. Out:
//! why kicks are to be withheld, if they are. To look reads a few words for each lease: no client
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
//! A lease that is `strict` has no last row: what passes is over, whoever is away. And others count its time while this host is
//! suspended, as their clocks go on: what was said before a sleep is over as soon as that time, with the sleep in it, has passed.
//! Nothing latches: a lease that is renewed late is held again.
//!
//! The last row is what keeps the monitor no condition of the host's life: killed, upgraded and started
//! again it may be away for `unserved` (five minutes by default); then kicks are withheld, as nobody
//! can tell any more who has lapsed. A page without leases asks for nothing.

pub mod page;
mod promises;

use super::gate::Reason;
use super::work::Unknown;
use crate::config::leases::LeaseName;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::word::Word;
use page::{Deadline, SLOT, SLOTS_AT, UNSERVED, WORDS_OF_A_SLOT};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The guard's end of the lease page.
#[derive(Debug)]
pub struct Leases<'a, W: Word = AtomicU64> {
    words: &'a [W],
    /// When this guard began.
    since: Monotonic,
    slept: Cell<Slept>,
}

/// The latest sleep.
#[derive(Clone, Copy, Debug, Default)]
struct Slept {
    /// For how long the host had been suspended, in all, as of the latest look; none: nobody has looked.
    all_ns: Option<u64>,
    /// For how long the latest times, and when the last of them was seen.
    latest: Option<(u64, Monotonic)>,
}

/// Sleeps that are no further apart count as one, ns: a lease may have been given before the first of them.
const NEAR_NS: u64 = 600_000 * NS_PER_MS;
/// No sleep is so short, and two clocks are read within less, ns.
const SLEEP_NS: u64 = 100 * NS_PER_MS;

impl<'a, W: Word> Leases<'a, W> {
    /// Over the page's words, from `since` on.
    #[must_use]
    pub fn new(words: &'a [W], since: Monotonic) -> Self {
        Self {
            words,
            since,
            slept: Cell::default(),
        }
    }

    /// For how long the host has been suspended since its kernel started, as of `now`: to be told before each look.
    pub fn slept(&self, all_ns: u64, now: Monotonic) {
        let before = self.slept.get();
        let more_ns = all_ns.saturating_sub(before.all_ns.unwrap_or(all_ns));
        if before.all_ns.is_some() && more_ns < SLEEP_NS {
            return;
        }
        let latest = match more_ns {
            0..SLEEP_NS => before.latest,
            _ => {
                let near = |(_, woke): &(u64, Monotonic)| now.since_ns(*woke) < NEAR_NS;
                let before_ns = before.latest.filter(near).map_or(0, |(ns, _)| ns);
                Some((before_ns.saturating_add(more_ns), now))
            }
        };
        let all_ns = Some(all_ns);
        self.slept.set(Slept { all_ns, latest });
    }

    /// What a strict lease's deadline is overdue by the clocks of others. One that was given before a sleep, by
    /// its timeout, has been running while this host's clock stood still.
    fn overdue_ns(&self, words: &[W], deadline: Monotonic, now: Monotonic) -> u64 {
        let Some((slept_ns, woke)) = self.slept.get().latest else {
            return now.since_ns(deadline);
        };
        let timeout_ns = words
            .get(SLOT.timeout)
            .map(|word| word.load(Ordering::Relaxed));
        let given = deadline.0.saturating_sub(timeout_ns.unwrap_or(0));
        match given < woke.0 {
            true => now.plus_ns(slept_ns).since_ns(deadline),
            false => now.since_ns(deadline),
        }
    }

    /// Why leases are against a kick at `now`, if they are: the one that is overdue longest, or that
    /// nobody serves them. Allocates nothing.
    #[must_use]
    pub fn against(&self, now: Monotonic) -> Option<Reason> {
        self.look(now, false)
    }

    /// The same for strict leases alone.
    #[must_use]
    pub fn strictly_against(&self, now: Monotonic) -> Option<Reason> {
        self.look(now, true)
    }

    /// Whether a strict lease has a deadline that is to come, or has passed.
    #[must_use]
    pub fn is_promised(&self) -> bool {
        self.slots().any(|words| {
            let deadline = words.get(SLOT.deadline).map(Deadline::load);
            page::is_strict(words) && matches!(deadline, Some(Deadline::At(_)))
        })
    }

    fn look(&self, now: Monotonic, only_strict: bool) -> Option<Reason> {
        // Before any deadline: whoever looks after a renewal has written that deadline first.
        let served = page::served(self.words);
        let mut lapsed: Option<(LeaseName, u64)> = None;
        let mut is_unknown = false;
        for words in self.slots() {
            let Some(Deadline::At(deadline)) = words.get(SLOT.deadline).map(Deadline::load) else {
                continue;
            };
            let is_strict = page::is_strict(words);
            let overdue_ns = match is_strict {
                true => self.overdue_ns(words, deadline, now),
                false => now.since_ns(deadline),
            };
            if overdue_ns == 0 {
                continue;
            }
            if only_strict && !is_strict {
                continue;
            }
            if served <= deadline && !is_strict {
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
        // Where no monitor has been there yet, it has its time from this guard's start.
        let since = if served.0 == 0 { self.since } else { served };
        let age_ns = now.since_ns(since);
        (age_ns > most_ns).then_some(Reason::Unknown(Unknown::Leases { age_ns }))
    }

    fn slots(&self) -> impl Iterator<Item = &'a [W]> + use<'a, W> {
        let slots = self.words.get(SLOTS_AT..).unwrap_or_default();
        slots
            .chunks_exact(WORDS_OF_A_SLOT)
            .take(page::count(self.words))
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Copies of the latest look, for those who explain it: status and guests.
//!
//! The sampler writes raw pages, lock-free; a reader gets the latest whole look, decoded
//! on its own time. Kind is kept is bounded: the judgement covers every page, the copy
//! only the first [`KEPT_PAGES`] (2016 guest watchdogs), and says when it left some out.

use crate::guard::board::{DoubleBuffer, load_words};
use crate::sys::clock::Monotonic;
use crate::xen::liveness::{PcpuRecord, StatePage, TimerRecord, TimersPage};
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages of timers that are kept.
pub const KEPT_PAGES: u32 = 32;
/// Words a kept page may take; a longer page is not kept.
const PAGE_WORDS: usize = 512;
/// Words for the state page: 1024 pCPUs and the header.
const STATE_WORDS: usize = 8 + 1024 * 8;
/// taken, bytes of state, kept pages, pages there are.
const HEAD_WORDS: usize = 4;

/// The board of latest looks: one writer (the sampler), any readers.
#[derive(Debug)]
pub struct Snapshots {
    board: DoubleBuffer,
}

/// One look, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The moment before the look began.
    pub taken: Monotonic,
    /// The hypervisor's NOW() of the state page, ns.
    pub now: u64,
    /// The pCPUs' records.
    pub pcpus: Vec<PcpuRecord>,
    /// The guest watchdogs' records, with the NOW() of their page.
    pub timers: Vec<(u64, TimerRecord)>,
    /// The records of destroyed domains that no other domain has got yet, likewise: what
    /// happened between the look before and the destruction is in them.
    pub released: Vec<(u64, TimerRecord)>,
    /// Pages of guest watchdogs that are judged but not kept here.
    pub pages_left_out: u32,
}

/// The writer's side of one look: fill, then finish.
#[derive(Debug)]
pub struct Copying<'a> {
    board: &'a DoubleBuffer,
    kept: u32,
    pages: u32,
}

impl Snapshots {
    /// An empty board; allocates all it will ever need.
    #[must_use]
    pub fn new() -> Self {
        Self::of_pages(KEPT_PAGES)
    }

    /// One with room for only so many pages of timers.
    pub(super) fn of_pages(pages: u32) -> Self {
        let pages = usize::try_from(pages).unwrap_or(0);
        Self {
            board: DoubleBuffer::new(HEAD_WORDS + STATE_WORDS + pages * PAGE_WORDS),
        }
    }

    /// Begins a look that was asked for at `taken` with its state page.
    #[must_use]
    pub fn begin(&self, taken: Monotonic, state: &[u8]) -> Copying<'_> {
        let (head, rest) = self.board.back().split_at(HEAD_WORDS);
        let fits = state.len() <= STATE_WORDS * 8;
        let state = if fits { state } else { &[] };
        crate::guard::board::store_words(head, [taken.0, state.len() as u64]);
        store_bytes(rest, state);
        Copying {
            board: &self.board,
            kept: 0,
            pages: 0,
        }
    }

    /// The latest whole look; `None` before the first. Allocates; for ordinary threads.
    #[must_use]
    pub fn latest(&self) -> Option<Snapshot> {
        let words = self.board.read(|words| {
            let [_, _, kept, _] = load_words::<HEAD_WORDS>(words);
            let kept = usize::try_from(kept).unwrap_or(usize::MAX);
            // Copied is only what this look filled, of which there may be little.
            let filled = kept.saturating_mul(PAGE_WORDS);
            let words = words
                .iter()
                .take(filled.saturating_add(HEAD_WORDS + STATE_WORDS));
            words
                .map(|w| w.load(Ordering::Relaxed))
                .collect::<Vec<u64>>()
        })?;
        decode(&words)
    }
}

impl Default for Snapshots {
    fn default() -> Self {
        Self::new()
    }
}

impl Copying<'_> {
    /// Adds the next page of timers.
    pub fn timers(&mut self, page: &[u8]) {
        self.pages += 1;
        if page.len() > PAGE_WORDS * 8 || self.kept >= KEPT_PAGES {
            return;
        }
        let at = HEAD_WORDS + STATE_WORDS + usize::try_from(self.kept).unwrap_or(0) * PAGE_WORDS;
        if let Some(room) = self.board.back().get(at..) {
            store_bytes(room, page);
            self.kept += 1;
        }
    }

    /// Publishes the look.
    pub fn finish(self) {
        if let Some(counts) = self.board.back().get(2..) {
            crate::guard::board::store_words(counts, [u64::from(self.kept), u64::from(self.pages)]);
        }
        self.board.publish();
    }
}

fn store_bytes(to: &[AtomicU64], bytes: &[u8]) {
    for (cell, chunk) in to.iter().zip(bytes.chunks(8)) {
        let mut word = [0u8; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        cell.store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn decode(words: &[u64]) -> Option<Snapshot> {
    let (head, rest) = words.split_at_checked(HEAD_WORDS)?;
    let (state, pages) = rest.split_at_checked(STATE_WORDS)?;
    let &[taken, state_len, kept, count] = head else {
        return None;
    };
    let state = bytes_of(state);
    let state = StatePage::parse(state.get(..usize::try_from(state_len).ok()?)?).ok()?;
    let (mut timers, mut released) = (Vec::new(), Vec::new());
    for (n, page) in (0u32..).zip(pages.chunks(PAGE_WORDS)) {
        if u64::from(n) >= kept {
            break;
        }
        let page = bytes_of(page);
        if let Ok(page) = TimersPage::parse(&page, n) {
            let now = page.header().now;
            timers.extend(page.timers().filter(|t| t.used).map(|t| (now, t)));
            released.extend(page.released().map(|t| (now, t)));
        }
    }
    Some(Snapshot {
        taken: Monotonic(taken),
        now: state.header().now,
        pcpus: state.pcpus().collect(),
        timers,
        released,
        pages_left_out: u32::try_from(count.saturating_sub(kept)).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulated::Scene;

    #[test]
    fn records_of_destroyed_domains_are_carried_apart_from_those_in_use() {
        let mut scene = Scene::healthy(1, 4);
        scene.destroy(1);
        // A record that never had an owner tells nothing.
        scene.timers[3] = crate::xen::simulated::FREE;
        let snapshots = Snapshots::new();
        let mut copying = snapshots.begin(Monotonic(7), &scene.state_page());
        copying.timers(&scene.timers_page(0));
        copying.finish();
        let snapshot = snapshots.latest().expect("published");
        let used: Vec<_> = snapshot.timers.iter().map(|(_, t)| t.domid).collect();
        let released: Vec<_> = snapshot.released.iter().map(|(_, t)| *t).collect();
        assert_eq!(used, [2]);
        assert_eq!(released, scene.timers[..2]);
        assert_eq!(snapshot, scene.snapshot(Monotonic(7)));
    }
}

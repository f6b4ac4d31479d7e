// SPDX-License-Identifier: GPL-2.0-only
//! The lock-free boards between the real-time threads and everybody else.
//!
//! [`DoubleBuffer`]: one writer publishes whole states, any number of readers copy the
//! latest; the writer never waits, and a writer that stops half-way (its hypercall never
//! returned) leaves the last whole state readable. [`Ring`]: one writer, one reader, a
//! queue that drops and counts when it is full. Neither allocates after it is made.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// How often a reader that raced with the writer tries again before it gives up.
const READ_ATTEMPTS: u32 = 4;

/// Two buffers of words: the writer fills one while readers copy the other.
///
/// A reader that copies while the writer publishes twice would see a mixture; the
/// generation, checked after the copy, tells, and the reader tries again.
#[derive(Debug)]
pub struct DoubleBuffer {
    buffers: [Box<[AtomicU64]>; 2],
    /// How many states were published; its lowest bit names the readable buffer.
    generation: AtomicU64,
}

impl DoubleBuffer {
    /// Two buffers of `words` words, nothing published.
    #[must_use]
    pub fn new(words: usize) -> Self {
        let buffer = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self {
            buffers: [buffer(), buffer()],
            generation: AtomicU64::new(0),
        }
    }

    fn buffer(&self, generation: u64) -> &[AtomicU64] {
        let [even, odd] = &self.buffers;
        if generation & 1 == 0 { even } else { odd }
    }

    /// The buffer that the one writer may fill; [`DoubleBuffer::publish`] makes it readable.
    #[must_use]
    pub fn back(&self) -> &[AtomicU64] {
        let next = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        // Orders the last publication before the stores into what readers may still be
        // copying: a reader that sees one of the stores sees the new generation too.
        fence(Ordering::Release);
        self.buffer(next)
    }

    /// Makes the back buffer the readable one. For the one writer.
    pub fn publish(&self) {
        let next = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(next, Ordering::Release);
    }

    /// Copies the latest state out through `copy`; `None` when nothing was published
    /// yet or the writer outran the reader several times. Never blocks.
    pub fn read<T>(&self, mut copy: impl FnMut(&[AtomicU64]) -> T) -> Option<T> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.generation.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            let state = copy(self.buffer(before));
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) == before {
                return Some(state);
            }
        }
        None
    }
}

/// Stores `words` at the start of `to`.
pub fn store_words<const N: usize>(to: &[AtomicU64], words: [u64; N]) {
    for (cell, word) in to.iter().zip(words) {
        cell.store(word, Ordering::Relaxed);
    }
}

/// Loads the first words of `from`; missing ones are 0.
#[must_use]
pub fn load_words<const N: usize>(from: &[AtomicU64]) -> [u64; N] {
    let mut words = [0; N];
    for (word, cell) in words.iter_mut().zip(from) {
        *word = cell.load(Ordering::Relaxed);
    }
    words
}

/// A bounded queue of `N`-word items from one thread to one other.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    slots: Box<[[AtomicU64; N]]>,
    written: AtomicU64,
    read: AtomicU64,
    dropped: AtomicU64,
}

impl<const N: usize> Ring<N> {
    /// A ring of `capacity` (at least one) items.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let slot = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            slots: (0..capacity.max(1)).map(|_| slot()).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn slot(&self, n: u64) -> Option<&[AtomicU64; N]> {
        let at = n % self.slots.len() as u64;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// Appends an item, or drops and counts it when the ring is full. For the one writer.
    pub fn push(&self, item: [u64; N]) {
        let n = self.written.load(Ordering::Relaxed);
        let full = n - self.read.load(Ordering::Acquire) >= self.slots.len() as u64;
        match self.slot(n) {
            Some(slot) if !full => {
                store_words(slot, item);
                self.written.store(n + 1, Ordering::Release);
            }
            _ => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes the oldest item. For the one reader.
    pub fn pop(&self) -> Option<[u64; N]> {
        let n = self.read.load(Ordering::Relaxed);
        if n == self.written.load(Ordering::Acquire) {
            return None;
        }
        let item = load_words(self.slot(n)?);
        self.read.store(n + 1, Ordering::Release);
        Some(item)
    }

    /// How many items were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn readers_never_see_a_mixture_of_two_states() {
        let board = DoubleBuffer::new(64);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                for n in 1..200_000u64 {
                    for cell in board.back() {
                        cell.store(n, Ordering::Relaxed);
                    }
                    board.publish();
                }
                stop.store(true, Ordering::Relaxed);
            });
            let mut seen = 0u64;
            while !stop.load(Ordering::Relaxed) || seen == 0 {
                if let Some(words) = board.read(load_words::<64>) {
                    assert!(words.iter().all(|w| *w == words[0]), "mixed: {words:?}");
                    assert!(words[0] >= seen, "went back");
                    seen = words[0];
                }
            }
        });
    }

    #[test]
    fn a_writer_that_stops_half_way_leaves_the_last_state_readable() {
        let board = DoubleBuffer::new(2);
        assert_eq!(board.read(load_words::<2>), None);
        store_words(board.back(), [1, 1]);
        board.publish();
        store_words(board.back(), [2]);
        assert_eq!(board.read(load_words::<2>), Some([1, 1]));
    }

    #[test]
    fn a_full_ring_drops_the_newest_and_counts() {
        let ring = Ring::<1>::new(2);
        for n in 1..=4 {
            ring.push([n]);
        }
        assert_eq!(
            (ring.pop(), ring.pop(), ring.pop()),
            (Some([1]), Some([2]), None)
        );
        assert_eq!(ring.dropped(), 2);
        ring.push([5]);
        assert_eq!(ring.pop(), Some([5]));
    }

    #[test]
    fn items_come_out_in_order_while_the_writer_goes_on() {
        let ring = Ring::<2>::new(8);
        std::thread::scope(|s| {
            s.spawn(|| (1..50_000u64).for_each(|n| ring.push([n, !n])));
            let (mut last, mut popped) = (0, 0);
            while popped + ring.dropped() < 49_999 {
                if let Some([n, inverse]) = ring.pop() {
                    assert!(n > last && inverse == !n);
                    (last, popped) = (n, popped + 1);
                }
            }
        });
    }
}

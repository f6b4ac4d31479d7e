// SPDX-License-Identifier: GPL-2.0-only
//! A cell of shared words: one writer that never waits, readers that see it whole or try again.
//!
//! The first word counts: odd while the writer writes. It is what processes can share:
//! no lock that a killed process could hold, no pointer, nothing but words. The order of
//! the accesses is that of Linux's seqcount (`include/linux/seqlock.h`) in the terms of
//! the C11 model; `tests/guard_hand_overs.rs` has all of its interleavings tried.

use crate::sys::word::Word;
use std::sync::atomic::Ordering;

/// Writes `values` into the cell: its count, then as many words. For its one writer.
pub fn write<W: Word>(cell: &[W], values: &[u64]) {
    written(cell, |words| {
        for (word, value) in words.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
    });
}

/// Writes some of the cell's values, by their places, and leaves the others as they are. For its one writer.
pub fn change<W: Word, const N: usize>(cell: &[W], values: [(usize, u64); N]) {
    written(cell, |words| {
        for (place, value) in values {
            if let Some(word) = words.get(place) {
                word.store(value, Ordering::Relaxed);
            }
        }
    });
}

/// Has `store` write words, between the count's two changes.
fn written<W: Word>(cell: &[W], store: impl FnOnce(&[W])) {
    let Some((count, words)) = cell.split_first() else {
        return;
    };
    let before = count.load(Ordering::Relaxed) & !1;
    count.store(before.wrapping_add(1), Ordering::Relaxed);
    W::fence(Ordering::Release);
    store(words);
    count.store(before.wrapping_add(2), Ordering::Release);
}

/// Reads the cell into `values`, once; says whether they belong together. A cell that was
/// never written to has nothing in it.
#[must_use]
pub fn read<W: Word>(cell: &[W], values: &mut [u64]) -> bool {
    let Some((count, words)) = cell.split_first() else {
        return false;
    };
    let before = count.load(Ordering::Acquire);
    for (value, word) in values.iter_mut().zip(words) {
        *value = word.load(Ordering::Relaxed);
    }
    W::fence(Ordering::Acquire);
    before != 0 && before % 2 == 0 && count.load(Ordering::Relaxed) == before
}

// SPDX-License-Identifier: GPL-2.0-only
//! The cell of the guard page: a reader sees what one writing wrote, or tries again.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::Ordering;
use xenwarden::guard::seqlock::{self, Word};

struct LoomWord(loom::sync::atomic::AtomicU64);

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}

/// loom tries every interleaving of a writer and a reader, and every order in which the
/// memory model lets stores become visible.
#[test]
fn a_reader_never_takes_parts_of_two_values_for_one() {
    loom::model(|| {
        let cell: Arc<Vec<LoomWord>> = Arc::new(
            (0..3)
                .map(|_| LoomWord(loom::sync::atomic::AtomicU64::new(0)))
                .collect(),
        );
        let written = Arc::clone(&cell);
        let writer = thread::spawn(move || {
            seqlock::write(&written, &[1, 1]);
            seqlock::write(&written, &[2, 2]);
        });
        let mut values = [0, 0];
        if seqlock::read(&cell, &mut values) {
            assert_eq!(values[0], values[1]);
            assert_ne!(values[0], 0);
        }
        writer.join().expect("the writer ends");
        assert!(seqlock::read(&cell, &mut values));
        assert_eq!(values, [2, 2]);
    });
}

#[test]
fn each_writing_counts_on_also_after_one_that_a_kill_cut_short() {
    let cell = [0, 0].map(std::sync::atomic::AtomicU64::new);
    for n in 1..4 {
        seqlock::write(&cell, &[n]);
        assert_eq!(cell[0].load(Ordering::Relaxed), 2 * n);
    }
    cell[0].store(7, Ordering::Relaxed);
    let mut values = [0];
    assert!(!seqlock::read(&cell, &mut values), "cut short");
    seqlock::write(&cell, &[9]);
    assert!(seqlock::read(&cell, &mut values));
    assert_eq!((values, cell[0].load(Ordering::Relaxed)), ([9], 8));
}

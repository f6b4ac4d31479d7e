// SPDX-License-Identifier: GPL-2.0-only
//! loom's atomic word: a model tries every interleaving of what is done to it, and every order in
//! which the memory model lets stores become visible.

use loom::sync::atomic::{AtomicU64, fence};
use std::sync::atomic::Ordering;
use xenwarden::sys::word::Word;

pub struct LoomWord(AtomicU64);

impl LoomWord {
    pub fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
}

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn exchange(&self, before: u64, after: u64, success: Ordering, failure: Ordering) -> bool {
        self.0
            .compare_exchange(before, after, success, failure)
            .is_ok()
    }

    fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_max(value, order)
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! A word by which threads or processes hand something over without a lock.
//!
//! In: the standard library's atomic, and in tests loom's, which lets a reader see all that the
//! memory model allows it to. What hands something over is written for both, so that the models
//! (`tests/guard_hand_overs.rs`, `tests/monitor_reported.rs`) run this very code.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// An atomic word.
pub trait Word {
    /// As [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// As [`AtomicU64::compare_exchange`]: whether it was `before` and is `after` now.
    fn exchange(&self, before: u64, after: u64, success: Ordering, failure: Ordering) -> bool;
    /// As [`AtomicU64::fetch_max`].
    fn fetch_max(&self, value: u64, order: Ordering) -> u64;
    /// As [`fence`].
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn exchange(&self, before: u64, after: u64, success: Ordering, failure: Ordering) -> bool {
        self.compare_exchange(before, after, success, failure)
            .is_ok()
    }

    fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_max(value, order)
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! A global allocator that counts, thread by thread, for the test that proves the
//! kick path allocates nothing.
//!
//! The daemon does not install it: `tests/kick_path.rs` does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a counter for each thread.
#[derive(Debug, Default)]
pub struct CountingAllocator;

/// Allocations, reallocations and frees of the calling thread since it started.
#[must_use]
pub fn calls_of_this_thread() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn count() {
    // A thread's last frees may come after its locals are gone: those are not counted.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every method hands its arguments to `System` unchanged and adds only a
// counter in a const-initialised thread local, which itself never allocates.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

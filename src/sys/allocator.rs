// SPDX-License-Identifier: GPL-2.0-only
//! A global allocator that counts, thread by thread, for the tests that prove that the
//! kick path allocates nothing, and how much the monitor does.
//!
//! The daemons do not install it: `tests/kick_path.rs` and `tests/monitor_memory.rs` do.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<Bytes> = const { Cell::new(Bytes { live: 0, peak: 0 }) };
}

/// Bytes that a thread has allocated and not freed; less than 0 where it freed those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Now.
    pub live: i64,
    /// The most that there were at once since [`forget_peak_of_this_thread`].
    pub peak: i64,
}

/// The system's allocator with a counter for each thread.
#[derive(Debug, Default)]
pub struct CountingAllocator;

/// Allocations, reallocations and frees of the calling thread since it started.
#[must_use]
pub fn calls_of_this_thread() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Bytes of the calling thread since it started, by what was asked for.
#[must_use]
pub fn bytes_of_this_thread() -> Bytes {
    BYTES.with(Cell::get)
}

/// Has [`Bytes::peak`] begin anew.
pub fn forget_peak_of_this_thread() {
    BYTES.with(|bytes| {
        let live = bytes.get().live;
        bytes.set(Bytes { live, peak: live });
    });
}

fn count(freed: usize, allocated: usize) {
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    // A thread's last frees may come after its locals are gone: those are not counted.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    let _ = BYTES.try_with(|bytes| {
        let Bytes { live, peak } = bytes.get();
        let live = live.saturating_add(signed(allocated));
        let live = live.saturating_sub(signed(freed));
        let peak = peak.max(live);
        bytes.set(Bytes { live, peak });
    });
}

// SAFETY: every method hands its arguments to `System` unchanged and adds only
// counters in const-initialised thread locals, which themselves never allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), new_size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

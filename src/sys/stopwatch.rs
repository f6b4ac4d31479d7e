// SPDX-License-Identifier: GPL-2.0-only
//! A clock for whoever reads it several times within a moment.
//!
//! In: CLOCK_MONOTONIC, and the processor's time-stamp counter where there is one. Out: moments. Xen's clock is no vDSO reading in dom0
//! unless the hypervisor vouches for the counter (Linux arch/x86/xen/time.c, xen_setup_vsyscall_time_info()), so each reading of the
//! clock is a system call. The counter tells how little has passed since the last one; nothing else is believed of it:
//!
//! - it is measured against the clock, from each reading to the next, and has to run as fast as the time before;
//! - it is gone by for [`MOMENT_NS`] at most, then the kernel is asked.
//!
//! It is read before the clock, so that whoever is held up between the two believes that more has passed, and asks the kernel. A counter
//! that jumps or is another processor's costs a system call, and a moment's truth at most: each [`Stopwatch::now`] asks the kernel. What
//! it is relied upon for: that it does not stand still, nor is behind on the processor where the thread goes on by just as long, to within
//! [`MOMENT_NS`], as the thread was held up. Such a hold-up would not show until the next look.

use super::clock::{Monotonic, NS_PER_MS};
use std::cell::Cell;

/// For so long the counter is gone by, ns.
pub const MOMENT_NS: u64 = 2 * NS_PER_MS;
/// Two readings of the clock that are so far apart are enough to measure the counter by, ns.
const MEASURED_NS: u64 = 10 * NS_PER_MS;
/// How far two measures may differ, of the one.
const AGREE_WITHIN: u128 = 16;

/// A clock that is read often; for one thread.
#[derive(Debug, Default)]
pub struct Stopwatch {
    last: Cell<Option<Reading>>,
    /// The latest moment that was told.
    told: Cell<u64>,
    pace: Cell<Option<Pace>>,
    /// The last measure agreed with the one before.
    trusted: Cell<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Monotonic,
    count: u64,
}

/// So much counted in so long.
#[derive(Clone, Copy, Debug)]
struct Pace {
    ns: u64,
    counts: u64,
}

impl Stopwatch {
    /// The present moment, as the kernel tells it. Does not block.
    pub fn now(&self) -> Monotonic {
        self.read(&Monotonic::now, &counter)
    }

    /// The same, soon after [`Stopwatch::now`]: by the counter if it is, by the kernel if it is not. Never before what was told last.
    /// Does not block.
    pub fn soon(&self) -> Monotonic {
        self.soon_by(&Monotonic::now, &counter)
    }

    fn read(&self, clock: &dyn Fn() -> Monotonic, counter: &dyn Fn() -> Option<u64>) -> Monotonic {
        // In this order: whoever is held up between the two takes more to have passed since, and asks the kernel again.
        let count = counter();
        let at = clock();
        let reading = count.map(|count| Reading { at, count });
        if let (Some(last), Some(reading)) = (self.last.get(), reading) {
            self.measure(last, reading);
        }
        self.last.set(reading);
        self.told.set(at.0);
        at
    }

    fn measure(&self, last: Reading, reading: Reading) {
        let ns = reading.at.since_ns(last.at);
        if ns < MEASURED_NS {
            return;
        }
        let counts = reading.count.checked_sub(last.count);
        let pace = counts
            .filter(|counts| *counts > 0)
            .map(|counts| Pace { ns, counts });
        let before = self.pace.replace(pace);
        let agree = before
            .zip(pace)
            .is_some_and(|(one, other)| one.agrees(other));
        self.trusted.set(agree);
    }

    fn soon_by(
        &self,
        clock: &dyn Fn() -> Monotonic,
        counter: &dyn Fn() -> Option<u64>,
    ) -> Monotonic {
        let by_counter = || {
            let pace = self.pace.get().filter(|_| self.trusted.get())?;
            let last = self.last.get()?;
            let passed_ns = pace.ns_of(counter()?.checked_sub(last.count)?);
            (passed_ns <= MOMENT_NS).then(|| last.at.plus_ns(passed_ns))
        };
        let told = self.told.get();
        let at = by_counter().unwrap_or_else(|| self.read(clock, counter));
        let at = Monotonic(at.0.max(told));
        self.told.set(at.0);
        at
    }
}

impl Pace {
    /// How long it takes to count so far, ns.
    fn ns_of(self, counts: u64) -> u64 {
        let ns = u128::from(counts) * u128::from(self.ns) / u128::from(self.counts.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn agrees(self, other: Self) -> bool {
        let one = u128::from(self.counts) * u128::from(other.ns);
        let two = u128::from(other.counts) * u128::from(self.ns);
        one.abs_diff(two) <= one / AGREE_WITHIN
    }
}

/// The time-stamp counter (Intel's Software Developer's Manual, volume 3, 18.17; AMD's, volume 2, 13.2.4).
#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: RDTSC reads a register. Every x86-64 processor has it, and it faults only in a process that asked for that by
    // prctl(PR_SET_TSC), or was started by one: such a process dies before it has armed anything.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

/// Elsewhere the clock is read from memory.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::NS_PER_S;

    /// A clock and a counter that are set by hand, and how often the clock was read.
    #[derive(Default)]
    struct Set {
        watch: Stopwatch,
        ns: Cell<u64>,
        count: Cell<Option<u64>>,
        asked: Cell<u32>,
    }

    impl Set {
        fn clock(&self) -> Monotonic {
            self.asked.set(self.asked.get() + 1);
            Monotonic(self.ns.get())
        }

        fn now(&self) -> u64 {
            self.watch.read(&|| self.clock(), &|| self.count.get()).0
        }

        fn soon(&self) -> u64 {
            self.watch.soon_by(&|| self.clock(), &|| self.count.get()).0
        }

        /// Time passes; the counter counts so much.
        fn pass(&self, ns: u64, counts: u64) {
            self.ns.set(self.ns.get() + ns);
            self.count.set(self.count.get().map(|count| count + counts));
        }

        /// A counter of 3 GHz that has been measured twice.
        fn measured() -> Self {
            let set = Self::default();
            set.ns.set(NS_PER_S);
            set.count.set(Some(1 << 40));
            for _ in 0..3 {
                set.pass(NS_PER_S / 4, 3 * NS_PER_S / 4);
                set.now();
            }
            set.asked.set(0);
            set
        }
    }

    #[test]
    fn a_moment_later_is_told_by_the_counter_and_after_that_by_the_kernel() {
        let set = Set::measured();
        let began = set.now();
        for passed in [0, 100_000, MOMENT_NS] {
            set.ns.set(began);
            set.count.set(Some((1 << 40) + 3 * (began - NS_PER_S)));
            set.pass(passed, 3 * passed);
            assert_eq!(set.soon(), began + passed);
        }
        assert_eq!(set.asked.get(), 1);
        set.pass(1_000, 3_000);
        assert_eq!(
            (set.soon(), set.asked.get()),
            (began + MOMENT_NS + 1_000, 2)
        );
    }

    #[test]
    fn a_counter_that_is_not_known_yet_or_changes_its_pace_is_not_believed() {
        let set = Set::default();
        set.count.set(Some(7));
        for n in 1..=2 {
            set.now();
            assert_eq!((set.soon(), set.asked.get()), (set.ns.get(), 2 * n));
            set.pass(NS_PER_S, NS_PER_S);
        }
        let set = Set::measured();
        // Another processor's, far ahead: as if it ran a thousand times as fast.
        set.pass(NS_PER_S / 4, 750 * NS_PER_S);
        set.now();
        set.pass(NS_PER_S / 5, 3 * NS_PER_S / 5);
        assert_eq!(set.soon(), set.ns.get(), "held up between two readings");
        assert_eq!(set.asked.get(), 2);
    }

    #[test]
    fn whoever_is_held_up_while_the_clock_is_read_does_not_lose_that_time() {
        for (since_ms, held_ms) in [(250, 15), (250, 17), (4_000, 240), (4_000, 700)] {
            let set = Set::measured();
            set.pass(since_ms * NS_PER_MS, 3 * since_ms * NS_PER_MS);
            // Between the two readings, whichever is the first.
            let held = Cell::new(false);
            let hold = || {
                if !held.replace(true) {
                    return;
                }
                set.pass(held_ms * NS_PER_MS, 3 * held_ms * NS_PER_MS);
            };
            let clock = || {
                hold();
                set.clock()
            };
            let counter = || {
                hold();
                set.count.get()
            };
            let began = set.watch.read(&clock, &counter).0;
            set.pass(1_000, 3_000);
            let soon = set.soon();
            assert!(soon >= set.ns.get(), "{since_ms} {held_ms}");
            assert!(soon - began <= held_ms * NS_PER_MS + 1_000);
        }
    }

    #[test]
    fn no_moment_is_before_one_that_was_told() {
        let set = Set::measured();
        let began = set.now();
        set.count
            .set(set.count.get().map(|count| count + 3 * 1_900_000));
        assert_eq!(set.soon(), began + 1_900_000, "a counter that is ahead");
        set.count.set(None);
        set.ns.set(began + 1_200_000);
        assert_eq!(set.soon(), began + 1_900_000);
    }

    #[test]
    fn a_counter_that_went_back_stands_still_or_is_not_there_costs_a_system_call() {
        let set = Set::measured();
        set.now();
        set.count.set(Some(5));
        set.pass(1_000, 3_000);
        assert_eq!((set.soon(), set.asked.get()), (set.ns.get(), 2));
        let set = Set::measured();
        set.count.set(None);
        set.pass(1_000, 0);
        assert_eq!((set.now(), set.soon()), (set.ns.get(), set.ns.get()));
        assert_eq!(set.asked.get(), 2);
        let set = Set::measured();
        for _ in 0..2 {
            set.pass(NS_PER_S / 4, 0);
            set.now();
            set.pass(NS_PER_S / 4, 0);
            assert_eq!(set.soon(), set.ns.get());
        }
    }

    #[test]
    fn this_processors_counter_agrees_with_this_kernels_clock() {
        let watch = Stopwatch::default();
        for _ in 0..3 {
            watch.now();
            std::thread::sleep(std::time::Duration::from_nanos(2 * MEASURED_NS));
        }
        let before = watch.now();
        let soon = watch.soon();
        let after = Monotonic::now();
        // The counter may be a little ahead or behind, by what two readings of the clock are off.
        let off_ns = NS_PER_MS / 10;
        assert!(soon.plus_ns(off_ns) >= before, "{soon:?} {before:?}");
        assert!(soon <= after.plus_ns(off_ns), "{soon:?} {after:?}");
    }
}

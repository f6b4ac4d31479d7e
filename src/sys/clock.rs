// SPDX-License-Identifier: GPL-2.0-only
//! Monotonic time in nanoseconds and sleeping until a point of it.
//!
//! CLOCK_MONOTONIC (clock_gettime(2)): never stepped, slewed by at most 500 ppm,
//! stopped while the machine is suspended. Wall-clock time is not used for any
//! decision.

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::cell::Cell;
use std::time::Duration;

/// A point on CLOCK_MONOTONIC, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

impl Monotonic {
    /// The present moment. Does not block (vDSO).
    ///
    /// A kernel without CLOCK_MONOTONIC does not exist on Linux; should the call fail
    /// all the same the answer is [`Monotonic::UNREADABLE`], later than every deadline,
    /// so that a caller errs towards not kicking.
    ///
    /// Never inlined: it is where the laboratory has a program fail.
    #[must_use]
    #[inline(never)]
    pub fn now() -> Self {
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(t) => {
                let s = u64::try_from(t.tv_sec()).unwrap_or(u64::MAX);
                let ns = u64::try_from(t.tv_nsec()).unwrap_or(0);
                Self(s.saturating_mul(NS_PER_S).saturating_add(ns))
            }
            Err(_) => Self::UNREADABLE,
        }
    }

    /// The end of time: what [`Monotonic::now`] says when the clock cannot be read.
    pub const UNREADABLE: Self = Self(u64::MAX);

    /// This point and `ns` nanoseconds more.
    #[must_use]
    pub fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds since `earlier`; 0 when `earlier` is later.
    #[must_use]
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds since the kernel started, suspended or not (CLOCK_BOOTTIME); none where it
/// cannot be read. Does not block.
#[must_use]
pub fn boottime_ns() -> Option<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let s = u64::try_from(time.tv_sec()).ok()?;
    let ns = u64::try_from(time.tv_nsec()).ok()?;
    Some(s.saturating_mul(NS_PER_S).saturating_add(ns))
}

/// Nanoseconds for which the machine was suspended since its kernel started. Does not block.
#[must_use]
pub fn suspended_ns() -> u64 {
    // In this order: what passes between the two is then no sleep.
    let all = boottime_ns().map(Monotonic);
    all.map_or(0, |all| all.since_ns(Monotonic::now()))
}

/// For how long the machine was suspended, asked of the kernel only where that may have changed.
///
/// What a sleep adds to it it adds to the wall clock's lead over CLOCK_MONOTONIC as well, in the same write (Linux
/// kernel/time/timekeeping.c, __timekeeping_inject_sleeptime()). The coarse readings of these two are of memory wherever there is a
/// vDSO, also where the fine ones are system calls, as with Xen's clock (lib/vdso/gettimeofday.c, do_coarse()). They serve for
/// nothing but to see that lead change; a wall clock that is set changes it too, and costs another reading.
#[derive(Debug, Default)]
pub struct Suspended(Cell<Option<Known>>);

/// As of the last time that the kernel was asked.
#[derive(Clone, Copy, Debug)]
struct Known {
    suspended_ns: u64,
    lead_ns: i64,
}

/// A change of the lead that is none, ns: two readings are apart by a tick or two. Sleeps that are shorter add up.
const SAME_LEAD_NS: u64 = 50 * NS_PER_MS;

impl Suspended {
    /// As [`suspended_ns`], to 50 ms. Does not block.
    pub fn ns(&self) -> u64 {
        self.ns_with(lead_ns(), suspended_ns)
    }

    fn ns_with(&self, lead_ns: Option<i64>, ask: impl Fn() -> u64) -> u64 {
        let is_same = |known: &Known| {
            lead_ns.is_some_and(|lead_ns| lead_ns.abs_diff(known.lead_ns) < SAME_LEAD_NS)
        };
        if let Some(known) = self.0.get().filter(is_same) {
            return known.suspended_ns;
        }
        let suspended_ns = ask();
        self.0.set(lead_ns.map(|lead_ns| Known {
            suspended_ns,
            lead_ns,
        }));
        suspended_ns
    }
}

/// The wall clock as of the kernel's last tick, ns since 1970 (CLOCK_REALTIME_COARSE, clock_gettime(2)): read from memory wherever there
/// is a vDSO. None where it cannot be read. Does not block.
#[must_use]
pub fn wall_of_tick_ns() -> Option<i128> {
    let time = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok()?;
    Some(i128::from(time.tv_sec()) * i128::from(NS_PER_S) + i128::from(time.tv_nsec()))
}

/// How far the wall clock is ahead of CLOCK_MONOTONIC, roughly; none where either cannot be read.
fn lead_ns() -> Option<i64> {
    let read = |clock: ClockId| {
        let time = clock_gettime(clock).ok()?;
        let s = time.tv_sec().checked_mul(1_000_000_000)?;
        s.checked_add(time.tv_nsec())
    };
    read(ClockId::CLOCK_REALTIME_COARSE)?.checked_sub(read(ClockId::CLOCK_MONOTONIC_COARSE)?)
}

/// Blocks until `when`; returns at once when it has passed. Signals do not cut it short.
pub fn sleep_until(when: Monotonic) {
    let target = Duration::from_nanos(when.0).into();
    while let Err(nix::errno::Errno::EINTR) = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &target,
    ) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_for_how_long_it_slept_where_the_wall_clocks_lead_changed() {
        const S: i64 = 1_000_000_000;
        let asked = Cell::new(0);
        let slept = Cell::new(7);
        let ask = || {
            asked.set(asked.get() + 1);
            slept.get()
        };
        let suspended = Suspended::default();
        let told = |lead_ns| (suspended.ns_with(lead_ns, ask), asked.get());
        assert_eq!(told(Some(100 * S)), (7, 1));
        // Two readings are never of the same tick.
        assert_eq!(told(Some(100 * S + S / 100)), (7, 1));
        slept.set(8);
        assert_eq!(told(Some(101 * S)), (8, 2), "a sleep of a second");
        assert_eq!(told(Some(101 * S)), (8, 2));
        assert_eq!(told(Some(50 * S)), (8, 3), "a wall clock that was set back");
        // Short ones add up.
        assert_eq!(told(Some(50 * S + S / 30)), (8, 3));
        assert_eq!(told(Some(50 * S + S / 15)), (8, 4));
        // A clock that cannot be read says nothing.
        assert_eq!(told(None), (8, 5));
        assert_eq!(told(None), (8, 6));
    }

    #[test]
    fn a_machine_that_did_not_sleep_meanwhile_slept_as_long_as_before() {
        let suspended = Suspended::default();
        let first = suspended.ns();
        assert_eq!(suspended.ns(), first);
        assert!(suspended_ns().abs_diff(first) < NS_PER_S);
    }
}

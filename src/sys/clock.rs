// SPDX-License-Identifier: GPL-2.0-only
//! Monotonic time in nanoseconds and sleeping until a point of it.
//!
//! CLOCK_MONOTONIC (clock_gettime(2)): never stepped, slewed by at most 500 ppm,
//! stopped while the machine is suspended. Wall-clock time is not used for any
//! decision.

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
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
    #[must_use]
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

/// Blocks until `when`; returns at once when it has passed. Signals do not cut it short.
pub fn sleep_until(when: Monotonic) {
    let target = Duration::from_nanos(when.0).into();
    while let Err(nix::errno::Errno::EINTR) = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &target,
    ) {}
}

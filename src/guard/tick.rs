// SPDX-License-Identifier: GPL-2.0-only
//! Moments in little memory, for the slots of all domids. Pure.

use crate::sys::clock::Monotonic;

/// Moments of slots, in units of 2^24 ns (17 ms), which wrap after two years: what is seen
/// of all domids must fit into little locked memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

const TICK_SHIFT: u32 = 24;

impl Tick {
    /// Seen first by the last look: the moment that this look counts as.
    pub const LAST_LOOK: Self = Self(0);

    /// Rounded up, so that nothing counts for longer than it was seen.
    #[must_use]
    pub fn up(at: Monotonic) -> Self {
        let ticks = at.0.saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT;
        let ticks = u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or(0);
        Self(ticks.max(1))
    }

    /// Nanoseconds from then to `now`; 0 from then on that it is later, or a year ago.
    #[must_use]
    pub fn until_ns(self, now: Monotonic) -> u64 {
        let now = u32::try_from((now.0 >> TICK_SHIFT) & u64::from(u32::MAX)).unwrap_or(0);
        let passed = now.wrapping_sub(self.0);
        if passed > u32::MAX / 2 {
            return 0;
        }
        u64::from(passed) << TICK_SHIFT
    }
}

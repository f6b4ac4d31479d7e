// SPDX-License-Identifier: GPL-2.0-only
//! What is known of one heartbeat's pulses, in figures.
//!
//! In: moments at which pulses came. Out: how long ago, how regular, how long the way there and back takes. Pure.

/// Weight of one more sample, as RFC 3550 smooths the jitter of its packets (6.4.1).
const WEIGHT: u64 = 16;

/// The figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pulses that counted.
    pub pulses: u64,
    /// When the last came, ns.
    pub last: Option<u64>,
    /// From the one before to the last, ns.
    gap: Option<u64>,
    /// How much that varies, ns, sixteenfold.
    jitter_16: u64,
    /// From our pulse to its answer, ns.
    pub round_trip: Option<u64>,
    /// Frames that were refused.
    pub refused: u64,
}

impl Stats {
    /// A pulse came.
    pub fn pulse(&mut self, now: u64) {
        // Two in one chunk say nothing of regularity.
        if self.last == Some(now) {
            return;
        }
        self.pulses = self.pulses.saturating_add(1);
        let gap = self.last.map(|last| now.saturating_sub(last));
        if let (Some(before), Some(gap)) = (self.gap, gap) {
            let change = before.abs_diff(gap);
            let old = self.jitter_16 / WEIGHT;
            self.jitter_16 = self.jitter_16.saturating_sub(old).saturating_add(change);
        }
        self.gap = gap;
        self.last = Some(now);
    }

    /// Nothing is known of regularity over a break.
    pub fn interrupted(&mut self) {
        self.gap = None;
    }

    /// How much the time between pulses varies, ns; none: too few have come.
    #[must_use]
    pub fn jitter(&self) -> Option<u64> {
        (self.pulses > 2).then_some(self.jitter_16 / WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_pulses_have_no_jitter_and_irregular_ones_have_some() {
        let mut stats = Stats::default();
        for n in 0..100 {
            stats.pulse(n * 1_000);
        }
        assert_eq!((stats.pulses, stats.jitter()), (100, Some(0)));
        let mut now = 100_000;
        for n in 0..200 {
            now += if n % 2 == 0 { 900 } else { 1_100 };
            stats.pulse(now);
        }
        let jitter = stats.jitter().expect("known");
        assert!((150..=200).contains(&jitter), "{jitter}");
    }
}

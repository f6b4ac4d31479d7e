// SPDX-License-Identifier: GPL-2.0-only
//! How often something took how long, in words that fit the guard page. Pure.

/// Upper bounds of the buckets but the last, microseconds: what is usual lies in the first ones,
/// a period of the guard in the last.
pub const BOUNDS_US: [u64; 7] = [100, 500, 1_000, 5_000, 10_000, 50_000, 250_000];
/// Buckets: one for each bound, and one for what is above all.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Words of a histogram.
pub const WORDS: usize = BUCKETS + 1;

/// Counts by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Each bucket's own, not those below it.
    pub counts: [u64; BUCKETS],
    /// All that was counted, together, ns.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts something that took `ns`. Allocates nothing.
    pub fn add(&mut self, ns: u64) {
        let bucket = BOUNDS_US.iter().take_while(|us| ns > **us * 1_000).count();
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// From words.
    #[must_use]
    pub fn from_words(words: &[u64; WORDS]) -> Self {
        let [counts @ .., sum_ns] = *words;
        Self { counts, sum_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_bound_exactly_is_below_it() {
        let mut histogram = Histogram::default();
        for ns in [0, 100_000, 100_001, 250_000_000, 250_000_001] {
            histogram.add(ns);
        }
        assert_eq!(histogram.counts, [2, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(histogram.sum_ns, 500_200_002);
        histogram.add(u64::MAX);
        assert_eq!((histogram.counts[7], histogram.sum_ns), (2, u64::MAX));
    }
}

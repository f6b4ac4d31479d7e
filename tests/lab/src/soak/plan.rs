// SPDX-License-Identifier: GPL-2.0-only
//! Which row a soak runs as the n-th, and at which phase of the timers: a function of n, the seed and the names of the rows alone.
//!
//! In each round every row comes once, in an order of the round's own, and each time at the next of the phases of its own.

use crate::scenario::phase::{Even, GOLDEN};
use std::time::Duration;

/// The order of a soak.
pub struct Plan {
    seed: u64,
    /// The phases of each row.
    phases: Vec<Even>,
}

impl Plan {
    /// Of rows with these names.
    pub fn new(seed: u64, names: &[String]) -> Self {
        let phases = names.iter().map(|name| Even::of(seed, name));
        Plan {
            seed,
            phases: phases.collect(),
        }
    }

    /// How many rows there are: a round.
    pub fn round(&self) -> u64 {
        self.phases.len() as u64
    }

    /// Which row is the n-th, from 0, and when in the period it acts, in whole milliseconds. There is at least one row.
    pub fn nth(&self, n: u64) -> (usize, Duration) {
        let (round, place) = (n / self.round(), n % self.round());
        let row = self.order(round)[place as usize];
        (row, self.phases[row].nth(round))
    }

    /// The rows in the order of this round: Fisher and Yates's shuffle.
    fn order(&self, round: u64) -> Vec<usize> {
        let mut numbers = Numbers(self.seed ^ mixed(round));
        let mut rows: Vec<usize> = (0..self.phases.len()).collect();
        for last in (1..rows.len()).rev() {
            let other = (u128::from(numbers.next()) * (last as u128 + 1)) >> 64;
            rows.swap(last, other as usize);
        }
        rows
    }
}

/// Pseudorandom numbers: splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::Plan;
    use crate::scenario::phase::Even;
    use std::collections::BTreeSet;

    fn plan(seed: u64) -> Plan {
        let names: Vec<String> = (0..7).map(|n| format!("row-{n}")).collect();
        Plan::new(seed, &names)
    }

    #[test]
    fn the_nth_is_the_same_whoever_asks_and_whatever_came_before() {
        let (one, other) = (plan(5), plan(5));
        let backwards: Vec<_> = (0..100).rev().map(|n| other.nth(n)).collect();
        let forwards: Vec<_> = (0..100).map(|n| one.nth(n)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
    }

    #[test]
    fn another_seed_is_another_order_and_other_phases() {
        let all = |seed| (0..100).map(|n| plan(seed).nth(n)).collect::<Vec<_>>();
        let rows = |seed| all(seed).iter().map(|one| one.0).collect::<Vec<_>>();
        let phases = |seed| all(seed).iter().map(|one| one.1).collect::<Vec<_>>();
        assert_ne!(rows(1), rows(2));
        assert_ne!(phases(1), phases(2));
    }

    #[test]
    fn each_round_has_every_row_once_and_not_always_in_one_order() {
        let plan = plan(5);
        let round = |n: u64| (0..7).map(|m| plan.nth(n * 7 + m).0).collect::<Vec<_>>();
        for n in 0..50 {
            assert_eq!(round(n).into_iter().collect::<BTreeSet<_>>().len(), 7);
        }
        let orders: BTreeSet<_> = (0..50).map(round).collect();
        assert!(orders.len() > 45, "{orders:?}");
    }

    #[test]
    fn the_phases_of_a_row_leave_no_large_gap_however_many_there_are() {
        let plan = plan(11);
        for rounds in [2_u64, 5, 12, 40, 230] {
            let all = (0..rounds * 7).map(|n| plan.nth(n));
            let of_row = all.filter(|(row, _)| *row == 3);
            let mut ms: Vec<u64> = of_row.map(|(_, phase)| phase.as_millis() as u64).collect();
            ms.sort_unstable();
            assert!(ms.iter().all(|ms| *ms < 1000));
            // Around the period's end as well.
            let around = ms[0] + 1000 - ms[ms.len() - 1];
            let gaps = ms.windows(2).map(|pair| pair[1] - pair[0]);
            let widest = gaps.chain([around]).max().unwrap();
            // By the three-gap theorem; the golden ratio's widest gap is below 1.9 of the mean.
            assert!(widest <= 1900 / rounds + 2, "{rounds}: {widest} of {ms:?}");
        }
    }

    #[test]
    fn a_rows_phases_do_not_depend_on_the_other_rows() {
        let plan = plan(11);
        let of_row = (0..70).map(|n| plan.nth(n)).filter(|(row, _)| *row == 3);
        let own = Even::of(11, "row-3");
        let alone = (0..10).map(|round| own.nth(round));
        assert!(of_row.map(|(_, phase)| phase).eq(alone));
    }

    #[test]
    fn two_rows_have_phases_of_their_own() {
        let plan = plan(3);
        let first: BTreeSet<_> = (0..7).map(|n| plan.nth(n).1).collect();
        assert_eq!(first.len(), 7);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! One slot of a guest's watchdog from look to look.
//!
//! In: what was last seen of the slot and its record now. Out: a [`Change`]: how often it
//! was armed, fed, disarmed and expired in between, as far as the record proves it. Pure.
//!
//! Kind cannot be told apart counts as less: a feed that may have been an arm is no feed.

use crate::event::Gap;
use crate::xen::liveness::TimerRecord;
use serde::{Deserialize, Serialize};

const NS_PER_S: u64 = crate::sys::clock::NS_PER_S;
/// A feed in the last part of its timeout, one in so many, is late.
const LATE_PART: u64 = 5;

/// Arms, disarms and feeds after those of one slot that are told in a minute.
pub const MOST_TOLD: u32 = 20;
const MINUTE_NS: i64 = 60_000_000_000;

/// Kind was last seen of a slot. Times are the hypervisor's, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The reuses of its record.
    pub generation: u32,
    /// The record's sequence number, which rises by 2 with each arm, feed and disarm.
    pub seq: u32,
    /// Arms and feeds.
    pub sets: u32,
    /// Runs of its handler.
    pub nr_fired: u32,
    /// Times that the handler shut the domain down, as last told.
    #[serde(default)]
    pub acted: u32,
    /// It is armed.
    pub armed: bool,
    /// The guest's timeout.
    pub timeout_s: u32,
    /// When it was last armed or fed.
    pub set: u64,
    /// When it expires.
    pub deadline: u64,
    /// When it was last fed; 0: never.
    pub fed: u64,
    /// It expired and was not fed since.
    pub expired: bool,
    /// Why the next feed is one after a break.
    pub after: Option<Gap>,
    /// Late feeds that no event has told of.
    pub late: u32,
    /// When one last did, ns of our monotonic clock.
    pub late_told_ns: Option<i64>,
    /// When the present minute of its arms, disarms and feeds after those began, likewise.
    #[serde(default)]
    pub minute_ns: Option<i64>,
    /// How many of them were told in it.
    #[serde(default)]
    pub told: u32,
    /// How many were left out since one was told.
    #[serde(default)]
    pub left_out: u32,
}

/// Kind happened to a slot between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// It was armed before.
    pub was_armed: bool,
    /// It is armed now; of a destroyed domain: it was when it was last used.
    pub is_armed: bool,
    /// Times that it was armed.
    pub arms: u32,
    /// Times that it was fed, at least.
    pub feeds: u32,
    /// Times that it expired.
    pub fires: u32,
    /// Kind was left when it was fed late, ns, at most.
    pub late_margin_ns: Option<u64>,
}

impl Slot {
    /// A slot of which nothing was seen yet.
    #[must_use]
    pub fn new(generation: u32, after: Option<Gap>) -> Self {
        Self {
            generation,
            after,
            ..Self::default()
        }
    }

    /// Kind has happened until `record`. `seen` is the hypervisor's time of the look before,
    /// if there was one; `last`: the domain is destroyed, and the record what it left.
    #[must_use]
    pub fn change(&self, record: &TimerRecord, seen: Option<u64>, last: bool) -> Change {
        let sets = record.sets.wrapping_sub(self.sets);
        // A destroyed domain's record has lost the flag.
        let is_armed = if last {
            self.armed || sets > 0
        } else {
            record.armed
        };
        let disarms = self.disarms(record, sets, is_armed, last);
        let arms = (disarms + u32::from(is_armed))
            .saturating_sub(u32::from(self.armed))
            .min(sets);
        let feeds = sets - arms;
        let runs = record.nr_fired.wrapping_sub(self.nr_fired);
        // The handler also runs for a domain that is down already, or being destroyed: no
        // expiry, as the guest could not feed. Where that is not told, each run is taken for one.
        let fires = match record.domain {
            Some(_) => record.acted.wrapping_sub(self.acted),
            None => runs,
        };
        // Kind came after the expiry was not late but too late.
        let may_be_late = self.armed && arms == 0 && runs == 0 && self.after.is_none();
        let late_margin_ns = if may_be_late {
            self.late_margin_ns(record, sets, seen)
        } else {
            None
        };
        Change {
            was_armed: self.armed,
            is_armed,
            arms,
            feeds,
            fires,
            late_margin_ns,
        }
    }

    /// Each write of the record adds 2 to its sequence number, whatever else adds to it is
    /// taken for a disarm as well. Where the number tells less than the flag, the flag
    /// counts; of a slot never seen before it tells nothing.
    fn disarms(&self, record: &TimerRecord, sets: u32, is_armed: bool, last: bool) -> u32 {
        let by_flag = u32::from(!is_armed && (self.armed || sets > 0));
        if last || self.seq == 0 || sets == 0 {
            return by_flag;
        }
        let writes = record.seq.wrapping_sub(self.seq) / 2;
        by_flag.max(writes.saturating_sub(sets).min(sets))
    }

    /// The first of the feeds came at `record.set` if it was the only one, else after `seen`.
    fn late_margin_ns(&self, record: &TimerRecord, sets: u32, seen: Option<u64>) -> Option<u64> {
        let earliest = match sets {
            0 => return None,
            1 => record.set,
            _ => seen?,
        };
        let margin = self.deadline.saturating_sub(earliest);
        let part = u64::from(self.timeout_s) * NS_PER_S / LATE_PART;
        (margin < part).then_some(margin)
    }

    /// Whether an arm, a disarm or a feed after it is to be told: a guest can bring these
    /// about as often as it likes. Gives how many were left out before.
    pub fn tells(&mut self, now: i64) -> Option<u32> {
        let began = self
            .minute_ns
            .filter(|at| (0..MINUTE_NS).contains(&now.saturating_sub(*at)));
        if began.is_none() {
            (self.minute_ns, self.told) = (Some(now), 0);
        }
        if self.told >= MOST_TOLD {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// Takes over what the record says.
    pub fn update(&mut self, record: &TimerRecord, change: &Change) {
        self.seq = record.seq;
        self.sets = record.sets;
        self.nr_fired = record.nr_fired;
        if record.domain.is_some() {
            self.acted = record.acted;
        }
        self.armed = change.is_armed;
        self.timeout_s = record.timeout_s;
        self.set = record.set;
        self.deadline = record.deadline;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulated::FREE;

    const S: u64 = NS_PER_S;

    /// A slot that is armed and was fed at 100 s with 10 s to go.
    fn fed() -> Slot {
        Slot {
            seq: 100,
            sets: 5,
            armed: true,
            timeout_s: 10,
            set: 100 * S,
            deadline: 110 * S,
            ..Slot::default()
        }
    }

    fn record(seq: u32, sets: u32, armed: bool, set: u64) -> TimerRecord {
        TimerRecord {
            seq,
            used: true,
            sets,
            armed,
            timeout_s: 10,
            set,
            deadline: set + 10 * S,
            ..FREE
        }
    }

    #[test]
    fn arms_feeds_and_disarms_between_two_looks_are_told_apart() {
        let unarmed = Slot {
            armed: false,
            ..fed()
        };
        // (before, sequence number, sets, armed now) to (arms, feeds)
        let cases = [
            (fed(), 100, 5, true, (0, 0)),
            (fed(), 102, 6, true, (0, 1)),
            (fed(), 106, 8, true, (0, 3)),
            // Disarmed and armed again: no feed.
            (fed(), 104, 6, true, (1, 0)),
            (fed(), 106, 7, true, (1, 1)),
            (fed(), 102, 5, false, (0, 0)),
            (fed(), 104, 6, false, (0, 1)),
            (unarmed, 102, 6, true, (1, 0)),
            (unarmed, 104, 7, true, (1, 1)),
            (unarmed, 104, 6, false, (1, 0)),
            (unarmed, 106, 7, false, (1, 1)),
            (unarmed, 106, 7, true, (2, 0)),
            // Never seen before: an arm, then feeds.
            (Slot::default(), 40, 1, true, (1, 0)),
            (Slot::default(), 40, 3, true, (1, 2)),
            // A sequence number that tells nothing.
            (fed(), 100, 7, true, (0, 2)),
        ];
        for (before, seq, sets, armed, expected) in cases {
            let change = before.change(&record(seq, sets, armed, 101 * S), None, false);
            assert_eq!(
                (change.arms, change.feeds),
                expected,
                "{before:?} {seq} {sets}"
            );
        }
    }

    #[test]
    fn a_feed_is_late_in_the_last_fifth_of_its_timeout_only() {
        let cases = [
            (1, 107 * S, None, None),
            (1, 108 * S, None, None),
            (1, 108 * S + 1, None, Some(2 * S - 1)),
            (1, 110 * S, None, Some(0)),
            // Of several feeds the first came after the look before.
            (2, 109 * S, Some(101 * S), None),
            (2, 109 * S, Some(109 * S), Some(S)),
            (2, 109 * S, None, None),
        ];
        for (sets, set, seen, margin) in cases {
            let record = record(100 + 2 * sets, 5 + sets, true, set);
            let change = fed().change(&record, seen, false);
            assert_eq!(change.late_margin_ns, margin, "{sets} {set}");
        }
        let paused = Slot {
            after: Some(Gap::Paused),
            ..fed()
        };
        let change = paused.change(&record(102, 6, true, 110 * S), None, false);
        assert_eq!(change.late_margin_ns, None, "it was paused");
    }

    #[test]
    fn a_destroyed_domains_slot_was_armed_although_its_flag_is_lost() {
        let change = fed().change(&record(106, 6, false, 101 * S), None, true);
        assert!(change.is_armed);
        assert_eq!((change.arms, change.feeds), (0, 1));
    }
}

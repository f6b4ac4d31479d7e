// SPDX-License-Identifier: GPL-2.0-only
//! One slot of a domain's watchdog from look to look.
//!
//! In: what was last seen of the slot and what the table shows now. Out: a [`Change`]: how
//! often it was armed, fed and disarmed in between, and whether it expired, as far as the
//! table proves it. Pure.
//!
//! What cannot be told apart counts as less: a feed that may have been an arm is no feed.

use super::alarm::Nanoseconds;
use super::stamp::Stamp;
use crate::event::Gap;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use crate::xen::table;
use serde::{Deserialize, Serialize};

/// A feed in the last part of its timeout, one in so many, is late.
const LATE_PART: u64 = 5;
/// Time between two events of late feeds of one slot.
const LATE_EVERY_NS: Nanoseconds = 60_000_000_000;

/// Arms, disarms and feeds after those of one slot that are told in a minute.
pub const MOST_TOLD: u32 = 20;
const MINUTE_NS: Nanoseconds = 60_000_000_000;

/// What was last seen of a slot, and what was told of it. Times are our own clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Arms and feeds.
    pub sets: u32,
    /// It is armed.
    pub armed: bool,
    /// The timeout that the guest set last.
    pub timeout_s: u32,
    /// The number of the set for which it expired last; 0: never.
    pub acted: u32,
    /// Disarms.
    pub disarms: u32,
    /// When the last arm or feed was seen.
    pub set_ns: Nanoseconds,
    /// When a feed was last seen.
    pub fed_ns: Option<Stamp>,
    /// Expiries that were seen.
    pub expiries: u32,
    /// Why the next feed is one after a break.
    pub after: Option<Gap>,
    /// Late feeds that no event has told of.
    pub late: u32,
    /// When one last did.
    pub late_told_ns: Option<Stamp>,
    /// When the present minute of its arms, disarms and feeds after those began.
    pub minute_ns: Option<Stamp>,
    /// How many of them were told in it.
    pub told: u8,
    /// How many were left out since one was told.
    pub left_out: u32,
}

/// What happened to a slot between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It was armed before.
    pub was_armed: bool,
    /// It is armed now; of a domain that is gone: it was when it was last used.
    pub is_armed: bool,
    /// Times that it was armed.
    pub arms: u32,
    /// Times that it was fed, at least.
    pub feeds: u32,
    /// It expired.
    pub expired: bool,
    /// Arms and feeds after it did.
    pub sets_after: u32,
    /// What was left when it was fed late, at most.
    pub late_margin_ms: Option<u64>,
}

impl Change {
    /// The arms and feeds before the expiry, and those after it. Of those that may have been
    /// either, an arm is taken for the later: a feed counts only for sure. `counts`: they are
    /// signs of life; `runs`: so are those after the expiry, as the domain was resumed.
    #[must_use]
    pub fn split(self, counts: bool, runs: bool) -> (Self, Self) {
        let nothing = Self {
            arms: 0,
            feeds: 0,
            ..self
        };
        if !counts {
            return (nothing, nothing);
        }
        // What was not armed has to be, to expire.
        let armed_before = u32::from(!self.was_armed).min(self.arms);
        let arms = (self.arms - armed_before).min(self.sets_after);
        let feeds = (self.sets_after - arms).min(self.feeds);
        let before = Self {
            arms: self.arms - arms,
            feeds: self.feeds - feeds,
            ..self
        };
        let was_armed = true;
        let after = Self {
            was_armed,
            arms,
            feeds,
            ..self
        };
        (before, if runs { after } else { nothing })
    }
}

/// The count of sets leaves 0 out when it wraps.
pub(super) fn sets_between(then: u32, now: u32) -> u32 {
    now.wrapping_sub(then) - u32::from(now < then)
}

impl Slot {
    /// What has happened until `now`. `before`: the time of the look before, if it was a
    /// short while ago; `ended`: the domain is gone, its slots disarmed by that.
    #[must_use]
    pub fn change(&self, now: &table::Slot, before: Option<Nanoseconds>, ended: bool) -> Change {
        let sets = sets_between(self.sets, now.sets);
        let is_armed = if ended {
            self.armed || sets > 0
        } else {
            now.armed.is_some()
        };
        let disarms = self.disarmed(now, sets, is_armed);
        let arms = (disarms + u32::from(is_armed))
            .saturating_sub(u32::from(self.armed))
            .min(sets);
        let expired = now.acted != 0 && now.acted != self.acted;
        // What came after the expiry was not late but too late.
        let may_be_late = self.armed && sets > 0 && arms == 0 && !expired && self.after.is_none();
        Change {
            was_armed: self.armed,
            is_armed,
            arms,
            feeds: sets - arms,
            expired,
            sets_after: if expired {
                sets_between(now.acted, now.sets).min(sets)
            } else {
                0
            },
            late_margin_ms: before
                .filter(|_| may_be_late)
                .and_then(|at| self.late_margin_ms(at)),
        }
    }

    /// Where the counter tells less than the flag, the flag counts: the hypervisor raises the
    /// counter after it has disarmed the slot.
    fn disarmed(&self, now: &table::Slot, sets: u32, is_armed: bool) -> u32 {
        let by_flag = u32::from(!is_armed && (self.armed || sets > 0));
        let counted = now.disarms.wrapping_sub(self.disarms);
        // One that was counted ahead, as below, has not come yet.
        let counted = if counted > u32::MAX / 2 { 0 } else { counted };
        by_flag.max(counted.min(sets.saturating_add(1)))
    }

    /// The first feed came after the look at `before`, and the set before it no later than it
    /// was seen.
    pub(super) fn late_margin_ms(&self, before: Nanoseconds) -> Option<u64> {
        let unfed_ns = u64::try_from(before.saturating_sub(self.set_ns)).unwrap_or(0);
        let timeout_ns = u64::from(self.timeout_s) * NS_PER_S;
        let margin_ns = timeout_ns.saturating_sub(unfed_ns);
        (margin_ns < timeout_ns / LATE_PART).then_some(margin_ns / NS_PER_MS)
    }

    /// How long it was not fed when it was seen to have expired. By definition at least the
    /// timeout; no more is known where nobody looked meanwhile, or the last feed was unseen.
    #[must_use]
    pub fn unfed_ms(&self, acted: u32, now: Nanoseconds, before: Option<Nanoseconds>) -> u64 {
        let least = u64::from(self.timeout_s) * (NS_PER_S / NS_PER_MS);
        let seen = before.is_some() && acted == self.sets;
        let unfed_ns = u64::try_from(now.saturating_sub(self.set_ns)).unwrap_or(0);
        least.max(if seen { unfed_ns / NS_PER_MS } else { 0 })
    }

    /// Whether an arm, a disarm or a feed after it is to be told: a guest can bring these
    /// about as often as it likes. Gives how many were left out before.
    pub fn tells(&mut self, now: Nanoseconds) -> Option<u32> {
        let began = self
            .minute_ns
            .filter(|at| (0..MINUTE_NS).contains(&now.saturating_sub(at.ns())));
        if began.is_none() {
            (self.minute_ns, self.told) = (Some(now.into()), 0);
        }
        if u32::from(self.told) >= MOST_TOLD {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// Counts a late feed; gives how many there were where it is time to tell.
    pub fn tells_late(&mut self, now: Nanoseconds) -> Option<u32> {
        self.late = self.late.saturating_add(1);
        let told = self.late_told_ns;
        if told.is_some_and(|told| now.saturating_sub(told.ns()) < LATE_EVERY_NS) {
            return None;
        }
        self.late_told_ns = Some(now.into());
        Some(std::mem::take(&mut self.late))
    }

    /// Takes over what the table shows at `at`.
    pub fn update(&mut self, now: &table::Slot, change: &Change, at: Nanoseconds) {
        let sets = sets_between(self.sets, now.sets);
        if sets > 0 {
            self.set_ns = at;
        }
        // A disarm that was seen before it was counted is not to be counted again.
        let counted = now.disarms.wrapping_sub(self.disarms);
        if counted == 0 && !change.is_armed && (change.was_armed || sets > 0) {
            self.disarms = now.disarms.wrapping_add(1);
        } else if counted <= u32::MAX / 2 {
            self.disarms = now.disarms;
        }
        self.sets = now.sets;
        self.acted = now.acted;
        self.armed = change.is_armed;
        self.timeout_s = now.armed.unwrap_or(self.timeout_s);
    }
}

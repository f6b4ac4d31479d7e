// SPDX-License-Identifier: GPL-2.0-only
//! A guest that has done nothing since the look before but feed: what nearly every look finds of nearly every guest.
//!
//! In: the record of its domain. Out: whether that is all that has happened, and then the guest as
//! [`Guest::observe`] would leave it, at a fraction of its cost. Pure. Never: an event; whatever may lead to one is left
//! to `observe`, with the guest as it was.

use super::alarm::{Boot, Lifecycle, Watchdog};
use super::guest::{Guest, GuestDomain, Look, identity};
use super::slot::{Change, Slot, sets_between};
use super::state::DomainState;
use crate::xen::table::{self, Domain};

impl Lifecycle {
    /// More feeds change nothing: it runs, has fed, and has no alarm.
    fn is_fed(&self) -> bool {
        self.state == DomainState::Running
            && self.boot == Boot::Fed
            && self.watchdog == Watchdog::Fed
            && self.alarm.is_none()
    }
}

impl Slot {
    /// What has happened, found sooner where it is nothing, as with most second slots, or feeds, as with most first ones.
    fn change_in(&self, now: &table::Slot, look: &Look<'_>) -> Change {
        let is_as_it_was = self.armed == now.armed.is_some()
            && (self.acted, self.disarms) == (now.acted, now.disarms);
        if !is_as_it_was || !self.armed && self.sets != now.sets {
            return self.change(now, look.before, false);
        }
        let feeds = sets_between(self.sets, now.sets);
        let may_be_late = feeds > 0 && self.after.is_none();
        let late = look.before.filter(|_| may_be_late);
        Change {
            was_armed: self.armed,
            is_armed: self.armed,
            feeds,
            late_margin_ms: late.and_then(|at| self.late_margin_ms(at)),
            ..Change::default()
        }
    }

    /// It was fed at most, in time, and not after a break.
    fn only_fed(&self, change: &Change) -> bool {
        let is_told = self.after.is_some() || change.late_margin_ms.is_some();
        let is_fed = change.feeds > 0;
        let is_as_it_was = change.arms == 0 && change.is_armed == change.was_armed;
        is_as_it_was && !change.expired && !(is_fed && is_told)
    }
}

impl Guest {
    /// Takes the record if it shows nothing but feeds, in time, of a guest of one domain that has fed before.
    pub(super) fn only_fed(&mut self, record: &Domain, look: &Look<'_>) -> bool {
        let is_fed = self.lifecycle.is_fed() && self.others.is_empty();
        let is_same = |domain: &GuestDomain| domain.created == record.created;
        let domain = self.current.as_mut().filter(|domain| is_same(domain));
        let Some(domain) = domain.filter(|_| is_fed && self.uuid == identity(record)) else {
            return false;
        };
        let runs = record.exists && !record.dying && !record.paused && record.shutdown.is_none();
        if !runs || domain.state != DomainState::Running {
            return false;
        }
        let [first, second] = &domain.slots;
        let [shows_first, shows_second] = &record.slots;
        let changes = [
            first.change_in(shows_first, look),
            second.change_in(shows_second, look),
        ];
        let mut all = domain.slots.iter().zip(&changes);
        if !all.all(|(slot, change)| slot.only_fed(change)) {
            return false;
        }
        for ((slot, shown), change) in domain.slots.iter_mut().zip(&record.slots).zip(&changes) {
            if change.feeds > 0 {
                slot.fed_ns = Some(look.at.ns.into());
            }
            slot.update(shown, change, look.at.ns);
        }
        self.lifecycle.skip(look.at.ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Gap, Timestamp, Uuid};
    use crate::guests::alarm::{Moment, Rules};
    use crate::xen::simulation::Simulation;
    use crate::xen::table::Shutdown;

    /// The same numbers in each run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            (self.0 >> 33) % sides
        }
    }

    const DOMID: u16 = 3;

    fn act(xen: &Simulation, dice: &mut Dice) {
        let slot = usize::from(dice.roll(4) == 0);
        match dice.roll(60) {
            0 => xen.disarm(DOMID, slot),
            1 => xen.expire(DOMID, slot),
            2 => xen.shut_down(DOMID, Shutdown::Suspend),
            3 | 4 => xen.pause(DOMID, true),
            5..=8 => xen.pause(DOMID, false),
            9 => xen.rename(DOMID, Uuid::from_u128(dice.roll(2).into())),
            10 => xen.destroy(DOMID),
            11..=14 => xen.arm(DOMID, slot, 4),
            15..=18 => {}
            19 => {
                xen.expire(DOMID, slot);
                xen.resume(DOMID);
            }
            20 => {
                xen.arm(DOMID, slot, 4);
                xen.disarm(DOMID, slot);
            }
            _ => xen.feed(DOMID, slot),
        }
    }

    #[test]
    fn what_is_taken_for_a_feed_alone_leaves_the_guest_as_it_would_be_and_nothing_untold() {
        let rules = Rules::default();
        let (mut dice, mut taken, mut left) = (Dice(7), 0, 0);
        for _ in 0..400 {
            let xen = Simulation::sized(1, 10);
            xen.create(DOMID, Uuid::from_u128(1));
            xen.arm(DOMID, 0, 4);
            let record = xen.table().domain(DOMID).expect("created");
            let mut guest = Guest::new(record.uuid, GuestDomain::new(&record, None), 0);
            let (mut ns, mut before) = (0, None);
            for _ in 0..60 {
                for _ in 0..dice.roll(3) {
                    act(&xen, &mut dice);
                }
                ns += [250_000_000, 1_000_000_000, 3_500_000_000]
                    [usize::from(dice.roll(9) == 0) * (1 + usize::from(dice.roll(2) == 0))];
                let wall = Timestamp(ns / 1_000);
                let look = Look {
                    at: Moment { ns, wall },
                    before,
                    clears: true,
                    rules: &rules,
                };
                before = Some(ns);
                let mut record = xen.table().domain(DOMID).expect("it was there");
                // A look between a disarm and its count.
                for slot in record.slots.iter_mut().filter(|s| s.armed.is_none()) {
                    slot.disarms -= u32::from(slot.disarms > 0 && dice.roll(4) == 0);
                }
                let (mut quick, mut told) = (guest.clone(), Vec::new());
                let is_taken = quick.only_fed(&record, &look);
                if !is_taken {
                    assert_eq!(quick, guest, "left as it was");
                }
                guest.observe(&record, &look, &mut told);
                if is_taken {
                    assert_eq!((&quick, &told), (&guest, &Vec::new()));
                    taken += 1;
                } else {
                    left += 1;
                }
            }
        }
        assert!(taken > 1_000 && left > 1_000, "{taken} and {left}");
    }
    #[test]
    fn a_change_that_is_found_sooner_is_the_same_change() {
        const COUNTS: [u32; 6] = [0, 1, 2, 7, u32::MAX - 1, u32::MAX];
        fn one_of<T: Copy>(dice: &mut Dice, all: &[T]) -> T {
            let n = usize::try_from(dice.roll(all.len() as u64)).expect("few");
            all[n]
        }
        let (rules, mut dice) = (Rules::default(), Dice(5));
        for _ in 0..300_000 {
            let count = |dice: &mut Dice| one_of(dice, &COUNTS);
            let slot = Slot {
                armed: dice.roll(2) == 0,
                sets: count(&mut dice),
                acted: count(&mut dice),
                disarms: count(&mut dice),
                after: one_of(&mut dice, &[None, Some(Gap::Paused)]),
                set_ns: one_of(&mut dice, &[0, 9_000_000_000]),
                timeout_s: one_of(&mut dice, &[0, 10]),
                ..Slot::default()
            };
            let mut changed = |before: u32| match dice.roll(2) {
                0 => before,
                _ => count(&mut dice),
            };
            let (sets, acted) = (changed(slot.sets), changed(slot.acted));
            let disarms = changed(slot.disarms);
            let shown = table::Slot {
                armed: one_of(&mut dice, &[None, Some(0), Some(10)]),
                sets,
                acted,
                done: 0,
                disarms,
            };
            let wall = Timestamp(0);
            let look = Look {
                at: Moment {
                    ns: 9_750_000_000,
                    wall,
                },
                before: one_of(&mut dice, &[None, Some(9_500_000_000), Some(8_000_000_000)]),
                clears: true,
                rules: &rules,
            };
            let all = slot.change(&shown, look.before, false);
            assert_eq!(slot.change_in(&shown, &look), all, "{slot:?} {shown:?}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! One guest: what is known of it, and what each look at its domain means.
//!
//! In: its domain's records, in order of the looks. Out: [`Happening`]s, in the order in
//! which they came about. Pure; it is also what is kept over a restart.

use super::Happening;
use super::alarm::{Activity, Input, Lifecycle, Nanoseconds, Output, Rules};
use super::report::{AlarmReport, DomainState, GuestReport, SlotReport};
use super::slot::{Change, Slot};
use crate::event::{self, Cause, Gap, Kind, Timestamp, Uuid};
use crate::sys::clock::NS_PER_MS;
use crate::xen::liveness::{Doing, Shutdown, TimerRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Time between two events of late feeds of one slot.
const LATE_EVERY_NS: Nanoseconds = 60_000_000_000;
/// How long a guest without a UUID is gone when its alarm is given up.
const GIVE_UP_NS: Nanoseconds = 86_400_000_000_000;

/// A domain that cannot be mistaken for another: domids are used again, but then with a
/// record that has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The domain.
    pub domid: u16,
    /// The generation of the record of its first slot ([`super::owners`]).
    pub generation: u32,
}

/// A guest: a domain, and those with the same UUID before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// `None` while xenstore has not told it.
    pub uuid: Option<Uuid>,
    /// Likewise.
    pub name: Option<Arc<str>>,
    /// The domain that it is, or last was.
    pub incarnation: Incarnation,
    /// That domain is there.
    pub present: bool,
    /// Why it is not.
    pub cause: Cause,
    /// Since when it is not.
    pub gone_ns: Nanoseconds,
    /// When it was first seen; `None` if it was there before the daemon.
    pub first_seen_ns: Option<Nanoseconds>,
    /// It has fed since it booted.
    pub fed: bool,
    /// It came to this domain by restore or migration.
    pub restored: bool,
    /// Its watchdog expired and shut its domain down, and the domain has not been seen to run,
    /// to arm or to feed since.
    pub down: bool,
    /// It was started again, did not feed within the deadline, and has not since.
    #[serde(default)]
    pub boot_failed: bool,
    /// Kind is known of it is from another boot of the host.
    #[serde(skip)]
    pub of_another_boot: bool,
    /// Its slots in that domain.
    pub slots: BTreeMap<u8, Slot>,
    /// Its alarm.
    pub lifecycle: Lifecycle,
    /// When the alarm was raised.
    pub raised: Option<Timestamp>,
    /// Kind the domain was last seen doing.
    #[serde(skip)]
    pub doing: Option<Doing>,
    /// The hypervisor's time of the last look at it.
    #[serde(skip)]
    seen: Option<u64>,
}

/// One look, as seen by each guest.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// CLOCK_MONOTONIC.
    pub now: Nanoseconds,
    /// Wall time.
    pub wall: Timestamp,
    /// The hypervisor's time.
    pub xen_now: u64,
    /// How long and how often.
    pub rules: &'a Rules,
    /// The domain is destroyed, and the records what it left.
    pub last: bool,
}

fn ms(ns: Nanoseconds) -> u64 {
    u64::try_from(ns).unwrap_or(0) / NS_PER_MS
}

impl Guest {
    /// A guest that was never seen before.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        first_seen_ns: Option<Nanoseconds>,
        now: Nanoseconds,
    ) -> Self {
        Self {
            uuid: None,
            name: None,
            incarnation,
            present: true,
            cause: Cause::Unknown,
            gone_ns: now,
            first_seen_ns,
            fed: false,
            restored: false,
            down: false,
            boot_failed: false,
            of_another_boot: false,
            slots: BTreeMap::new(),
            lifecycle: Lifecycle::new(now),
            raised: None,
            doing: None,
            seen: None,
        }
    }

    /// As events name it.
    #[must_use]
    pub fn named(&self) -> event::Guest {
        event::Guest {
            uuid: self.uuid,
            domid: self.incarnation.domid,
            name: self.name.clone(),
        }
    }

    fn say(&self, xen_ns: Option<u64>, what: Kind, out: &mut Vec<Happening>) {
        out.push(Happening {
            guest: Some(self.named()),
            xen_ns,
            what,
        });
    }

    /// Gives the lifecycle an input and says what comes of it.
    pub fn step(
        &mut self,
        look: &Look<'_>,
        xen_ns: Option<u64>,
        input: Input,
        out: &mut Vec<Happening>,
    ) {
        let Some(output) = self.lifecycle.step(look.now, input, look.rules) else {
            return;
        };
        let what = match output {
            Output::Raised { expiries } => {
                self.raised = self.raised.or(Some(look.wall));
                Kind::AlarmRaised { expiries }
            }
            Output::Cleared {
                open_ns,
                expiries,
                reboots,
                feeds,
            } => Kind::AlarmCleared {
                open_ms: ms(open_ns),
                expiries,
                reboots,
                feeds,
            },
            Output::Closed { cause, open_ns } => Kind::AlarmClosed {
                cause,
                open_ms: ms(open_ns),
            },
            Output::BootFailed { waited_ns } => {
                self.boot_failed = true;
                Kind::GuestBootFailed {
                    waited_ms: ms(waited_ns),
                }
            }
            // Only the desk acknowledges, and it knows who.
            Output::Acknowledged => return,
        };
        if self.lifecycle.alarm.is_none() {
            self.raised = None;
        }
        self.say(xen_ns, what, out);
    }

    /// Says what has happened to the guest since the look before.
    pub fn observe(&mut self, records: &[TimerRecord], look: &Look<'_>, out: &mut Vec<Happening>) {
        let doing = records.iter().find_map(|r| r.domain);
        let after = self.restored.then_some(Gap::Suspended);
        let mut changes: Vec<(&TimerRecord, Change)> = Vec::new();
        for record in records {
            let slot = self.slots.entry(record.slot);
            let slot = slot.or_insert_with(|| Slot::new(record.generation, after));
            changes.push((record, slot.change(record, self.seen, look.last)));
        }
        let runs = doing.is_some_and(|d| d.shutdown.is_none() && !d.dying);
        let ended = self.ended(&changes, doing, look, out);
        // A feed after the expiry is one only where the domain demonstrably went on.
        let expired_first = runs && changes.iter().any(|(r, c)| c.fires > 0 && r.set > r.fired);
        if expired_first {
            self.expiries(&changes, look, out);
        }
        for (record, change) in &changes {
            self.sets(record, change, ended, look, out);
        }
        if !expired_first {
            self.expiries(&changes, look, out);
        }
        for (record, change) in &changes {
            if let Some(slot) = self.slots.get_mut(&record.slot) {
                slot.update(record, change);
            }
        }
        for (record, change) in &changes {
            if !change.is_armed && (change.was_armed || change.arms > 0) {
                self.disarmed(record.slot, look, out);
            }
        }
        self.does(doing, look, out);
        self.seen = Some(look.xen_now);
    }

    /// The hypervisor's time from which on nothing that the guest did is a sign of life: its
    /// watchdog shut the domain down, which has not been resumed. Another vCPU's last
    /// instructions may still arm or feed. A domain that runs again is not down.
    fn ended(
        &mut self,
        changes: &[(&TimerRecord, Change)],
        doing: Option<Doing>,
        look: &Look<'_>,
        out: &mut Vec<Happening>,
    ) -> Option<u64> {
        let doing = doing?;
        if doing.shutdown.is_none() && !doing.dying {
            let resumed = std::mem::take(&mut self.down);
            if resumed && !self.lifecycle.is_armed() && self.slots.values().any(|s| s.armed) {
                self.step(look, None, Input::Armed, out);
            }
            return None;
        }
        let acts = changes.iter().filter(|(_, c)| c.fires > 0);
        // One that acts again was resumed in between.
        let now = acts.map(|(record, _)| record.fired).min();
        let before = self.down || doing.shutdown == Some(Shutdown::Watchdog);
        now.or(before.then_some(0))
    }

    /// Arms and feeds of one slot; from `ended` on there are none.
    fn sets(
        &mut self,
        record: &TimerRecord,
        change: &Change,
        ended: Option<u64>,
        look: &Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        let (slot, timeout_s) = (record.slot, record.timeout_s);
        // Of several sets, which came before cannot be told apart: none counts as a feed.
        let too_late = ended.is_some_and(|at| record.set > at);
        if too_late && ended == Some(0) {
            return;
        }
        if change.arms > 0 {
            if change.was_armed {
                self.disarmed(slot, look, out);
            }
            self.down = false;
            if let Some(left_out) = self.tells(slot, look) {
                let what = Kind::GuestArmed {
                    slot,
                    timeout_s,
                    left_out,
                };
                self.say(Some(record.set), what, out);
            }
            self.step(look, Some(record.set), Input::Armed, out);
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.armed = true;
            }
        }
        if change.feeds > 0 && !too_late {
            self.down = false;
            self.fed(record, look, out);
            if let Some(margin) = change.late_margin_ns {
                self.late(record, margin, look, out);
            }
            let feeds = Input::Fed(change.feeds);
            self.step(look, Some(record.set), feeds, out);
            self.boot_failed &= !self.lifecycle.is_armed();
        }
    }

    fn tells(&mut self, slot: u8, look: &Look<'_>) -> Option<u32> {
        self.slots.get_mut(&slot).and_then(|s| s.tells(look.now))
    }

    fn fed(&mut self, record: &TimerRecord, look: &Look<'_>, out: &mut Vec<Happening>) {
        let (slot, timeout_s) = (record.slot, record.timeout_s);
        let Some(state) = self.slots.get_mut(&slot) else {
            return;
        };
        let (before, after) = (state.fed, state.after.take());
        state.fed = record.set;
        state.expired = false;
        if !self.fed {
            self.fed = true;
            let age = look.xen_now.saturating_sub(record.set);
            let fed_ns = look.now.saturating_sub_unsigned(age);
            let what = Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms: self.first_seen_ns.map(|seen| ms(fed_ns - seen)),
            };
            self.say(Some(record.set), what, out);
        } else if let Some(after) = after {
            let gap = record.set.saturating_sub(before) / NS_PER_MS;
            let left_out = match after {
                Gap::Disarmed => state.tells(look.now),
                // These take somebody else to come about.
                _ => Some(std::mem::take(&mut state.left_out)),
            };
            let Some(left_out) = left_out else {
                return;
            };
            let what = Kind::GuestFedAgain {
                slot,
                timeout_s,
                after,
                gap_ms: (before != 0).then_some(gap),
                left_out,
            };
            self.say(Some(record.set), what, out);
        }
    }

    fn late(
        &mut self,
        record: &TimerRecord,
        margin_ns: u64,
        look: &Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        let Some(state) = self.slots.get_mut(&record.slot) else {
            return;
        };
        state.late = state.late.saturating_add(1);
        let told = state.late_told_ns;
        if told.is_some_and(|told| look.now.saturating_sub(told) < LATE_EVERY_NS) {
            return;
        }
        state.late_told_ns = Some(look.now);
        let what = Kind::GuestLate {
            slot: record.slot,
            timeout_s: state.timeout_s,
            margin_ms: margin_ns / NS_PER_MS,
            count: std::mem::take(&mut state.late),
        };
        self.say(Some(record.set), what, out);
    }

    fn disarmed(&mut self, slot: u8, look: &Look<'_>, out: &mut Vec<Happening>) {
        if let Some(state) = self.slots.get_mut(&slot) {
            state.armed = false;
            state.after = Some(Gap::Disarmed);
        }
        let xen_ns = Some(look.xen_now);
        if let Some(left_out) = self.tells(slot, look) {
            self.say(xen_ns, Kind::GuestDisarmed { slot, left_out }, out);
        }
        if self.slots.values().all(|s| !s.armed) {
            self.step(look, xen_ns, Input::Disarmed, out);
        }
    }

    /// Expiries in the order of their times.
    fn expiries(
        &mut self,
        changes: &[(&TimerRecord, Change)],
        look: &Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        // Who is told to have acted found the domain running: it had been resumed.
        if changes
            .iter()
            .any(|(r, c)| c.fires > 0 && r.domain.is_some())
        {
            self.down = false;
        }
        let mut fired: Vec<_> = changes.iter().filter(|(_, c)| c.fires > 0).collect();
        fired.sort_by_key(|(record, _)| record.fired);
        for (record, _) in fired {
            self.expired(record, look, out);
        }
    }

    fn expired(&mut self, record: &TimerRecord, look: &Look<'_>, out: &mut Vec<Happening>) {
        let Some(state) = self.slots.get_mut(&record.slot) else {
            return;
        };
        // Set again since: what the deadline was is lost, unless it was seen.
        let (set, deadline) = if record.set <= record.fired {
            (record.set, record.deadline)
        } else if state.set != 0 {
            (state.set, state.deadline)
        } else {
            let timeout_ns = u64::from(record.timeout_s) * crate::sys::clock::NS_PER_S;
            (record.fired.saturating_sub(timeout_ns), record.fired)
        };
        state.expired = true;
        let what = Kind::GuestExpired {
            slot: record.slot,
            timeout_s: record.timeout_s,
            unfed_ms: record.fired.saturating_sub(set) / NS_PER_MS,
            handler_late_us: record.fired.saturating_sub(deadline) / 1_000,
            expiries: match record.domain {
                Some(_) => record.acted,
                None => record.nr_fired,
            },
        };
        for slot in self.slots.values_mut().filter(|s| s.armed || s.expired) {
            slot.after = Some(Gap::Expired);
        }
        let xen_ns = Some(record.fired);
        self.say(xen_ns, what, out);
        // The second slot of a domain that the first has brought down changes nothing.
        if !self.down {
            self.down = true;
            self.step(look, xen_ns, Input::Expired, out);
        }
    }

    /// Kind the domain is doing from now on.
    fn does(&mut self, doing: Option<Doing>, look: &Look<'_>, out: &mut Vec<Happening>) {
        self.doing = doing;
        let doing = doing.unwrap_or_default();
        let held = match doing.shutdown {
            // Whatever code the guest had set in advance.
            _ if self.down => None,
            Some(Shutdown::Suspend) => Some(Gap::Suspended),
            None if doing.paused => Some(Gap::Paused),
            _ => None,
        };
        if let Some(held) = held {
            for slot in self.slots.values_mut().filter(|s| s.armed) {
                if matches!(slot.after, None | Some(Gap::Paused)) {
                    slot.after = Some(held);
                }
            }
        }
        let activity = held.map_or(Activity::Running, |_| Activity::Held);
        self.step(look, None, Input::Doing(activity), out);
    }

    /// Its domain is no longer there. `seen_last`: the record shows how it ended.
    pub fn leave(&mut self, seen_last: bool, look: &Look<'_>, out: &mut Vec<Happening>) {
        let cause = self.cause_of_end(seen_last);
        self.present = false;
        self.cause = cause;
        self.gone_ns = look.now;
        self.boot_failed &= !matches!(cause, Cause::Destroyed | Cause::Poweroff);
        self.doing = None;
        self.seen = None;
        let xen_ns = Some(look.xen_now);
        if self.lifecycle.watched {
            self.say(xen_ns, Kind::GuestGone { cause }, out);
        }
        self.step(look, xen_ns, Input::Gone(cause), out);
    }

    /// Ends an alarm that nothing else can end any more: the guest is gone, and without its
    /// UUID nobody can tell when it comes back, nor name it to close the alarm.
    pub fn give_up(&mut self, look: &Look<'_>, out: &mut Vec<Happening>) {
        let long = look.now.saturating_sub(self.gone_ns) >= GIVE_UP_NS;
        let lost = self.uuid.is_none() && !self.present && (long || self.of_another_boot);
        if lost && self.lifecycle.alarm.is_some() {
            log::warn!(
                "the alarm of domain {} is closed: xenstore never told the domain's UUID, so \
                 nobody can tell whether that guest works again",
                self.incarnation.domid
            );
            self.step(look, None, Input::Close, out);
        }
    }

    fn cause_of_end(&self, seen_last: bool) -> Cause {
        match self.doing.map(|d| (d.shutdown, d.dying)) {
            // A guest can set its shutdown code in advance, and Xen keeps the first one
            // (common/domain.c: domain_shutdown()).
            _ if self.down => Cause::Watchdog,
            Some((Some(why), _)) => cause(why),
            Some((None, dying)) if dying || seen_last => Cause::Destroyed,
            _ => Cause::Unknown,
        }
    }

    /// It is in another domain from now on; the one before is left.
    pub fn enter(
        &mut self,
        incarnation: Incarnation,
        first_seen_ns: Option<Nanoseconds>,
        look: &Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        let previous_domid = self.incarnation.domid;
        self.restored = self.cause == Cause::Suspend;
        self.incarnation = incarnation;
        self.present = true;
        self.of_another_boot = false;
        self.first_seen_ns = first_seen_ns;
        self.down = false;
        self.slots.clear();
        self.seen = None;
        let xen_ns = Some(look.xen_now);
        if self.restored {
            self.step(look, xen_ns, Input::Restored, out);
            return;
        }
        self.fed = false;
        if self.lifecycle.watched {
            let cause = self.cause;
            let what = Kind::GuestRebooted {
                previous_domid,
                cause,
            };
            self.say(xen_ns, what, out);
        }
        self.step(look, xen_ns, Input::Started, out);
    }

    /// `other` was followed apart while it was not known to be this guest, which was left
    /// meanwhile: from now on they are one.
    pub fn become_one_with(&mut self, other: Self, look: &Look<'_>, out: &mut Vec<Happening>) {
        self.name = other.name.clone().or_else(|| self.name.take());
        self.enter(other.incarnation, other.first_seen_ns, look, out);
        self.fed |= other.fed;
        self.boot_failed = (self.boot_failed || other.boot_failed) && !other.fed;
        self.down = other.down;
        self.slots = other.slots;
        self.doing = other.doing;
        self.seen = other.seen;
        self.lifecycle.absorb(&other.lifecycle);
        self.raised = self.raised.or(other.raised);
        if self.restored {
            for slot in self.slots.values_mut().filter(|s| s.fed == 0) {
                slot.after = Some(Gap::Suspended);
            }
        }
    }

    /// As people are told. `age_ns`: how long ago the look was; `stale`: too long.
    #[must_use]
    pub fn report(&self, age_ns: u64, stale: bool) -> GuestReport {
        let seen = self.seen.map(|seen| seen.saturating_add(age_ns));
        let slot = |(slot, s): (&u8, &Slot)| {
            let now = seen?;
            s.armed.then(|| SlotReport {
                slot: *slot,
                timeout_s: s.timeout_s,
                last_fed_age_ms: now.saturating_sub(s.set) / NS_PER_MS,
                margin_ms: s.deadline.saturating_sub(now) / NS_PER_MS,
                expired: s.expired,
            })
        };
        GuestReport {
            uuid: self.uuid,
            name: self.name.as_deref().map(str::to_owned),
            domid: self.incarnation.domid,
            state: self.state(stale),
            slots: self.slots.iter().filter_map(slot).collect(),
            alarm: self.lifecycle.alarm.map(|alarm| AlarmReport {
                phase: alarm.phase.report(),
                raised: self.raised.unwrap_or(Timestamp(0)),
                expiries: alarm.expiries,
                reboots: alarm.reboots,
                acknowledged: alarm.acknowledged,
            }),
            boot_failed: self.boot_failed,
        }
    }

    fn state(&self, stale: bool) -> DomainState {
        if !self.present {
            return DomainState::Gone(self.cause);
        }
        match self.doing {
            _ if stale => DomainState::Unknown,
            None => DomainState::Unknown,
            Some(doing) => match doing.shutdown {
                Some(_) if self.down => DomainState::ShutDown(Cause::Watchdog),
                Some(Shutdown::Suspend) => DomainState::Suspended,
                Some(why) => DomainState::ShutDown(cause(why)),
                None if doing.paused => DomainState::Paused,
                None => DomainState::Running,
            },
        }
    }

    /// Its times on a monotonic clock that is `shift` ahead.
    pub fn shift(&mut self, shift: Nanoseconds) {
        let move_on = |t: &mut Nanoseconds| *t = t.saturating_add(shift);
        move_on(&mut self.gone_ns);
        self.first_seen_ns.as_mut().map(move_on).unwrap_or_default();
        self.lifecycle.shift(shift);
        for slot in self.slots.values_mut() {
            (slot.late_told_ns, slot.minute_ns) = (None, None);
        }
    }
}

/// A soft reset is a reboot that the guest asked for, in place.
fn cause(why: Shutdown) -> Cause {
    match why {
        Shutdown::Poweroff => Cause::Poweroff,
        Shutdown::Reboot | Shutdown::SoftReset => Cause::Reboot,
        Shutdown::Suspend => Cause::Suspend,
        Shutdown::Crash => Cause::Crash,
        Shutdown::Watchdog => Cause::Watchdog,
        Shutdown::Other(_) => Cause::Unknown,
    }
}

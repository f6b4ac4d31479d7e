// SPDX-License-Identifier: GPL-2.0-only
//! One guest: what is known of it, and what each look at its domains means.
//!
//! In: the records of its domains, as they change. Out: [`GuestEvent`]s, in the order in
//! which they came about ([`super::interpret`]). Pure; it is also what is kept over a restart.
//!
//! # One guest, two domains
//!
//! A guest is a UUID; while it is migrated within the host, or restored beside its running
//! self, two domains have the same one. They are one guest:
//! - Its *current* domain is the one that runs; of several, that which has been for longest.
//!   It is left when it no longer runs and another does, or when it is gone. Its arms,
//!   disarms and feeds are the guest's; those of another domain are told once it is current.
//! - An expiry of any of its domains is the guest's, and raises its alarm.
//! - Feeds clear no alarm while a domain of the guest is still there that its watchdog has
//!   shut down: that the other one feeds does not show that this one works.
//! - `guest.gone` means that its last domain is gone. A domain is gone from the moment at
//!   which it begins to be destroyed: it cannot come back from that.
//! - `guest.rebooted` means that the domain before had ended, or shut down other than to be
//!   saved or migrated.

use super::GuestEvent;
use super::alarm::{Input, Lifecycle, Moment, Nanoseconds, Rules};
use super::report::{AlarmReport, GuestReport, SlotReport};
use super::slot::Slot;
use super::stamp::Stamp;
use super::state::DomainState;
use crate::event::{self, Cause, Closing, Gap, Kind, Uuid};
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use crate::xen::table::{Domain, SLOTS};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The first half of a made-up UUID; the second is the creation number under a mark.
const MADE_UP: u64 = 0x8000;
const MADE_UP_MARK: u64 = 0x8 << 60;

/// Whose domain this is. Where no toolstack has set a UUID, a domain is a guest of its own,
/// under the UUID `00000000-0000-8000-8ccc-cccccccccccc` (version 8 of RFC 9562, so that
/// no UUID that was made by the rules is like it) with its creation number as its c's. Such
/// a guest cannot come back: it is closed and forgotten with its domain.
#[must_use]
pub fn identity(domain: &Domain) -> Uuid {
    if domain.uuid.is_nil() {
        return Uuid::from_u64_pair(MADE_UP, MADE_UP_MARK | domain.created);
    }
    domain.uuid
}

/// A domain of a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestDomain {
    /// Its domid.
    pub domid: u16,
    /// Its creation number, which no other domain of the host's boot has.
    pub created: u64,
    /// When it was first seen; `None` if it was there before the monitor.
    pub first_seen_ns: Option<Stamp>,
    /// What it is doing.
    pub state: DomainState,
    /// Its slots, as far as they are told.
    pub slots: [Slot; SLOTS],
    /// While it is not current: the table's latest record of it since, which is told once it is.
    #[serde(skip)]
    pub(super) record: Option<Box<Domain>>,
}

impl GuestDomain {
    /// One of which nothing is told yet.
    #[must_use]
    pub fn new(record: &Domain, first_seen_ns: Option<Nanoseconds>) -> Self {
        Self {
            domid: record.domid,
            created: record.created,
            first_seen_ns: first_seen_ns.map(Stamp::from),
            state: DomainState::Running,
            slots: <[Slot; SLOTS]>::default(),
            record: None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, DomainState::Gone(_))
    }

    pub(super) fn is_down(&self) -> bool {
        self.state == DomainState::ShutDown(Cause::Watchdog)
    }
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Now.
    pub at: Moment,
    /// The time of the look before; `None` where that is too long ago to tell anything.
    pub before: Option<Nanoseconds>,
    /// What was fed since the record before may clear an alarm.
    pub clears: bool,
    /// How long and how often.
    pub rules: &'a Rules,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// Its identity ([`identity`]).
    pub uuid: Uuid,
    /// Its name, once xenstore told it.
    pub name: Option<Arc<str>>,
    /// The domid of its current domain, or of its last.
    pub domid: u16,
    /// Its current domain; none: it is gone.
    pub current: Option<GuestDomain>,
    /// Its other domains, oldest first.
    pub others: Vec<GuestDomain>,
    /// Its state and its alarm.
    pub lifecycle: Lifecycle,
}

impl Guest {
    /// A guest that was never seen before, in this domain.
    #[must_use]
    pub fn new(uuid: Uuid, domain: GuestDomain, now: Nanoseconds) -> Self {
        Self {
            uuid,
            name: None,
            domid: domain.domid,
            current: Some(domain),
            others: Vec::new(),
            lifecycle: Lifecycle::new(now),
        }
    }

    /// All its domains.
    pub fn domains(&self) -> impl Iterator<Item = &GuestDomain> {
        self.current.iter().chain(&self.others)
    }

    /// It is a domain without a UUID.
    fn is_unidentified(&self) -> bool {
        let (first, second) = self.uuid.as_u64_pair();
        first == MADE_UP && second >> 60 == MADE_UP_MARK >> 60
    }

    /// It is gone and cannot come back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_unidentified() && self.current.is_none()
    }

    pub(super) fn emit(&self, domid: u16, what: Kind, out: &mut Vec<GuestEvent>) {
        let guest = event::Guest {
            uuid: Some(self.uuid),
            domid,
            name: self.name.clone(),
        };
        out.push(GuestEvent { guest, what });
    }

    /// Gives the lifecycle an input and says what comes of it.
    pub fn step(&mut self, look: &Look<'_>, input: Input, out: &mut Vec<GuestEvent>) {
        if let Some(what) = self.lifecycle.step(look.at, input, look.rules) {
            self.emit(self.domid, what, out);
        }
    }

    /// It has another domain from now on.
    pub fn add_domain(&mut self, domain: GuestDomain, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        if self.current.is_none() {
            self.enter(domain, self.lifecycle.state, look, out);
        } else {
            self.others.push(domain);
        }
    }

    /// Takes the record of one of its domains, and says what has happened since the last.
    pub fn observe(&mut self, record: &Domain, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let current = self.current.as_ref();
        if current.is_some_and(|d| d.created == record.created) {
            self.follow(Some(record), look, out);
        } else if let Some(at) = self.place(record.created) {
            let mut other = self.others.remove(at);
            other.record = Some(Box::new(*record));
            self.observe_other(&mut other, record, look, out);
            self.others.insert(at, other);
        }
        self.update_current(look, out);
    }

    fn place(&self, created: u64) -> Option<usize> {
        self.others.iter().position(|d| d.created == created)
    }

    /// The domain with this creation number is gone, or no longer the guest's, and nobody saw
    /// how. Gives it.
    pub fn domain_lost(
        &mut self,
        created: u64,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) -> Option<GuestDomain> {
        let all = self.current.iter_mut().chain(&mut self.others);
        let lost = all.into_iter().find(|d| d.created == created)?;
        // Whoever takes it over is about to be given its present record.
        let before = GuestDomain {
            record: None,
            ..lost.clone()
        };
        lost.state = lost.state.lost();
        self.update_current(look, out);
        Some(before)
    }

    /// Leaves what is gone, and finds the current domain.
    fn update_current(&mut self, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        self.others.retain(|other| !other.is_gone());
        while let Some(current) = &self.current {
            let state = current.state;
            let runs = |d: &GuestDomain| d.state == DomainState::Running;
            let next = match self.others.iter().position(runs) {
                None if current.is_gone() => self.others.len().checked_sub(1),
                running => running,
            };
            match next {
                _ if state == DomainState::Running => return,
                Some(next) => {
                    let mut next = self.others.remove(next);
                    let record = next.record.take();
                    let left = self.current.take().filter(|d| !d.is_gone());
                    self.others.extend(left);
                    self.others.sort_by_key(|d| d.created);
                    self.enter(next, state, look, out);
                    // It may have fed before the alarm was raised.
                    let clears = false;
                    self.follow(record.as_deref(), &Look { clears, ..*look }, out);
                }
                None if current.is_gone() => {
                    self.current = None;
                    self.gone(state, look, out);
                }
                None => return,
            }
        }
    }

    fn gone(&mut self, state: DomainState, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        if let (DomainState::Gone(cause), true) = (state, self.lifecycle.is_watched()) {
            self.emit(self.domid, Kind::GuestGone { cause }, out);
        }
        if self.is_unidentified() {
            self.step(look, Input::Close(Closing::Unidentified), out);
        }
        self.step(look, Input::State(state), out);
    }

    /// `domain` is current from now on; the one before was left in the state `left`.
    fn enter(
        &mut self,
        mut domain: GuestDomain,
        left: DomainState,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let previous_domid = std::mem::replace(&mut self.domid, domain.domid);
        if let Some(cause) = left.ended_by() {
            if self.lifecycle.is_watched() {
                let what = Kind::GuestRebooted {
                    previous_domid,
                    cause,
                };
                self.emit(domain.domid, what, out);
            }
            self.step(look, Input::Started, out);
        } else {
            for slot in &mut domain.slots {
                slot.after.get_or_insert(Gap::Suspended);
            }
            self.step(look, Input::Returned, out);
        }
        // It may have been current before, and have armed then.
        if !domain.is_down() && domain.slots.iter().any(|s| s.armed) {
            self.step(look, Input::Armed, out);
        }
        self.current = Some(domain);
    }

    /// As people are told. `now`: the look that `stale` says is too long ago or not.
    #[must_use]
    pub fn report(&self, now: Nanoseconds, stale: bool) -> GuestReport {
        let slots = self.current.iter().flat_map(|d| (1..).zip(&d.slots));
        let slot = |(n, s): (u8, &Slot)| {
            let unfed_ns = u64::try_from(now.saturating_sub(s.set_ns)).unwrap_or(0);
            let left_ns = (u64::from(s.timeout_s) * NS_PER_S).saturating_sub(unfed_ns);
            SlotReport {
                slot: n,
                timeout_s: s.timeout_s,
                last_fed_age_ms: unfed_ns / NS_PER_MS,
                margin_ms: left_ns / NS_PER_MS,
                expired: s.acted != 0 && s.acted == s.sets,
            }
        };
        GuestReport {
            uuid: Some(self.uuid),
            name: self.name.as_deref().map(str::to_owned),
            domid: self.domid,
            state: match self.lifecycle.state {
                DomainState::Gone(cause) => DomainState::Gone(cause),
                _ if stale => DomainState::Unknown,
                state => state,
            },
            slots: slots.filter(|(_, s)| s.armed).map(slot).collect(),
            alarm: self.lifecycle.alarm.map(|alarm| AlarmReport {
                phase: alarm.phase.report(),
                raised: alarm.raised,
                expiries: alarm.expiries,
                reboots: alarm.reboots,
                acknowledged: alarm.acknowledged,
            }),
            boot_failed: self.lifecycle.boot_failed(),
            feeds_unseen: None,
        }
    }

    /// The host has booted since, and its monotonic clock is `shift` ahead: none of its
    /// domains is there any more. Creation numbers begin anew; 0 is none.
    pub fn outlive_boot(&mut self, shift: Nanoseconds) {
        self.lifecycle.shift(shift);
        self.others.clear();
        if let Some(current) = &mut self.current {
            current.created = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_of_one_domain_takes_no_more_than_320_bytes() {
        assert_eq!(size_of::<Slot>(), 64);
        assert!(size_of::<Guest>() <= 320, "{}", size_of::<Guest>());
    }
}

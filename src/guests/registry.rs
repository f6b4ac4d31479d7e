// SPDX-License-Identifier: GPL-2.0-only
//! The registry: which domain is which guest, and what happened to each.
//!
//! In: the table, look by look, the domains' names, the time. Out: [`GuestEvent`]s, for each
//! guest in the order in which they came about; the report; what is to be kept. Pure: no
//! clock, no file, no thread.
//!
//! A guest is its UUID, and a domain is its domid and its creation number; both are the
//! table's. A domain whose UUID is changed (a toolstack may do that at any time) is from
//! then on one of the other guest's, with what was told of it; the alarm stays where it
//! was raised.
//!
//! Promises: an expiry is told once, also if its domain is gone before the next look, or
//! came and went while the monitor was down: the table keeps the record until the domid
//! is used again. Nothing of one domain is ever taken for another's. Memory is bounded.

use super::alarm::{Input, Moment, Nanoseconds, Rules};
use super::changed::Changed;
use super::guest::{Guest, GuestDomain, Look, identity};
use super::owners::{Owner, Owners};
use super::report::GuestsReport;
use super::roster::{Place, Roster};
use super::state::DomainState;
use super::{DomainNames, GuestEvent, RequestError};
use crate::event::{Cause, Closing, Kind, Timestamp, Uuid};
use crate::sys::clock::NS_PER_MS;
use crate::xen::table::{Domain, Table};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const NS_PER_S: Nanoseconds = 1_000_000_000;
/// Age of the latest look from which on it tells nothing: while there is no guest, looks are one second apart, or two where one of two
/// watchers hangs.
pub const STALE_NS: Nanoseconds = 4 * NS_PER_S;
/// How long a guest that is gone without an alarm is remembered, so that its return is
/// told as a reboot.
const REMEMBER_NS: Nanoseconds = 600 * NS_PER_S;
/// A saved or migrated one: it may come back much later.
const REMEMBER_SUSPENDED_NS: Nanoseconds = 86_400 * NS_PER_S;
/// Most guests that are gone but not forgotten; the oldest go.
pub const MOST_GONE: usize = 4096;
/// The version of [`Saved`].
pub const SAVED_VERSION: u32 = 2;

/// What outlives the monitor, and the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// [`SAVED_VERSION`].
    pub version: u32,
    /// dom0's boot, as in /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// When it was saved: CLOCK_MONOTONIC of that boot, ns.
    pub monotonic_ns: Nanoseconds,
    /// The same as wall time.
    pub time: Timestamp,
    /// The highest creation number that was looked at.
    pub created: u64,
    /// All that are not forgotten.
    pub guests: Vec<Guest>,
}

/// How often something changed that is worth keeping; `urgent` is what must be kept at once,
/// so that a kill neither loses nor repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All.
    pub any: u64,
    /// Of alarms and of domains that come and go.
    pub urgent: u64,
    /// Domains that came or went.
    pub domains: u64,
}

/// All guests.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    guests: Roster,
    /// The domain of each domid: its creation number and its guest.
    domains: Owners,
    /// The highest creation number that was looked at; none before the first look.
    created: Option<u64>,
    changed: Changed,
    /// The latest look of this monitor.
    looked: Option<Nanoseconds>,
    /// When it was last looked for what is due by time alone.
    tidied: Option<Nanoseconds>,
    /// The names as last taken over.
    names: Arc<DomainNames>,
    changes: Changes,
}

impl Registry {
    /// A registry that knows nobody.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            guests: Roster::default(),
            domains: Owners::default(),
            created: None,
            changed: Changed::default(),
            looked: None,
            tidied: None,
            names: Arc::default(),
            changes: Changes::default(),
        }
    }

    /// Goes on from what was saved. In another boot than that all its domains are gone, and
    /// the first turn says so.
    #[must_use]
    pub fn restore(rules: Rules, saved: Saved, boot_id: &str, at: Moment) -> Self {
        let mut registry = Self::new(rules);
        let same_boot = saved.boot_id == boot_id && !boot_id.is_empty();
        // The wall clock tells how far apart the two monotonic clocks are.
        let wall_us = at.wall.0.saturating_sub(saved.time.0).max(0);
        let shift = at.ns.saturating_sub(saved.monotonic_ns);
        let shift = shift.saturating_sub(wall_us.saturating_mul(1_000));
        registry.created = Some(if same_boot { saved.created } else { 0 });
        for mut guest in saved.guests {
            if !same_boot {
                guest.outlive_boot(shift);
            }
            let domains = guest.domains().filter(|_| same_boot);
            let domains: Vec<(u16, u64)> = domains.map(|d| (d.domid, d.created)).collect();
            let place = registry.guests.insert(guest);
            for (domid, created) in domains {
                registry.domains.set(domid, Owner { created, place });
            }
        }
        registry
    }

    /// What is to be kept, as of now.
    #[must_use]
    pub fn saved(&self, boot_id: &str, at: Moment) -> Saved {
        let mut guests = Vec::with_capacity(self.guests.count());
        guests.extend(self.guests.iter().cloned());
        Saved {
            version: SAVED_VERSION,
            boot_id: boot_id.to_owned(),
            monotonic_ns: at.ns,
            time: at.wall,
            created: self.created.unwrap_or(0),
            guests,
        }
    }

    /// The names as last taken over.
    #[must_use]
    pub fn names(&self) -> &Arc<DomainNames> {
        &self.names
    }

    /// How often something changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// The domains that are there: domid and creation number.
    pub fn domains(&self) -> impl Iterator<Item = (u16, u64)> {
        self.domains.iter()
    }

    /// Takes a look at the table. One of a moment before that of the latest look is none: whoever was held up since it read the clock
    /// would have fed guests fed then, and the time between count twice.
    pub fn turn(&mut self, at: Moment, table: &Table<'_>) -> Vec<GuestEvent> {
        if self.looked.is_some_and(|looked| at.ns < looked) {
            return Vec::new();
        }
        let rules = self.rules;
        let live = |then: &Nanoseconds| at.ns.saturating_sub(*then) <= STALE_NS;
        let before = self.looked.filter(live);
        let look = Look {
            at,
            before,
            clears: true,
            rules: &rules,
        };
        let mut out = Vec::new();
        if before.is_none() {
            self.resume(table, &look, &mut out);
        }
        // Read first: the records of all domains up to this number are looked at below.
        let created = table.created();
        let seen = self.created.unwrap_or(created);
        self.created = Some(created.max(seen));
        let before_domains = self.changes.domains;
        let mut changed = std::mem::take(&mut self.changed);
        // What is left, as others have nothing to tell.
        for record in changed.look(table, |record| self.fed(record, &look)) {
            self.take(&record, seen, &look, &mut out);
        }
        self.changed = changed;
        if self.changes.domains != before_domains {
            self.rename(&Arc::clone(&self.names));
        }
        self.looked = Some(at.ns);
        if self
            .tidied
            .is_none_or(|then| at.ns.saturating_sub(then) >= NS_PER_S)
        {
            self.tidied = Some(at.ns);
            self.tidy(&look, &mut out);
        }
        self.count(&out);
        out
    }

    /// The first look, or the first after a break: what nobody saw counts for nothing, and
    /// domains whose record is another's by now are gone.
    fn resume(&mut self, table: &Table<'_>, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let domains = &mut self.domains;
        self.guests.update(|guest| {
            guest.lifecycle.skip(look.at.ns);
            let all = guest.domains().map(|d| (d.domid, d.created));
            let all: Vec<(u16, u64)> = all.collect();
            for (domid, created) in all {
                if created == 0 || table.created_of(domid) != created {
                    guest.domain_lost(created, look, out);
                    if domains.get(domid).is_some_and(|d| d.created == created) {
                        domains.clear(domid);
                    }
                }
            }
        });
        // Before another domain has their creation numbers, after a boot of the host.
        self.guests.retain(|guest| !guest.is_over());
    }

    /// Takes a record of a domain that has done nothing since the look before but feed, so that there is nothing to
    /// tell; says whether it is one. Most that change are, and it costs far less than [`Registry::take`].
    fn fed(&mut self, record: &Domain, look: &Look<'_>) -> bool {
        let Some(owner) = self.domains.get(record.domid) else {
            return false;
        };
        let guest = self.guests.at_mut(owner.place);
        guest.is_some_and(|guest| guest.only_fed(record, look))
    }

    /// Takes a record that changed. `seen`: domains up to this number were looked at before.
    fn take(&mut self, record: &Domain, seen: u64, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let uuid = identity(record);
        let ended = record.dying || !record.exists;
        let owner = self.domains.get(record.domid);
        let is_same = |owner: Owner| {
            let guest = self.guests.at(owner.place);
            owner.created == record.created && guest.is_some_and(|guest| guest.uuid == uuid)
        };
        let mut domain = None;
        let place = match owner {
            Some(owner) if is_same(owner) => owner.place,
            // What is gone since a look before was told then.
            None if ended && record.created <= seen => return,
            owner => {
                if let Some(Owner { created, place }) = owner {
                    let before = self.guests.at_mut(place);
                    let lost = before.and_then(|guest| guest.domain_lost(created, look, out));
                    domain = lost.filter(|_| created == record.created);
                    self.domains.clear(record.domid);
                }
                let first_seen_ns = look.before.map(|_| look.at.ns);
                let domain = domain.unwrap_or_else(|| GuestDomain::new(record, first_seen_ns));
                let place = self.add_domain(uuid, domain, look, out);
                self.name_new(place, record.created);
                let created = record.created;
                self.domains.set(record.domid, Owner { created, place });
                self.changes.domains += 1;
                place
            }
        };
        if let Some(guest) = self.guests.at_mut(place) {
            let state = guest.lifecycle.state;
            guest.observe(record, look, out);
            self.changes.any += u64::from(guest.lifecycle.state != state);
        }
        if ended {
            self.domains.clear(record.domid);
            self.changes.domains += 1;
        }
        self.created = self.created.map(|created| created.max(record.created));
    }

    fn add_domain(
        &mut self,
        uuid: Uuid,
        domain: GuestDomain,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) -> Place {
        let known = self.guests.place(uuid);
        let guest = known.and_then(|place| self.guests.at_mut(place));
        match (known, guest) {
            (Some(place), Some(guest)) => {
                guest.add_domain(domain, look, out);
                place
            }
            _ => self.guests.insert(Guest::new(uuid, domain, look.at.ns)),
        }
    }

    /// Names a guest that has no name yet after its new domain, before anything is told of it.
    fn name_new(&mut self, place: Place, created: u64) {
        let guest = self.guests.at_mut(place);
        if let Some(guest) = guest.filter(|guest| guest.name.is_none()) {
            guest.name = self.names.by_domain.get(&created).cloned();
        }
    }

    fn count(&mut self, out: &[GuestEvent]) {
        self.changes.any += out.len() as u64;
        // All but what a guest can bring about as often as it likes.
        let urgent = out.iter().filter(|h| {
            use Kind::{GuestArmed, GuestDisarmed, GuestFedAgain, GuestLate};
            !matches!(
                h.what,
                GuestArmed { .. } | GuestDisarmed { .. } | GuestFedAgain { .. } | GuestLate { .. }
            )
        });
        self.changes.urgent += urgent.count() as u64;
    }

    /// Takes the names as far as they are known.
    pub fn rename(&mut self, names: &Arc<DomainNames>) {
        self.names = Arc::clone(names);
        let any = &mut self.changes.any;
        self.guests.update(|guest| {
            let current = guest.current.as_ref();
            let name = current.and_then(|d| names.by_domain.get(&d.created));
            if name.is_some() && guest.name.as_ref() != name {
                guest.name = name.cloned();
                *any += 1;
            }
        });
    }

    /// What is due by time alone; bounds what is remembered of guests that are gone.
    fn tidy(&mut self, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let before = self.guests.count();
        let mut gone = 0;
        self.guests.retain(|guest| {
            guest.step(look, Input::Tick, out);
            let remember = match guest.lifecycle.state {
                DomainState::Gone(Cause::Suspend) => REMEMBER_SUSPENDED_NS,
                DomainState::Gone(_) => REMEMBER_NS,
                _ => return true,
            };
            let recent = look.at.ns.saturating_sub(guest.lifecycle.since_ns) < remember;
            let kept = guest.lifecycle.alarm.is_some() || guest.lifecycle.is_watched() && recent;
            let kept = kept && !guest.is_over();
            gone += usize::from(kept);
            kept
        });
        if gone > MOST_GONE {
            self.evict(gone - MOST_GONE, look, out);
        }
        self.changes.any += u64::from(self.guests.count() != before);
    }

    /// Forgets so many of those that are gone, those with an alarm last, the oldest first.
    fn evict(&mut self, surplus: usize, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let gone = self.guests.iter().filter(|g| g.current.is_none());
        let mut gone: Vec<_> = gone
            .map(|g| (g.lifecycle.alarm.is_some(), g.lifecycle.since_ns, g.uuid))
            .collect();
        gone.sort_unstable();
        for (_, _, uuid) in gone.into_iter().take(surplus) {
            if let Some(mut guest) = self.guests.remove(uuid) {
                guest.step(look, Input::Close(Closing::Evicted), out);
            }
        }
    }

    /// Marks a guest's alarm as taken care of by a user; once is enough.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn acknowledge(
        &mut self,
        uuid: Uuid,
        uid: u32,
        at: Moment,
    ) -> Result<Vec<GuestEvent>, RequestError> {
        self.order(uuid, Input::Acknowledge(uid), at)
    }

    /// Ends a guest's alarm.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn close(&mut self, uuid: Uuid, at: Moment) -> Result<Vec<GuestEvent>, RequestError> {
        self.order(uuid, Input::Close(Closing::Operator), at)
    }

    /// Ends the alarm of so many expiries of a guest that feeds on another host, as no domain of it is on this one.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn fed_elsewhere(
        &mut self,
        uuid: Uuid,
        expiries: u32,
        at: Moment,
    ) -> Result<Vec<GuestEvent>, RequestError> {
        let guest = self.guests.get(uuid).ok_or(RequestError::NoGuest)?;
        let alarm = guest.lifecycle.alarm.ok_or(RequestError::NoAlarm)?;
        if alarm.expiries != expiries {
            return Err(RequestError::AnotherAlarm);
        }
        if guest.current.is_some() || !self.is_looked_at(at) {
            return Err(RequestError::MaybeHere);
        }
        self.order(uuid, Input::Close(Closing::FedElsewhere), at)
    }

    fn is_looked_at(&self, at: Moment) -> bool {
        let live = |then| at.ns.saturating_sub(then) <= STALE_NS;
        self.looked.is_some_and(live)
    }

    fn order(
        &mut self,
        uuid: Uuid,
        input: Input,
        at: Moment,
    ) -> Result<Vec<GuestEvent>, RequestError> {
        let is_looked_at = self.is_looked_at(at);
        let rules = &self.rules;
        let guest = self.guests.get_mut(uuid).ok_or(RequestError::NoGuest)?;
        if guest.lifecycle.alarm.is_none() {
            return Err(RequestError::NoAlarm);
        }
        if !is_looked_at {
            guest.lifecycle.skip(at.ns);
        }
        let look = Look {
            at,
            before: None,
            clears: true,
            rules,
        };
        let mut out = Vec::new();
        guest.step(&look, input, &mut out);
        self.count(&out);
        Ok(out)
    }

    /// As people are told.
    #[must_use]
    pub fn report(&self, now: Nanoseconds) -> GuestsReport {
        let age_ns = self.looked.map(|looked| now.saturating_sub(looked));
        let stale = age_ns.is_none_or(|age| age > STALE_NS);
        let shown = self.guests.iter().filter(|g| {
            let recent = now.saturating_sub(g.lifecycle.since_ns) < REMEMBER_NS;
            g.lifecycle.alarm.is_some()
                || g.lifecycle.is_watched() && (g.current.is_some() || recent)
        });
        GuestsReport {
            version: 1,
            guests: shown.map(|g| g.report(now, stale)).collect(),
            evidence_age_ms: age_ns.map(|age| u64::try_from(age).unwrap_or(0) / NS_PER_MS),
            names_trouble: self.names.trouble.clone(),
            no_table: None,
        }
    }
}

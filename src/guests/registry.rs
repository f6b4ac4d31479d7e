// SPDX-License-Identifier: GPL-2.0-only
//! The registry: which domain is which guest, and what happened to each.
//!
//! In: the looks at the hypervisor, the table of domains, the time. Out: [`Happening`]s,
//! for each guest in the order in which they came about; the report; what is to be kept.
//! Pure: no clock, no file, no thread.
//!
//! Promises: an expiry is told once, also if its domain is destroyed before the next look
//! (the released records still show it) or the daemon was down meanwhile. A guest whose
//! UUID is not known is followed all the same, after a second's wait for it, and becomes
//! one with its UUID's guest as soon as that is known. Memory is bounded.
//!
//! dom0's own watchdog slots are no guest's: when they expire the host goes down. Of a
//! guest that comes and goes between two looks nothing is told.

use super::alarm::{Activity, Input, Nanoseconds, Rules};
use super::guest::{Guest, Incarnation, Look};
use super::owners::Owners;
use super::report::GuestsReport;
use super::{DeskError, Happening};
use crate::event::{Kind, Timestamp, Uuid};
use crate::monitor::domains::DomainTable;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::xen::liveness::{Doing, TimerRecord};
use crate::xen::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const NS_PER_S: Nanoseconds = 1_000_000_000;
/// How long a new domain waits for its UUID before it is followed without.
const HOLD_NS: Nanoseconds = NS_PER_S;
/// Age of the latest look from which on it tells nothing.
pub const STALE_NS: Nanoseconds = 2 * NS_PER_S;
/// How long a guest that is gone without an alarm is remembered, so that its return is
/// told as a reboot.
const REMEMBER_NS: Nanoseconds = 600 * NS_PER_S;
/// A saved or migrated one: it may come back much later.
const REMEMBER_SUSPENDED_NS: Nanoseconds = 86_400 * NS_PER_S;
/// Most guests that are gone but not forgotten; the oldest go.
pub const MOST_GONE: usize = 4096;
/// The version of [`Saved`].
pub const SAVED_VERSION: u32 = 1;

/// Kind outlives the daemon, and the host.
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
    /// All that are not forgotten.
    pub guests: Vec<Guest>,
    /// Domains that were still there although their guest had gone on in another.
    #[serde(default)]
    pub left: Vec<Incarnation>,
}

/// How often something changed that is worth keeping; `urgent` is what must be kept at once, so
/// that a kill neither loses nor repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All.
    pub any: u64,
    /// Of alarms and of domains that come and go.
    pub urgent: u64,
}

/// How a guest is found: by its UUID, or by its domain while that is not known (or is
/// that of another guest that is running).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Uuid(Uuid),
    Domain(Incarnation),
}

/// A domain that is not followed yet.
#[derive(Clone, Debug)]
struct Newcomer {
    since: Nanoseconds,
    at_start: bool,
    slots: Vec<(u8, u32)>,
}

/// A snapshot, sorted by domain.
struct Sorted {
    present: BTreeMap<Incarnation, Vec<TimerRecord>>,
    released: BTreeMap<(u16, u8, u32), TimerRecord>,
    xen_now: u64,
}

/// All guests.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    guests: BTreeMap<Key, Guest>,
    newcomers: BTreeMap<Incarnation, Newcomer>,
    /// Domains whose guest has gone on in another although they are still there.
    left: BTreeSet<Incarnation>,
    owners: Owners,
    /// The latest look.
    taken: Option<Monotonic>,
    xen_now: u64,
    names_trouble: Option<String>,
    pages_left_out: u32,
    changes: Changes,
}

/// A moment of our monotonic clock, as the registry counts.
#[must_use]
pub fn nanoseconds(at: Monotonic) -> Nanoseconds {
    Nanoseconds::try_from(at.0).unwrap_or(Nanoseconds::MAX)
}

impl Registry {
    /// A registry that knows nobody.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            guests: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            left: BTreeSet::new(),
            owners: Owners::default(),
            taken: None,
            xen_now: 0,
            names_trouble: None,
            pages_left_out: 0,
            changes: Changes::default(),
        }
    }

    /// Goes on from what was saved. In another boot than that all its domains are gone:
    /// the first turn says so. `now` and `wall` are the present.
    #[must_use]
    pub fn restore(
        rules: Rules,
        saved: Saved,
        boot_id: &str,
        now: Monotonic,
        wall: Timestamp,
    ) -> Self {
        let now = nanoseconds(now);
        let mut registry = Self::new(rules);
        let other_boot = saved.boot_id != boot_id || boot_id.is_empty();
        // The wall clock tells how far apart the two monotonic clocks are.
        let wall_passed = wall.0.saturating_sub(saved.time.0).max(0);
        let wall_passed = wall_passed.saturating_mul(1_000);
        let shift = now
            .saturating_sub(saved.monotonic_ns)
            .saturating_sub(wall_passed);
        if !other_boot {
            registry.left.extend(saved.left);
        }
        for mut guest in saved.guests {
            if other_boot {
                guest.shift(shift);
                // No record of this boot is one of that boot's: none has generation 0.
                guest.slots.clear();
                guest.incarnation.generation = 0;
                guest.of_another_boot = true;
            }
            if guest.present {
                for (slot, state) in &guest.slots {
                    let owner = guest.incarnation;
                    registry.owners.know(*slot, state.generation, owner);
                }
            }
            let key = match guest.uuid {
                Some(uuid) if !registry.guests.contains_key(&Key::Uuid(uuid)) => Key::Uuid(uuid),
                _ => registry.place_of(&mut guest),
            };
            registry.guests.insert(key, guest);
        }
        registry
    }

    /// A place that is free for a guest which is followed by its domain: several of another
    /// boot may have had the same domid.
    fn place_of(&self, guest: &mut Guest) -> Key {
        while self.guests.contains_key(&Key::Domain(guest.incarnation)) {
            let generation = &mut guest.incarnation.generation;
            *generation = generation.wrapping_sub(1);
        }
        Key::Domain(guest.incarnation)
    }

    /// Kind is to be kept, as of now.
    #[must_use]
    pub fn saved(&self, boot_id: &str, now: Monotonic, wall: Timestamp) -> Saved {
        Saved {
            version: SAVED_VERSION,
            boot_id: boot_id.to_owned(),
            monotonic_ns: nanoseconds(now),
            time: wall,
            guests: self.guests.values().cloned().collect(),
            left: self.left.iter().copied().collect(),
        }
    }

    /// How often something changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// A look at the present that nothing new was seen in.
    fn outlook<'a>(&self, rules: &'a Rules, now: Monotonic, wall: Timestamp) -> Look<'a> {
        Look {
            now: nanoseconds(now),
            wall,
            xen_now: self.xen_now,
            rules,
            last: false,
        }
    }

    /// Takes the latest look (the same one as before is no news) and the table of domains.
    pub fn turn(
        &mut self,
        now: Monotonic,
        wall: Timestamp,
        snapshot: Option<&Snapshot>,
        domains: &DomainTable,
    ) -> Vec<Happening> {
        let rules = self.rules;
        let mut look = self.outlook(&rules, now, wall);
        let mut out = Vec::new();
        self.names_trouble.clone_from(&domains.trouble);
        match snapshot.filter(|s| self.taken != Some(s.taken)) {
            Some(snapshot) => {
                let sorted = sort(snapshot, &mut self.owners);
                look.xen_now = sorted.xen_now;
                self.look(&sorted, domains, look, &mut out);
                self.xen_now = sorted.xen_now;
                self.taken = Some(snapshot.taken);
                self.pages_left_out = snapshot.pages_left_out;
            }
            None => self.without_a_look(look, &mut out),
        }
        for guest in self.guests.values_mut() {
            guest.step(&look, Some(look.xen_now), Input::Tick, &mut out);
            guest.give_up(&look, &mut out);
        }
        self.forget(look.now);
        self.count(&out);
        out
    }

    fn count(&mut self, out: &[Happening]) {
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

    /// Kind is unknown neither feeds nor fails.
    fn without_a_look(&mut self, look: Look<'_>, out: &mut Vec<Happening>) {
        let age = self.taken.map(|t| look.now.saturating_sub(nanoseconds(t)));
        if age.is_some_and(|age| age <= STALE_NS) {
            return;
        }
        for guest in self.guests.values_mut().filter(|g| g.present) {
            guest.step(&look, None, Input::Doing(Activity::Unknown), out);
        }
    }

    fn look(
        &mut self,
        sorted: &Sorted,
        domains: &DomainTable,
        look: Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        let mut followed = BTreeSet::new();
        for guest in self.guests.values_mut().filter(|g| g.present) {
            let doing = guest.doing;
            if let Some(records) = sorted.present.get(&guest.incarnation) {
                guest.observe(records, &look, out);
                followed.insert(guest.incarnation);
            } else {
                finish(guest, sorted, look, out);
                self.changes.any += 1;
            }
            if guest.doing != doing {
                self.changes.any += 1;
            }
        }
        self.revive(sorted);
        self.welcome(sorted, domains, &followed, look, out);
        self.unite(domains, look, out);
        self.rename(domains);
    }

    /// A domain that its guest had left but that runs again (its migration failed) is
    /// followed again.
    fn revive(&mut self, sorted: &Sorted) {
        self.left.retain(|incarnation| {
            let records = sorted.present.get(incarnation);
            let doing = records.and_then(|r| r.iter().find_map(|r| r.domain));
            records.is_some() && doing.is_none_or(|d| d.dying || d.shutdown.is_some())
        });
    }

    /// Follows the domains that nobody follows yet.
    fn welcome(
        &mut self,
        sorted: &Sorted,
        domains: &DomainTable,
        followed: &BTreeSet<Incarnation>,
        look: Look<'_>,
        out: &mut Vec<Happening>,
    ) {
        let at_start = self.taken.is_none();
        for (incarnation, records) in &sorted.present {
            if !followed.contains(incarnation) && !self.left.contains(incarnation) {
                self.newcomers
                    .entry(*incarnation)
                    .or_insert_with(|| Newcomer {
                        since: look.now,
                        at_start,
                        slots: records.iter().map(|r| (r.slot, r.generation)).collect(),
                    });
            }
        }
        for (incarnation, newcomer) in std::mem::take(&mut self.newcomers) {
            let uuid = domains.get(incarnation).and_then(|d| d.uuid);
            let present = sorted.present.get(&incarnation);
            let waits = look.now.saturating_sub(newcomer.since) < HOLD_NS;
            if uuid.is_none() && waits && present.is_some() {
                self.newcomers.insert(incarnation, newcomer);
                continue;
            }
            let doing = present.and_then(|r| r.iter().find_map(|r| r.domain));
            let mut guest = self.guest_for(incarnation, &newcomer, uuid, doing, look, out);
            if let Some(name) = domains.get(incarnation).and_then(|d| d.name.clone()) {
                guest.name = Some(name);
            }
            match present {
                Some(records) => guest.observe(records, &look, out),
                None => {
                    for (slot, generation) in newcomer.slots {
                        let slot_state = super::slot::Slot::new(generation, None);
                        guest.slots.entry(slot).or_insert(slot_state);
                    }
                    finish(&mut guest, sorted, look, out);
                }
            }
            self.put_back(guest);
        }
    }

    /// The guest that a domain belongs to, taken out of the registry, with the domain entered.
    fn guest_for(
        &mut self,
        incarnation: Incarnation,
        newcomer: &Newcomer,
        uuid: Option<Uuid>,
        doing: Option<Doing>,
        look: Look<'_>,
        out: &mut Vec<Happening>,
    ) -> Guest {
        self.changes.any += 1;
        let first_seen_ns = (!newcomer.at_start).then_some(newcomer.since);
        let known = uuid.map(Key::Uuid);
        let left = known.filter(|k| self.guests.get(k).is_some_and(|g| leaves(g, doing)));
        if let Some(mut guest) = left.and_then(|key| self.guests.remove(&key)) {
            if guest.present {
                self.left.insert(guest.incarnation);
                guest.leave(false, &look, out);
            }
            guest.enter(incarnation, first_seen_ns, &look, out);
            return guest;
        }
        let mut guest = Guest::new(incarnation, first_seen_ns, look.now);
        guest.uuid = uuid;
        guest
    }

    /// Files a guest under its UUID, or under its domain where that place is taken.
    fn put_back(&mut self, guest: Guest) {
        let key = match guest.uuid.map(Key::Uuid) {
            Some(key) if !self.guests.contains_key(&key) => key,
            _ => Key::Domain(guest.incarnation),
        };
        self.guests.insert(key, guest);
    }

    /// Guests that are followed by domain become one with their UUID's guest, once that is
    /// known and the other has left its own domain.
    fn unite(&mut self, domains: &DomainTable, look: Look<'_>, out: &mut Vec<Happening>) {
        let apart: Vec<Key> = self.guests.keys().copied().collect();
        for key in apart.into_iter().filter(|k| matches!(k, Key::Domain(_))) {
            let Some(mut guest) = self.guests.remove(&key) else {
                continue;
            };
            if guest.uuid.is_none() {
                let told = domains.get(guest.incarnation).and_then(|d| d.uuid);
                guest.uuid = told;
                self.changes.any += u64::from(told.is_some());
            }
            let target = guest.uuid.and_then(|u| self.guests.get_mut(&Key::Uuid(u)));
            match target {
                Some(target) if guest.present && leaves(target, guest.doing) => {
                    if target.present {
                        self.left.insert(target.incarnation);
                        target.leave(false, &look, out);
                    }
                    target.become_one_with(guest, &look, out);
                    self.changes.any += 1;
                }
                _ => self.put_back(guest),
            }
        }
    }

    fn rename(&mut self, domains: &DomainTable) {
        for guest in self.guests.values_mut().filter(|g| g.present) {
            let told = domains.get(guest.incarnation).and_then(|d| d.name.as_ref());
            if told.is_some() && guest.name.as_ref() != told {
                guest.name = told.cloned();
                self.changes.any += 1;
            }
        }
    }

    /// Bounds what is remembered of guests that are gone.
    fn forget(&mut self, now: Nanoseconds) {
        let before = self.guests.len();
        self.guests.retain(|_, guest| {
            let remember = match guest.cause {
                crate::event::Cause::Suspend => REMEMBER_SUSPENDED_NS,
                _ => REMEMBER_NS,
            };
            guest.present
                || guest.lifecycle.alarm.is_some()
                || guest.lifecycle.watched && now.saturating_sub(guest.gone_ns) < remember
        });
        let mut gone: Vec<_> = (self.guests.iter())
            .filter(|(_, g)| !g.present)
            .map(|(key, g)| (g.lifecycle.alarm.is_some(), g.gone_ns, *key))
            .collect();
        if gone.len() > MOST_GONE {
            gone.sort_unstable();
            let (mut alarms, surplus) = (0, gone.len() - MOST_GONE);
            for (alarm, _, key) in gone.into_iter().take(surplus) {
                self.guests.remove(&key);
                alarms += u32::from(alarm);
            }
            if alarms > 0 {
                log::warn!(
                    "{alarms} alarms of guests that are long gone are forgotten: \
                     more than {MOST_GONE} are open"
                );
            }
        }
        self.changes.any += u64::from(self.guests.len() != before);
    }

    fn by_uuid(&mut self, uuid: Uuid) -> Result<&mut Guest, DeskError> {
        let mut guests = self.guests.values_mut().filter(|g| g.uuid == Some(uuid));
        let first = guests.next().ok_or(DeskError::NoGuest)?;
        if first.lifecycle.alarm.is_some() {
            return Ok(first);
        }
        guests
            .find(|g| g.lifecycle.alarm.is_some())
            .ok_or(DeskError::NoAlarm)
    }

    /// Marks a guest's alarm as taken care of; once is enough.
    ///
    /// # Errors
    /// [`DeskError`].
    pub fn acknowledge(
        &mut self,
        uuid: Uuid,
        uid: u32,
        now: Monotonic,
    ) -> Result<Vec<Happening>, DeskError> {
        let rules = self.rules;
        let guest = self.by_uuid(uuid)?;
        let now = nanoseconds(now);
        let mut out = Vec::new();
        let said = guest.lifecycle.step(now, Input::Acknowledge, &rules);
        if said.is_some() {
            out.push(Happening {
                guest: Some(guest.named()),
                xen_ns: None,
                what: Kind::AlarmAcknowledged { uid },
            });
        }
        self.count(&out);
        Ok(out)
    }

    /// Ends a guest's alarm.
    ///
    /// # Errors
    /// [`DeskError`].
    pub fn close(
        &mut self,
        uuid: Uuid,
        now: Monotonic,
        wall: Timestamp,
    ) -> Result<Vec<Happening>, DeskError> {
        let rules = self.rules;
        let look = self.outlook(&rules, now, wall);
        let mut out = Vec::new();
        self.by_uuid(uuid)?
            .step(&look, None, Input::Close, &mut out);
        self.count(&out);
        Ok(out)
    }

    /// As people are told.
    #[must_use]
    pub fn report(&self, now: Monotonic) -> GuestsReport {
        let age_ns = self.taken.map(|taken| now.since_ns(taken));
        let stale = age_ns.is_none_or(|age| age > STALE_NS.unsigned_abs());
        let now = nanoseconds(now);
        let shown = self.guests.values().filter(|g| {
            g.lifecycle.alarm.is_some()
                || g.lifecycle.watched && (g.present || now.saturating_sub(g.gone_ns) < REMEMBER_NS)
        });
        GuestsReport {
            version: 1,
            guests: shown
                .map(|g| g.report(age_ns.unwrap_or(0), stale))
                .collect(),
            evidence_age_ms: age_ns.map(|age| age / NS_PER_MS),
            names_trouble: self.names_trouble.clone(),
            pages_left_out: self.pages_left_out,
        }
    }
}

/// `guest` has left its domain, or is leaving it while another of the same UUID, which is
/// doing `other`, runs: a migration that fails leaves its target paused.
fn leaves(guest: &Guest, other: Option<Doing>) -> bool {
    let other_runs = other.is_none_or(|d| !d.paused && !d.dying && d.shutdown.is_none());
    !guest.present
        || guest
            .doing
            .is_some_and(|d| d.dying || d.shutdown.is_some() && other_runs)
}

/// A guest's domain is gone: what its records still show, then the end.
fn finish(guest: &mut Guest, sorted: &Sorted, look: Look<'_>, out: &mut Vec<Happening>) {
    let domid = guest.incarnation.domid;
    let found: Vec<TimerRecord> = (guest.slots.iter())
        .filter_map(|(slot, s)| sorted.released.get(&(domid, *slot, s.generation)))
        .copied()
        .collect();
    if !found.is_empty() {
        guest.observe(&found, &Look { last: true, ..look }, out);
    }
    guest.leave(!found.is_empty(), &look, out);
}

fn sort(snapshot: &Snapshot, owners: &mut Owners) -> Sorted {
    let guests = snapshot.timers.iter().map(|(_, t)| t);
    let present = owners.sort(guests.filter(|t| t.domid != 0));
    let released = snapshot.released.iter();
    Sorted {
        present,
        released: released
            .map(|(_, r)| ((r.domid, r.slot, r.generation), *r))
            .collect(),
        xen_now: snapshot.now,
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The fold: what a host's log says, in one bounded value.
//!
//! In: the records of one host, in their order. Out: its [`HostState`]. The pool's state is the set of these, one for
//! each host, so the order between hosts cannot matter, nor how often a record comes: a record that does not
//! continue its own host's log is not applied. Whoever knows the same logs to the same positions has the same
//! bytes in its hash.
//!
//! Promises: bounded whatever the log holds; the oldest of a kind goes first, by its place in the log, so that all
//! hosts forget the same. Never: a clock, or a look at another host's state.

use super::reach::OutOfReach;
use super::record::{
    Acknowledged, At, Boot, Cleared, EventOf, GuestFacts, HookDone, HostFacts, HostId, Position,
    Record, What, short,
};
use super::sightings::Absence;
use crate::event::{Timestamp, Uuid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Guests, alarms, ends of alarms and acknowledgements that are kept of each host: as many as a monitor keeps.
pub const MAX_OF_A_KIND: usize = 4_096;
/// Alarms that one record ends or acknowledges: one on each host that corosync can have.
pub const MAX_ALARMS: usize = 128;
/// Hooks, and hosts of each, whose progress is kept.
pub const MAX_HOOKS: usize = 16;

/// What a host's log says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// The last record that is in it.
    pub position: Position,
    /// When that was written, by the host's clock.
    pub time: Option<Timestamp>,
    /// The host's name.
    pub name: String,
    /// The kernel's name for the boot.
    pub boot_id: String,
    /// The version of its program.
    pub version: String,
    /// How it is.
    pub facts: HostFacts,
    /// The monitor's number of its last event.
    pub event_seq: Option<u64>,
    /// Its guests.
    pub guests: BTreeMap<Uuid, Placed<GuestFacts>>,
    /// Alarms that its monitor has open.
    pub alarms: BTreeMap<Uuid, Alarm>,
    /// Alarms elsewhere that ended as the guest feeds here: of each host the last `alarm.raised` that is over.
    pub cleared: BTreeMap<Uuid, Placed<BTreeMap<HostId, Position>>>,
    /// Alarms that were acknowledged here, likewise.
    pub acknowledged: BTreeMap<Uuid, Placed<BTreeMap<HostId, Position>>>,
    /// How far the hooks that were run here have come, by hook and by whose events.
    pub hooks: BTreeMap<String, BTreeMap<HostId, Position>>,
    /// Hooks that were run here.
    pub hook_runs: u64,
    /// What it told of other hosts, by these: their last absences, by their numbers.
    #[serde(default)]
    pub sightings: BTreeMap<HostId, Vec<Absence>>,
    /// What it cannot reach of the pool.
    #[serde(default)]
    pub out_of_reach: OutOfReach,
    /// Records that were of no known kind.
    pub unknown: u64,
}

/// A value and the record that it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed<T> {
    /// The record's place.
    pub position: Position,
    /// The value.
    pub value: T,
}

/// An alarm of a host's monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The record that raised it.
    pub raised: Position,
    /// The last expiry: what ended before that has not ended this.
    pub expired: Position,
    /// When it was raised, by that host's clock.
    pub since: Timestamp,
    /// Expiries, as the monitor counts them.
    pub expiries: u64,
    /// The guest's name.
    pub name: Option<String>,
    /// The guest's domain there.
    pub domid: Option<u16>,
    /// Somebody acknowledged it at that host's monitor.
    pub acknowledged: bool,
    /// That monitor says that the guest is not there any more.
    pub moved: bool,
}

impl HostState {
    /// Applies the next record of this host. Whether it is the next is the caller's to know ([`super::store`]).
    pub fn apply(&mut self, record: &Record) {
        let at = record.position;
        match &record.what {
            What::Boot(boot) if at.seq == 1 => self.boot(boot),
            What::Host(facts) => self.facts = facts.clone(),
            What::Guests(changes) => {
                for uuid in &changes.gone {
                    self.guests.remove(uuid);
                }
                for guest in &changes.are {
                    let value = guest.clone();
                    let placed = Placed {
                        position: at,
                        value,
                    };
                    self.guests.insert(guest.uuid, placed);
                }
                bound(&mut self.guests, |guest| guest.position);
            }
            What::Event(event) => self.event(event, record),
            What::Cleared(Cleared { guest, alarms, .. }) => {
                note(&mut self.cleared, *guest, alarms, at);
            }
            What::Acknowledged(Acknowledged { guest, alarms, .. }) => {
                note(&mut self.acknowledged, *guest, alarms, at);
            }
            What::Hook(done) => self.hook(done),
            What::Sighting(sighting) => self.sighting(sighting, at),
            What::Reach(reach) => self.out_of_reach.apply(reach, record.time),
            // A boot begins nowhere else.
            What::Boot(_) | What::Other => self.unknown = self.unknown.saturating_add(1),
        }
        self.position = at;
        self.time = Some(record.time);
    }

    /// A boot without a past begins a state without one. After another boot no guest runs yet; alarms stay.
    fn boot(&mut self, boot: &Boot) {
        if boot.after.is_none() {
            *self = Self::default();
        }
        self.guests.clear();
        self.name = short(&boot.name);
        self.boot_id = short(&boot.boot_id);
        self.version = short(&boot.version);
        self.facts.guard = None;
        self.event_seq = boot.event_seq;
    }

    fn event(&mut self, event: &EventOf, record: &Record) {
        let fields = &event.event;
        if let Some(seq) = fields.get("seq").and_then(Value::as_u64) {
            self.event_seq = Some(seq);
        }
        let Some(uuid) = guest_of(fields) else {
            return;
        };
        match kind_of(fields) {
            "alarm.raised" => self.raise(uuid, fields, record),
            "alarm.cleared" | "alarm.closed" => {
                self.alarms.remove(&uuid);
            }
            "alarm.acknowledged" => {
                if let Some(alarm) = self.alarms.get_mut(&uuid) {
                    alarm.acknowledged = true;
                }
            }
            "alarm.moved" => {
                if let Some(alarm) = self.alarms.get_mut(&uuid) {
                    alarm.moved = true;
                }
            }
            _ => {}
        }
    }

    fn raise(&mut self, uuid: Uuid, fields: &Map<String, Value>, record: &Record) {
        let guest = fields.get("guest").and_then(Value::as_object);
        let name = guest.and_then(|guest| guest.get("name")?.as_str());
        let domid = guest.and_then(|guest| guest.get("domid")?.as_u64());
        let time = fields.get("time").and_then(Value::as_str);
        let alarm = self.alarms.entry(uuid).or_insert_with(|| Alarm {
            raised: record.position,
            expired: record.position,
            since: time
                .and_then(|time| time.parse().ok())
                .unwrap_or(record.time),
            expiries: 0,
            name: None,
            domid: None,
            acknowledged: false,
            moved: false,
        });
        alarm.expired = record.position;
        alarm.moved = false;
        let expiries = fields.get("expiries").and_then(Value::as_u64);
        alarm.expiries = expiries.unwrap_or(alarm.expiries.saturating_add(1));
        alarm.name = name.map(short).or(alarm.name.take());
        alarm.domid = domid.and_then(|domid| u16::try_from(domid).ok());
        bound(&mut self.alarms, |alarm| alarm.expired);
    }

    fn hook(&mut self, done: &HookDone) {
        if done.ran {
            self.hook_runs = self.hook_runs.saturating_add(1);
        }
        if self.hooks.len() >= MAX_HOOKS && !self.hooks.contains_key(&done.hook) {
            return;
        }
        let of = self.hooks.entry(short(&done.hook)).or_default();
        if of.len() >= MAX_ALARMS && !of.contains_key(&done.upto.host) {
            return;
        }
        let upto = of.entry(done.upto.host).or_default();
        *upto = (*upto).max(done.upto.position);
    }

    /// The same for the same records, on any host: the SHA-256 of its JSON.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        // Maps are sorted, and nothing in it can fail to be written.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(json).into()
    }
}

/// Notes which alarms of a guest are over; later ones replace earlier ones of the same host.
fn note(
    noted: &mut BTreeMap<Uuid, Placed<BTreeMap<HostId, Position>>>,
    guest: Uuid,
    alarms: &[At],
    at: Position,
) {
    let placed = noted.entry(guest).or_insert_with(|| Placed {
        position: at,
        value: BTreeMap::new(),
    });
    placed.position = at;
    for alarm in alarms.iter().take(MAX_ALARMS) {
        if placed.value.len() >= MAX_ALARMS && !placed.value.contains_key(&alarm.host) {
            continue;
        }
        let upto = placed.value.entry(alarm.host).or_default();
        *upto = (*upto).max(alarm.position);
    }
    bound(noted, |noted| noted.position);
}

/// Forgets the oldest beyond [`MAX_OF_A_KIND`].
fn bound<T>(map: &mut BTreeMap<Uuid, T>, position: impl Fn(&T) -> Position) {
    while map.len() > MAX_OF_A_KIND {
        let oldest = map
            .iter()
            .min_by_key(|(uuid, value)| (position(value), **uuid));
        let Some(uuid) = oldest.map(|(uuid, _)| *uuid) else {
            return;
        };
        map.remove(&uuid);
    }
}

/// The kind of an event; empty: it has none.
#[must_use]
pub fn kind_of(event: &Map<String, Value>) -> &str {
    event
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The guest that an event is about.
#[must_use]
pub fn guest_of(event: &Map<String, Value>) -> Option<Uuid> {
    let guest = event.get("guest")?.as_object()?;
    guest.get("uuid")?.as_str()?.parse().ok()
}

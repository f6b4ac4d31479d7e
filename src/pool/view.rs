// SPDX-License-Identifier: GPL-2.0-only
//! The pool as people and programs ask for it: its hosts, its guests, and which alarms are open.
//!
//! In: what is known of each host, and who is a member now. Out: reports. An alarm of host A's monitor is open until that
//! monitor ends it, or until another host has written that the guest feeds there and that it knew of the alarm's last
//! expiry ([`super::record::Cleared`]); a later expiry is not ended by that. Pure.

use super::fold::{Alarm, HostState};
use super::promises::Promise;
use super::record::{At, GuardFacts, HostId, Position, ResetFacts};
use super::store::Store;
use crate::event::{Timestamp, Uuid};
use crate::fencing::told::Power;
use crate::guests::report::DomainState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of a host's membership here and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Its node's number, while it is a member.
    pub node: Option<u32>,
    /// Since a message of it was last heard, ns; none: never.
    pub heard_ns: Option<u64>,
}

/// The pool's hosts. Fields are only ever added within a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsReport {
    /// Of this form: 1.
    pub version: u32,
    /// The host that answers.
    pub me: HostId,
    /// Why it is not on the ring; null where it is.
    pub trouble: Option<String>,
    /// Whether this partition has quorum; null: not known.
    pub quorate: Option<bool>,
    /// Who leads; null: nobody, or it is not known.
    pub leader: Option<HostId>,
    /// Equal on two hosts where both know the same.
    pub hash: String,
    /// Every host that was ever seen.
    pub hosts: Vec<HostReport>,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// For good.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// It is in this partition.
    pub member: bool,
    /// Its number in corosync; null: it is no member.
    pub node: Option<u32>,
    /// Since a message of it was last heard here; null: not since this program started, so nobody can say.
    pub heard_ms: Option<u64>,
    /// How much of its log is known here.
    pub position: Position,
    /// When the last record was written, by its clock.
    pub time: Option<Timestamp>,
    /// Its boot, as the kernel names it.
    pub boot_id: String,
    /// What its guard does; null: not known.
    pub guard: Option<GuardFacts>,
    /// Why it went down last.
    pub reset: Option<ResetFacts>,
    /// What it promises to do without quorum; null: nothing, as far as is known.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// Whether it is on, as fencing has it; null: this host is off the ring, or never heard that one.
    #[serde(default)]
    pub power: Option<Power>,
    /// Guests with watchdogs that it has.
    pub guests: usize,
    /// Alarms raised there that are open.
    pub alarms: usize,
}

/// The pool's guests. Fields are only ever added within a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolGuests {
    /// Of this form: 1.
    pub version: u32,
    /// Whether this partition has quorum: without, guests elsewhere may be otherwise.
    pub quorate: Option<bool>,
    /// Every guest that a host has, or that has an open alarm.
    pub guests: Vec<PoolGuest>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolGuest {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: Option<String>,
    /// Where it is, as each host says that has it.
    pub places: Vec<Place>,
    /// Its open alarms.
    pub alarms: Vec<OpenAlarm>,
}

/// A guest on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub host_name: String,
    /// It is in this partition; otherwise this is what it said last.
    pub member: bool,
    /// The domain there.
    pub domid: u16,
    /// What that is doing.
    pub state: DomainState,
    /// It has an armed watchdog that has not expired.
    pub fed: bool,
}

/// An open alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAlarm {
    /// The host whose monitor raised it.
    pub host: HostId,
    /// Its name.
    pub host_name: String,
    /// The record of its last expiry.
    pub at: At,
    /// When it was raised, by that host's clock.
    pub since: Timestamp,
    /// Expiries.
    pub expiries: u64,
    /// Somebody takes care of it.
    pub acknowledged: bool,
    /// That monitor says that the guest is not there any more.
    pub moved: bool,
}

/// Whether an alarm of `host` has ended as its guest feeds elsewhere.
fn is_cleared(store: &Store, guest: Uuid, host: HostId, expired: Position) -> bool {
    noted(store, guest, host, expired, |state| &state.cleared)
}

type Notes = BTreeMap<Uuid, super::fold::Placed<BTreeMap<HostId, Position>>>;

fn noted(
    store: &Store,
    guest: Uuid,
    host: HostId,
    expired: Position,
    of: fn(&HostState) -> &Notes,
) -> bool {
    store.hosts().any(|(_, log)| {
        let notes = of(log.state()).get(&guest);
        notes.is_some_and(|notes| notes.value.get(&host).is_some_and(|upto| *upto >= expired))
    })
}

/// The open alarm that an alarm of `host` is; none: it has ended elsewhere.
fn open(store: &Store, host: HostId, guest: Uuid, alarm: &Alarm) -> Option<OpenAlarm> {
    if is_cleared(store, guest, host, alarm.expired) {
        return None;
    }
    let acknowledged = alarm.acknowledged
        || noted(store, guest, host, alarm.expired, |state| {
            &state.acknowledged
        });
    Some(OpenAlarm {
        host,
        host_name: store
            .host(host)
            .map(|log| log.state().name.clone())
            .unwrap_or_default(),
        at: At {
            host,
            position: alarm.expired,
        },
        since: alarm.since,
        expiries: alarm.expiries,
        acknowledged,
        moved: alarm.moved,
    })
}

/// The open alarms of a guest, wherever they were raised.
#[must_use]
pub fn alarms_of(store: &Store, guest: Uuid) -> Vec<OpenAlarm> {
    let of = |(host, log): (HostId, &super::store::HostLog)| {
        let alarm = log.state().alarms.get(&guest)?;
        open(store, host, guest, alarm)
    };
    store.hosts().filter_map(of).collect()
}

/// The pool's guests, by their UUIDs.
#[must_use]
pub fn guests(
    store: &Store,
    presence: &BTreeMap<HostId, Presence>,
    quorate: Option<bool>,
) -> PoolGuests {
    let mut found: BTreeMap<Uuid, PoolGuest> = BTreeMap::new();
    let mut names: BTreeMap<(Uuid, HostId), &str> = BTreeMap::new();
    let of = |found: &mut BTreeMap<Uuid, PoolGuest>, uuid, add: &mut dyn FnMut(&mut PoolGuest)| {
        add(found.entry(uuid).or_insert_with(|| PoolGuest {
            uuid,
            name: None,
            places: Vec::new(),
            alarms: Vec::new(),
        }));
    };
    for (host, log) in store.hosts() {
        let state = log.state();
        let member = presence.get(&host).is_some_and(|p| p.node.is_some());
        for (uuid, guest) in &state.guests {
            let facts = &guest.value;
            let place = Place {
                host,
                host_name: state.name.clone(),
                member,
                domid: facts.domid,
                state: facts.state,
                fed: facts.fed,
            };
            if let Some(name) = &facts.name {
                names.insert((*uuid, host), name);
            }
            of(&mut found, *uuid, &mut |guest| {
                guest.places.push(place.clone());
            });
        }
        for (uuid, alarm) in &state.alarms {
            if let Some(open) = open(store, host, *uuid, alarm) {
                of(&mut found, *uuid, &mut |guest| {
                    guest.alarms.push(open.clone());
                    guest.name = guest.name.take().or_else(|| alarm.name.clone());
                });
            }
        }
    }
    // Where it is first, then where it was.
    for guest in found.values_mut() {
        guest
            .places
            .sort_by_key(|place| (is_gone(place.state), !place.member, !place.fed, place.host));
        // As it is called where it is: a domain that a migration leaves behind has another name.
        let places = guest.places.iter();
        let mut called = places.filter_map(|place| names.get(&(guest.uuid, place.host)));
        if let Some(name) = called.next() {
            guest.name = Some((*name).to_owned());
        }
    }
    PoolGuests {
        version: 1,
        quorate,
        guests: found.into_values().collect(),
    }
}

/// The domain is not there any more.
#[must_use]
pub fn is_gone(state: DomainState) -> bool {
    matches!(state, DomainState::Gone(_))
}

/// A host as the table has it.
#[must_use]
pub fn host(store: &Store, id: HostId, state: &HostState, presence: Presence) -> HostReport {
    let alarms = state.alarms.iter();
    let open = alarms.filter(|(guest, alarm)| open(store, id, **guest, alarm).is_some());
    HostReport {
        id,
        name: state.name.clone(),
        member: presence.node.is_some(),
        node: presence.node,
        heard_ms: presence.heard_ns.map(|ns| ns / 1_000_000),
        position: state.position,
        time: state.time,
        boot_id: state.boot_id.clone(),
        guard: state.facts.guard.clone(),
        reset: state.facts.reset.clone(),
        promise: None,
        power: None,
        guests: state
            .guests
            .values()
            .filter(|guest| !is_gone(guest.value.state))
            .count(),
        alarms: open.count(),
    }
}

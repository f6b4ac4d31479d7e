// SPDX-License-Identifier: GPL-2.0-only
//! Hosts that are lost, fenced and back, as the pool tells of them.
//!
//! In: who is in the group and on corosync's ring, what is known of each host, orders to fence that succeeded. Out:
//! records ([`Sighting`]) of whoever leads, and of the member that fenced. Without quorum nobody tells of others: a host that is cut
//! off tells of itself ([`super::reach`]). Pure, as [`super::node`] is.
//!
//! Each host's absences are counted, and an absence is told of by at most four sightings: silent, lost, fenced, back. Absence and
//! kind are the key. A leader that dies before others know what it wrote leaves the next one to tell the same with the
//! same key; who has passed the one is not given the other ([`is_repeated`]), and such are counted.

use super::fold::HostState;
use super::node::Node;
use super::record::{HostId, Position, Record, ResetFacts, What, short};
use super::store::Store;
use super::told::position_of;
use crate::event::describe::plain;
use crate::event::{Timestamp, Uuid};
use crate::fencing::order::How;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Absences of each host that are kept: repetitions of older ones are not known as such.
pub const MAX_ABSENCES: usize = 8;
/// Guests of a lost host that are named.
const MAX_GUESTS: usize = 24;
/// Longest name of these, characters.
const MAX_NAME: usize = 64;
/// Corosync tells of a node that leaves its ring within this of telling that it left the group, ns.
const LOST_NS: u64 = NS_PER_S;
/// The service is started again within this, ns: that is no silence.
const SILENT_NS: u64 = 15 * NS_PER_S;
/// A host that was not heard since this member joined may still come, for so long, ns.
const FIRST_NS: u64 = 60 * NS_PER_S;
/// Why it went down is told by the monitor of a host that is back within this, ns.
const REASON_NS: u64 = 30 * NS_PER_S;
/// How often it is looked at, ns.
const LOOK_NS: u64 = 500 * NS_PER_MS;

/// What was seen of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Which.
    pub of: HostId,
    /// Its name.
    pub name: String,
    /// Counts its absences, from 1.
    pub absence: u64,
    /// What.
    pub saw: Saw,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Saw {
    /// Its xenwarden-pool is away, while its corosync is on the ring: how the host is nobody knows.
    Silent(Away),
    /// Its corosync is not on the ring.
    Lost(Away),
    /// It is down for certain.
    Fenced {
        /// How that is known.
        how: How,
    },
    /// It is heard again.
    Back(Back),
    /// Of a newer version.
    #[serde(other)]
    Other,
}

/// A host that is away, and what it said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// For so long whoever tells has not heard it; null: not since its program started.
    pub silent_ms: Option<u64>,
    /// Whoever tells has quorum.
    pub quorate: bool,
    /// The host's boot.
    pub boot_id: String,
    /// When it wrote its last record, by its clock.
    pub last: Option<Timestamp>,
    /// Its guard kicked; null: not known.
    pub kick: Option<bool>,
    /// Why not.
    pub reason: Option<String>,
    /// A host that is wedged, hung or dead is down after so long; null: nothing promised that.
    pub fence_bound_ms: Option<u64>,
    /// Why it had gone down the last time.
    pub reset: Option<ResetFacts>,
    /// The guests with watchdogs that it had.
    pub guest_count: u64,
    /// Those of them that have room here.
    pub guests: Vec<Lost>,
}

/// A guest of a host that is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: Option<String>,
}

/// A host that is back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    /// For so long it was away, as far as whoever tells knows.
    pub away_ms: Option<u64>,
    /// It never went down: it is the boot that was lost.
    pub same_boot: bool,
    /// Its boot.
    pub boot_id: String,
    /// It was fenced.
    pub fenced: bool,
    /// Why it went down, as its monitor says; null: it did not, or that is not known.
    pub reset: Option<ResetFacts>,
}

/// An absence of a host, as one log tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// Which.
    pub number: u64,
    /// Where it is told that the host is silent.
    pub silent: Option<Position>,
    /// And lost.
    pub lost: Option<Position>,
    /// And fenced.
    pub fenced: Option<Position>,
    /// And back.
    pub back: Option<Position>,
    /// The boot that was away.
    pub boot_id: String,
    /// Why that host had gone down the time before.
    pub reset: Option<ResetFacts>,
}

impl Absence {
    /// Where an event of that kind is noted; none: no absence is told of by that kind.
    fn place(&mut self, kind: &str) -> Option<&mut Option<Position>> {
        Some(match kind {
            "pool.host_silent" => &mut self.silent,
            "pool.host_lost" => &mut self.lost,
            "pool.host_fenced" => &mut self.fenced,
            "pool.host_back" => &mut self.back,
            _ => return None,
        })
    }

    /// The number of the absence that is told of next: this one while it is not over.
    fn next_number(&self) -> u64 {
        self.number.saturating_add(u64::from(!self.is_open()))
    }

    /// Somebody told that it has begun, and nobody that it is over.
    fn is_open(&self) -> bool {
        self.number > 0 && self.back.is_none()
    }
}

impl Saw {
    /// The kind of its event; none: of a newer version.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Silent(_) => "pool.host_silent",
            Self::Lost(_) => "pool.host_lost",
            Self::Fenced { .. } => "pool.host_fenced",
            Self::Back(_) => "pool.host_back",
            Self::Other => return None,
        })
    }
}

impl HostState {
    /// Where its host told this of that absence of another.
    fn told_at(&self, of: HostId, number: u64, kind: &str) -> Option<Position> {
        let mut all = self.sightings.get(&of)?.iter();
        let mut known = all.find(|absence| absence.number == number)?.clone();
        *known.place(kind)?
    }

    /// Notes what its host told of another.
    pub(super) fn sighting(&mut self, sighting: &Sighting, at: Position) {
        if self.sightings.len() >= super::store::MAX_HOSTS
            && !self.sightings.contains_key(&sighting.of)
        {
            return;
        }
        let all = self.sightings.entry(sighting.of).or_default();
        let index = match all.binary_search_by_key(&sighting.absence, |absence| absence.number) {
            Ok(index) => index,
            Err(index) => {
                let number = sighting.absence;
                all.insert(
                    index,
                    Absence {
                        number,
                        ..Absence::default()
                    },
                );
                index
            }
        };
        if let Some(absence) = all.get_mut(index) {
            if let Saw::Silent(away) | Saw::Lost(away) = &sighting.saw {
                absence.boot_id = short(&away.boot_id);
                absence.reset.clone_from(&away.reset);
            }
            let kind = sighting.saw.kind().unwrap_or_default();
            if let Some(place) = absence.place(kind) {
                place.get_or_insert(at);
            }
        }
        let surplus = all.len().saturating_sub(MAX_ABSENCES);
        all.drain(..surplus);
    }
}

/// A host's last absence, as all logs tell of it together; the number 0: there was none.
#[must_use]
pub fn last_absence(store: &Store, of: HostId) -> Absence {
    let mut last = Absence::default();
    for (_, log) in store.hosts() {
        let Some(known) = log.state().sightings.get(&of).and_then(|all| all.last()) else {
            continue;
        };
        if known.number > last.number {
            last = known.clone();
        } else if known.number == last.number {
            last.silent = last.silent.or(known.silent);
            last.lost = last.lost.or(known.lost);
            last.fenced = last.fenced.or(known.fenced);
            last.back = last.back.or(known.back);
            if last.boot_id.is_empty() {
                last.boot_id.clone_from(&known.boot_id);
                last.reset.clone_from(&known.reset);
            }
        }
    }
    last
}

/// The key of an event of these kinds: the same, whoever tells it.
#[must_use]
pub fn key_of(event: &Map<String, Value>) -> Option<&str> {
    let kind = super::fold::kind_of(event);
    Absence::default().place(kind)?;
    event.get("key")?.as_str()
}

/// Whether somebody who has passed these places was given the same by another host: it is not given again.
#[must_use]
pub fn is_repeated(
    store: &Store,
    event: &Map<String, Value>,
    passed: &BTreeMap<HostId, Position>,
) -> bool {
    let told = || {
        let host = position_of(event)?.host;
        let of: HostId = event.get("peer_id")?.as_str()?.parse().ok()?;
        let number = event.get("absence")?.as_u64()?;
        Some((host, of, number))
    };
    if key_of(event).is_none() {
        return false;
    }
    let Some((host, of, number)) = told() else {
        return false;
    };
    let kind = super::fold::kind_of(event);
    store.hosts().any(|(other, log)| {
        let at = log.state().told_at(of, number, kind);
        // What is no longer kept it may have been given or not: once more is better.
        let kept = at.filter(|at| *at > log.base().position);
        other != host && kept.is_some_and(|at| passed.get(&other) >= Some(&at))
    })
}

/// What a member remembers of others for this.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Since when this member is on the ring.
    pub(super) joined: u64,
    /// The nodes that hosts had that are away, and since when.
    pub(super) gone: BTreeMap<HostId, (u32, u64)>,
    /// When the last absence of each became known here, and for how long it had lasted then.
    learned: BTreeMap<HostId, (u64, u64, Option<u64>)>,
    /// What was written last of each, which may not be on the disk yet.
    said: BTreeMap<HostId, (u64, &'static str)>,
    due: u64,
}

impl Node {
    /// Notes when an absence becomes known, and what was told twice.
    pub(super) fn learn_sighting(&mut self, record: &Record, sighting: &Sighting, now: u64) {
        let kind = sighting.saw.kind().unwrap_or_default();
        let twice = self.store.hosts().any(|(host, log)| {
            let at = log.state().told_at(sighting.of, sighting.absence, kind);
            host != record.host && at.is_some()
        });
        self.counts.sightings_twice += u64::from(twice);
        let silent_ms = match &sighting.saw {
            Saw::Silent(away) | Saw::Lost(away) => away.silent_ms,
            _ => Some(0),
        };
        let known = self.watch.learned.get(&sighting.of);
        if known.is_none_or(|(number, ..)| *number < sighting.absence) || kind == "pool.host_fenced"
        {
            let silent_ms = match known {
                Some((number, at, silent_ms)) if *number == sighting.absence => {
                    let since = now.saturating_sub(*at) / NS_PER_MS;
                    silent_ms.map(|ms| ms.saturating_add(since))
                }
                _ => silent_ms,
            };
            let learned = (sighting.absence, now, silent_ms);
            self.watch.learned.insert(sighting.of, learned);
        }
    }

    /// Tells of hosts that are lost, and of those that are back, if this one leads.
    pub(super) fn watch_hosts(&mut self, now: u64) {
        if now < self.watch.due || !self.leads(now) || !self.wants_events() {
            return;
        }
        self.watch.due = now.saturating_add(LOOK_NS);
        let hosts: Vec<HostId> = self.store.hosts().map(|(host, _)| host).collect();
        for host in hosts {
            let last = last_absence(&self.store, host);
            let told = match self.ring.since_of(host, self.identity.host) {
                Some(since) => self.back(host, &last, since, now),
                None => self.away(host, &last, now),
            };
            if let Some((absence, saw)) = told {
                self.tell(host, absence, saw);
            }
        }
    }

    fn tell(&mut self, of: HostId, absence: u64, saw: Saw) {
        let key = (absence, saw.kind().unwrap_or_default());
        // What is on its way to the disk is not in the state yet.
        if self.watch.said.get(&of) == Some(&key) {
            return;
        }
        self.watch.said.insert(of, key);
        let name = self.store.host(of).map(|log| log.state().name.clone());
        self.write(What::Sighting(Sighting {
            of,
            name: name.unwrap_or_default(),
            absence,
            saw,
        }));
    }

    fn away(&self, host: HostId, last: &Absence, now: u64) -> Option<(u64, Saw)> {
        let gone = self.watch.gone.get(&host);
        let on_ring = match gone {
            Some((node, _)) => self.nodes().contains(node),
            // One of those that have said nothing may be it.
            None => self.nodes().len() > self.ring.count(),
        };
        let (since, grace) = match gone {
            Some((_, since)) if on_ring => (*since, SILENT_NS),
            Some((_, since)) => (*since, LOST_NS),
            None => (self.watch.joined, FIRST_NS),
        };
        if now.saturating_sub(since) < grace {
            return None;
        }
        let absence = last.next_number();
        let is_told = last.is_open() && (last.lost.is_some() || on_ring);
        let away = || self.last_words(host, now);
        match on_ring {
            _ if is_told => None,
            true => Some((absence, Saw::Silent(away()?))),
            false => Some((absence, Saw::Lost(away()?))),
        }
    }

    fn last_words(&self, host: HostId, now: u64) -> Option<Away> {
        let state = self.store.host(host)?.state();
        let guard = state.facts.guard.as_ref();
        let guests = state.guests.values().map(|guest| &guest.value);
        let here = guests.filter(|guest| !super::view::is_gone(guest.state));
        let named = here.clone().take(MAX_GUESTS).map(|guest| {
            let name = guest.name.as_deref().map(plain);
            let name = name.map(|name| name.chars().take(MAX_NAME).collect());
            let uuid = guest.uuid;
            Lost { uuid, name }
        });
        let heard = self.ring.heard(host);
        Some(Away {
            silent_ms: heard.map(|heard| now.saturating_sub(heard) / NS_PER_MS),
            quorate: self.quorate() == Some(true),
            boot_id: state.boot_id.clone(),
            last: state.time,
            kick: guard.map(|guard| guard.kick),
            reason: guard.and_then(|guard| guard.reason.clone()),
            fence_bound_ms: guard.and_then(|guard| guard.fence_bound_ms),
            reset: state.facts.reset.clone(),
            guest_count: u64::try_from(here.count()).unwrap_or(u64::MAX),
            guests: named.collect(),
        })
    }

    /// `since`: when it came.
    fn back(&self, host: HostId, last: &Absence, since: u64, now: u64) -> Option<(u64, Saw)> {
        if !last.is_open() {
            return None;
        }
        let learned = self.watch.learned.get(&host);
        let learned = learned.filter(|(number, ..)| *number == last.number);
        // A host that was just fenced may still be counted as a member.
        let heard = match host == self.identity.host {
            true => now,
            false => self.ring.heard(host)?,
        };
        if learned.is_some_and(|(_, at, _)| heard <= *at) {
            return None;
        }
        let state = self.store.host(host)?.state();
        let same_boot = state.boot_id == last.boot_id;
        let is_said = same_boot || state.facts.guard.is_some();
        if !is_said && now.saturating_sub(since) < REASON_NS {
            return None;
        }
        let reset = state.facts.reset.clone();
        let is_new = !same_boot && reset != last.reset;
        let away_ms = learned.and_then(|(_, at, silent_ms)| {
            let known = now.saturating_sub(*at) / NS_PER_MS;
            silent_ms.map(|ms| ms.saturating_add(known))
        });
        let back = Back {
            away_ms,
            same_boot,
            boot_id: state.boot_id.clone(),
            fenced: last.fenced.is_some(),
            reset: reset.filter(|_| is_new),
        };
        Some((last.number, Saw::Back(back)))
    }

    /// An order to fence that was given here has succeeded.
    pub fn fenced(&mut self, node: u32, how: How) {
        let Some(host) = self.ring.host_that_had(node) else {
            log::warn!("node {node} was fenced, whose host is not known");
            return;
        };
        let last = last_absence(&self.store, host);
        if last.is_open() && last.fenced.is_some() {
            return;
        }
        let absence = last.next_number();
        self.tell(host, absence, Saw::Fenced { how });
    }
}

/// The fields that an event of a sighting has of its own.
#[must_use]
pub fn fields(sighting: &Sighting) -> Option<Value> {
    let kind = sighting.saw.kind()?;
    let mut fields = match &sighting.saw {
        Saw::Silent(away) | Saw::Lost(away) => serde_json::to_value(away).ok()?,
        Saw::Fenced { how } => serde_json::json!({ "how": how }),
        Saw::Back(back) => serde_json::to_value(back).ok()?,
        Saw::Other => return None,
    };
    let of = sighting.of;
    let word = kind.rsplit('_').next().unwrap_or_default();
    let own = fields.as_object_mut()?;
    own.insert("peer".to_owned(), sighting.name.clone().into());
    own.insert("peer_id".to_owned(), of.to_string().into());
    own.insert("absence".to_owned(), sighting.absence.into());
    let key = format!("{of}/{}/{word}", sighting.absence);
    own.insert("key".to_owned(), key.into());
    Some(fields)
}

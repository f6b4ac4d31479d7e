// SPDX-License-Identifier: GPL-2.0-only
//! Records as subscribers and hooks see them: one JSON object each.
//!
//! In: a record. Out: an event of its host's monitor as that gave it, or one of the pool's own in the same form,
//! each with its `position`; none for what is no event. Within version 1 fields are only ever added, as in
//! xenwarden-events(7).

use super::fold::{guest_of, kind_of};
use super::record::{At, Stored, What};
use super::sightings::{self, Saw};
use super::store::Store;
use crate::event::Uuid;
use crate::event::kind::matches;
use serde_json::{Map, Value, json};

/// Kinds of the pool's own events.
pub const KINDS: [&str; 14] = [
    "pool.booted",
    "pool.alarm_cleared",
    "pool.alarm_acknowledged",
    "pool.hook_ran",
    "pool.host_silent",
    "pool.host_lost",
    "pool.host_fenced",
    "pool.host_back",
    "pool.ring_lost",
    "pool.ring_back",
    "pool.link_lost",
    "pool.link_back",
    "pool.quorum_lost",
    "pool.quorum_back",
];

/// The event that a record is for a subscriber; none: it is none.
#[must_use]
pub fn event(store: &Store, stored: &Stored) -> Option<Map<String, Value>> {
    let record = &stored.record();
    let name = store
        .host(record.host)
        .map(|log| log.state().name.clone())
        .unwrap_or_default();
    let own = |kind: &str, severity: &str, guest: Value, fields: Value| {
        let mut event = Map::new();
        event.insert("version".to_owned(), json!(1));
        event.insert("time".to_owned(), json!(record.time));
        event.insert("host".to_owned(), json!(name));
        event.insert("severity".to_owned(), json!(severity));
        event.insert("guest".to_owned(), guest);
        event.insert("kind".to_owned(), json!(kind));
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        event
    };
    let guest =
        |uuid: Uuid| json!({"uuid": uuid, "domid": Value::Null, "name": name_of(store, uuid)});
    let mut event = match &record.what {
        What::Event(event) => event.event.clone(),
        What::Boot(boot) => own(
            "pool.booted",
            "info",
            Value::Null,
            json!({"boot_id": boot.boot_id, "anew": boot.after.is_none()}),
        ),
        What::Cleared(cleared) => own(
            "pool.alarm_cleared",
            "info",
            guest(cleared.guest),
            json!({"alarms": cleared.alarms}),
        ),
        What::Acknowledged(done) => own(
            "pool.alarm_acknowledged",
            "info",
            guest(done.guest),
            json!({"uid": done.uid, "alarms": done.alarms}),
        ),
        What::Hook(done) if done.ran => own(
            "pool.hook_ran",
            if done.error.is_some() {
                "warning"
            } else {
                "info"
            },
            Value::Null,
            json!({"hook": done.hook, "key": done.upto, "error": done.error}),
        ),
        What::Sighting(sighting) => {
            let kind = sighting.saw.kind()?;
            let severity = match sighting.saw {
                Saw::Lost(_) => "error",
                Saw::Back(_) => "info",
                _ => "warning",
            };
            own(kind, severity, Value::Null, sightings::fields(sighting)?)
        }
        What::Reach(reach) => {
            let (kind, severity) = reach.kind()?;
            let mut fields = serde_json::to_value(reach).ok()?;
            fields.as_object_mut()?.remove("reach");
            own(kind, severity, Value::Null, fields)
        }
        What::Hook(_) | What::Host(_) | What::Guests(_) | What::Other => return None,
    };
    event.insert("position".to_owned(), json!(stored.at()));
    Some(event)
}

/// The name of a guest, from whoever knows one.
fn name_of(store: &Store, uuid: Uuid) -> Option<String> {
    store.hosts().find_map(|(_, log)| {
        let state = log.state();
        let guest = state.guests.get(&uuid);
        let known = guest.and_then(|guest| guest.value.name.clone());
        known.or_else(|| state.alarms.get(&uuid)?.name.clone())
    })
}

/// Which events somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Kinds, or their beginnings up to a dot; empty: all.
    pub kinds: Vec<String>,
    /// Of this guest only.
    pub guest: Option<Uuid>,
}

impl Filter {
    /// Whether the event is one of them.
    #[must_use]
    pub fn wants(&self, event: &Map<String, Value>) -> bool {
        let kind = kind_of(event);
        let of_kind = self.kinds.is_empty() || self.kinds.iter().any(|want| matches(want, kind));
        of_kind
            && self
                .guest
                .is_none_or(|guest| guest_of(event) == Some(guest))
    }
}

/// Where a record is, in the form that `position` has.
#[must_use]
pub fn position_of(event: &Map<String, Value>) -> Option<At> {
    event.get("position")?.as_str()?.parse().ok()
}

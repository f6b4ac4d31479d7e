// SPDX-License-Identifier: GPL-2.0-only
//! The pool's own events in one line for people.
//!
//! In: an event as subscribers and hooks get it. Out: a line, or none for one that is not of these kinds. What it lacks is left
//! out. Pure; whoever shows it takes care of control characters.

use super::fold::kind_of;
use crate::event::describe::span;
use serde_json::{Map, Value};

/// Guests that a line names.
const MAX_NAMED: usize = 6;

/// What happened; none: it is of another kind.
#[must_use]
pub fn message_of(event: &Map<String, Value>) -> Option<String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    let peer = text("peer").unwrap_or("?");
    let after =
        |name: &str| number(name).map_or_else(String::new, |ms| format!(", after {}", span(ms)));
    Some(match kind_of(event) {
        "pool.host_lost" => format!(
            "host {peer} is LOST: its corosync is off the ring{}",
            last_words(event)
        ),
        "pool.host_silent" => format!(
            "host {peer} is silent: its xenwarden-pool is away, while its corosync is on the ring{}",
            last_words(event)
        ),
        "pool.host_fenced" => {
            let how = match text("how") {
                Some("withheld") => "it withheld its kicks, and its fence bound has passed",
                Some("silent") => "it was silent, and all that it promised for that has passed",
                Some("rebooted") => "it has booted since",
                _ => "in a way that this version does not know",
            };
            format!("host {peer} is fenced, and down for certain: {how}")
        }
        "pool.host_back" => {
            let is = |name: &str| event.get(name).and_then(Value::as_bool);
            let boot = match is("same_boot") {
                Some(true) => "; it never went down",
                _ => "; it has booted since",
            };
            let reset = event.get("reset").and_then(|reset| reset.get("text"));
            let reset = reset.and_then(Value::as_str);
            let why = reset.map_or_else(String::new, |why| format!(", as {why}"));
            format!("host {peer} is back{}{boot}{why}", after("away_ms"))
        }
        "pool.ring_lost" => {
            let reason = text("reason").unwrap_or("?");
            format!("this host's corosync does not answer: {reason}")
        }
        "pool.ring_back" => format!("this host's corosync answers again{}", after("lost_ms")),
        "pool.link_lost" => {
            let peers = names(event.get("peers"));
            let quorum = quorum(event, "this host alone");
            format!(
                "the LAST LINK to the pool is lost: no other node is on the ring{peers}; {quorum}"
            )
        }
        "pool.link_back" => format!("others are on the ring again{}", after("lost_ms")),
        "pool.quorum_lost" => {
            let nodes = number("nodes").unwrap_or(0);
            format!("QUORUM IS LOST here: this partition has {nodes} nodes")
        }
        "pool.quorum_back" => format!("this partition has quorum again{}", after("lost_ms")),
        _ => return None,
    })
}

fn quorum(event: &Map<String, Value>, who: &str) -> String {
    match event.get("quorate").and_then(Value::as_bool) {
        Some(true) => format!("{who} has quorum"),
        Some(false) => format!("{who} has no quorum"),
        None => format!("whether {who} has quorum is not known"),
    }
}

fn last_words(event: &Map<String, Value>) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    let silent = match number("silent_ms") {
        Some(ms) => format!(", not heard for {}", span(ms)),
        None => ", and nothing was heard of it since the leader started".to_owned(),
    };
    let guard = match (event.get("kick").and_then(Value::as_bool), text("reason")) {
        (Some(true), _) => "it kicked".to_owned(),
        (Some(false), why) => format!("it withheld its kicks: {}", why.unwrap_or("?")),
        (None, _) => "what its guard did is not known".to_owned(),
    };
    let bound = number("fence_bound_ms");
    let bound = bound.map_or_else(String::new, |ms| format!(", fence bound {}", span(ms)));
    let count = number("guest_count").unwrap_or(0);
    let quorum = quorum(event, "this partition");
    let guests = names(event.get("guests"));
    format!("{silent}; {quorum}; {guard}{bound}; it had {count} guests with watchdogs{guests}")
}

/// `: a, b and 3 more`, of names, or of objects that have one.
fn names(list: Option<&Value>) -> String {
    let list = list.and_then(Value::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return String::new();
    };
    let name = |value: &Value| {
        let of = |field: &str| value.get(field).and_then(Value::as_str);
        let name = value.as_str().or(of("name")).or(of("uuid"));
        name.unwrap_or("?").to_owned()
    };
    let named: Vec<String> = list.iter().take(MAX_NAMED).map(name).collect();
    let more = match list.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        _ => ", ...".to_owned(),
    };
    format!(": {}{more}", named.join(", "))
}

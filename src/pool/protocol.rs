// SPDX-License-Identifier: GPL-2.0-only
//! What is said over the pool's socket, for both ends; xenwarden-pool(8) documents it.
//!
//! A client sends one line: a word, or two. The answer is one line of JSON, and the end; that to `events` is a line for each
//! event. A line with `error` alone is a refusal.

use super::node::Counts;
use super::record::At;
use crate::control::protocol::Refusal;
use crate::event::Uuid;
use crate::fencing::told;
use crate::sys::corosync::Votes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where it is.
pub const SOCKET: &str = "/run/xenwarden-pool/pool.sock";
/// Longest request, bytes: a cursor of every host that there can be.
pub const MAX_REQUEST: usize = 16 << 10;

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The [`HostsReport`](super::view::HostsReport).
    Hosts,
    /// The [`PoolGuests`](super::view::PoolGuests).
    Guests,
    /// The [`PoolStatus`].
    Status,
    /// Events.
    Events(Subscription),
    /// That somebody takes care of this guest's alarms, wherever they are. Root only.
    Ack(Uuid),
    /// Whether hosts are on, and that one is down for certain; see [`crate::fencing::told`]. The latter root only.
    Fencing(told::Request),
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscription {
    /// After these places, of each host the one that was seen last. Null: of all hosts what happens from now on, or with
    /// `follow` false all that is kept. Of hosts that are not named all that is kept.
    pub after: Option<Vec<At>>,
    /// Go on with what happens.
    pub follow: bool,
    /// Kinds, or their beginnings up to a dot (`alarm.`); empty: all.
    pub kinds: Vec<String>,
    /// A guest's UUID; null: all, and the hosts' own events.
    pub guest: Option<Uuid>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts => write!(f, "hosts"),
            Self::Guests => write!(f, "guests"),
            Self::Status => write!(f, "status"),
            Self::Events(subscription) => {
                let json = serde_json::to_string(subscription).map_err(|_| fmt::Error)?;
                write!(f, "events {json}")
            }
            Self::Ack(guest) => write!(f, "ack {guest}"),
            Self::Fencing(request) => request.fmt(f),
        }
    }
}

impl FromStr for Request {
    type Err = Refusal;

    fn from_str(line: &str) -> Result<Self, Refusal> {
        let (word, rest) = line
            .split_once(' ')
            .map_or((line, None), |(word, rest)| (word, Some(rest)));
        match (word, rest) {
            ("hosts", None) => Ok(Self::Hosts),
            ("guests", None) => Ok(Self::Guests),
            ("status", None) => Ok(Self::Status),
            ("events", None) => Ok(Self::Events(Subscription::default())),
            ("events", Some(json)) => serde_json::from_str(json)
                .map(Self::Events)
                .map_err(|error| Refusal::new(format!("not a subscription: {error}"))),
            ("ack", Some(guest)) => guest
                .parse()
                .map(Self::Ack)
                .map_err(|error| Refusal::new(format!("not a UUID: {error}"))),
            ("fence" | "power", _) => line.parse().map(Self::Fencing),
            _ => Err(Refusal::new(
                "unknown request: the pool knows `hosts`, `guests`, `status`, `events SUBSCRIPTION`, `ack UUID`, `power [HOST]` and `fence HOST`",
            )),
        }
    }
}

/// What was done, and is on this host's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The guest's alarms are acknowledged.
    Acknowledged(Uuid),
}

/// What a subscriber is told that is no event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// The request is refused, or the connection ends.
    Error(String),
    /// Of this host, events up to here are no longer kept, or were never here: what follows comes after.
    MissedUpto(At),
}

/// How this member does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Of this form: 1.
    pub version: u32,
    /// Why it is not on the ring; null where it is.
    pub trouble: Option<String>,
    /// Why its own log is not on its disk; null where it is.
    pub disk_trouble: Option<String>,
    /// Whether this partition has quorum; null: not known.
    pub quorate: Option<bool>,
    /// The nodes on corosync's ring, members of the pool or not.
    pub nodes: Vec<u32>,
    /// How quorum is counted; null: not known.
    pub votes: Option<Votes>,
    /// Since corosync last answered how quorum is counted, which it is asked each second; null: it has not. One that is stopped
    /// answers no more, and what is told of quorum is as old.
    pub votes_age_ms: Option<u64>,
    /// It leads.
    pub leads: bool,
    /// Equal on two members that know the same.
    pub hash: String,
    /// Records of this host that wait for its disk.
    pub unsaved: usize,
    /// Clients.
    pub clients: usize,
    /// Events for which a hook was not run, as they were no longer kept.
    pub hooks_missed: u64,
    /// What was counted since the start.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_is_written_and_no_other_word_is_one() {
        let after = "00000000-0000-0000-0000-000000000007/3/9".parse().ok();
        let events = Subscription {
            after: after.map(|at| vec![at]),
            follow: true,
            ..Subscription::default()
        };
        let all = [
            Request::Hosts,
            Request::Guests,
            Request::Status,
            Request::Events(events),
            Request::Ack(Uuid::from_u128(7)),
            Request::Fencing(told::Request::Power(None)),
            Request::Fencing(told::Request::Power(Some("a".to_owned()))),
            Request::Fencing(told::Request::Fence("a".to_owned())),
        ];
        for request in all {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        for line in [
            "",
            "fence",
            "fence a b",
            "power ",
            "host",
            "hosts 1",
            "ack",
            "ack x",
            "events {\"x\":1}",
        ] {
            assert!(line.parse::<Request>().is_err(), "{line:?}");
        }
    }
}

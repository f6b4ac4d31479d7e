// SPDX-License-Identifier: GPL-2.0-only
//! What a client of the event socket asks for: one line of JSON.

use super::kind::matches;
use super::{Event, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

/// A subscription. All conditions must hold for an event to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscription {
    /// Replay kept events with at least this sequence number; null: none are replayed,
    /// unless `since_time` asks.
    pub since_seq: Option<u64>,
    /// Replay kept events from this time on.
    pub since_time: Option<Timestamp>,
    /// Kinds, or their beginnings up to a dot (`guest.`); empty: all.
    pub kinds: Vec<String>,
    /// A guest's UUID, domid or name, told apart as by [`Named`]; null: all, and the host's own events.
    pub guest: Option<String>,
    /// Go on with new events after the replay.
    pub follow: bool,
}

impl Subscription {
    /// Whether the event is of the kinds and the guest that were asked for.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let kind = event.what.kind();
        let of_kind =
            self.kinds.is_empty() || self.kinds.iter().any(|wanted| matches(wanted, kind));
        of_kind
            && self
                .guest
                .as_ref()
                .is_none_or(|wanted| is_about(event, wanted))
    }

    /// Whether a kept event is old enough to be left out of the replay.
    #[must_use]
    pub fn replays(&self, event: &Event) -> bool {
        match (self.since_seq, self.since_time) {
            (None, None) => false,
            (seq, time) => {
                seq.is_none_or(|seq| event.seq >= seq) && time.is_none_or(|time| event.time >= time)
            }
        }
    }
}

/// A guest as people name it. A guest's owner chooses its name, so what could be a UUID
/// or a domid never is one: otherwise a guest could pass for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// By its UUID.
    Uuid(Uuid),
    /// By its domid; none for a number that is no domain's.
    Domid(Option<u16>),
    /// By its name.
    Name(&'a str),
}

impl<'a> Named<'a> {
    /// What the word is: a UUID if it has the form of one, a domid if it is all digits, and
    /// a name otherwise.
    #[must_use]
    pub fn from_word(word: &'a str) -> Self {
        if let Ok(uuid) = word.parse() {
            return Self::Uuid(uuid);
        }
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::Domid(word.parse().ok());
        }
        Self::Name(word)
    }

    /// Whether it is the guest of which this is known.
    #[must_use]
    pub fn is(&self, uuid: Option<Uuid>, domid: u16, name: Option<&str>) -> bool {
        match self {
            Self::Uuid(wanted) => uuid == Some(*wanted),
            Self::Domid(wanted) => *wanted == Some(domid),
            Self::Name(wanted) => name == Some(*wanted),
        }
    }
}

fn is_about(event: &Event, wanted: &str) -> bool {
    event.guest.as_ref().is_some_and(|guest| {
        Named::from_word(wanted).is(guest.uuid, guest.domid, guest.name.as_deref())
    })
}

/// What the event socket sends that is no event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// The request is refused; the connection ends.
    Error(String),
    /// The client read too slowly and is dropped; it missed events from this number on.
    DroppedFrom(u64),
    /// Events before this number are no longer kept: the replay begins here.
    ReplayBeginsAt(u64),
}

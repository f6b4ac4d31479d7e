// SPDX-License-Identifier: GPL-2.0-only
//! What is said over the control socket, for both ends.
//!
//! A client sends one [`Request`] as a line of words; the monitor answers with one line of
//! JSON and closes: what was asked for, [`Done`], or a [`Refusal`].

use crate::event::describe::escape_controls;
use crate::event::{Guest, Kind, Uuid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest request, bytes, its line's end not counted: that of an event.
pub const MAX_REQUEST: usize = 4096;

/// What a client asks or orders.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The [`Status`](super::status::Status).
    Status,
    /// The [`GuestsReport`](crate::guests::report::GuestsReport).
    Guests,
    /// The last [`Resets`](crate::state::history::Resets) of the host.
    Why,
    /// That somebody takes care of this guest's alarm.
    Ack(Uuid),
    /// That this guest's alarm ends.
    Close(Uuid),
    /// That this guest's alarm, of so many expiries, ends, as the guest feeds on another host and no domain of it is on
    /// this one.
    Elsewhere(Uuid, u32),
    /// That this event is published.
    Tell(Box<Told>),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => write!(f, "status"),
            Self::Guests => write!(f, "guests"),
            Self::Why => write!(f, "why"),
            Self::Ack(uuid) => write!(f, "ack {uuid}"),
            Self::Close(uuid) => write!(f, "close {uuid}"),
            Self::Elsewhere(uuid, expiries) => write!(f, "elsewhere {uuid} {expiries}"),
            Self::Tell(told) => {
                let json = serde_json::to_string(told).map_err(|_| fmt::Error)?;
                write!(f, "tell {json}")
            }
        }
    }
}

impl FromStr for Request {
    type Err = Refusal;

    fn from_str(line: &str) -> Result<Self, Refusal> {
        let uuid = |word: &str| {
            let parsed = word.parse();
            parsed.map_err(|error| Refusal::new(format!("not a UUID: {error}")))
        };
        match line
            .split_once(' ')
            .map_or((line, None), |(w, o)| (w, Some(o)))
        {
            ("status", None) => Ok(Self::Status),
            ("guests", None) => Ok(Self::Guests),
            ("why", None) => Ok(Self::Why),
            ("ack", Some(word)) => uuid(word).map(Self::Ack),
            ("close", Some(word)) => uuid(word).map(Self::Close),
            ("elsewhere", Some(words)) => {
                let (guest, expiries) = words.split_once(' ').unwrap_or((words, ""));
                let expiries = expiries.parse().map_err(|_| {
                    Refusal::new("`elsewhere UUID` is followed by the number of expiries")
                })?;
                Ok(Self::Elsewhere(uuid(guest)?, expiries))
            }
            ("tell", Some(json)) => serde_json::from_str(json)
                .map(|told| Self::Tell(Box::new(told)))
                .map_err(|error| Refusal::new(format!("not an event: {error}"))),
            _ => Err(Refusal::new(
                "unknown request: this monitor knows `status`, `guests`, `why`, `ack UUID`, `close UUID`, `elsewhere UUID EXPIRIES` and `tell EVENT`",
            )),
        }
    }
}

impl Request {
    /// Whether it changes something, which only root may.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self, Self::Ack(_) | Self::Close(_) | Self::Elsewhere(..))
    }
}

/// What happened, as another process tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The guest that it is about; null for the host's own.
    #[serde(default)]
    pub guest: Option<Guest>,
    /// Who tells, where several processes of one kind may tell of the same guest: its control socket.
    /// Not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: Kind,
}

/// What was done, and is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The guest's alarm is acknowledged.
    Acknowledged(Uuid),
    /// It is closed.
    Closed(Uuid),
    /// The event is published, with this number.
    Told(u64),
}

/// Said where all places are taken.
pub const BUSY: &str = "too many requests at once: try again later";

/// Why a request is not answered, or an order not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In words.
    pub error: String,
}

impl Refusal {
    /// For this reason.
    pub fn new(error: impl fmt::Display) -> Self {
        let error = error.to_string();
        Self { error }
    }

    /// Whether the same may be answered a moment later.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.error == BUSY
    }
}

/// A whole answer: one line of JSON that moves no terminal's cursor.
#[must_use]
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string(value);
    let json = json.unwrap_or_else(|_| r#"{"error":"the answer cannot be encoded"}"#.to_owned());
    (escape_controls(&json) + "\n").into_bytes()
}

/// An answer as the client sees it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Response<T> {
    Refused(Refusal),
    Is(T),
}

/// Reads an answer.
///
/// # Errors
/// It is none of this kind; or, within, the refusal.
pub fn read<T: DeserializeOwned>(line: &[u8]) -> Result<Result<T, Refusal>, String> {
    match serde_json::from_slice(line) {
        Ok(Response::Is(answer)) => Ok(Ok(answer)),
        Ok(Response::Refused(refusal)) => Ok(Err(refusal)),
        // An untagged type's own error tells nothing: that of the expected one does.
        Err(_) => match serde_json::from_slice(line) {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_is_written_and_no_other_word_is_one() {
        let uuid = Uuid::from_u128(7);
        let all = [
            Request::Status,
            Request::Guests,
            Request::Why,
            Request::Ack(uuid),
            Request::Close(uuid),
            Request::Elsewhere(uuid, 3),
        ];
        for request in all {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        for line in [
            "",
            "ack",
            "status now",
            " status",
            "Status",
            "ack  1",
            "close x",
            "elsewhere 00000000-0000-0000-0000-000000000007",
            "elsewhere 7 x",
        ] {
            assert!(line.parse::<Request>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn an_answer_is_what_was_asked_for_or_a_refusal_never_something_else() {
        let done = Done::Closed(Uuid::from_u128(7));
        assert_eq!(read(&line(&done)), Ok(Ok(done)));
        let refusal = Refusal::new("no");
        assert_eq!(read::<Done>(&line(&refusal)), Ok(Err(refusal)));
        assert!(read::<Done>(b"{}").is_err());
    }
}

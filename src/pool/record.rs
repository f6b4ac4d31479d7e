// SPDX-License-Identifier: GPL-2.0-only
//! What a host writes into its log, which is all that the pool knows of it.
//!
//! In: facts of the host, events as its monitor gives them, and what the pool decided here. Out: a record with its
//! place: host, boot, sequence. Its bytes are kept and passed on as its writer wrote them, so that an older member
//! loses nothing of a newer one's. Never: an unbounded record, or one that somebody else than its host writes.
//!
//! Words: a *position* is a boot and a sequence within it. Boots of a host rise; a boot's first record, number 1,
//! is a [`Boot`] and says what it comes after.

use super::reach::Reach;
use super::sightings::Sighting;
use crate::event::{COMMON, Coverage, Timestamp, Uuid};
use crate::guests::report::DomainState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// The version of the form. Fields and kinds are only ever added within one.
pub const VERSION: u32 = 1;
/// Longest record, bytes of its JSON.
pub const MAX_RECORD: usize = 24 << 10;
/// Longest event that is recorded whole, bytes of its JSON; of a longer one the common fields are.
pub const MAX_EVENT: usize = 16 << 10;
/// Guests that one record tells of.
pub const MAX_CHANGES: usize = 12;
/// Longest name of a host or guest, and longest reason, that is recorded, bytes.
pub const MAX_TEXT: usize = 256;

/// A host, for good: it is made from the machine's id.
pub type HostId = Uuid;

/// A place in a host's log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The boot; rises from boot to boot of the host, and where its log began anew.
    pub boot: u64,
    /// Counts the records of that boot from 1; 0: before the first.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.boot, self.seq)
    }
}

/// A place in the pool: `HOST/BOOT/SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Whose log.
    pub host: HostId,
    /// Where in it.
    pub position: Position,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.position)
    }
}

/// A text is no place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAt;

impl fmt::Display for InvalidAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not a position of the form HOST/BOOT/SEQ, as events of the pool have it"
        )
    }
}

impl std::error::Error for InvalidAt {}

impl FromStr for At {
    type Err = InvalidAt;

    fn from_str(text: &str) -> Result<Self, InvalidAt> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().ok_or(InvalidAt);
        let host = part()?.parse().map_err(|_| InvalidAt)?;
        let number = |text: &str| -> Result<u64, InvalidAt> {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|_| digits && !text.is_empty())
                .ok_or(InvalidAt)
        };
        let (boot, seq) = (number(part()?)?, number(part()?)?);
        let position = Position { boot, seq };
        Ok(Self { host, position })
    }
}

impl Serialize for At {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Whose it is.
    pub host: HostId,
    /// Its place.
    #[serde(flatten)]
    pub position: Position,
    /// When it was written, by that host's clock.
    pub time: Timestamp,
    /// What it says.
    pub what: What,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum What {
    /// A boot of the host begins.
    Boot(Boot),
    /// How the host is.
    Host(HostFacts),
    /// How guests of the host are, of those that changed.
    Guests(GuestChanges),
    /// An event of its monitor.
    Event(EventOf),
    /// A guest that feeds here was seen to have open alarms elsewhere: they end.
    Cleared(Cleared),
    /// An operator takes care of a guest's alarms, wherever they are.
    Acknowledged(Acknowledged),
    /// The leader ran a hook, or had nothing to run.
    Hook(HookDone),
    /// The leader saw a host lost or back, or a member fenced it.
    Sighting(Sighting),
    /// What this host can reach of the pool has changed.
    Reach(Reach),
    /// Written by a newer version: kept, passed on, and without effect here.
    #[serde(other)]
    Other,
}

/// The first record of a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel's name for it.
    pub boot_id: String,
    /// The host's name.
    pub name: String,
    /// The last record before it; null: nothing is left of what was before, if anything was.
    pub after: Option<Position>,
    /// The monitor's number of the last event that is recorded.
    pub event_seq: Option<u64>,
    /// The program's version.
    pub version: String,
}

/// How a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its guard; null: the monitor does not answer, so nobody knows.
    pub guard: Option<GuardFacts>,
    /// Why it went down last; null: not known, or it never did.
    pub reset: Option<ResetFacts>,
}

/// What the guard does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardFacts {
    /// The armed device; empty: none is.
    pub device: String,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout.
    pub timeout_ms: u64,
    /// A host that is wedged, hung or dead is down after so long; null: nothing promises that.
    pub fence_bound_ms: Option<u64>,
    /// Kicks go on.
    pub kick: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What the evidence covers.
    pub coverage: Coverage,
    /// What is not as it should be.
    pub weakness: Option<String>,
    /// An operator has it kick whatever the evidence says.
    pub inhibited: bool,
}

/// A reset of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetFacts {
    /// When the host was last known to run, as far as is known.
    pub time: Option<Timestamp>,
    /// Why, for people.
    pub text: String,
}

/// Guests that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestChanges {
    /// How they are now, by their UUID.
    pub are: Vec<GuestFacts>,
    /// Of these nothing is known here any more.
    pub gone: Vec<Uuid>,
}

/// How a guest is on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: Option<String>,
    /// Its domain there.
    pub domid: u16,
    /// What that is doing.
    pub state: DomainState,
    /// It has an armed watchdog that has not expired.
    pub fed: bool,
}

/// An event of a monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventOf {
    /// As the monitor gave it.
    pub event: Map<String, Value>,
}

/// Alarms that end as their guest feeds elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// The guest.
    pub guest: Uuid,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// The last `alarm.raised` of each.
    pub alarms: Vec<At>,
}

/// Alarms that somebody takes care of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The guest.
    pub guest: Uuid,
    /// Who, as a user id of the host where it was said.
    pub uid: u32,
    /// The last `alarm.raised` of each.
    pub alarms: Vec<At>,
}

/// How far a hook has come with the events of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookDone {
    /// The hook's name.
    pub hook: String,
    /// Up to here, this event included.
    pub upto: At,
    /// It was run for that event; otherwise no event since the last such record was for it.
    pub ran: bool,
    /// Why it did not succeed; null where it did.
    pub error: Option<String>,
}

/// A record as the bytes that its host wrote: what is kept of many is a fifth of what they say.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Whose it is.
    pub host: HostId,
    /// Its place.
    pub position: Position,
    /// The JSON, as it was written.
    pub bytes: Box<[u8]>,
}

impl Stored {
    /// Of a record of ours. None: it is longer than any record may be.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let bytes = serde_json::to_vec(record).ok()?.into_boxed_slice();
        (bytes.len() <= MAX_RECORD).then_some(Self {
            host: record.host,
            position: record.position,
            bytes,
        })
    }

    /// Of bytes that came from somewhere.
    ///
    /// # Errors
    /// Why they are no record.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_RECORD {
            return Err(format!("a record of {} bytes", bytes.len()));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if record.version != VERSION {
            return Err(format!("a record of version {}", record.version));
        }
        if record.position.seq == 0 || record.position.boot == 0 {
            return Err("a record without a position".to_owned());
        }
        Ok(Self {
            host: record.host,
            position: record.position,
            bytes: bytes.into(),
        })
    }

    /// What the bytes say.
    #[must_use]
    pub fn record(&self) -> Record {
        // They were read, or written, as a record before.
        serde_json::from_slice(&self.bytes).unwrap_or(Record {
            version: VERSION,
            host: self.host,
            position: self.position,
            time: Timestamp(0),
            what: What::Other,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> At {
        let Self { host, position, .. } = *self;
        At { host, position }
    }
}

/// The event of a line that a monitor sent; of one that is too long only the fields that all events have.
///
/// # Errors
/// Why it is none.
pub fn event(line: &[u8]) -> Result<EventOf, String> {
    let event: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if !event.get("kind").is_some_and(Value::is_string) {
        return Err("an event without a kind".to_owned());
    }
    if line.len() <= MAX_EVENT {
        return Ok(EventOf { event });
    }
    let kept = COMMON
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), event.get(*name)?.clone())));
    let event: Map<String, Value> = kept.collect();
    let length = serde_json::to_vec(&event).map_or(usize::MAX, |bytes| bytes.len());
    if length > MAX_EVENT {
        return Err(format!("an event of {} bytes", line.len()));
    }
    Ok(EventOf { event })
}

/// At most [`MAX_TEXT`] bytes of a text.
#[must_use]
pub fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(what: What) -> Record {
        Record {
            version: VERSION,
            host: Uuid::from_u128(7),
            position: Position { boot: 3, seq: 9 },
            time: Timestamp(0),
            what,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_its_bytes_are_kept() {
        let done = What::Hook(HookDone {
            hook: "restart".to_owned(),
            upto: At {
                host: Uuid::from_u128(8),
                position: Position { boot: 1, seq: 2 },
            },
            ran: true,
            error: None,
        });
        for what in [done, What::Host(HostFacts::default())] {
            let stored = Stored::of(&record(what)).expect("short");
            assert_eq!(Stored::read(&stored.bytes), Ok(stored));
        }
    }

    #[test]
    fn a_record_of_a_newer_kind_is_kept_whole() {
        let known = Stored::of(&record(What::Host(HostFacts::default()))).expect("short");
        let text = String::from_utf8(known.bytes.to_vec()).expect("text");
        let newer = text.replace("\"record\":\"host\"", "\"record\":\"weather\"");
        let stored = Stored::read(newer.as_bytes()).expect("a record");
        assert_eq!(stored.record().what, What::Other);
        assert_eq!(&*stored.bytes, newer.as_bytes());
        let other = text.replace("\"version\":1", "\"version\":2");
        assert!(Stored::read(other.as_bytes()).is_err());
    }

    #[test]
    fn a_place_is_written_and_read_in_one_form() {
        let text = "00000000-0000-0000-0000-000000000007/3/9";
        let at: At = text.parse().expect("a place");
        assert_eq!(at.to_string(), text);
        for text in ["", "x/1/2", "host1/1/2", &text[..38], &format!("{text}/1")] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }

    #[test]
    fn of_an_event_that_is_too_long_who_and_what_is_kept() {
        let long = format!(
            r#"{{"kind":"host.withhold","seq":4,"reason":"{}"}}"#,
            "x".repeat(MAX_EVENT)
        );
        let kept = event(long.as_bytes()).expect("an event").event;
        assert_eq!(kept.get("seq").and_then(Value::as_u64), Some(4));
        assert!(!kept.contains_key("reason"));
        assert!(event(b"{\"seq\":4}").is_err() && event(b"[]").is_err());
    }
}

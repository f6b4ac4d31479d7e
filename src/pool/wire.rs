// SPDX-License-Identifier: GPL-2.0-only
//! What members say on the ring.
//!
//! In: bytes that any member of the group may have sent. Out: a [`Message`], or why they are none; never a panic, and
//! nothing is allocated by a length that was only claimed. A message is four bytes that name the protocol and its
//! version, one for its kind, the first eight bytes of the SHA-256 of what follows, and that. A kind that is not known
//! is of a newer member: counted, and passed over.

use super::frame::{self, sum};
use super::record::{HostId, MAX_TEXT, Position, Stored};
use crate::fencing::member::Say;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Names the protocol; its last byte is the version.
pub const MAGIC: &[u8; 4] = b"XWP\x01";
/// Longest message, bytes: far less than corosync takes (1 MiB), so that no message holds up the ring for long.
pub const MAX_MESSAGE: usize = 64 << 10;
/// Bytes of records that one message carries, unless a single one is longer.
pub const RECORDS: usize = 32 << 10;
/// Bytes of a snapshot that one message carries.
pub const CHUNK: usize = 32 << 10;
/// Hosts that one message wants something of.
pub const MAX_WANTS: usize = 128;
const HEAD: usize = 13;
/// Characters of a kind's name that are told.
const MAX_KIND: usize = 32;

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Records, of any hosts, each host's in their order.
    Records(Vec<Arc<Stored>>),
    /// Who a member is and what it knows.
    Summary(Summary),
    /// What a member lacks, and who is to send it.
    Want(Want),
    /// A part of a snapshot.
    Base(Chunk),
    /// Who is certainly down; see [`crate::fencing`].
    Fencing(Say),
}

/// Who a member is and what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its host.
    pub host: HostId,
    /// The host's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// When it joined, counted as [`super::leader`] says; 0: it does not know yet.
    pub joined: u64,
    /// How much of each host's log it has.
    pub positions: BTreeMap<HostId, Position>,
    /// The hash of all that.
    pub hash: String,
}

/// What a member lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The member that is to send it, by corosync's number of its node.
    pub to: u32,
    /// The logs.
    pub logs: Vec<WantLog>,
}

/// What a member lacks of one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantLog {
    /// Whose.
    pub of: HostId,
    /// It has this.
    pub after: Position,
    /// It has a part of this snapshot.
    pub part: Option<Part>,
}

/// How much of a snapshot there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The snapshot's position.
    pub position: Position,
    /// The first eight bytes of its SHA-256.
    pub sum: [u8; 8],
    /// Bytes that are there.
    pub have: u64,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which.
    pub head: ChunkHead,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Which part of which snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// Whose state.
    pub of: HostId,
    /// Where it stands.
    pub position: Position,
    /// The first eight bytes of the SHA-256 of all of it.
    pub sum: [u8; 8],
    /// Bytes of all of it.
    pub total: u64,
    /// Where in it these bytes are.
    pub offset: u64,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// Of another protocol or version, or too long.
    Foreign,
    /// Of a kind that only a newer member knows.
    NewerKind(u8),
    /// Of fencing, and of a kind there that only a newer member knows.
    NewerSay(String),
    /// They are not those that were sent.
    Sum,
    /// What is in it is not what its kind has.
    Contents(String),
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "not of this protocol and version"),
            Self::NewerKind(kind) => write!(f, "of a kind that is not known here ({kind})"),
            Self::NewerSay(kind) => {
                write!(f, "of a kind that is not known here (of fencing: {kind})")
            }
            Self::Sum => write!(f, "its checksum is wrong"),
            Self::Contents(why) => f.write_str(why),
        }
    }
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Records(_) => 1,
            Self::Summary(_) => 2,
            Self::Want(_) => 3,
            Self::Base(_) => 4,
            Self::Fencing(_) => 5,
        }
    }

    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = match self {
            Self::Records(records) => frames(records.iter().map(|stored| &*stored.bytes)),
            Self::Summary(summary) => json(summary),
            Self::Want(want) => json(want),
            Self::Base(chunk) => frames([&*json(&chunk.head), &*chunk.bytes]),
            Self::Fencing(say) => json(say),
        };
        let mut bytes = Vec::with_capacity(HEAD.saturating_add(body.len()));
        bytes.extend(MAGIC);
        bytes.push(self.kind());
        bytes.extend(sum(&body));
        bytes.extend(body);
        bytes
    }

    /// The message that the bytes are. Records that cannot be read are left out, and counted in the second value.
    ///
    /// # Errors
    /// [`Garbage`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, u64), Garbage> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Garbage::Foreign);
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(Garbage::Foreign)?;
        let (kind, rest) = rest.split_first().ok_or(Garbage::Sum)?;
        let (expected, body) = rest.split_first_chunk::<8>().ok_or(Garbage::Sum)?;
        if sum(body) != *expected {
            return Err(Garbage::Sum);
        }
        let contents = |why: &dyn fmt::Display| Garbage::Contents(why.to_string());
        let message = match kind {
            1 => return records(body),
            2 => Self::Summary(serde_json::from_slice(body).map_err(|e| contents(&e))?),
            3 => Self::Want(serde_json::from_slice(body).map_err(|e| contents(&e))?),
            4 => Self::Base(chunk(body)?),
            5 => Self::Fencing(fencing(body)?),
            other => return Err(Garbage::NewerKind(*other)),
        };
        Ok((message, 0))
    }
}

/// The names in it are kept for as long as the program runs: they are bounded, as all else is.
fn fencing(body: &[u8]) -> Result<Say, Garbage> {
    let say = serde_json::from_slice(body);
    let say = say.map_err(|e| newer(body).unwrap_or_else(|| Garbage::Contents(e.to_string())))?;
    match &say {
        Say::Beat(beat) if beat.name.len() > MAX_TEXT => {
            let bytes = beat.name.len();
            Err(Garbage::Contents(format!("a host's name of {bytes} bytes")))
        }
        _ => Ok(say),
    }
}

/// What is said in a word that is not known here.
fn newer(body: &[u8]) -> Option<Garbage> {
    let said: BTreeMap<String, IgnoredAny> = serde_json::from_slice(body).ok()?;
    let (kind, _) = said.first_key_value().filter(|_| said.len() == 1)?;
    let is_known = Say::KINDS.contains(&kind.as_str());
    let word = kind.chars().filter(char::is_ascii_graphic).take(MAX_KIND);
    (!is_known).then(|| Garbage::NewerSay(word.collect()))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Nothing that is said can fail to be written; an empty body would be refused.
    serde_json::to_vec(value).unwrap_or_default()
}

fn frames<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    for contents in all {
        let _ = frame::put(&mut body, contents);
    }
    body
}

fn records(mut body: &[u8]) -> Result<(Message, u64), Garbage> {
    let mut found = Vec::new();
    let mut unread = 0;
    loop {
        match frame::take(body) {
            Ok(None) => return Ok((Message::Records(found), unread)),
            Ok(Some((contents, rest))) => {
                match Stored::read(contents) {
                    Ok(stored) => found.push(Arc::new(stored)),
                    Err(_) => unread += 1,
                }
                body = rest;
            }
            Err(torn) => return Err(Garbage::Contents(torn.to_string())),
        }
    }
}

fn chunk(body: &[u8]) -> Result<Chunk, Garbage> {
    let torn = |why: frame::Torn| Garbage::Contents(why.to_string());
    let short = || Garbage::Contents("a part of a snapshot without its bytes".to_owned());
    let (head, rest) = frame::take(body).map_err(torn)?.ok_or_else(short)?;
    let (bytes, _) = frame::take(rest).map_err(torn)?.ok_or_else(short)?;
    let head = serde_json::from_slice(head).map_err(|e| Garbage::Contents(e.to_string()))?;
    let bytes = bytes.to_vec();
    Ok(Chunk { head, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Timestamp, Uuid};
    use crate::fencing::member::{Ordered, Over};
    use crate::fencing::order::Confirmed;
    use crate::fencing::{Beat, BootOf};
    use crate::pool::record::{HostFacts, Record, VERSION, What};

    fn all() -> Vec<Message> {
        let host = Uuid::from_u128(5);
        let position = Position { boot: 1, seq: 1 };
        let record = Record {
            version: VERSION,
            host,
            position,
            time: Timestamp(1),
            what: What::Host(HostFacts::default()),
        };
        let stored = Arc::new(Stored::of(&record).expect("short"));
        let part = Some(Part {
            position,
            sum: [1; 8],
            have: 7,
        });
        let head = ChunkHead {
            of: host,
            position,
            sum: [2; 8],
            total: 9,
            offset: 0,
        };
        let logs = vec![WantLog {
            of: host,
            after: position,
            part,
        }];
        vec![
            Message::Records(vec![Arc::clone(&stored), stored]),
            Message::Summary(Summary {
                positions: BTreeMap::from([(host, position)]),
                ..Summary::default()
            }),
            Message::Want(Want { to: 3, logs }),
            Message::Base(Chunk {
                head,
                bytes: vec![b'x'; 9],
            }),
            Message::Fencing(Say::Order(Ordered {
                boot: BootOf {
                    node: 7,
                    boot: host,
                },
                number: 8,
            })),
        ]
    }

    #[test]
    fn a_message_is_read_as_it_was_said_and_changed_bytes_are_none() {
        for message in all() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok((message, 0)));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(Message::decode(&changed).is_err() || at == 4, "byte {at}");
                assert!(Message::decode(&bytes[..at]).is_err());
            }
        }
    }

    #[test]
    fn a_beat_whose_name_is_too_long_is_none() {
        for (bytes, fine) in [
            (64, true),
            (MAX_TEXT, true),
            (MAX_TEXT + 1, false),
            (60_000, false),
        ] {
            let beat = Beat {
                name: "n".repeat(bytes),
                ..Beat::default()
            };
            let said = Message::decode(&Message::Fencing(Say::Beat(beat)).encode());
            assert_eq!(said.is_ok(), fine, "{bytes}: {said:?}");
        }
    }

    #[test]
    fn a_kind_of_a_newer_member_is_told_from_garbage() {
        let mut bytes = all()[1].encode();
        bytes[4] = 200;
        assert_eq!(Message::decode(&bytes), Err(Garbage::NewerKind(200)));
    }

    #[test]
    fn what_a_newer_member_says_of_fencing_is_told_from_garbage() {
        let said = |body: &str| {
            let mut bytes = [&MAGIC[..], &[5], &sum(body.as_bytes())].concat();
            bytes.extend(body.as_bytes());
            Message::decode(&bytes)
        };
        let newer = |kind: &str| Err(Garbage::NewerSay(kind.to_owned()));
        assert_eq!(said(r#"{"weather":{"wind":3}}"#), newer("weather"));
        let long = format!(r#"{{"\u001b[2J{}":null}}"#, "n".repeat(900));
        assert_eq!(said(&long), newer(&format!("[2J{}", "n".repeat(29))));
        for garbage in [r#"{"over":"x"}"#, "{}", "[]", r#"{"a":1,"b":2}"#, "5"] {
            let error = said(garbage).expect_err("garbage");
            assert!(matches!(error, Garbage::Contents(_)), "{garbage}");
        }
        let boot = BootOf {
            node: 7,
            boot: Uuid::from_u128(5),
        };
        let refused = Say::Refused {
            of: 7,
            last: None,
            to: 1,
            number: 2,
        };
        let confirmed = Confirmed {
            by: boot,
            at: 1,
            bound_ms: 2,
        };
        let all = [
            Say::Beat(Beat::default()),
            Say::Order(Ordered { boot, number: 8 }),
            Say::Withdrawn(boot),
            Say::Over(Over::from(boot)),
            refused,
            Say::Confirmed(confirmed),
        ];
        let kinds = all.map(|say| {
            let said = serde_json::to_value(say).expect("said");
            said.as_object()
                .and_then(|o| o.keys().next().cloned())
                .expect("a kind")
        });
        assert_eq!(kinds, Say::KINDS);
    }
}

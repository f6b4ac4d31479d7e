// SPDX-License-Identifier: GPL-2.0-only
//! What one member lacks and another sends.
//!
//! In: what this host knows, what members say that they know, and what one asks for. Out: what to ask for and of whom, and
//! the messages that answer. Who lacks something asks; the eldest member that knows most of a log is asked, and after it the next,
//! so that a member that dies while it sends holds up nothing. An answer is bounded by [`ANSWER`]; whoever lacks more asks
//! again, from where it has come to, also within a snapshot. Everybody hears an answer, and takes what it lacks. Pure.

use super::fold::HostState;
use super::frame::{MAX_CONTENTS, sum};
use super::record::{HostId, Position, Stored};
use super::store::{HostLog, Store};
use super::wire::{CHUNK, Chunk, ChunkHead, MAX_WANTS, Message, Part, RECORDS, Want, WantLog};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes that one answer has at most, but for a record's length.
pub const ANSWER: usize = 256 << 10;
/// Snapshots that are received, or sent, at once.
const SNAPSHOTS: usize = 4;

/// What a member says that it knows.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its node's number.
    pub node: u32,
    /// Its age ([`super::leader`]).
    pub joined: u64,
    /// How much of each log it has.
    pub positions: &'a BTreeMap<HostId, Position>,
}

/// What to ask for, and of whom. None: nobody knows more. `attempt` counts those that brought nothing: another is asked.
#[must_use]
pub fn want(
    store: &Store,
    members: &[Known<'_>],
    incoming: &Incoming,
    attempt: usize,
) -> Option<Want> {
    let mut most: BTreeMap<HostId, Position> = BTreeMap::new();
    for member in members {
        for (host, position) in member.positions {
            let known = most.entry(*host).or_default();
            *known = (*known).max(*position);
        }
    }
    let mut chosen: Option<u32> = None;
    let mut logs = Vec::new();
    for (of, position) in most {
        let after = store.position(of);
        if position <= after || store.host(of).is_none() && is_full(store) {
            continue;
        }
        let knows = |member: &&Known<'_>| member.positions.get(&of) == Some(&position);
        let mut able: Vec<&Known<'_>> = members.iter().filter(knows).collect();
        able.sort_by_key(|member| (member.joined, member.node));
        let turn = attempt.checked_rem(able.len()).unwrap_or(0);
        let Some(eldest) = able.get(turn) else {
            continue;
        };
        // One is asked at a time, for all that it is the one for.
        if *chosen.get_or_insert(eldest.node) == eldest.node && logs.len() < MAX_WANTS {
            let part = incoming.part(of);
            logs.push(WantLog { of, after, part });
        }
    }
    chosen.map(|to| Want { to, logs })
}

fn is_full(store: &Store) -> bool {
    store.hosts().count() >= super::store::MAX_HOSTS
}

/// Snapshots that are coming in.
#[derive(Clone, Debug, Default)]
pub struct Incoming(BTreeMap<HostId, (ChunkHead, Vec<u8>)>);

impl Incoming {
    /// What is there of a host's snapshot.
    #[must_use]
    pub fn part(&self, of: HostId) -> Option<Part> {
        let (head, bytes) = self.0.get(&of)?;
        let have = u64::try_from(bytes.len()).ok()?;
        Some(Part {
            position: head.position,
            sum: head.sum,
            have,
        })
    }

    /// Takes a part that continues what is there, or begins another snapshot; gives the whole once it is.
    ///
    /// # Errors
    /// The whole is not what it was said to be; it is forgotten.
    pub fn take(&mut self, chunk: &Chunk) -> Result<Option<HostState>, String> {
        let ChunkHead {
            of, total, offset, ..
        } = chunk.head;
        let most = u64::try_from(MAX_CONTENTS).unwrap_or(u64::MAX);
        if total > most {
            return Err(format!("a snapshot of {total} bytes"));
        }
        let same = |head: &ChunkHead| {
            (head.position, head.sum, head.total)
                == (chunk.head.position, chunk.head.sum, chunk.head.total)
        };
        let is_same = self.0.get(&of).is_some_and(|(head, _)| same(head));
        if !is_same {
            if offset != 0 || !self.0.contains_key(&of) && self.0.len() >= SNAPSHOTS {
                return Ok(None);
            }
            self.0.insert(of, (chunk.head, Vec::new()));
        }
        let Some((_, bytes)) = self.0.get_mut(&of) else {
            return Ok(None);
        };
        let have = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let brings = u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX);
        if offset != have || have.saturating_add(brings) > total {
            return Ok(None);
        }
        bytes.extend(&chunk.bytes);
        if have.saturating_add(brings) < total {
            return Ok(None);
        }
        let whole = self.0.remove(&of).map(|(_, bytes)| bytes);
        whole.map(|bytes| finish(&chunk.head, &bytes)).transpose()
    }

    /// Forgets what is no longer lacking.
    pub fn forget_known(&mut self, store: &Store) {
        self.0
            .retain(|host, (head, _)| store.position(*host) < head.position);
    }
}

fn finish(head: &ChunkHead, bytes: &[u8]) -> Result<HostState, String> {
    if sum(bytes) != head.sum {
        return Err("a snapshot's checksum is wrong".to_owned());
    }
    let state: HostState =
        serde_json::from_slice(bytes).map_err(|error| format!("a snapshot: {error}"))?;
    if state.position != head.position {
        return Err("a snapshot of another position".to_owned());
    }
    Ok(state)
}

type Snapshot = (ChunkHead, Arc<Vec<u8>>);

/// Snapshots that are being sent: they stay as they are while their log goes on.
#[derive(Clone, Debug, Default)]
pub struct Outgoing(VecDeque<Snapshot>);

impl Outgoing {
    /// The messages that answer; the last is an empty one, which says that this is all for now.
    #[must_use]
    pub fn answer(&mut self, store: &Store, want: &Want) -> Vec<Message> {
        let mut answer = Vec::new();
        let mut left = ANSWER;
        for wanted in want.logs.iter().take(MAX_WANTS) {
            let Some(log) = store.host(wanted.of) else {
                continue;
            };
            let part = wanted.part.filter(|part| part.position > wanted.after);
            match log.after(wanted.after).filter(|_| part.is_none()) {
                Some(records) => pack(records, &mut left, &mut answer),
                None => self.chunks(log, wanted, &mut left, &mut answer),
            }
            if left == 0 {
                break;
            }
        }
        answer.push(Message::Records(Vec::new()));
        answer
    }

    fn chunks(
        &mut self,
        log: &HostLog,
        wanted: &WantLog,
        left: &mut usize,
        answer: &mut Vec<Message>,
    ) {
        let Some((head, bytes)) = self.snapshot(log, wanted) else {
            return;
        };
        let have = match wanted.part {
            Some(part) if (part.position, part.sum) == (head.position, head.sum) => part.have,
            _ => 0,
        };
        let mut at = usize::try_from(have).unwrap_or(usize::MAX);
        while *left > 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            let chunk = rest.get(..rest.len().min(CHUNK)).unwrap_or_default();
            if chunk.is_empty() {
                return;
            }
            let offset = u64::try_from(at).unwrap_or(u64::MAX);
            let head = ChunkHead { offset, ..head };
            let bytes = chunk.to_vec();
            *left = left.saturating_sub(bytes.len());
            at = at.saturating_add(bytes.len());
            answer.push(Message::Base(Chunk { head, bytes }));
        }
    }

    /// The snapshot that was begun, or the one that is.
    fn snapshot(&mut self, log: &HostLog, wanted: &WantLog) -> Option<Snapshot> {
        let begun = wanted.part.and_then(|part| {
            self.0.iter().find(|(head, _)| {
                (head.of, head.position, head.sum) == (wanted.of, part.position, part.sum)
            })
        });
        if let Some(begun) = begun {
            return Some(begun.clone());
        }
        let base = log.base();
        let made = self
            .0
            .iter()
            .find(|(head, _)| (head.of, head.position) == (wanted.of, base.position));
        if let Some(made) = made {
            return Some(made.clone());
        }
        let bytes = serde_json::to_vec(base).ok()?;
        let head = ChunkHead {
            of: wanted.of,
            position: base.position,
            sum: sum(&bytes),
            total: u64::try_from(bytes.len()).ok()?,
            offset: 0,
        };
        let snapshot = (head, Arc::new(bytes));
        self.0.push_back(snapshot.clone());
        if self.0.len() > SNAPSHOTS {
            self.0.pop_front();
        }
        Some(snapshot)
    }
}

/// Records in messages, as long as something is left.
pub fn pack<'a>(
    records: impl Iterator<Item = &'a Arc<Stored>>,
    left: &mut usize,
    answer: &mut Vec<Message>,
) {
    let (mut some, mut bytes) = (Vec::new(), 0_usize);
    for stored in records {
        let length = stored.bytes.len().saturating_add(super::frame::HEAD);
        if !some.is_empty() && bytes.saturating_add(length) > RECORDS {
            answer.push(Message::Records(std::mem::take(&mut some)));
            bytes = 0;
        }
        if *left == 0 {
            break;
        }
        *left = left.saturating_sub(length);
        bytes = bytes.saturating_add(length);
        some.push(Arc::clone(stored));
    }
    if !some.is_empty() {
        answer.push(Message::Records(some));
    }
}

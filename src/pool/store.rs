// SPDX-License-Identifier: GPL-2.0-only
//! All that a host knows of the pool: of each host a snapshot, the records since, and the state that both give.
//!
//! In: records and snapshots, in any order and any number of times. Out: what follows a position, what is known to
//! which position, and a hash that is equal where the same is known. A record is applied if and only if it continues
//! its host's log; one that leaves a gap is refused, and [`super::transfer`] fetches what is between.
//!
//! Promises: bounded: at most [`MAX_HOSTS`], of each at most half as many records again as are to be kept.

use super::fold::HostState;
use super::record::{HostId, Position, Record, Stored, What};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Hosts at most: CPG_MEMBERS_MAX of corosync/cpg.h.
pub const MAX_HOSTS: usize = 128;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is applied.
    New,
    /// It was known.
    Known,
    /// What comes before it is not known here.
    Gap,
    /// There are too many hosts.
    Refused,
}

/// One host's log, as far as it is known here.
#[derive(Clone, Debug, Default)]
pub struct HostLog {
    base: HostState,
    tail: VecDeque<Arc<Stored>>,
    state: HostState,
    hash: Option<[u8; 32]>,
    /// The base has moved since the log on disk was written.
    moved: bool,
}

impl HostLog {
    /// What it says.
    #[must_use]
    pub fn state(&self) -> &HostState {
        &self.state
    }

    /// What it said before the records that are kept.
    #[must_use]
    pub fn base(&self) -> &HostState {
        &self.base
    }

    /// The records that are kept.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Arc<Stored>> {
        self.tail.iter()
    }

    /// The records after `position`. None: some of them are no longer kept.
    #[must_use]
    pub fn after(&self, position: Position) -> Option<impl Iterator<Item = &Arc<Stored>>> {
        if position < self.base.position {
            return None;
        }
        let known = |stored: &Arc<Stored>| stored.position <= position;
        let from = self.tail.partition_point(known);
        Some(self.tail.range(from..))
    }

    fn push(&mut self, stored: Arc<Stored>, record: &Record, keep: usize) {
        self.state.apply(record);
        self.hash = None;
        self.tail.push_back(stored);
        // In steps, so that the base and its file change seldom.
        if self.tail.len() > keep.saturating_add(keep / 2) {
            let surplus = self.tail.len().saturating_sub(keep);
            for old in self.tail.drain(..surplus) {
                self.base.apply(&old.record());
            }
            self.moved = true;
        }
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Store {
    hosts: BTreeMap<HostId, HostLog>,
    keep: usize,
    changes: u64,
}

impl Store {
    /// Of nothing yet; of each host's records at least `keep` are kept.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        let hosts = BTreeMap::new();
        let keep = keep.max(2);
        Self {
            hosts,
            keep,
            changes: 0,
        }
    }

    /// Rises with each change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &HostLog)> {
        self.hosts.iter().map(|(host, log)| (*host, log))
    }

    /// One host's log.
    #[must_use]
    pub fn host(&self, host: HostId) -> Option<&HostLog> {
        self.hosts.get(&host)
    }

    /// How much of a host is known; the zero position: nothing.
    #[must_use]
    pub fn position(&self, host: HostId) -> Position {
        self.host(host)
            .map(|log| log.state.position)
            .unwrap_or_default()
    }

    /// How much of each is known.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<HostId, Position> {
        self.hosts()
            .map(|(host, log)| (host, log.state.position))
            .collect()
    }

    /// Whether a record would be applied.
    #[must_use]
    pub fn fits(&self, record: &Record) -> Taken {
        let Record { host, position, .. } = *record;
        let known = self.position(host);
        if position <= known {
            return Taken::Known;
        }
        if !self.hosts.contains_key(&host) && self.hosts.len() >= MAX_HOSTS {
            return Taken::Refused;
        }
        let continues = match &record.what {
            // Nothing can be missing before a log that begins anew.
            What::Boot(boot) if position.seq == 1 => boot.after.is_none_or(|after| after == known),
            _ => position.boot == known.boot && position.seq == known.seq.saturating_add(1),
        };
        if continues { Taken::New } else { Taken::Gap }
    }

    /// Applies a record, if it is the next of its host.
    pub fn take(&mut self, stored: &Arc<Stored>) -> Taken {
        // Most that comes twice need not be read again.
        if stored.position <= self.position(stored.host) {
            return Taken::Known;
        }
        self.take_read(stored, &stored.record())
    }

    /// The same for one that was read, which `record` says.
    pub fn take_read(&mut self, stored: &Arc<Stored>, record: &Record) -> Taken {
        let taken = self.fits(record);
        if taken == Taken::New {
            let keep = self.keep;
            let log = self.hosts.entry(record.host).or_default();
            log.push(Arc::clone(stored), record, keep);
            self.changes = self.changes.wrapping_add(1);
        }
        taken
    }

    /// Replaces what is known of a host by a snapshot that knows more. Whether it did.
    pub fn take_base(&mut self, host: HostId, base: HostState) -> bool {
        let known = self.hosts.contains_key(&host);
        if base.position <= self.position(host) || !known && self.hosts.len() >= MAX_HOSTS {
            return false;
        }
        let state = base.clone();
        let log = HostLog {
            base,
            state,
            tail: VecDeque::new(),
            hash: None,
            moved: true,
        };
        self.hosts.insert(host, log);
        self.changes = self.changes.wrapping_add(1);
        true
    }

    /// A host but `except` whose snapshot is not on disk as it is here; each is given once.
    pub fn next_moved(&mut self, except: Option<HostId>) -> Option<(HostId, &HostLog)> {
        let moved = |(host, log): &(&HostId, &mut HostLog)| log.moved && Some(**host) != except;
        let (host, log) = self.hosts.iter_mut().find(moved)?;
        log.moved = false;
        Some((*host, log))
    }

    /// The log of this host is not on disk as it is here.
    pub fn set_moved(&mut self, host: HostId) {
        if let Some(log) = self.hosts.get_mut(&host) {
            log.moved = true;
        }
    }

    /// What is on the disk is what is here: after reading it.
    pub fn none_moved(&mut self) {
        for log in self.hosts.values_mut() {
            log.moved = false;
        }
    }

    /// Equal where the same is known, on whichever host. Hashes anew what has changed since it was last asked for.
    pub fn hash(&mut self) -> String {
        let mut all = Sha256::new();
        for (host, log) in &mut self.hosts {
            let state = &log.state;
            let hash = log.hash.get_or_insert_with(|| state.hash());
            all.update(host.as_bytes());
            all.update(*hash);
        }
        let digest = all.finalize();
        let hex = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
        hex.collect()
    }
}

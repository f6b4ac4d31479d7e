// SPDX-License-Identifier: GPL-2.0-only
//! A client that follows events: its place in each host's log.
//!
//! In: what is known of the pool. Out: lines, those that come after its place, as far as there is room. There is no queue: what it
//! does not read now it is given later, while that is kept. Pure.

use super::protocol::{Notice, Subscription};
use super::record::{At, HostId, Position};
use super::sightings::is_repeated;
use super::store::Store;
use super::told::{self, Filter};
use crate::control::protocol::line;
use std::collections::BTreeMap;

/// Bytes that wait for a follower before it is given more.
pub const FULL: usize = 64 << 10;
/// Records of one host that one round looks at for a follower.
const LOOK: usize = 512;

/// One.
#[derive(Debug)]
pub struct Follower {
    filter: Filter,
    cursor: BTreeMap<HostId, Position>,
    /// It is told what it missed also of hosts that it has not named.
    tells: bool,
    follow: bool,
    /// The store's changes that it has seen.
    seen: Option<u64>,
}

impl Follower {
    /// After what it has seen.
    #[must_use]
    pub fn new(subscription: Subscription, store: &Store) -> Self {
        let Subscription {
            after,
            follow,
            kinds,
            guest,
        } = subscription;
        let tells = after.is_some();
        let cursor = match after {
            Some(after) => after.into_iter().map(|at| (at.host, at.position)).collect(),
            None if follow => store.positions(),
            None => BTreeMap::new(),
        };
        Self {
            filter: Filter { kinds, guest },
            cursor,
            tells,
            follow,
            seen: None,
        }
    }

    /// Adds what comes next; whether this was all that it asked for.
    pub fn fill(&mut self, store: &Store, out: &mut Vec<u8>) -> bool {
        if self.seen == Some(store.changes()) {
            return false;
        }
        let mut all = true;
        for (host, log) in store.hosts() {
            let base = log.base().position;
            let cursor = self.cursor.get(&host).copied().unwrap_or_default();
            if cursor < base {
                self.cursor.insert(host, base);
                if self.tells {
                    let at = At {
                        host,
                        position: base,
                    };
                    out.extend(line(&Notice::MissedUpto(at)));
                }
            }
            let records = log.after(cursor.max(base)).into_iter().flatten();
            for (count, stored) in records.enumerate() {
                if count >= LOOK || out.len() >= FULL {
                    all = false;
                    break;
                }
                let event = told::event(store, stored);
                let event = event.filter(|event| self.filter.wants(event));
                if let Some(event) = event.filter(|e| !is_repeated(store, e, &self.cursor)) {
                    out.extend(line(&event));
                }
                self.cursor.insert(host, stored.position);
            }
        }
        if all {
            self.seen = Some(store.changes());
        }
        all && !self.follow
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Hosts whose beats this member echoes no more, as an order says that they are to end.
//!
//! In: orders as they are delivered, beats, who comes and goes. Out: echoes; what is known of a host for the one
//! who gave the order. Promise: once an order is delivered, this member echoes no beat of that host, until one of a boot that
//! began after that, or until each one who gave such an order has given it up. Whoever holds this keeps what is [kept](Refusals::kept) over restarts of the program; after a restart of the
//! machine there is nothing to keep, as a boot that is younger than this one is younger than any order before it.

use super::{Beat, BootOf, DOUBT_MS, Echo, Node};
use crate::event::Uuid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a member knows of another's latest beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Whose, and when it was sent.
    #[serde(flatten)]
    pub echo: Echo,
    /// What it promises.
    pub promise_ms: Option<u64>,
}

/// For whom a refusal is of which nobody knows any more who asked for it: it ends with that boot alone. No node has this number.
const FOR_GOOD: Node = 0;

/// A boot that is refused.
#[derive(Clone, Debug)]
struct Refused {
    boot: Uuid,
    /// ms of this host's CLOCK_BOOTTIME.
    since: u64,
    /// Who has given the order, and not given it up.
    by: BTreeSet<Node>,
}

/// What this member echoes, and what not.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<Node, Refused>,
    last: BTreeMap<Node, Last>,
}

impl Refusals {
    /// With those that were kept in this boot, since when, and who had asked for which.
    #[must_use]
    pub fn new(
        kept: impl IntoIterator<Item = (BootOf, u64)>,
        by: impl IntoIterator<Item = (BootOf, Node)>,
    ) -> Self {
        let mut all = Self::default();
        for (of, since) in kept {
            all.refuse(of, since, FOR_GOOD);
        }
        let by: BTreeSet<(BootOf, Node)> = by.into_iter().collect();
        for (of, node) in &by {
            if let Some(refused) = all.of(*of) {
                refused.by.insert(*node);
                if !by.contains(&(*of, FOR_GOOD)) {
                    refused.by.remove(&FOR_GOOD);
                }
            }
        }
        all
    }

    fn of(&mut self, boot: BootOf) -> Option<&mut Refused> {
        let refused = self.refused.get_mut(&boot.node);
        refused.filter(|refused| refused.boot == boot.boot)
    }

    /// An order of `by` for this boot was delivered at `now_ms`. It is said again and again; what counts is its first time.
    pub fn refuse(&mut self, boot: BootOf, now_ms: u64, by: Node) {
        if let Some(refused) = self.of(boot) {
            refused.by.insert(by);
            return;
        }
        let refused = Refused {
            boot: boot.boot,
            since: now_ms,
            by: BTreeSet::from([by]),
        };
        self.refused.insert(boot.node, refused);
    }

    /// `by` has given its order for this boot up. Whether anything is another by that.
    pub fn withdraw(&mut self, boot: BootOf, by: Node) -> bool {
        let Some(refused) = self.of(boot) else {
            return false;
        };
        let was = refused.by.remove(&by);
        if refused.by.is_empty() {
            self.refused.remove(&boot.node);
        }
        was
    }

    /// A member's beat was delivered at `now_ms`. Whether a refusal has ended by it.
    pub fn hear(&mut self, from: Node, beat: &Beat, now_ms: u64) -> bool {
        let of = BootOf {
            node: from,
            boot: beat.boot,
        };
        let sent = beat.sent;
        let last = Last {
            echo: Echo { of, sent },
            promise_ms: beat.promise_ms,
        };
        self.last.insert(from, last);
        let is_younger = |refused: &Refused| {
            beat.up_ms.saturating_add(DOUBT_MS) < now_ms.saturating_sub(refused.since)
        };
        let ends = self.refused.get(&from).is_some_and(is_younger);
        ends && self.refused.remove(&from).is_some()
    }

    /// The host is in the same ring from now on, and was not before: whatever it promised before, it may be another boot,
    /// with guests and without this program, until it is heard.
    pub fn joined(&mut self, node: Node) {
        self.last.remove(&node);
    }

    /// What is known of the latest beat of a member.
    #[must_use]
    pub fn last(&self, node: Node) -> Option<Last> {
        self.last.get(&node).copied()
    }

    /// The beats to be echoed.
    #[must_use]
    pub fn echoes(&self) -> Vec<Echo> {
        let all = self.last.values().map(|last| last.echo);
        all.filter(|echo| !self.refused.contains_key(&echo.of.node))
            .collect()
    }

    /// What is refused and since when, to be kept.
    pub fn kept(&self) -> impl Iterator<Item = (BootOf, u64)> {
        let all = self.refused.iter();
        all.map(|(node, refused)| (boot_of(*node, refused), refused.since))
    }

    /// Who asked for it, to be kept.
    pub fn kept_by(&self) -> impl Iterator<Item = (BootOf, Node)> {
        let all = self.refused.iter();
        all.flat_map(|(node, refused)| {
            let by = refused.by.iter();
            by.map(|by| (boot_of(*node, refused), *by))
        })
    }
}

fn boot_of(node: Node, refused: &Refused) -> BootOf {
    let boot = refused.boot;
    BootOf { node, boot }
}

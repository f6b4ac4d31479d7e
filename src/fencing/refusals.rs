// SPDX-License-Identifier: GPL-2.0-only
//! Hosts whose beats this member echoes no more, as an order says that they are to end.
//!
//! In: orders as they are delivered, what became of them, beats, who comes and goes. Out: echoes; what is known of a host for the one
//! who gave the order. Promise: once an order is delivered, this member echoes no beat of that host, until one of a boot that
//! began after that, or until each one who gave such an order has given it up, has found that boot to be over, or is over itself with the
//! boot in which it was given. A boot that was found to be over is not echoed after that either; others of its host are. Never: more
//! than [`MOST`] boots, whatever is ordered; an order for a host that was not heard here is answered, and refuses
//! nothing, as that answer proves nothing. Whoever holds this keeps what is [kept](Refusals::kept) over restarts of the program; after a restart of the
//! machine there is nothing to keep, as a boot that is younger than this one is younger than any order before it.

use super::say::Kept;
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

/// Boots that are refused at most: more than corosync has nodes.
pub const MOST: usize = 256;
/// For whom a refusal is of which nobody knows any more who asked for it: it ends with that boot alone. No node has this number.
const FOR_GOOD: Node = 0;

/// A boot that is refused.
#[derive(Clone, Debug)]
struct Refused {
    /// ms of this host's CLOCK_BOOTTIME.
    since: u64,
    /// Who has given the order, and waits for it to be done. While there is one, no boot of that host is echoed.
    by: BTreeSet<Node>,
    /// It is certainly over.
    is_over: bool,
}

impl Refused {
    fn is_none(&self) -> bool {
        self.by.is_empty() && !self.is_over
    }
}

/// What this member echoes, and what not.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<BootOf, Refused>,
    last: BTreeMap<Node, Last>,
    /// The boot of each member that was heard last: its orders are of that one.
    boots: BTreeMap<Node, Uuid>,
}

impl Refusals {
    /// With what was kept in this boot.
    #[must_use]
    pub fn new(kept: &Kept) -> Self {
        let by: BTreeSet<(BootOf, Node)> = kept.refused_by.iter().copied().collect();
        let one = |(of, since): &(BootOf, u64)| {
            let asked = by.iter().filter(|(boot, _)| boot == of);
            let mut by: BTreeSet<Node> = asked.map(|(_, node)| *node).collect();
            let is_over = kept.refused_over.contains(of);
            if by.is_empty() && !is_over {
                by.insert(FOR_GOOD);
            }
            let since = *since;
            (*of, Refused { since, by, is_over })
        };
        let boots = kept.orderers.iter().map(|of| (of.node, of.boot));
        Self {
            refused: kept.refused.iter().map(one).collect(),
            last: BTreeMap::new(),
            boots: boots.collect(),
        }
    }

    /// An order of `by` for this boot was delivered at `now_ms`. It is said again and again; what counts is its first time. Whether
    /// there was room: otherwise it is not to be answered.
    pub fn refuse(&mut self, boot: BootOf, now_ms: u64, by: Node) -> bool {
        // It has one order for each host at a time.
        self.ends_for(by, |of| of.node == boot.node && *of != boot);
        if let Some(refused) = self.refused.get_mut(&boot) {
            refused.by.insert(by);
            return true;
        }
        if !self.last.contains_key(&boot.node) {
            return true;
        }
        if self.refused.len() >= MOST && !self.make_room() {
            return false;
        }
        let refused = Refused {
            since: now_ms,
            by: BTreeSet::from([by]),
            is_over: false,
        };
        self.refused.insert(boot, refused);
        true
    }

    /// What is over for certain is refused for the sake of hardware that does not do what it promised, and may be forgotten.
    fn make_room(&mut self) -> bool {
        let all = self.refused.iter();
        let over = all.filter(|(_, refused)| refused.by.is_empty());
        let oldest = over.min_by_key(|(_, refused)| refused.since);
        let oldest = oldest.map(|(boot, _)| *boot);
        oldest.is_some_and(|boot| self.refused.remove(&boot).is_some())
    }

    /// Nothing is refused for `by` any more of these boots. Whether anything is another by that.
    fn ends_for(&mut self, by: Node, of: impl Fn(&BootOf) -> bool) -> bool {
        let mut ends = false;
        let theirs = self.refused.iter_mut().filter(|(boot, _)| of(boot));
        for (_, refused) in theirs {
            ends |= refused.by.remove(&by);
        }
        self.refused.retain(|_, refused| !refused.is_none());
        ends
    }

    /// `by` has given its order for this boot up. Whether anything is another by that.
    pub fn withdraw(&mut self, boot: BootOf, by: Node) -> bool {
        self.ends_for(by, |of| of.boot == boot.boot)
    }

    /// An order of `by` has found this boot to be over. Whether anything is another by that.
    pub fn over(&mut self, boot: BootOf, by: Node) -> bool {
        let mut ends = false;
        let all = self.refused.iter_mut();
        for (_, refused) in all.filter(|(of, _)| of.boot == boot.boot) {
            let was = refused.by.remove(&by);
            refused.is_over |= was;
            ends |= was;
        }
        ends
    }

    /// That boot of a host is over, or it is to be taken for that: nobody waits any more for what was ordered in it. Whether
    /// anything is another by that.
    pub fn orderer_over(&mut self, boot: BootOf) -> bool {
        let mut ends = false;
        for node in self.nodes_of(boot.boot) {
            ends |= self.ends_for(node, |_| true);
        }
        ends
    }

    /// As which nodes this boot was heard last.
    fn nodes_of(&self, boot: Uuid) -> Vec<Node> {
        let all = self.boots.iter().filter(|(_, its)| **its == boot);
        all.map(|(node, _)| *node).collect()
    }

    /// That node is another by now: its program has given up what it ordered as the one that it was. Whether anything is another by
    /// that.
    pub fn moved(&mut self, node: Node) -> bool {
        self.boots.remove(&node);
        self.ends_for(node, |_| true)
    }

    /// A boot is this node by now, and no other. Whether anything is another by that.
    fn is_now(&mut self, of: BootOf) -> bool {
        self.last
            .retain(|node, last| *node == of.node || last.echo.of.boot != of.boot);
        let mut ends = false;
        for node in self.nodes_of(of.boot) {
            ends |= node != of.node && self.moved(node);
        }
        let all = self.refused.keys();
        let others = all.filter(|other| other.boot == of.boot && other.node != of.node);
        let others: Vec<BootOf> = others.copied().collect();
        for other in others {
            let Some(was) = self.refused.remove(&other) else {
                continue;
            };
            let one = self.refused.entry(of).or_insert_with(|| was.clone());
            one.since = one.since.max(was.since);
            one.by.extend(was.by);
            one.is_over |= was.is_over;
            ends = true;
        }
        ends
    }

    /// A member's beat was delivered at `now_ms`. Whether a refusal has ended by it, or is another.
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
        let mut ends = self.is_now(of);
        self.last.insert(from, last);
        let before = self.boots.insert(from, beat.boot);
        let boots_anew = before.is_some_and(|before| before != beat.boot);
        ends |= boots_anew && self.ends_for(from, |_| true);
        self.refused.retain(|boot, refused| {
            let began_after =
                beat.up_ms.saturating_add(DOUBT_MS) < now_ms.saturating_sub(refused.since);
            // In which boot it gave the order was not kept: it was an earlier one.
            ends |= before.is_none() && began_after && refused.by.remove(&from);
            let is_younger = boot.node == from && boot.boot != of.boot && began_after;
            ends |= is_younger;
            !is_younger && !refused.is_none()
        });
        ends
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
        all.filter(|echo| !self.refuses(echo.of)).collect()
    }

    fn refuses(&self, of: BootOf) -> bool {
        let mut all = self.refused.iter();
        all.any(|(boot, refused)| {
            boot.boot == of.boot || (boot.node == of.node && !refused.by.is_empty())
        })
    }

    /// What is refused and since when, to be kept.
    pub fn kept(&self) -> impl Iterator<Item = (BootOf, u64)> {
        let all = self.refused.iter();
        all.map(|(boot, refused)| (*boot, refused.since))
    }

    /// Who asked for it, to be kept.
    pub fn kept_by(&self) -> impl Iterator<Item = (BootOf, Node)> {
        let all = self.refused.iter();
        all.flat_map(|(boot, refused)| refused.by.iter().map(|by| (*boot, *by)))
    }

    /// What of it is over, to be kept.
    pub fn kept_over(&self) -> impl Iterator<Item = BootOf> {
        let all = self.refused.iter().filter(|(_, refused)| refused.is_over);
        all.map(|(boot, _)| *boot)
    }

    /// In which boots these were that asked for it, to be kept.
    pub fn kept_orderers(&self) -> impl Iterator<Item = BootOf> {
        let by: BTreeSet<Node> = self.kept_by().map(|(_, by)| by).collect();
        let all = self.boots.iter().filter(move |(node, _)| by.contains(node));
        all.map(|(node, boot)| BootOf {
            node: *node,
            boot: *boot,
        })
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Which machine each node of the ring is.
//!
//! In: beats. Out: whether a beat is of the machine that the node was before. corosync knows a node by its number and address, and
//! whoever is given these is that node: a machine that was set up in the place of another, which may be cut off and run on. A boot
//! that is heard of the one says nothing of the other. Promise: while nobody knows that a machine is down, no other passes for it.
//! Never: a guess where an older member does not say which machine it is; a boot that is the same is the same machine's.

use super::say::Over;
use super::{Beat, BootOf, Node};
use crate::event::Uuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What says that a boot is over may have been on its way for so long, ms, or for less.
const LATE_MS: u64 = 60_000;

/// A machine that was heard as a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The node, and its latest boot that was heard.
    #[serde(flatten)]
    pub of: BootOf,
    /// By the pool's id of it.
    pub machine: Uuid,
    /// The host's name.
    pub name: String,
}

/// A machine that speaks as the node of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its name.
    pub name: String,
    /// Which it is; none: it does not say.
    pub machine: Option<Uuid>,
    /// Whose node it was before.
    pub before: Uuid,
}

/// What a beat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Of the machine that is known, or of one that does not say.
    Known,
    /// Of a machine or a boot of it that was not known: to be kept.
    New,
    /// Of another machine than the node was.
    Stranger,
}

/// The machines.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    of: BTreeMap<Node, Machine>,
    strangers: BTreeMap<Node, Stranger>,
    /// When each was heard last; none: not by this process.
    heard: BTreeMap<Node, Times>,
}

/// Times of a boot, ms of CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug)]
struct Times {
    boot: Uuid,
    heard: u64,
    /// 0 where that was before this host's own boot.
    began: u64,
}

impl Machines {
    /// Those that were kept in this boot.
    #[must_use]
    pub fn new(kept: &[Machine]) -> Self {
        let all = kept.iter();
        Self {
            of: all
                .map(|machine| (machine.of.node, machine.clone()))
                .collect(),
            strangers: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// A beat of that node, at `now_ms` of CLOCK_BOOTTIME.
    pub fn hear(&mut self, from: Node, beat: &Beat, now_ms: u64) -> Heard {
        let of = BootOf {
            node: from,
            boot: beat.boot,
        };
        let before = self.of.get(&from);
        let is_same = |before: &&Machine| {
            before.of == of
                || beat
                    .machine
                    .is_some_and(|machine| machine == before.machine)
        };
        if let Some(before) = before.filter(|before| !is_same(before)) {
            let stranger = Stranger {
                name: beat.name.clone(),
                machine: beat.machine,
                before: before.machine,
            };
            self.strangers.insert(from, stranger);
            return Heard::Stranger;
        }
        self.strangers.remove(&from);
        let times = Times {
            boot: beat.boot,
            heard: now_ms,
            began: now_ms.saturating_sub(beat.up_ms),
        };
        self.heard.insert(from, times);
        let Some(machine) = beat.machine else {
            return Heard::Known;
        };
        let name = beat.name.clone();
        let now = Machine { of, machine, name };
        if before == Some(&now) {
            return Heard::Known;
        }
        self.of.insert(from, now);
        Heard::New
    }

    /// The machine that this boot is of, where it is known.
    #[must_use]
    pub fn machine_of(&self, boot: BootOf) -> Option<Uuid> {
        let one = self.of.get(&boot.node).filter(|one| one.of == boot);
        one.map(|one| one.machine)
    }

    /// When that boot began, ms of CLOCK_BOOTTIME, where it is the one that was heard last. One from before this host's own boot
    /// began with that, at 0: of its machine no other was heard between the two.
    #[must_use]
    pub fn began(&self, boot: BootOf) -> Option<u64> {
        let times = self.heard.get(&boot.node)?;
        (times.boot == boot.boot).then_some(times.began)
    }

    /// That boot is certainly over, told at `now_ms` of CLOCK_BOOTTIME: whoever speaks as its node next is that node. Whether it was the one
    /// that is known, or one of the same machine that was heard here last before that boot began.
    pub fn over(&mut self, over: &Over, now_ms: u64) -> bool {
        let node = over.boot.node;
        let is_known = self.of.get(&node).is_some_and(|one| {
            one.of == over.boot
                || (over.machine == Some(one.machine) && self.was_before(node, over, now_ms))
        });
        is_known && self.of.remove(&node).is_some()
    }

    /// Whether a node was heard last before that boot began, clocks that differ by one in a hundred allowed for.
    fn was_before(&self, node: Node, over: &Over, now_ms: u64) -> bool {
        let times = self.heard.get(&node).zip(over.began_ms);
        times.is_some_and(|(times, ago)| {
            let doubt = LATE_MS.saturating_add(ago / 100);
            times.heard.saturating_add(ago).saturating_add(doubt) < now_ms
        })
    }

    /// The same machine was another node before, one that is not `there`: which it is no more.
    pub fn moved(&mut self, from: Node, there: impl Fn(Node) -> bool) -> Vec<Node> {
        let machine = self.of.get(&from).map(|one| one.machine);
        let all = self.of.values();
        let others = all.filter(|one| Some(one.machine) == machine && one.of.node != from);
        let others: Vec<Node> = others.map(|one| one.of.node).collect();
        let gone: Vec<Node> = others.into_iter().filter(|node| !there(*node)).collect();
        for node in &gone {
            self.of.remove(node);
        }
        gone
    }

    /// Whether another machine speaks as that node.
    #[must_use]
    pub fn is_stranger(&self, node: Node) -> bool {
        self.strangers.contains_key(&node)
    }

    /// Those who speak as nodes that were others.
    pub fn strangers(&self) -> impl Iterator<Item = (Node, &Stranger)> {
        let all = self.strangers.iter();
        all.map(|(node, stranger)| (*node, stranger))
    }

    /// What is to be kept.
    #[must_use]
    pub fn kept(&self) -> Vec<Machine> {
        self.of.values().cloned().collect()
    }
}

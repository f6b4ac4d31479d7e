// SPDX-License-Identifier: GPL-2.0-only
//! How votes were counted in this boot.
//!
//! In: votes as corosync counts them now. Out: votes to go by, and what was changed. corosync-quorumtool(8) changes the votes of a
//! node (`-v`) and the votes that there are in all (`-e`) while corosync runs, on one side of a partition alone: both sides may then
//! be a quorum. Promise: with the votes to go by no partition is one that would not have been by what was counted first, and none by
//! less than half of the most that there were. Nodes that are added count.

use super::Node;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The most votes that there were in all.
    pub expected: u32,
    /// Those of each node when it was seen first.
    pub of: BTreeMap<Node, u32>,
    /// Those of the quorum device when it voted first.
    #[serde(default)]
    pub device: Option<u32>,
}

impl Pinned {
    /// Votes in all to go by.
    pub fn expected(&mut self, now: u32) -> u32 {
        self.expected = self.expected.max(now);
        self.expected
    }

    /// Votes of nodes to go by.
    pub fn nodes(&mut self, now: &BTreeMap<Node, u32>) -> BTreeMap<Node, u32> {
        let one = |(node, votes): (&Node, &u32)| {
            let first = self.of.entry(*node).or_insert(*votes);
            (*node, *votes.min(first))
        };
        now.iter().map(one).collect()
    }

    /// Votes of the device to go by; 0: it does not vote.
    pub fn device(&mut self, now: u32) -> u32 {
        if now > 0 {
            now.min(*self.device.get_or_insert(now))
        } else {
            0
        }
    }

    /// What is another than it was.
    #[must_use]
    pub fn changed(&self, expected: u32, of: &BTreeMap<Node, u32>) -> Option<String> {
        if expected < self.expected {
            let before = self.expected;
            return Some(format!("all votes are {expected}, and were {before}"));
        }
        let mut others = of.iter().filter_map(|(node, votes)| {
            let before = self.of.get(node)?;
            (before != votes)
                .then(|| format!("the votes of node {node} are {votes}, and were {before}"))
        });
        others.next()
    }
}

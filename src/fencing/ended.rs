// SPDX-License-Identifier: GPL-2.0-only
//! What became of this member's orders, as it tells the others.
//!
//! In: orders that have ended; who comes and goes. Out: what is said of them with each beat. Promise: it is said for a minute, and
//! anew whenever members come or go, for as long as this program runs: whoever was away hears it once back. Never: more
//! than one line for each host. Pure.

use super::say::Say;
use super::{BootOf, Node};
use std::collections::BTreeMap;

/// With so many beats it is said.
const BEATS: u32 = 60;

/// Orders that have ended, the last for each host.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    of: BTreeMap<Node, (Say, u32)>,
}

impl Ended {
    /// Nobody waits any more for the order to end this boot.
    pub fn withdrawn(&mut self, boot: BootOf) {
        self.of.insert(boot.node, (Say::Withdrawn(boot), BEATS));
    }

    /// That boot is certainly over.
    pub fn over(&mut self, boot: BootOf) {
        self.of.insert(boot.node, (Say::Over(boot), BEATS));
    }

    /// Another order for that host takes its place.
    pub fn ordered(&mut self, node: Node) {
        self.of.remove(&node);
    }

    /// The members are others.
    pub fn members(&mut self) {
        for (_, beats) in self.of.values_mut() {
            *beats = BEATS;
        }
    }

    /// What is to be said with this beat.
    pub fn say(&mut self) -> Vec<Say> {
        let all = self.of.values_mut().filter(|(_, beats)| *beats > 0);
        all.map(|(say, beats)| {
            *beats = beats.saturating_sub(1);
            say.clone()
        })
        .collect()
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Whether this host belongs to the quorum, and until when it may say so.
//!
//! In: its own beats as they are sent, echoes of them, votes. Out: the moment until which its lease is good. Promise: that
//! is one timeout after the sending of a beat that members with enough votes have heard, so a host that is cut
//! off, in one direction or in both, whose corosync hangs, or whose partition has not noticed yet that it is one, proves nothing.
//! Never: more by an echo of another boot, or of a beat that was not sent.

use super::{Beat, Node, Votes};
use crate::event::Uuid;
use crate::sys::clock::Monotonic;
use std::collections::BTreeMap;

/// What was heard of this host's beats.
#[derive(Clone, Debug)]
pub struct Proof {
    me: Node,
    boot: Uuid,
    /// The latest beat of this process.
    sent: Option<Monotonic>,
    /// The latest beat of ours that came back over the ring.
    back: Option<Monotonic>,
    /// Of each other member, the latest beat of ours that it has heard.
    heard: BTreeMap<Node, Monotonic>,
}

impl Proof {
    /// Of a host that nobody has heard yet.
    #[must_use]
    pub fn new(me: Node, boot: Uuid) -> Self {
        Self {
            me,
            boot,
            sent: None,
            back: None,
            heard: BTreeMap::new(),
        }
    }

    /// A beat of ours is about to be sent.
    pub fn send(&mut self, at: Monotonic) {
        self.sent = self.sent.max(Some(at));
    }

    /// A beat of another member.
    pub fn hear(&mut self, from: Node, beat: &Beat) {
        if from == self.me {
            let is_ours = beat.boot == self.boot;
            let sent = self.sent.filter(|last| is_ours && beat.sent <= last.0);
            self.back = self.back.max(sent.map(|_| Monotonic(beat.sent)));
            return;
        }
        let ours = beat
            .echoes
            .iter()
            .filter(|echo| (echo.of.node, echo.of.boot) == (self.me, self.boot));
        for echo in ours {
            let sent = Monotonic(echo.sent);
            // What this process has not sent may be one before it: that was heard, and is no later.
            if self.sent.is_some_and(|last| sent <= last) {
                let heard = self.heard.entry(from).or_insert(sent);
                *heard = sent.max(*heard);
            }
        }
    }

    /// The latest moment at which this host is known to have belonged to the quorum.
    #[must_use]
    pub fn moment(&self, votes: &Votes) -> Option<Monotonic> {
        if !votes.quorate {
            return None;
        }
        let enough = |since: Monotonic| {
            let heard = self.heard.iter().filter(|(_, at)| **at >= since);
            let nodes = heard.map(|(node, _)| *node).filter(|node| *node != self.me);
            votes.are_enough(nodes.chain([self.me]))
        };
        // With the device's votes a host may be the quorum alone, while its ring works.
        if votes.are_enough([self.me].into_iter()) {
            return self.back;
        }
        let mut moments: Vec<Monotonic> = self.heard.values().copied().collect();
        moments.sort_unstable();
        moments.into_iter().rev().find(|at| enough(*at))
    }
}

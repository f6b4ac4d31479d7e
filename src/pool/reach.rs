// SPDX-License-Identifier: GPL-2.0-only
//! What this host itself can reach: corosync, other hosts, quorum; told as it changes.
//!
//! In: whether corosync answers here, which nodes are on its ring, whether there is quorum. Out: records ([`Reach`]) in this
//! host's own log, which others get once they can be reached. Each loss and each return is told once, over restarts of
//! the program too. What a host never had since it joined it has not lost. Pure, as [`super::node`] is.

use super::node::Node;
use super::record::{What, short};
use crate::event::Timestamp;
use crate::sys::clock::NS_PER_S;
use serde::{Deserialize, Serialize};

/// Corosync that has just been joined may still find the others, ns.
const SETTLES_NS: u64 = 5 * NS_PER_S;
/// Other hosts that are named.
const MAX_PEERS: usize = 32;

/// What has changed of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reach", rename_all = "snake_case")]
pub enum Reach {
    /// This host's corosync does not answer any more.
    RingLost {
        /// Why.
        reason: String,
    },
    /// It does again.
    RingBack {
        /// It did not for so long.
        lost_ms: u64,
    },
    /// No other node is on corosync's ring: the last link to the pool's other hosts is lost, or they are.
    LinkLost {
        /// The hosts that were there.
        peers: Vec<String>,
        /// Whether this host has quorum alone; null: not known.
        quorate: Option<bool>,
    },
    /// Some are.
    LinkBack {
        /// None was for so long.
        lost_ms: u64,
    },
    /// This host's partition has no quorum any more.
    QuorumLost {
        /// Nodes of it, this one counted.
        nodes: u64,
    },
    /// It does again.
    QuorumBack {
        /// It did not for so long.
        lost_ms: u64,
    },
    /// Of a newer version.
    #[serde(other)]
    Other,
}

impl Reach {
    /// The kind of its event, and how much it matters; none: of a newer version.
    #[must_use]
    pub fn kind(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::RingLost { .. } => ("pool.ring_lost", "error"),
            Self::RingBack { .. } => ("pool.ring_back", "info"),
            Self::LinkLost { .. } => ("pool.link_lost", "error"),
            Self::LinkBack { .. } => ("pool.link_back", "info"),
            Self::QuorumLost { .. } => ("pool.quorum_lost", "error"),
            Self::QuorumBack { .. } => ("pool.quorum_back", "info"),
            Self::Other => return None,
        })
    }
}

/// What a host cannot reach, and since when, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfReach {
    /// Corosync.
    pub ring: Option<Timestamp>,
    /// Any other node.
    pub link: Option<Timestamp>,
    /// Quorum.
    pub quorum: Option<Timestamp>,
}

impl OutOfReach {
    /// What is so after this was told at that time.
    pub(super) fn apply(&mut self, reach: &Reach, at: Timestamp) {
        match reach {
            Reach::RingLost { .. } => self.ring = Some(at),
            Reach::RingBack { .. } => self.ring = None,
            Reach::LinkLost { .. } => self.link = Some(at),
            Reach::LinkBack { .. } => self.link = None,
            Reach::QuorumLost { .. } => self.quorum = Some(at),
            Reach::QuorumBack { .. } => self.quorum = None,
            Reach::Other => {}
        }
    }
}

/// What a member remembers for this.
#[derive(Clone, Debug, Default)]
pub struct Sees {
    /// What was told, be it on the disk yet or not.
    pub(super) told: OutOfReach,
    /// Why corosync does not answer, once it has.
    pub(super) ring_lost: Option<String>,
    /// There was quorum since the program started.
    had_quorum: bool,
    /// Other nodes were there since it joined.
    pub(super) had_link: bool,
    peers: Vec<String>,
}

impl Sees {
    /// After what was told before.
    pub(super) fn new(told: OutOfReach) -> Self {
        Self {
            told,
            ..Self::default()
        }
    }
}

impl Node {
    /// Tells what has changed.
    pub(super) fn look_around(&mut self, now: u64) {
        if !self.wants_events() {
            return;
        }
        let since = |at: Timestamp| Timestamp::now().since_ms(at);
        let told = self.sees.told;
        match (self.sees.ring_lost.clone(), told.ring) {
            (Some(reason), None) => self.changed(Reach::RingLost { reason }),
            (None, Some(at)) if self.ring.me.is_some() => {
                let lost_ms = since(at);
                self.changed(Reach::RingBack { lost_ms });
            }
            _ => {}
        }
        if self.ring.me.is_none() {
            return;
        }
        self.look_for_others(told.link.map(since));
        let settled = now.saturating_sub(self.watch.joined) >= SETTLES_NS;
        match (self.quorate(), told.quorum) {
            (Some(true), at) => {
                self.sees.had_quorum = true;
                if let Some(lost_ms) = at.map(since) {
                    self.changed(Reach::QuorumBack { lost_ms });
                }
            }
            (Some(false), None) if self.sees.had_quorum && settled => {
                let nodes = u64::try_from(self.nodes().len()).unwrap_or(u64::MAX);
                self.changed(Reach::QuorumLost { nodes });
            }
            _ => {}
        }
    }

    fn look_for_others(&mut self, lost_ms: Option<u64>) {
        match (self.nodes().len(), lost_ms) {
            (2.., lost_ms) => {
                self.sees.had_link = true;
                if let Some(lost_ms) = lost_ms {
                    self.changed(Reach::LinkBack { lost_ms });
                }
                let peers: Vec<String> = self.ring.peers().take(MAX_PEERS).map(short).collect();
                if !peers.is_empty() {
                    self.sees.peers = peers;
                }
            }
            (1, None) if self.sees.had_link => {
                let peers = self.sees.peers.clone();
                let quorate = self.quorate();
                self.changed(Reach::LinkLost { peers, quorate });
            }
            _ => {}
        }
    }

    fn changed(&mut self, reach: Reach) {
        self.sees.told.apply(&reach, Timestamp::now());
        self.write(What::Reach(reach));
    }
}

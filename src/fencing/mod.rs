// SPDX-License-Identifier: GPL-2.0-only
//! Who is certainly down: a host's proof that it belongs to the quorum, and orders to fence one that may not.
//!
//! In: what members of the pool say on the ring, the votes that corosync counts, time. Out: until when a host may say
//! that it belongs to the quorum ([`proof`]), and whether the host that an order is about is certainly down ([`order`]).
//! Never: a success by hope. What is not known is waited for, and what stays unknown is a failure.
//!
//! Each member says a [`Beat`] each second: when it was sent, by its own clock, and which beats of others it has heard
//! last, its echoes. So a member knows of beats of its own that they were heard, and by whom.
//!
//! # Why a silent host is down
//!
//! A silent host may be dead, wedged or cut off, and nobody can see which. So it must have promised to be down once it
//! is cut off: its guard goes by a strict lease, and a renewal says until when it is good: the sending of its latest
//! beat that members with enough votes for quorum have echoed, and the lease's timeout from then. An order to fence
//! has each member that delivers it stop to echo that host, but for boots that begin later, and say so. Once members with enough
//! votes for quorum have said so, no beat that the host sends from then on is ever echoed by enough of them: any two
//! such sets have a member in common. So its lease has ended one timeout later, and its fence bound later it is down.
//! Only durations are compared, each by one host's clock.
//!
//! Each of those members must have heard that boot of the host, and not seen its corosync come back unheard since: a host that
//! runs its guests without this program has promised nothing. A host that takes its promise back, to be stopped in
//! order, gives its lease back only when members with enough votes have echoed that, so that one of them knows.
//!
//! A host that is heard needs no promise: it is told to withhold, which it never takes back in that boot, and when it
//! has confirmed that, its fence bound is all there is to wait for. In both ways a beat of that boot that is
//! heard after its time disproves the hardware's promise: the order has failed.
//!
//! Whoever gives an order up, or has one that failed, says so, and each member takes back the refusal that it made for that one
//! alone: an order of another goes on. Whoever finds that the boot is over says that, and members refuse it alone from then on. Both are said anew
//! as members come and go, and after a restart of the program, which has given its orders up ([`ended`]). So that an answer to an order that was given up never passes for one to the next, each answer names the
//! order that it is for.
//!
//! A node is a machine ([`machines`]). Another machine that speaks as that node is not heard at all, until the one before is
//! known to be down: its boot says nothing of that, and its votes are not what that one's were. Nor is a member that has not said
//! yet which machine and boot it is, by a beat since it came. Whoever finds that a boot is over says so to the members.

pub mod agent;
pub mod ended;
pub mod machines;
pub mod member;
pub mod named;
pub mod order;
pub mod pinned;
pub mod proof;
pub mod refusals;
pub mod say;
pub mod told;

use crate::event::Uuid;
use crate::sys::clock::NS_PER_MS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A boot that began so much after an order, or less, may have been there before it, ms.
const DOUBT_MS: u64 = 2_000;

/// A member, by corosync's number of its node.
pub type Node = u32;

/// A boot of a host, by the kernel's name for it (/proc/sys/kernel/random/boot_id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootOf {
    /// Whose.
    pub node: Node,
    /// Which.
    pub boot: Uuid,
}

/// What a member says each second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The host's name.
    pub name: String,
    /// Its machine, by the pool's id of it; none: an older member does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Uuid>,
    /// Its boot.
    pub boot: Uuid,
    /// When it was sent, ns of its own CLOCK_MONOTONIC: rises within a boot, also where the program was started anew.
    pub sent: u64,
    /// How long ago that boot began, ms, the time of suspension counted.
    pub up_ms: u64,
    /// Within how long it is down once it is cut off, from the sending of the last beat that a quorum has echoed, ms;
    /// null: it does not promise that.
    pub promise_ms: Option<u64>,
    /// The latest beats that it has heard from others, but for boots that it refuses.
    pub echoes: Vec<Echo>,
}

/// A beat that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Whose.
    #[serde(flatten)]
    pub of: BootOf,
    /// [`Beat::sent`] of it.
    pub sent: u64,
}

/// Who has how many votes, as corosync's votequorum tells it to one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Votes {
    /// Its partition is quorate.
    pub quorate: bool,
    /// Votes that are enough.
    pub quorum: u32,
    /// Those of each member of its partition.
    pub of: BTreeMap<Node, u32>,
    /// Those of the quorum device that its partition has.
    pub device: u32,
}

impl Votes {
    /// Whether `nodes`, with what the device gives, have enough.
    #[must_use]
    pub fn are_enough(&self, nodes: impl Iterator<Item = Node>) -> bool {
        let votes = nodes.filter_map(|node| self.of.get(&node));
        let sum = votes.fold(self.device, |sum, votes| sum.saturating_add(*votes));
        self.quorum > 0 && sum >= self.quorum
    }
}

/// A duration of another host's clock, ms, by this one's, ns: clocks that count by crystals differ by far less than
/// one in a hundred, and a moment for what runs between them.
#[must_use]
pub fn stretched_ns(ms: u64) -> u64 {
    let longer = ms.saturating_add(ms / 100).saturating_add(500);
    longer.saturating_mul(NS_PER_MS)
}

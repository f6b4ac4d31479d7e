// SPDX-License-Identifier: GPL-2.0-only
//! What a [member](super::member) says, is told and does, in all that concerns fencing.

use super::machines::Machine;
use super::order::Confirmed;
use super::pinned::Pinned;
use super::refusals::Last;
use super::{Beat, BootOf, Node};
use crate::event::Uuid;
use crate::sys::clock::Monotonic;
use serde::{Deserialize, Serialize};

/// What members say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// A sign of life.
    Beat(Beat),
    /// That boot of that host is to end.
    Order(Ordered),
    /// The sender does not want that any more.
    Withdrawn(BootOf),
    /// That boot is certainly over: an order of the sender's has found that.
    Over(Over),
    /// Its beats are not echoed any more; what is known of it.
    Refused {
        /// Whose.
        of: Node,
        /// The latest of them.
        last: Option<Last>,
        /// Who gave the order; 0: an older member does not say.
        #[serde(default)]
        to: Node,
        /// Its number.
        #[serde(default)]
        number: u64,
    },
    /// This host withholds.
    Confirmed(Confirmed),
}

impl Say {
    /// What the kinds are called: a message of another is of a newer member.
    pub const KINDS: [&'static str; 6] =
        ["beat", "order", "withdrawn", "over", "refused", "confirmed"];
}

/// An order, as it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Which boot is to end.
    #[serde(flatten)]
    pub boot: BootOf,
    /// Names it among those of its sender; 0: an older member's.
    #[serde(default)]
    pub number: u64,
}

/// What an order has found to be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// The boot that was ordered.
    #[serde(flatten)]
    pub boot: BootOf,
    /// The machine that it was of, by the pool's id of it; none: not known, or an older member's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Uuid>,
    /// How long ago that boot began, ms: what was heard of that machine before that is over as well; none: not known, or an older
    /// member's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<u64>,
}

impl From<BootOf> for Over {
    fn from(boot: BootOf) -> Self {
        Self {
            boot,
            machine: None,
            began_ms: None,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Say this to all.
    Say(Say),
    /// Keep [`Kept`] for the rest of this boot, unless it is. What follows is done only if that worked.
    Keep,
    /// Renew the lease until then.
    Renew(Monotonic),
    /// Have it lapse at once.
    Trigger,
    /// Give it back.
    Release,
    /// Count and name the sender of this, which is not done.
    Tell(&'static str),
}

/// What became of an order of this member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The boot that was ordered.
    #[serde(flatten)]
    pub boot: BootOf,
    /// The machine that it is of; none: not known.
    pub machine: Option<Uuid>,
    /// When that boot began, ms of CLOCK_BOOTTIME; none: not known.
    pub began_ms: Option<u64>,
    /// That boot is certainly over; else the order is given up, or goes on for as long as the program runs.
    pub is_over: bool,
}

/// What outlives the program, within a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Hosts that are refused, and since when, ms of CLOCK_BOOTTIME.
    pub refused: Vec<(BootOf, u64)>,
    /// Who asked for each of these.
    #[serde(default)]
    pub refused_by: Vec<(BootOf, Node)>,
    /// Which of these are certainly over.
    #[serde(default)]
    pub refused_over: Vec<BootOf>,
    /// In which boots those were who asked.
    #[serde(default)]
    pub orderers: Vec<BootOf>,
    /// This member's orders.
    #[serde(default)]
    pub ordered: Vec<Outcome>,
    /// Which machines were heard.
    #[serde(default)]
    pub machines: Vec<Machine>,
    /// This host was told to withhold.
    pub fenced: bool,
    /// What it has promised.
    #[serde(default)]
    pub promised: Option<Promised>,
    /// How votes were counted.
    #[serde(default)]
    pub counted: Pinned,
}

/// What a promise is made of. It is the same for the rest of a boot: others may know the one, and not what came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The lease's timeout.
    pub timeout_ns: u64,
    /// The fence bound.
    pub bound_ms: u64,
}

/// Now, by this host's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub at: Monotonic,
    /// Since its boot, the time of suspension counted.
    pub up_ms: u64,
}

/// What the guard's page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Within how long the host is down once it is not kicked; none: nothing promises that.
    pub bound_ms: Option<u64>,
    /// It does not kick, and decided so last at this time.
    pub withholds: Option<Monotonic>,
    /// The pool's lease; none: the guard does not go by one that is strict.
    pub lease: Option<LeaseTerms>,
}

impl Guard {
    /// The pool's lease is held now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lease.is_some_and(|lease| lease.held)
    }
}

/// The pool's lease as the lease page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// For how long a renewal is good.
    pub timeout_ns: u64,
    /// It is held now.
    pub held: bool,
}

/// What this host promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// To be down without quorum.
    pub without_quorum: bool,
    /// How old what corosync says of a quorum device may be, ms.
    pub device_ms: u64,
}

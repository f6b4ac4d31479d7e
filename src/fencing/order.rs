// SPDX-License-Identifier: GPL-2.0-only
//! One order to fence a host, at the member that gave it.
//!
//! In: what others answer, beats, votes, time. Out: whether the host is certainly down, is to be waited for, or is not to be
//! had down this way. See [`super`] for why. Promise: each answer is by evidence that came after the order. Never:
//! success of a partition without quorum, or while the host is still heard.

use super::refusals::Last;
use super::{Beat, BootOf, DOUBT_MS, Node, Votes, stretched_ns};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A beat of a silent host may have been on its way for so long, ns.
const LATE_NS: u64 = 1_000 * NS_PER_MS;
/// Once the host is down by all that it promised, it is listened to for so long, ns: two beats and a half.
pub const LISTEN_NS: u64 = 2_500 * NS_PER_MS;

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It said that it withholds, and its fence bound has passed.
    Withheld,
    /// It was silent, and what it promised for that has passed.
    Silent,
    /// A boot of it that began after the order is heard.
    Rebooted,
}

/// Why it cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failed {
    /// It is heard after the time at which it should have been down: its hardware does not do what it promises.
    StillThere,
    /// Another boot of it is heard, which was there before the order: it is another order's.
    OtherBoot,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StillThere => {
                "it is heard after the time at which it should have been down: its host watchdog does not do what it promises"
            }
            Self::OtherBoot => {
                "another boot of it is heard, which was there before this order: give it another"
            }
        })
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// This partition has no quorum.
    Quorum,
    /// Neither the host nor members that have heard it, with enough votes, have answered.
    Answers,
    /// It is silent, and has not promised to be down then: only its own answer can help.
    Promise,
    /// The time at which it is down.
    Time,
    /// The boot that was silent is over, and its corosync is on the ring: a boot that has not been heard, and may have begun before
    /// the order.
    Boot,
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is certainly down.
    Down(How),
    /// Not yet: for what, and until when at the soonest.
    Wait(Wait, Option<Monotonic>),
    /// It will not be known.
    Failed(Failed),
}

/// What a host says that was told to withhold, and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Which boot of which host it is.
    #[serde(flatten)]
    pub by: BootOf,
    /// When it withheld, ns of its CLOCK_MONOTONIC.
    pub at: u64,
    /// Within how long it is down then, ms.
    pub bound_ms: u64,
}

/// An order.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which boot of which host is to end.
    pub target: BootOf,
    given: Monotonic,
    /// Who refuses, and the latest beat of that boot that it has heard.
    refused: BTreeMap<Node, Last>,
    /// Since when these have enough votes.
    refused_at: Option<Monotonic>,
    /// When it was heard that it withholds, and what it said.
    confirmed: Option<(Monotonic, Confirmed)>,
    /// When a beat of that boot was heard last, and when by its clock it was sent.
    heard: Option<(Monotonic, u64)>,
    /// What another boot of it that was heard comes to.
    other: Option<Result<How, Failed>>,
    /// That boot is another node by now: another boot of the node that it was says nothing of it.
    moved: bool,
    /// Its node came to the ring since, and may be another boot.
    pub(super) came: bool,
}

impl Order {
    /// Given at `now`, before it is said to anybody.
    #[must_use]
    pub fn new(target: BootOf, now: Monotonic) -> Self {
        Self {
            target,
            given: now,
            refused: BTreeMap::new(),
            refused_at: None,
            confirmed: None,
            heard: None,
            other: None,
            moved: false,
            came: false,
        }
    }

    /// Names it among all that this member ever gives.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.given.0
    }

    /// A member refuses the host from now on; `last` is what it knows of it. One that has not heard that boot itself
    /// cannot speak for it: it may have missed another.
    pub fn refuses(&mut self, node: Node, last: Option<Last>, votes: &Votes, now: Monotonic) {
        let last = last.filter(|last| last.echo.of == self.target);
        match last.filter(|_| node != self.target.node) {
            Some(last) => self.refused.insert(node, last),
            None => self.refused.remove(&node),
        };
        self.count(votes, now);
    }

    /// A member has left: what it kept may be lost.
    pub fn left(&mut self, node: Node, votes: &Votes, now: Monotonic) {
        self.refused.remove(&node);
        self.count(votes, now);
    }

    /// The votes are others.
    pub fn count(&mut self, votes: &Votes, now: Monotonic) {
        self.refused_at = match self.are_enough(votes) {
            true => self.refused_at.or(Some(now)),
            false => None,
        };
    }

    /// The host says that it withholds, for good.
    pub fn confirms(&mut self, said: Confirmed, now: Monotonic) {
        if said.by.boot == self.target.boot && self.confirmed.is_none() {
            self.confirmed = Some((now, said));
        }
    }

    /// A beat of any member.
    pub fn hear(&mut self, from: Node, beat: &Beat, now: Monotonic) {
        if beat.boot == self.target.boot {
            self.heard = Some((now, beat.sent));
            if from != self.target.node {
                (self.moved, self.other) = (true, None);
            }
            return;
        }
        if from != self.target.node || self.moved {
            return;
        }
        let since_ms = now.since_ns(self.given) / NS_PER_MS;
        if beat.up_ms.saturating_add(DOUBT_MS) < since_ms {
            self.other = Some(Ok(How::Rebooted));
        } else if self.other.is_none() {
            self.other = Some(Err(Failed::OtherBoot));
        }
    }

    /// What is known at `now`.
    #[must_use]
    pub fn judge(&self, votes: &Votes, now: Monotonic) -> Verdict {
        match self.other {
            Some(Ok(how)) => return Verdict::Down(how),
            Some(Err(why)) => return Verdict::Failed(why),
            None => {}
        }
        if !votes.quorate {
            return Verdict::Wait(Wait::Quorum, None);
        }
        let due = |way: Option<Result<Monotonic, Failed>>| way.transpose();
        let (word, silence) = match (due(self.by_its_word()), due(self.by_its_silence())) {
            (Ok(word), Ok(silence)) => (word, silence),
            (Err(why), _) | (_, Err(why)) => return Verdict::Failed(why),
        };
        let (due, how) = match (word, silence) {
            (Some(word), Some(silence)) if silence < word => (silence, How::Silent),
            (Some(word), _) => (word, How::Withheld),
            (None, Some(silence)) => (silence, How::Silent),
            (None, None) => {
                let wait = self.refused_at.map_or(Wait::Answers, |_| Wait::Promise);
                return Verdict::Wait(wait, None);
            }
        };
        let sure = due.plus_ns(LISTEN_NS);
        match now < sure {
            true => Verdict::Wait(Wait::Time, Some(sure)),
            false => Verdict::Down(how),
        }
    }

    /// When it is down by what it said.
    fn by_its_word(&self) -> Option<Result<Monotonic, Failed>> {
        let (at, said) = self.confirmed?;
        let bound_ns = stretched_ns(said.bound_ms);
        // A beat may come late: its own clock says whether it should have been sent at all.
        let last = said.at.saturating_add(bound_ns);
        let lives = self.heard.is_some_and(|(_, sent)| sent > last);
        Some(match lives {
            true => Err(Failed::StillThere),
            false => Ok(at.plus_ns(bound_ns)),
        })
    }

    /// When it is down by what it promised: it can have had no quorum since those who refuse have enough votes.
    fn by_its_silence(&self) -> Option<Result<Monotonic, Failed>> {
        let latest = self.refused.values().max_by_key(|last| last.echo.sent)?;
        let due = self.refused_at?.plus_ns(stretched_ns(latest.promise_ms?));
        let lives = self.heard.is_some_and(|(at, _)| at > due.plus_ns(LATE_NS));
        Some(match lives {
            true => Err(Failed::StillThere),
            false => Ok(due),
        })
    }

    fn are_enough(&self, votes: &Votes) -> bool {
        votes.quorate && votes.are_enough(self.refused.keys().copied())
    }
}

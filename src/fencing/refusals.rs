// SPDX-License-Identifier: GPL-2.0-only
//! Hosts whose beats this member echoes no more, as an order says that they are to end.
//!
//! In: orders as they are delivered, beats, who comes and goes. Out: echoes; what is known of a host for the one
//! who gave the order. Promise: once an order is delivered, this member echoes no beat of that host, until one of a boot that
//! began after that. Whoever holds this keeps what is [kept](Refusals::kept) over restarts of the program; after a restart of the
//! machine there is nothing to keep, as a boot that is younger than this one is younger than any order before it.

use super::{Beat, BootOf, DOUBT_MS, Echo, Node};
use crate::event::Uuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a member knows of another's latest beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Whose, and when it was sent.
    #[serde(flatten)]
    pub echo: Echo,
    /// What it promises.
    pub promise_ms: Option<u64>,
}

/// What this member echoes, and what not.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// The boot that the order is for, and since when, ms of this host's CLOCK_BOOTTIME.
    refused: BTreeMap<Node, (Uuid, u64)>,
    last: BTreeMap<Node, Last>,
}

impl Refusals {
    /// With those that were kept in this boot, and since when.
    #[must_use]
    pub fn new(kept: impl IntoIterator<Item = (BootOf, u64)>) -> Self {
        let kept = kept.into_iter();
        Self {
            refused: kept
                .map(|(of, since)| (of.node, (of.boot, since)))
                .collect(),
            last: BTreeMap::new(),
        }
    }

    /// An order for this boot was delivered at `now_ms`. It is said again and again; what counts is its first time.
    pub fn refuse(&mut self, boot: BootOf, now_ms: u64) {
        let before = self.refused.get(&boot.node);
        if before.is_none_or(|(before, _)| *before != boot.boot) {
            self.refused.insert(boot.node, (boot.boot, now_ms));
        }
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
        let is_younger = |(_, since): &(Uuid, u64)| {
            beat.up_ms.saturating_add(DOUBT_MS) < now_ms.saturating_sub(*since)
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
        all.map(|(node, (boot, since))| {
            let (node, boot) = (*node, *boot);
            (BootOf { node, boot }, *since)
        })
    }
}

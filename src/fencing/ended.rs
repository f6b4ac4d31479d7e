// SPDX-License-Identifier: GPL-2.0-only
//! What became of this member's orders, as it tells the others.
//!
//! In: orders that are given and have ended; who comes and goes. Out: what is said of them with each beat. Promise: it is said for a
//! minute, and anew whenever members come or go: whoever was away hears it once back. Whoever holds this keeps what is
//! [kept](Ended::kept) over restarts of the program, by which an order is given up: nobody waits for it any more. Never: more
//! than one line for each host. Pure.

use super::say::{Outcome, Over, Say};
use super::{BootOf, Node};
use crate::event::Uuid;
use std::collections::BTreeMap;

/// With so many beats it is said.
const BEATS: u32 = 60;

/// The last order for each host, and with how many beats more it is said what became of it; none: it goes on.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    of: BTreeMap<Node, (Outcome, Option<u32>)>,
}

impl Ended {
    /// With what was kept in this boot.
    #[must_use]
    pub fn new(kept: &[Outcome]) -> Self {
        let all = kept.iter();
        Self {
            of: all
                .map(|one| (one.boot.node, (*one, Some(BEATS))))
                .collect(),
        }
    }

    /// An order is given to end this boot of that machine, which began at `began_ms` of CLOCK_BOOTTIME, where these are known. One that
    /// was found to be over stays so.
    pub fn ordered(&mut self, boot: BootOf, machine: Option<Uuid>, began_ms: Option<u64>) {
        let before = self.of.get(&boot.node).map(|(outcome, _)| *outcome);
        let before = before.filter(|before| before.boot == boot && before.is_over);
        let outcome = before.unwrap_or(Outcome {
            boot,
            machine,
            began_ms,
            is_over: false,
        });
        self.of.insert(boot.node, (outcome, None));
    }

    /// Nobody waits any more for the order for that host.
    pub fn withdrawn(&mut self, node: Node) {
        if let Some((_, beats)) = self.of.get_mut(&node) {
            *beats = Some(BEATS);
        }
    }

    /// The boot that was ordered is certainly over.
    pub fn over(&mut self, node: Node) {
        if let Some((outcome, beats)) = self.of.get_mut(&node) {
            outcome.is_over = true;
            *beats = Some(BEATS);
        }
    }

    /// The members are others.
    pub fn members(&mut self) {
        for beats in self.of.values_mut().filter_map(|(_, beats)| beats.as_mut()) {
            *beats = BEATS;
        }
    }

    /// What is to be said with this beat, at `now_ms` of CLOCK_BOOTTIME.
    pub fn say(&mut self, now_ms: u64) -> Vec<Say> {
        let all = self.of.values_mut();
        let ended = all.filter_map(|(outcome, beats)| Some((outcome, beats.as_mut()?)));
        ended
            .filter(|(_, beats)| **beats > 0)
            .map(|(outcome, beats)| {
                *beats = beats.saturating_sub(1);
                match outcome.is_over {
                    true => Say::Over(Over {
                        boot: outcome.boot,
                        machine: outcome.machine,
                        began_ms: outcome.began_ms.map(|began| now_ms.saturating_sub(began)),
                    }),
                    false => Say::Withdrawn(outcome.boot),
                }
            })
            .collect()
    }

    /// What is to be kept.
    #[must_use]
    pub fn kept(&self) -> Vec<Outcome> {
        self.of.values().map(|(outcome, _)| *outcome).collect()
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What each host promises in fencing, and since when that is seen here; for people.
//!
//! In: what this host's part in fencing knows of the others, each second. Out: for a report of hosts. Fencing itself goes
//! by beats, not by this. Pure.

use super::view::HostReport;
use crate::fencing::told::{HostPower, Powers};
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a host has promised to do without quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// To be down within so long.
    pub down_within_ms: u64,
    /// It is seen here to hold for so long, at least.
    pub held_ms: u64,
}

/// The promises of all hosts that were heard.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    known: BTreeMap<String, (HostPower, u64)>,
    due: u64,
}

impl Promises {
    /// Whether it is time to look, at `now`, ns.
    pub fn is_due(&mut self, now: u64) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.due = now.saturating_add(NS_PER_S);
        }
        is_due
    }

    /// What is known now; none: this host is off the ring, so nothing is.
    pub fn look(&mut self, powers: Option<Powers>, now: u64) {
        let hosts = powers.into_iter().flat_map(|powers| powers.hosts);
        let before = std::mem::take(&mut self.known);
        for host in hosts {
            let same = before.get(&host.name);
            let same = same.filter(|(known, _)| known.promise_ms == host.promise_ms);
            let since = same.map_or(now, |(_, since)| *since);
            self.known.insert(host.name.clone(), (host, since));
        }
    }

    /// Adds it to a report.
    pub fn tell(&self, host: &mut HostReport, now: u64) {
        let known = self.known.get(&host.name);
        host.power = known.map(|(known, _)| known.power);
        host.promise = known.and_then(|(known, since)| {
            Some(Promise {
                down_within_ms: known.promise_ms?,
                held_ms: now.saturating_sub(*since) / NS_PER_MS,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fencing::told::Power;

    fn powers(promise_ms: Option<u64>) -> Option<Powers> {
        let host = HostPower {
            name: "a".to_owned(),
            power: Power::On,
            promise_ms,
        };
        Some(Powers {
            quorate: true,
            hosts: vec![host],
        })
    }

    #[test]
    fn a_promise_is_held_since_it_was_seen_first_and_anew_when_it_changes() {
        let mut promises = Promises::default();
        let mut told = |powers, at| {
            promises.look(powers, at * NS_PER_S);
            let mut host = HostReport {
                name: "a".to_owned(),
                ..HostReport::default()
            };
            promises.tell(&mut host, at * NS_PER_S);
            let promise = host.promise.map(|p| (p.down_within_ms, p.held_ms));
            (host.power, promise)
        };
        assert_eq!(told(powers(None), 1), (Some(Power::On), None));
        assert_eq!(told(powers(Some(9)), 2).1, Some((9, 0)));
        assert_eq!(told(powers(Some(9)), 7).1, Some((9, 5_000)));
        assert_eq!(told(powers(Some(8)), 8).1, Some((8, 0)));
        assert_eq!(told(None, 9), (None, None));
        assert_eq!(told(powers(Some(8)), 10).1, Some((8, 0)));
    }
}

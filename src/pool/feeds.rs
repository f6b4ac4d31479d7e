// SPDX-License-Identifier: GPL-2.0-only
//! Whether a guest feeds here that has an open alarm elsewhere.
//!
//! In: how the monitor of this host reports its guests, and when alarms elsewhere became known here. Out: whether the guest
//! has fed since. A feed before that proves nothing: the alarm may be of a later life of the guest, elsewhere. Clocks
//! of two hosts are never compared. Pure.

use crate::event::Uuid;
use crate::guests::report::{GuestReport, GuestsReport};
use std::collections::BTreeMap;

/// Looks at one watchdog tell its last feed to within this, ns: twice a sample of the monitor's.
const BLUR_NS: u64 = 500_000_000;

/// When each guest here was last seen to feed, ns of CLOCK_MONOTONIC.
#[derive(Clone, Debug, Default)]
pub struct Feeds(BTreeMap<Uuid, Fed>);

#[derive(Clone, Copy, Debug)]
struct Fed {
    /// The last arming or feed that was seen.
    last_ns: u64,
    /// It has moved on since the guest was first seen: that was a feed.
    fed_ns: Option<u64>,
}

impl Feeds {
    /// Takes a report, as of `now`, ns.
    pub fn report(&mut self, report: &GuestsReport, now: u64) {
        let mut seen = BTreeMap::new();
        for guest in &report.guests {
            let (Some(uuid), Some(last_ns)) = (guest.uuid, last(guest, now)) else {
                continue;
            };
            let fed = match self.0.get(&uuid) {
                Some(before) if last_ns > before.last_ns.saturating_add(BLUR_NS) => Fed {
                    last_ns,
                    fed_ns: Some(last_ns),
                },
                Some(before) => *before,
                None => Fed {
                    last_ns,
                    fed_ns: None,
                },
            };
            seen.insert(uuid, fed);
        }
        self.0 = seen;
    }

    /// The monitor told of a feed just now.
    pub fn fed(&mut self, guest: Uuid, now: u64) {
        let fed = self.0.entry(guest).or_insert(Fed {
            last_ns: now,
            fed_ns: None,
        });
        fed.last_ns = fed.last_ns.max(now);
        fed.fed_ns = Some(now);
    }

    /// Guests that have fed, and when they were last seen to.
    pub fn all(&self) -> impl Iterator<Item = (Uuid, u64)> {
        let fed = self.0.iter();
        fed.filter_map(|(uuid, fed)| Some((*uuid, fed.fed_ns?)))
    }
}

/// When a guest last armed or fed a watchdog that has not expired since.
fn last(guest: &GuestReport, now: u64) -> Option<u64> {
    let slots = guest.slots.iter().filter(|slot| !slot.expired);
    let age_ms = slots.map(|slot| slot.last_fed_age_ms).min()?;
    Some(now.saturating_sub(age_ms.saturating_mul(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::report::{DomainState, SlotReport};

    const S: u64 = 1_000_000_000;

    fn report(age_ms: u64, expired: bool) -> GuestsReport {
        let slot = SlotReport {
            slot: 1,
            timeout_s: 10,
            last_fed_age_ms: age_ms,
            margin_ms: 0,
            expired,
        };
        let guest = GuestReport {
            uuid: Some(Uuid::from_u128(1)),
            name: None,
            domid: 3,
            state: DomainState::Running,
            slots: vec![slot],
            alarm: None,
            boot_failed: false,
            feeds_unseen: None,
        };
        GuestsReport {
            guests: vec![guest],
            ..GuestsReport::default()
        }
    }

    #[test]
    fn a_guest_has_fed_once_it_was_seen_to_move_on_and_not_by_arming() {
        let mut feeds = Feeds::default();
        feeds.report(&report(1_000, false), 100 * S);
        assert_eq!(feeds.all().count(), 0, "it may only have armed");
        feeds.report(&report(3_200, false), 102 * S);
        assert_eq!(feeds.all().count(), 0, "nothing new");
        feeds.report(&report(500, false), 104 * S);
        let fed: Vec<_> = feeds.all().collect();
        assert_eq!(fed, [(Uuid::from_u128(1), 104 * S - S / 2)]);
        feeds.report(&report(100, true), 106 * S);
        assert_eq!(feeds.all().count(), 0, "it expired");
    }
}

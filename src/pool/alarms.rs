// SPDX-License-Identifier: GPL-2.0-only
//! Alarms of other hosts whose guests feed here, and those that somebody acknowledges.
//!
//! In: what the member learns, and when its guests feed ([`super::feeds`]). Out: records that end alarms or acknowledge them, each
//! naming the last expiry that it knew of; what this host's monitor does not know yet. A guest that fed before this host knew
//! of an alarm ends nothing. Pure, as [`super::node`] is.

use super::fold::{MAX_ALARMS, guest_of, kind_of};
use super::node::Node;
use super::record::{Acknowledged, At, Cleared, HostId, Position, Record, What};
use super::store::Store;
use super::view::{alarms_of, is_gone};
use crate::event::Uuid;

impl Node {
    /// Notes when alarms elsewhere become known, and hooks that ran twice.
    pub(super) fn learn(&mut self, record: &Record, now: u64) {
        let host = record.host;
        match &record.what {
            What::Event(event) if host != self.identity.host => {
                let Some(guest) = guest_of(&event.event) else {
                    return;
                };
                if kind_of(&event.event) == "alarm.raised" {
                    let known = (record.position, now);
                    self.alarms_known.insert((host, guest), known);
                }
            }
            What::Sighting(sighting) => self.learn_sighting(record, sighting, now),
            What::Boot(_) => self.alarms_known.retain(|(of, _), _| *of != host),
            _ => {}
        }
    }

    /// Ends the alarms elsewhere of guests that have fed here since they were known.
    pub(super) fn clear(&mut self, now: u64) {
        let feeding: Vec<(Uuid, u64)> = self.feeds.all().collect();
        for (guest, fed) in feeding {
            let mut alarms = Vec::new();
            let mut name = None;
            for alarm in alarms_of(&self.store, guest) {
                let key = (alarm.host, guest);
                let at = alarm.at.position;
                if alarm.host == self.identity.host || self.ended.get(&key) >= Some(&at) {
                    continue;
                }
                // Of one that was known before this program started the time is now.
                let known = self.alarms_known.entry(key).or_insert((at, now));
                if known.0 < at {
                    *known = (at, now);
                }
                if fed > known.1 && alarms.len() < MAX_ALARMS {
                    alarms.push(alarm.at);
                    let log = self.store.host(alarm.host);
                    name = name.or_else(|| log?.state().alarms.get(&guest)?.name.clone());
                }
            }
            if !alarms.is_empty() {
                for At { host, position } in &alarms {
                    self.ended.insert((*host, guest), *position);
                }
                let cleared = Cleared {
                    guest,
                    name,
                    alarms,
                };
                self.write(What::Cleared(cleared));
            }
        }
        let store = &self.store;
        self.ended
            .retain(|(host, guest), at| still_raised(store, *host, *guest) == Some(*at));
        self.alarms_known
            .retain(|(host, guest), (at, _)| still_raised(store, *host, *guest) == Some(*at));
    }

    /// An operator takes care of a guest's alarms; gives the record's place, which is to be waited for.
    ///
    /// # Errors
    /// There is none.
    pub fn acknowledge(&mut self, guest: Uuid, uid: u32) -> Result<Position, String> {
        let open = alarms_of(&self.store, guest);
        if open.is_empty() {
            return Err(format!("no open alarm of {guest} is known in the pool"));
        }
        let alarms = open.iter().take(MAX_ALARMS).map(|alarm| alarm.at).collect();
        Ok(self.write(What::Acknowledged(Acknowledged { guest, uid, alarms })))
    }

    /// The alarms of this host's monitor that somebody elsewhere acknowledged, and those that ended elsewhere: the
    /// monitor does not know yet.
    #[must_use]
    pub fn monitor_is_to_know(&self) -> Vec<(Uuid, Settled)> {
        let Some(own) = self.store.host(self.identity.host) else {
            return Vec::new();
        };
        let mut settled = Vec::new();
        let is_here = |guest: &Uuid| {
            let here = own.state().guests.get(guest);
            here.is_some_and(|guest| !is_gone(guest.value.state))
        };
        for (guest, alarm) in &own.state().alarms {
            let open = alarms_of(&self.store, *guest);
            match open.iter().find(|open| open.host == self.identity.host) {
                // One of a guest that is here its own feeds end.
                None if !is_here(guest) => {
                    let expiries = u32::try_from(alarm.expiries).unwrap_or(u32::MAX);
                    settled.push((*guest, Settled::Ended { expiries }));
                }
                Some(open) if open.acknowledged && !alarm.acknowledged => {
                    settled.push((*guest, Settled::Acknowledged));
                }
                _ => {}
            }
        }
        settled
    }
}

/// What the monitor of a host is to be told of an alarm of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Somebody takes care of it.
    Acknowledged,
    /// Its guest feeds elsewhere.
    Ended {
        /// Expiries that the alarm has; one that has more is another.
        expiries: u32,
    },
}

/// The last expiry of an alarm that a host's monitor has open.
fn still_raised(store: &Store, host: HostId, guest: Uuid) -> Option<Position> {
    let log = store.host(host)?;
    log.state().alarms.get(&guest).map(|alarm| alarm.expired)
}

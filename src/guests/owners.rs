// SPDX-License-Identifier: GPL-2.0-only
//! Which domain a record belongs to, from look to look.
//!
//! In: the records of each look. Out: for each domain that owns some, its [`Incarnation`].
//! Pure; the registry and the table of domains have one each and come to the same result.
//!
//! Promises: a domain stays the one that it was for as long as any of its records is there.
//! Xen releases them one after the other, and their generations may differ.

use super::guest::Incarnation;
use crate::xen::liveness::TimerRecord;
use std::collections::{BTreeMap, BTreeSet};

/// A record and its owner: domain, slot, generation.
type Record = (u16, u8, u32);

fn key(record: &TimerRecord) -> Record {
    (record.domid, record.slot, record.generation)
}

/// Who owned the records of the look before.
#[derive(Debug, Default)]
pub struct Owners {
    known: BTreeMap<Record, Incarnation>,
    /// Domains of which the look before showed another slot than the first, and that nobody
    /// knew: they are being created or destroyed.
    halves: BTreeSet<Record>,
}

impl Owners {
    /// Notes that a record is known to belong to `incarnation`.
    pub fn know(&mut self, slot: u8, generation: u32, incarnation: Incarnation) {
        let record = (incarnation.domid, slot, generation);
        self.known.insert(record, incarnation);
    }

    /// Sorts the records of the next look by domain, each domain's by slot.
    pub fn sort<'a>(
        &mut self,
        records: impl Iterator<Item = &'a TimerRecord>,
    ) -> BTreeMap<Incarnation, Vec<TimerRecord>> {
        let mut domains: BTreeMap<u16, BTreeMap<u8, TimerRecord>> = BTreeMap::new();
        for record in records {
            let slots = domains.entry(record.domid).or_default();
            slots.insert(record.slot, *record);
        }
        let before = std::mem::take(self);
        let mut sorted = BTreeMap::new();
        for (domid, slots) in domains {
            let records: Vec<_> = slots.into_values().collect();
            let Some(first) = records.first() else {
                continue;
            };
            let known = records.iter().find_map(|r| before.known.get(&key(r)));
            if known.is_none() && first.slot != 1 && !before.halves.contains(&key(first)) {
                self.halves.insert(key(first));
                continue;
            }
            let generation = first.generation;
            let incarnation = known.copied().unwrap_or(Incarnation { domid, generation });
            let keys = records.iter().map(|r| (key(r), incarnation));
            self.known.extend(keys);
            sorted.insert(incarnation, records);
        }
        sorted
    }
}

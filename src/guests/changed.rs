// SPDX-License-Identifier: GPL-2.0-only
//! Which records of the table changed since the last look.
//!
//! In: the table. Out: the records whose words are not those of the look before. A host
//! with thousands of guests has few that changed in a quarter of a second, and many domids
//! that nobody uses any more: these cost a comparison of their words.

use crate::xen::room;
use crate::xen::table::{DOMAIN_WORDS, Domain, Table};

/// The words of the last look.
#[derive(Debug, Default)]
pub struct Changed(Vec<[u64; DOMAIN_WORDS]>);

impl Changed {
    /// Looks. `takes` is asked first of each record that changed, in order of domid; gives those that it does not
    /// take, in the order in which their domains were created. dom0 is no guest: when its watchdog
    /// expires the host goes down.
    pub fn look(
        &mut self,
        table: &Table<'_>,
        mut takes: impl FnMut(&Domain) -> bool,
    ) -> Vec<Domain> {
        let (used, mut records) = (table.domids_used(), Vec::new());
        room::make(&mut self.0, used, table.nr_domains(), [0; DOMAIN_WORDS]);
        for (domid, words) in (0..).zip(self.0.iter_mut().take(used)).skip(1) {
            // These first: what comes in between makes the next look see a change.
            if !table.renew(domid, words) {
                continue;
            }
            match table.domain(domid) {
                Some(domain) if takes(&domain) => {}
                Some(domain) => records.push(domain),
                // Passing from one domain to the next: to be looked at again.
                None => *words = [0; DOMAIN_WORDS],
            }
        }
        records.sort_unstable_by_key(|domain| domain.created);
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulation::Simulation;
    use uuid::Uuid;

    #[test]
    fn only_what_changed_is_looked_at_in_the_order_of_creation() {
        let xen = Simulation::new(1);
        let mut changed = Changed::default();
        let mut look = || {
            let records = changed.look(&xen.table(), |record| record.domid == 5);
            records.iter().map(|d| d.domid).collect::<Vec<_>>()
        };
        xen.create(0, Uuid::nil());
        xen.create(9, Uuid::nil());
        xen.create(4, Uuid::nil());
        xen.create(5, Uuid::nil());
        assert_eq!(look(), [9, 4]);
        assert_eq!(look(), [0; 0]);
        type Act = fn(&Simulation);
        let acts: [Act; 6] = [
            |xen| xen.arm(9, 0, 5),
            |xen| xen.feed(9, 0),
            |xen| xen.disarm(9, 0),
            |xen| xen.pause(9, true),
            |xen| xen.rename(9, Uuid::from_u128(7)),
            |xen| xen.destroy(9),
        ];
        for act in acts {
            act(&xen);
            assert_eq!(look(), [9]);
            assert_eq!(look(), [0; 0]);
        }
    }
}

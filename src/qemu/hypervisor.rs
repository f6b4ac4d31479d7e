// SPDX-License-Identifier: GPL-2.0-only
//! What Xen knows of a VM that QEMU does not.
//!
//! In: the liveness table. Out: a VM's domain, and whether it is paused: `xl pause` stops the
//! guest, but not its QEMU's clock, so that its watchdog device expires all the same. Where there
//! is no table, nothing is known, and such an expiry counts.

use crate::event::Uuid;
use crate::monitor::table;
use crate::xen::table::Table;

/// What is known of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub domid: u16,
    /// It is paused.
    pub paused: bool,
}

/// The hypervisor, as far as it lets itself be seen.
#[derive(Debug)]
pub struct Hypervisor(Option<Table<'static>>);

impl Hypervisor {
    /// Maps the table; where there is none, why.
    #[must_use]
    pub fn open() -> (Self, Option<String>) {
        match table::map() {
            Ok(table) => (Self(Some(table)), None),
            Err(why) => (Self(None), Some(why)),
        }
    }

    /// By this table.
    #[must_use]
    pub fn with(table: Table<'static>) -> Self {
        Self(Some(table))
    }

    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The domain of this UUID that is there, the youngest if there are several. A few thousand
    /// memory reads.
    #[must_use]
    pub fn look(&self, uuid: Uuid) -> Option<Seen> {
        let domains = self.0?.domains();
        let is_it = |domain: &crate::xen::table::Domain| domain.exists && domain.uuid == uuid;
        let youngest = domains.filter(is_it).max_by_key(|domain| domain.created)?;
        Some(Seen {
            domid: youngest.domid,
            paused: youngest.paused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulation::Simulation;

    #[test]
    fn a_guest_is_the_youngest_of_its_domains_that_is_there_and_paused_as_that_is() {
        let (guest, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let xen: &'static Simulation = Box::leak(Box::new(Simulation::new(1)));
        let hypervisor = Hypervisor::with(xen.table());
        let _ = xen.create(3, other);
        assert_eq!(hypervisor.look(guest), None);
        let _ = xen.create(4, guest);
        let seen = |domid, paused| Some(Seen { domid, paused });
        xen.pause(4, true);
        assert_eq!(hypervisor.look(guest), seen(4, true));
        xen.pause(4, false);
        let _ = xen.create(2, guest);
        assert_eq!(hypervisor.look(guest), seen(2, false));
        xen.destroy(2);
        assert_eq!(hypervisor.look(guest), seen(4, false));
        assert_eq!(Hypervisor::none().look(guest), None);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Which domain each domid has, and where its guest is kept.
//!
//! In: domains that come and go. Out: whose a domid is, without a search. Pure. 16 bytes for each domid up to the
//! highest that was used.

use super::roster::Place;
use crate::xen::room;

/// A domain that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its creation number; 0: there is none.
    pub created: u64,
    /// Its guest's place.
    pub place: Place,
}

const NOBODY: Owner = Owner {
    created: 0,
    place: Place::NONE,
};

/// The domains by domid.
#[derive(Debug, Default)]
pub struct Owners(Vec<Owner>);

impl Owners {
    /// Whose a domid is.
    #[must_use]
    pub fn get(&self, domid: u16) -> Option<Owner> {
        let owner = self.0.get(usize::from(domid)).copied();
        owner.filter(|owner| owner.created != 0)
    }

    /// It is this one's from now on.
    pub fn set(&mut self, domid: u16, owner: Owner) {
        let domid = usize::from(domid);
        room::make(&mut self.0, domid + 1, usize::MAX, NOBODY);
        if let Some(kept) = self.0.get_mut(domid) {
            *kept = owner;
        }
    }

    /// It is nobody's from now on.
    pub fn clear(&mut self, domid: u16) {
        if let Some(kept) = self.0.get_mut(usize::from(domid)) {
            *kept = NOBODY;
        }
    }

    /// Domids and creation numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        let all = (0u16..).zip(&self.0);
        let there = all.filter(|(_, owner)| owner.created != 0);
        there.map(|(domid, owner)| (domid, owner.created))
    }
}

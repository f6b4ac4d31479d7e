// SPDX-License-Identifier: GPL-2.0-only
//! The guests by UUID, each at a place of its own: who remembers the place finds a guest without a search.
//!
//! In: guests. Out: guests, by UUID, by place, or all in order of UUID. Pure. A place is used again once its guest is
//! forgotten, so who remembers one compares what he finds there.

use super::guest::Guest;
use crate::event::Uuid;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Where a guest is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// Where no guest is.
    pub const NONE: Self = Self(u32::MAX);

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Room for so many is kept.
const FEW: usize = 64;

/// All guests that are not forgotten.
#[derive(Debug, Default)]
pub struct Roster {
    /// In order of UUID. To take one in moves those after it: four bytes each.
    by_uuid: Vec<Place>,
    /// In one piece, so that nothing that is soon freed lies between two of them.
    places: Vec<Option<Guest>>,
    /// The lowest first, so that those at the end become free.
    free: BinaryHeap<Reverse<Place>>,
}

impl Roster {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_uuid.len()
    }

    /// Where in order of UUID this one is, or would be.
    fn search(&self, uuid: Uuid) -> Result<usize, usize> {
        let of = |place: &Place| self.at(*place).map(|guest| guest.uuid);
        self.by_uuid
            .binary_search_by(|place| of(place).cmp(&Some(uuid)))
    }

    /// Where the guest with this UUID is.
    #[must_use]
    pub fn place(&self, uuid: Uuid) -> Option<Place> {
        self.by_uuid.get(self.search(uuid).ok()?).copied()
    }

    /// The guest at a place.
    #[must_use]
    pub fn at(&self, place: Place) -> Option<&Guest> {
        self.places.get(place.index())?.as_ref()
    }

    /// The same, to be changed, but for its UUID.
    pub fn at_mut(&mut self, place: Place) -> Option<&mut Guest> {
        self.places.get_mut(place.index())?.as_mut()
    }

    /// The guest with this UUID.
    #[must_use]
    pub fn get(&self, uuid: Uuid) -> Option<&Guest> {
        self.at(self.place(uuid)?)
    }

    /// The same, to be changed, but for its UUID.
    pub fn get_mut(&mut self, uuid: Uuid) -> Option<&mut Guest> {
        self.at_mut(self.place(uuid)?)
    }

    /// Takes a guest in, in place of one with the same UUID; says where it is.
    pub fn insert(&mut self, guest: Guest) -> Place {
        let found = self.search(guest.uuid);
        let known = found.ok().and_then(|at| self.by_uuid.get(at).copied());
        let place = known
            .or_else(|| Some(self.free.pop()?.0))
            .unwrap_or_else(|| {
                self.places.push(None);
                // There are no more than domids and those that are gone: some 40,000.
                Place(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
            });
        if let Some(kept) = self.places.get_mut(place.index()) {
            *kept = Some(guest);
            if let Err(at) = found {
                self.by_uuid.insert(at, place);
            }
        }
        place
    }

    /// Forgets a guest, and gives it.
    pub fn remove(&mut self, uuid: Uuid) -> Option<Guest> {
        let place = self.by_uuid.remove(self.search(uuid).ok()?);
        self.free.push(Reverse(place));
        self.places.get_mut(place.index())?.take()
    }

    /// All in order of UUID.
    pub fn iter(&self) -> impl Iterator<Item = &Guest> {
        self.by_uuid.iter().filter_map(|place| self.at(*place))
    }

    /// Changes all, in order of UUID.
    pub fn update(&mut self, mut change: impl FnMut(&mut Guest)) {
        for place in &self.by_uuid {
            let kept = self.places.get_mut(place.index());
            kept.and_then(Option::as_mut).map(&mut change);
        }
    }

    /// The same, and forgets those of which `change` says so by false.
    pub fn retain(&mut self, mut change: impl FnMut(&mut Guest) -> bool) {
        let (places, free) = (&mut self.places, &mut self.free);
        self.by_uuid.retain(|place| {
            let kept = places.get_mut(place.index());
            let Some(kept) = kept else {
                return false;
            };
            let stays = kept.as_mut().is_some_and(&mut change);
            if !stays {
                *kept = None;
                free.push(Reverse(*place));
            }
            stays
        });
        self.shrink();
    }

    /// Gives back the places at the end that nobody has, and memory once most is not needed. Who is at the end keeps the rest.
    fn shrink(&mut self) {
        let used = self.places.iter().rposition(Option::is_some);
        let used = used.map_or(0, |last| last + 1);
        if used < self.places.len() {
            self.places.truncate(used);
            self.free.retain(|place| place.0.index() < used);
        }
        if self.places.capacity() > 4 * used.max(FEW) {
            self.places.shrink_to(2 * used.max(FEW));
            self.by_uuid.shrink_to(2 * used.max(FEW));
            self.free.shrink_to(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::guest::GuestDomain;
    use crate::xen::simulation::Simulation;

    fn guest(n: u16) -> Guest {
        let xen = Simulation::sized(1, 100);
        xen.create(n, Uuid::from_u128(n.into()));
        let record = xen.table().domain(n).expect("created");
        Guest::new(record.uuid, GuestDomain::new(&record, None), 0)
    }

    #[test]
    fn guests_are_found_by_place_and_by_uuid_and_listed_in_order_of_uuid() {
        let mut roster = Roster::default();
        let all = |roster: &Roster| roster.iter().map(|g| g.domid).collect::<Vec<_>>();
        let places = [9, 4, 7].map(|n| (n, roster.insert(guest(n))));
        assert_eq!(all(&roster), [4, 7, 9]);
        for (n, place) in places {
            let uuid = Uuid::from_u128(n.into());
            assert_eq!(roster.at(place).map(|g| g.domid), Some(n));
            assert_eq!(roster.get(uuid).map(|g| g.domid), Some(n));
            assert_eq!(roster.place(uuid), Some(place));
        }
        assert_eq!(roster.insert(guest(4)), places[1].1, "in its own place");
        let mut order = Vec::new();
        roster.update(|guest| order.push(guest.domid));
        roster.retain(|guest| {
            order.push(guest.domid);
            guest.domid != 7
        });
        assert_eq!(order, [4, 7, 9, 4, 7, 9]);
        assert_eq!((all(&roster), roster.count()), (vec![4, 9], 2));
        assert!(roster.at(places[2].1).is_none() && roster.get(Uuid::from_u128(7)).is_none());
        assert_eq!(roster.insert(guest(5)), places[2].1, "used again");
        assert_eq!(roster.remove(Uuid::from_u128(9)).map(|g| g.domid), Some(9));
        assert!(roster.remove(Uuid::from_u128(9)).is_none());
        assert_eq!(roster.insert(guest(6)), places[0].1);
        assert_eq!(all(&roster), [4, 5, 6]);
    }
    #[test]
    fn what_many_guests_took_is_given_back_once_few_are_left() {
        let mut roster = Roster::default();
        let some = guest(1);
        for n in 1..=2_000_u128 {
            let uuid = Uuid::from_u128(n);
            roster.insert(Guest {
                uuid,
                ..some.clone()
            });
        }
        let last = roster.place(Uuid::from_u128(3));
        roster.retain(|guest| guest.uuid.as_u128() <= 3 && guest.uuid.as_u128() != 2);
        assert_eq!((roster.count(), roster.places.len()), (2, 3));
        assert!(roster.places.capacity() <= 4 * FEW && roster.free.len() == 1);
        assert_eq!(roster.place(Uuid::from_u128(3)), last);
        // The place between is used again, and then new ones.
        let places = [2, 4].map(|n| {
            let uuid = Uuid::from_u128(n);
            roster.insert(Guest {
                uuid,
                ..some.clone()
            })
        });
        assert_eq!(places, [Place(1), Place(3)]);
        roster.retain(|_| false);
        assert_eq!((roster.count(), roster.places.len()), (0, 0));
        assert!(roster.free.is_empty());
    }
}

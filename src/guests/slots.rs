// SPDX-License-Identifier: GPL-2.0-only
//! The slots of a domain's watchdog. Hardly any guest uses the second: it takes memory once it is.
//!
//! In: what became of a slot. Out: each slot, an unused one as it is at first. Pure. Written as a list of both.

use super::slot::Slot;
use crate::xen::table::SLOTS;
use serde::{Deserialize, Serialize};

/// The slots, by number from 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "[Slot; SLOTS]", into = "[Slot; SLOTS]")]
pub struct Slots {
    first: Slot,
    /// None: as at first.
    second: Option<Box<Slot>>,
}

static UNUSED: Slot = Slot::UNUSED;

impl From<[Slot; SLOTS]> for Slots {
    fn from([first, second]: [Slot; SLOTS]) -> Self {
        let used = Some(second).filter(|slot| *slot != UNUSED);
        let second = used.map(Box::new);
        Self { first, second }
    }
}

impl From<Slots> for [Slot; SLOTS] {
    fn from(slots: Slots) -> Self {
        slots.both().map(|slot| *slot)
    }
}

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        self.both() == other.both()
    }
}

impl Slots {
    /// Both.
    #[must_use]
    pub fn both(&self) -> [&Slot; SLOTS] {
        [&self.first, self.second.as_deref().unwrap_or(&UNUSED)]
    }

    /// Both, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.both().into_iter()
    }

    /// The first, and the second if it is used, to be changed.
    pub fn parts_mut(&mut self) -> (&mut Slot, Option<&mut Slot>) {
        (&mut self.first, self.second.as_deref_mut())
    }

    /// Those that are used, to be changed.
    pub fn used_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        let (first, second) = self.parts_mut();
        std::iter::once(first).chain(second)
    }

    /// One of them, if there is such a slot.
    #[must_use]
    pub fn get(&self, n: usize) -> Option<&Slot> {
        self.both().get(n).copied()
    }

    /// The same, to be changed: it is used from now on.
    pub fn get_mut(&mut self, n: usize) -> Option<&mut Slot> {
        match n {
            0 => Some(&mut self.first),
            1 => Some(self.second.get_or_insert_default()),
            _ => None,
        }
    }

    /// Changes one. One that is unused stays so if that leaves it as it was.
    pub fn change(&mut self, n: usize, change: impl FnOnce(&mut Slot)) {
        match (n, &mut self.second) {
            (0, _) => change(&mut self.first),
            (1, Some(second)) => change(second),
            (1, none) => {
                let mut slot = UNUSED;
                change(&mut slot);
                if slot != UNUSED {
                    *none = Some(Box::new(slot));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_slot_takes_no_memory_and_is_as_any_other() {
        assert_eq!(size_of::<Slots>(), size_of::<Slot>() + 8);
        let mut slots = Slots::default();
        assert_eq!(slots.get(1), Some(&Slot::default()));
        slots.change(1, |slot| slot.sets = 0);
        assert!(slots.second.is_none());
        assert_eq!((slots.used_mut().count(), slots.iter().count()), (1, 2));
        slots.change(1, |slot| slot.sets = 3);
        slots.change(0, |slot| slot.sets = 2);
        slots.change(1, |slot| slot.told = 1);
        slots.change(2, |slot| slot.sets = 9);
        assert!(slots.get(2).is_none() && slots.get_mut(2).is_none());
        assert_eq!(
            slots.iter().map(|slot| slot.sets).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(
            (slots.used_mut().count(), slots.get(1).map(|s| s.told)),
            (2, Some(1))
        );
        let mut used = Slots::default();
        used.get_mut(1).expect("a slot").sets = 0;
        assert!(used.second.is_some() && used == Slots::default());
    }

    #[test]
    fn slots_are_written_as_a_list_of_both() {
        let mut slots = Slots::default();
        let both = [Slot::default(); SLOTS];
        let text = |slots: &Slots| serde_json::to_string(slots).expect("JSON");
        assert_eq!(text(&slots), serde_json::to_string(&both).expect("JSON"));
        let read: Slots = serde_json::from_str(&text(&slots)).expect("both");
        assert!(read.second.is_none());
        slots.change(1, |slot| slot.sets = 3);
        let read: Slots = serde_json::from_str(&text(&slots)).expect("both");
        assert_eq!(read, slots);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What was seen of the slots of each domid, and the memory that this takes.
//!
//! In: how many domids were used. Out: a record of each of them, of 20 bytes. Promises: every domid that a table has has its record from the start,
//! nothing is allocated later; and once [`Records::keep_ahead`] was called, only what was used is resident, with the next 1,024 domids. Xen gives domids
//! out in turn, so those come next. A thread of its own makes them resident, "room": it is not real-time, and looks each 30 seconds.
//! Never: a page fault in the kick path, unless more than 1,024 domains were created since that thread looked last, or it does not run. Then
//! the first touch of a page faults: no record is wrong for that, and no domid is not judged, but how long the kernel
//! takes to find that page is not proven.

use super::evidence::SLACK_NS;
use super::tick::Tick;
use crate::sys::clock::{Monotonic, NS_PER_S};
use crate::sys::realtime::spawn;
use crate::sys::reserve::{Ahead, Reserve};
use crate::xen::table::{SLOTS, Slot};
use std::io;
use std::thread;
use std::time::Duration;

/// So many domids more than were used are resident: 20 KiB.
const AHEAD: usize = 1_024;
/// So often the thread looks: some 30 domains a second are more than a toolstack creates, and a wakeup costs the guard's processor time.
const EACH: Duration = Duration::from_secs(30);

/// A record in memory, all words 0 where nothing was seen.
type Words = [u32; 1 + 2 * SLOTS];

/// What was seen of a domid's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotProgress {
    /// The low half of the domain's creation number: another domain has another.
    pub created: u32,
    /// How often each slot had been set, at the last look.
    pub sets: [u32; SLOTS],
    /// Since when that is so.
    pub since: [Tick; SLOTS],
}

impl SlotProgress {
    /// As if each armed slot had been fed last before its deadline and the slack.
    pub fn overdue(&mut self, created: u32, slots: &[Option<Slot>; SLOTS], now: Monotonic) {
        self.created = created;
        for ((slot, sets), since) in slots.iter().zip(&mut self.sets).zip(&mut self.since) {
            let Some(slot) = slot else { continue };
            let granted = u64::from(slot.armed.unwrap_or(0)).saturating_mul(NS_PER_S);
            let at = now.0.saturating_sub(granted.saturating_add(2 * SLACK_NS));
            (*sets, *since) = (slot.sets, Tick::up(Monotonic(at)));
        }
    }
}

impl From<Words> for SlotProgress {
    fn from([created, one, other, since_one, since_other]: Words) -> Self {
        Self {
            created,
            sets: [one, other],
            since: [since_one, since_other].map(Tick::from),
        }
    }
}

impl From<SlotProgress> for Words {
    fn from(progress: SlotProgress) -> Self {
        let ([one, other], [since_one, since_other]) =
            (progress.sets, progress.since.map(u32::from));
        [progress.created, one, other, since_one, since_other]
    }
}

/// The records of all domids.
#[derive(Debug)]
pub struct Records(Reserve<{ 1 + 2 * SLOTS }>);

impl Records {
    /// Nothing was seen of any of so many domids.
    #[must_use]
    pub fn new(nr_domains: usize) -> Self {
        Self(Reserve::new(nr_domains))
    }

    /// Those of the domids below `used`. Allocates nothing and makes no system call.
    pub fn first(&mut self, used: usize) -> &mut [Words] {
        self.0.first(used)
    }

    /// Gives back what is far ahead of the first `used`, in a process that has locked its memory, and starts the thread that
    /// makes it resident as time comes. Where the kernel refuses that, or the thread, all stays resident.
    ///
    /// # Errors
    /// What was given back cannot be locked again, which no record is lost by.
    pub fn keep_ahead(&mut self, used: usize) -> io::Result<()> {
        self.0.first(used);
        let Some(ahead) = self.0.release(AHEAD)? else {
            return Ok(());
        };
        match spawn("room", move || move_on(ahead)) {
            Ok(_) => Ok(()),
            Err(_) => Ok(self.0.hold()?),
        }
    }
}

/// Until there are no records any more.
fn move_on(mut ahead: Ahead) {
    loop {
        thread::sleep(EACH);
        // What there is no memory for is tried again.
        if ahead.keep().is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_comes_back_from_memory_and_zeroes_are_what_was_never_seen() {
        let seen = SlotProgress {
            created: 1,
            sets: [2, 3],
            since: [Tick::from(4), Tick::from(5)],
        };
        assert_eq!(SlotProgress::from(Words::from(seen)), seen);
        assert_eq!(
            SlotProgress::from(Words::default()),
            SlotProgress::default()
        );
    }
}

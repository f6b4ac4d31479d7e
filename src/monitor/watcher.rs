// SPDX-License-Identifier: GPL-2.0-only
//! The watcher: turns what the sampler saw into happenings.
//!
//! In: the ledger's snapshots, the table of domains. Out: happenings, in order, to a
//! callback; state to the saver. It polls: to be woken would cost the sampler a system
//! call. It never waits for a disk, and ends soon after the kicker, saving first.

use crate::event::Timestamp;
use crate::guard::ledger::Ledger;
use crate::guests::Happening;
use crate::guests::registry::Changes;
use crate::monitor::desk::GuestsDesk;
use crate::monitor::domains::Domains;
use crate::state::reset_reason::HostState;
use crate::state::saver::Saver;
use crate::sys::clock::{Monotonic, NS_PER_S};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Time between two looks at the board.
const POLL: Duration = Duration::from_millis(100);
/// Time between two saves, unless an alarm changed.
const SAVE_EACH_NS: u64 = NS_PER_S;
/// How long a sick disk may delay the end.
const LAST_SAVE: Duration = Duration::from_secs(2);
/// Bytes of stack of the saver.
const STACK: usize = 128 * 1024;

/// Watches until the kicker has ended. `hand_over` gets each happening and must not block.
pub fn run(
    ledger: &Ledger,
    domains: &Domains,
    desk: &GuestsDesk,
    saver: &Arc<Saver>,
    hand_over: &dyn Fn(Happening),
) {
    let saves = start(saver);
    let mut saving = Saving::default();
    loop {
        let ended = ledger.ended.load(Ordering::Acquire);
        let (now, wall) = (Monotonic::now(), Timestamp::now());
        let snapshot = ledger.snapshots.latest();
        let happened = desk.turn(now, wall, snapshot.as_ref(), &domains.table());
        happened.into_iter().for_each(hand_over);
        if ended || saving.is_due(desk.changes(), now) {
            saver.guests(desk.saved(saver.boot_id(), now, wall));
        }
        if ended {
            break;
        }
        thread::sleep(POLL);
    }
    if ledger.disarmed.load(Ordering::Acquire) {
        saver.host(HostState::Disarmed);
    }
    if saves && !saver.finish(LAST_SAVE) {
        log::error!("the disk does not take the state of the guests in time; leaving without");
    }
}

fn start(saver: &Arc<Saver>) -> bool {
    let writer = Arc::clone(saver);
    let thread = thread::Builder::new()
        .name("state".to_owned())
        .stack_size(STACK);
    match thread.spawn(move || writer.run()) {
        Ok(_) => true,
        Err(error) => {
            log::error!("cannot start thread state: {error}; alarms do not outlive the daemon");
            false
        }
    }
}

/// Kind was handed to the saver, and when.
#[derive(Default)]
struct Saving {
    saved: Changes,
    at: Option<Monotonic>,
}

impl Saving {
    fn is_due(&mut self, changes: Changes, now: Monotonic) -> bool {
        let rested = self.at.is_none_or(|at| now.since_ns(at) >= SAVE_EACH_NS);
        let due = changes.urgent != self.saved.urgent || changes != self.saved && rested;
        if due {
            self.saved = changes;
            self.at = Some(now);
        }
        due
    }
}

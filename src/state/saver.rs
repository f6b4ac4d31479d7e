// SPDX-License-Identifier: GPL-2.0-only
//! The saver: writes the state to disk, on a thread of its own, as the disk may be sick.
//!
//! In: the latest guests, the host watchdog's state; only the latest waits. Out: files
//! ([`crate::state::store`]). Nobody who hands something over waits for the disk; what could not
//! be written is tried again, and told once.

use crate::event::{Kind, Timestamp};
use crate::guests::alarm::Rules;
use crate::guests::registry::{Registry, SAVED_VERSION, Saved};
use crate::monitor::desk::GuestsDesk;
use crate::state::reset_reason::{HostState, LastWords, boot_id};
use crate::state::sequence::Sequence;
use crate::state::store::{Store, Stored};
use crate::sys::clock::Monotonic;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks at what is due by time alone.
const POLL: Duration = Duration::from_millis(500);
/// Time between two attempts after the disk failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Age at which the last words are written anew.
const REFRESH: Duration = Duration::from_secs(60);

impl Stored for Saved {
    const FILE: &'static str = "guests.json";
    const VERSION: u32 = SAVED_VERSION;
}

#[derive(Debug, Default)]
struct Waiting {
    guests: Option<Saved>,
    host: Option<HostState>,
    stop: bool,
    ended: bool,
}

/// Where state is handed over.
#[derive(Debug)]
pub struct Saver {
    store: Store,
    sequence: Arc<Sequence>,
    boot_id: String,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// Kind the state directory held.
#[derive(Debug)]
pub struct Opened {
    /// The guests as they were left.
    pub desk: GuestsDesk,
    /// Where state is handed over from now on.
    pub saver: Arc<Saver>,
    /// The numbers of events.
    pub sequence: Arc<Sequence>,
    /// `host.reset_reason` and `host.state_set_aside`, to be told first.
    pub told: Vec<Kind>,
}

/// Reads the state directory. Never fatal: what is missing or cannot be used begins anew.
/// Blocks as long as the disk does: call it before the host watchdog is armed.
#[must_use]
pub fn open(directory: &Path, rules: Rules, watchdog_fired: Option<bool>) -> Opened {
    let store = Store::new(directory);
    let boot_id = boot_id();
    let (last, last_aside) = store.load::<LastWords>();
    let (saved, guests_aside) = store.load::<Saved>();
    let (sequence, sequence_aside) = Sequence::open(&store);
    let reason = last.and_then(|words| words.reset_reason(&boot_id, watchdog_fired));
    let told = [reason, last_aside, guests_aside, sequence_aside];
    let (now, wall) = (Monotonic::now(), Timestamp::now());
    let registry = match saved {
        Some(saved) => Registry::restore(rules, saved, &boot_id, now, wall),
        None => Registry::new(rules),
    };
    let sequence = Arc::new(sequence);
    Opened {
        desk: GuestsDesk::new(registry),
        saver: Arc::new(Saver::new(store, Arc::clone(&sequence), boot_id)),
        sequence,
        told: told.into_iter().flatten().collect(),
    }
}

impl Saver {
    /// Writes to `store`, in the boot `boot_id`.
    #[must_use]
    pub fn new(store: Store, sequence: Arc<Sequence>, boot_id: String) -> Self {
        Self {
            store,
            sequence,
            boot_id,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// dom0's boot.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the guests over; what waits is replaced. Does not wait for the disk.
    pub fn guests(&self, saved: Saved) {
        self.waiting().guests = Some(saved);
        self.changed.notify_all();
    }

    /// Hands over what the host watchdog does from now on: when it is armed, disarmed,
    /// withheld from, kicked again. Does not wait for the disk.
    pub fn host(&self, state: HostState) {
        self.waiting().host = Some(state);
        self.changed.notify_all();
    }

    /// Has what waits written, once, and ends [`Saver::run`]; waits for it for at most
    /// `patience`. Says whether it ended.
    pub fn finish(&self, patience: Duration) -> bool {
        let mut waiting = self.waiting();
        waiting.stop = true;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(waiting, patience, |w| !w.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Writes until [`Saver::finish`]. The body of a thread of its own.
    pub fn run(&self) {
        let mut writing = Writing::default();
        loop {
            let (guests, host, stop) = self.take(writing.not_before.is_some());
            let again = writing.not_before.is_none_or(|at| Instant::now() >= at);
            writing.take_over(guests, host);
            if again || stop {
                writing.round(self);
            }
            if stop {
                break;
            }
        }
        self.waiting().ended = true;
        self.changed.notify_all();
    }

    /// Waits for something to do; `troubled`: for time to pass.
    fn take(&self, troubled: bool) -> (Option<Saved>, Option<HostState>, bool) {
        let idle =
            |w: &mut Waiting| !w.stop && (troubled || w.guests.is_none() && w.host.is_none());
        let waited = self.changed.wait_timeout_while(self.waiting(), POLL, idle);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        (waiting.guests.take(), waiting.host.take(), waiting.stop)
    }
}

/// Kind the thread has in hand.
#[derive(Default)]
struct Writing {
    guests: Option<Saved>,
    host: Option<HostState>,
    host_changed: bool,
    host_written: Option<Instant>,
    not_before: Option<Instant>,
}

impl Writing {
    fn take_over(&mut self, guests: Option<Saved>, host: Option<HostState>) {
        if guests.is_some() {
            self.guests = guests;
        }
        if host.is_some() {
            self.host = host;
            self.host_changed = true;
        }
    }

    /// Writes all that is due. The last words go first: they may really be the last.
    fn round(&mut self, saver: &Saver) {
        let outcomes = [
            self.write_host(saver),
            self.write_guests(saver),
            self.write_sequence(saver),
        ];
        let failed = outcomes.into_iter().find_map(Result::err);
        match (&failed, self.not_before) {
            (Some(error), None) => {
                let directory = saver.store.directory().display();
                log::error!("cannot save state in {directory}: {error}; trying on");
            }
            (None, Some(_)) => log::info!("state is saved again"),
            _ => {}
        }
        self.not_before = failed.map(|_| Instant::now() + AGAIN);
    }

    fn write_host(&mut self, saver: &Saver) -> io::Result<()> {
        let Some(state) = &self.host else {
            return Ok(());
        };
        let fresh = self.host_written.is_some_and(|at| at.elapsed() < REFRESH);
        if fresh && !self.host_changed {
            return Ok(());
        }
        let words = LastWords::new(&saver.boot_id, Timestamp::now(), state.clone());
        saver.store.save(&words)?;
        self.host_changed = false;
        self.host_written = Some(Instant::now());
        Ok(())
    }

    fn write_guests(&mut self, saver: &Saver) -> io::Result<()> {
        if let Some(guests) = &self.guests {
            saver.store.save(guests)?;
            self.guests = None;
        }
        Ok(())
    }

    fn write_sequence(&mut self, saver: &Saver) -> io::Result<()> {
        if saver.sequence.runs_low() {
            saver.sequence.reserve(&saver.store)?;
        }
        Ok(())
    }
}

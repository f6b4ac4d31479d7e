// SPDX-License-Identifier: GPL-2.0-only
//! The saver: writes the state to disk, on a thread of its own, as the disk may be sick.
//!
//! In: the latest guests, the host watchdog's state, once the resets of the host; only the
//! latest waits. Out: files
//! ([`crate::state::store`]), and to those who ask, whether what they handed over is on
//! disk. Nobody who hands something over waits for the disk. What could not be written
//! stays and is tried again, also after a panic; trouble is logged once and counted.

use crate::event::sequence::Sequence;
use crate::event::{Kind, Timestamp};
use crate::guests::alarm::{Moment, Rules};
use crate::guests::registry::{Registry, SAVED_VERSION, Saved};
use crate::state::drill::Measured;
use crate::state::history::{self, History, Resets};
use crate::state::reset_reason::{HostRecord, HostState, boot_id};
use crate::state::sequence;
use crate::state::store::{Store, Stored};
use crate::state::traces::Places;
use crate::sys::realtime::give_back_memory;
use serde::{Deserialize, Serialize};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks at whether numbers of events run low: a block of them is far more than there are in this time.
const POLL: Duration = Duration::from_secs(60);
/// Time between two attempts after the disk failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Age at which the state of the host watchdog is written anew: the heartbeat. Each costs
/// two fsync(2).
const REFRESH: Duration = Duration::from_secs(60);
/// How long after a save of guests what a storm of them has left free is given back to the system: at most so often.
const GIVES_BACK: Duration = Duration::from_secs(10);

impl Stored for Saved {
    const FILE: &'static str = "guests.json";
    const VERSION: u32 = SAVED_VERSION;
}

/// Why state cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveError {
    /// Why the last attempt failed.
    pub error: String,
    /// When the first one did.
    pub since: Timestamp,
}

/// How the saving goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the last attempt failed; one that does not clears it.
    pub trouble: Option<SaveError>,
    /// Panics of the thread, after each of which it went on.
    pub panics: u64,
}

/// The guests as they were handed over, numbered.
type Handed = (u64, Arc<Saved>);

#[derive(Debug, Default)]
struct Waiting {
    /// Not on disk yet.
    guests: Option<Handed>,
    /// Numbers that were given out.
    given: u64,
    /// Up to this number all is on disk.
    saved: u64,
    /// The last attempt that failed would have brought this number there.
    failed: u64,
    /// What the host watchdog does, once that is known.
    host: Option<HostState>,
    host_changed: bool,
    host_written: Option<Instant>,
    /// Not on disk yet.
    history: Option<Arc<History>>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
    /// When memory is given back; none: no guests were saved since it was.
    gives_back: Option<Instant>,
    health: Health,
    stop: bool,
    ended: bool,
}

/// How guests are written; tests have others than the store's.
type Write = Box<dyn Fn(&Store, &Saved) -> io::Result<()> + Send + Sync>;
/// How memory is given back; likewise.
type GiveBack = Box<dyn Fn() + Send + Sync>;

/// Where state is handed over.
pub struct Saver {
    store: Store,
    sequence: Arc<Sequence>,
    boot_id: String,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    write: Write,
    give_back: GiveBack,
    gives_back_after: Duration,
}

impl std::fmt::Debug for Saver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Saver");
        debug.field("store", &self.store).finish_non_exhaustive()
    }
}

/// What the state directory held.
#[derive(Debug)]
pub struct Opened {
    /// The guests as they were left.
    pub registry: Registry,
    /// Where state is handed over from now on.
    pub saver: Arc<Saver>,
    /// The numbers of events.
    pub sequence: Arc<Sequence>,
    /// The last resets of the host.
    pub resets: Resets,
    /// What the last drill has shown.
    pub measured: Option<Measured>,
    /// `host.reset_reason` and `host.state_set_aside`, to be told first.
    pub told: Vec<Kind>,
}

/// Reads the state directory at `at`, the present. Never fatal: what is missing or cannot be
/// used begins anew. Blocks as long as the disk does.
#[must_use]
pub fn open(directory: &Path, rules: Rules, at: Moment, watchdog_fired: Option<bool>) -> Opened {
    let store = Store::new(directory);
    let boot_id = boot_id();
    let found = history::open(&store, &Places::default(), watchdog_fired);
    let (saved, guests_aside) = store.load::<Saved>();
    let (sequence, sequence_aside) = sequence::open(&store);
    let mut told = found.told;
    told.extend(guests_aside);
    told.extend(sequence_aside);
    let registry = match saved {
        Some(saved) => Registry::restore(rules, saved, &boot_id, at),
        None => Registry::new(rules),
    };
    let sequence = Arc::new(sequence);
    let saver = Arc::new(Saver::new(store, Arc::clone(&sequence), boot_id));
    // Both are written once the thread runs, which is after what they hold was told.
    let (resets, measured) = (found.history.resets.clone(), found.history.measured.clone());
    saver.waiting().history = Some(Arc::new(found.history));
    if found.explained {
        // A host without a guard has no other words.
        saver.host(HostState::Disarmed);
    }
    Opened {
        registry,
        saver,
        sequence,
        resets,
        measured,
        told,
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
            write: Box::new(|store, saved| store.save(saved)),
            give_back: Box::new(give_back_memory),
            gives_back_after: GIVES_BACK,
        }
    }

    /// The same with another way of writing: for tests.
    #[must_use]
    pub fn writing(self, write: Write) -> Self {
        Self { write, ..self }
    }

    /// The same with another way of giving memory back, and another time after a save of guests: for tests.
    #[must_use]
    pub fn giving_back(self, gives_back_after: Duration, give_back: GiveBack) -> Self {
        Self {
            give_back,
            gives_back_after,
            ..self
        }
    }

    /// Where it writes.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// dom0's boot.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// How the saving goes, as of now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.waiting().health.clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the guests over; what waits is replaced. Does not wait for the disk. Gives a
    /// number for [`Saver::wait`].
    pub fn guests(&self, saved: Saved) -> u64 {
        let mut waiting = self.waiting();
        waiting.given += 1;
        waiting.guests = Some((waiting.given, Arc::new(saved)));
        self.changed.notify_all();
        waiting.given
    }

    /// Waits until what got the number `given` is on disk, or an attempt to bring it there
    /// has failed, at most `timeout`. Says whether it is.
    #[must_use]
    pub fn wait(&self, given: u64, timeout: Duration) -> bool {
        let open = |w: &mut Waiting| w.saved < given && w.failed < given && !w.ended;
        let waited = self
            .changed
            .wait_timeout_while(self.waiting(), timeout, open);
        let waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        waiting.saved >= given
    }

    /// Hands over what the host watchdog does from now on: when it is armed, disarmed,
    /// withheld from, kicked again. Does not wait for the disk.
    pub fn host(&self, state: HostState) {
        let mut waiting = self.waiting();
        (waiting.host, waiting.host_changed) = (Some(state), true);
        self.changed.notify_all();
    }

    /// Has what waits written, once, and ends [`Saver::run`]; waits for it for at most
    /// `timeout`.
    ///
    /// # Errors
    /// Why not all that was handed over is on disk.
    pub fn finish(&self, timeout: Duration) -> Result<(), String> {
        let mut waiting = self.waiting();
        waiting.stop = true;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(waiting, timeout, |w| !w.ended);
        let waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        let host = !waiting.host_changed && waiting.history.is_none();
        let saved = waiting.saved >= waiting.given && host;
        match &waiting.health.trouble {
            Some(SaveError { error, .. }) => Err(error.clone()),
            None if waiting.ended && saved => Ok(()),
            None if waiting.ended => Err("the thread that saves has ended".to_owned()),
            None => Err("the disk does not take it in time".to_owned()),
        }
    }

    /// Writes until [`Saver::finish`]. The body of a thread of its own. A panic is no end:
    /// what was to be written is still there, and is tried again.
    pub fn run(&self) {
        while catch_unwind(AssertUnwindSafe(|| self.write_on())).is_err() {
            let mut waiting = self.waiting();
            waiting.health.panics += 1;
            self.failed(&mut waiting, "the thread that saves panicked".to_owned());
            if waiting.stop {
                break;
            }
        }
        self.waiting().ended = true;
        self.changed.notify_all();
    }

    fn write_on(&self) {
        loop {
            let (guests, host, stop) = self.due();
            let saves = guests.is_some();
            // What the host watchdog does goes first: the host may be about to go down. But
            // a reset that was told is not to be told again.
            let written = self.write_history().and(self.write_host(host, stop));
            let written = written.and(self.write_guests(guests));
            let written = written.and(self.write_sequence());
            let mut waiting = self.waiting();
            if saves {
                let at = Instant::now() + self.gives_back_after;
                waiting.gives_back.get_or_insert(at);
            }
            match written {
                Err(error) => self.failed(&mut waiting, error.to_string()),
                Ok(()) => {
                    if waiting.health.trouble.take().is_some() {
                        log::info!("state is saved again");
                    }
                    waiting.not_before = None;
                }
            }
            if stop {
                return;
            }
        }
    }

    fn failed(&self, waiting: &mut Waiting, trouble: String) {
        let since = waiting.health.trouble.take().map(|before| before.since);
        if since.is_none() {
            let directory = self.store.directory().display();
            log::error!("cannot save state in {directory}: {trouble}; trying on");
        }
        waiting.health.trouble = Some(SaveError {
            error: trouble,
            since: since.unwrap_or_else(Timestamp::now),
        });
        waiting.not_before = Some(Instant::now() + AGAIN);
        waiting.failed = waiting.given;
        self.changed.notify_all();
    }

    /// Waits for something to do.
    fn due(&self) -> (Option<Handed>, Option<HostState>, bool) {
        let mut waiting = self.waiting();
        loop {
            let now = Instant::now();
            let gives_back = waiting.gives_back.filter(|_| !waiting.stop);
            if gives_back.is_some_and(|at| at <= now) {
                waiting.gives_back = None;
                drop(waiting);
                self.give_back_memory();
                waiting = self.waiting();
                continue;
            }
            let rest = waiting
                .not_before
                .map(|at| at.saturating_duration_since(now));
            let old = waiting
                .host_written
                .is_none_or(|at| at.elapsed() >= REFRESH);
            let host_due = waiting.host_changed || waiting.stop || old && waiting.host.is_some();
            let rested = rest.is_none_or(|rest| rest.is_zero());
            let waits = waiting.guests.is_some() || waiting.history.is_some();
            let due = host_due || waits || self.sequence.runs_low();
            if waiting.stop || rested && due {
                let host = waiting.host.clone().filter(|_| host_due);
                return (waiting.guests.clone(), host, waiting.stop);
            }
            let beats = waiting.host_written.filter(|_| waiting.host.is_some());
            let beats = beats.map(|at| REFRESH.saturating_sub(now.saturating_duration_since(at)));
            let timeout = rest.filter(|rest| !rest.is_zero());
            let timeout = timeout.unwrap_or(POLL.min(beats.unwrap_or(POLL)));
            let gives_back = gives_back.map(|at| at.saturating_duration_since(now));
            let timeout = timeout.min(gives_back.unwrap_or(POLL));
            let waited = self.changed.wait_timeout(waiting, timeout);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A storm of guests, and of their events, leaves more free than the present needs. The C library holds the lock of one
    /// arena at a time for it, and for no longer than a look through its free blocks takes, as it also does for each block that another
    /// thread frees there: a thread of the monitor's may wait that long, and the guard is another process.
    fn give_back_memory(&self) {
        (self.give_back)();
    }

    /// `last`: no heartbeat will follow.
    fn write_host(&self, host: Option<HostState>, last: bool) -> io::Result<()> {
        let Some(state) = host else {
            return Ok(());
        };
        let words = HostRecord::now(&self.boot_id, state, last);
        self.store.save(&words)?;
        let mut waiting = self.waiting();
        waiting.host_changed &= waiting.host.as_ref() != Some(&words.state);
        waiting.host_written = Some(Instant::now());
        Ok(())
    }

    fn write_history(&self) -> io::Result<()> {
        let Some(history) = self.waiting().history.clone() else {
            return Ok(());
        };
        self.store.save(history.as_ref())?;
        self.waiting().history = None;
        Ok(())
    }

    fn write_guests(&self, guests: Option<Handed>) -> io::Result<()> {
        let Some((number, saved)) = guests else {
            return Ok(());
        };
        (self.write)(&self.store, &saved)?;
        let mut waiting = self.waiting();
        waiting.saved = number;
        if waiting.guests.as_ref().is_some_and(|(n, _)| *n == number) {
            waiting.guests = None;
        }
        self.changed.notify_all();
        Ok(())
    }

    fn write_sequence(&self) -> io::Result<()> {
        if self.sequence.runs_low() {
            sequence::reserve(&self.sequence, &self.store)?;
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The registry of guests behind a lock, for the watcher and for requests.
//!
//! In: looks from the watcher, questions and orders from the control socket. Out: what the
//! registry says, as events, in order; its state, to the saver.
//!
//! # A kill at any moment
//!
//! Under one lock, in this order: the registry takes what is new, the events are published,
//! the state that follows from it is handed to the saver. So the state on disk never knows
//! of anything whose event was not published: a kill loses no event of an alarm. And what is
//! on disk has been told: the next monitor, which compares the table with it, tells none of it
//! again. What a kill catches between the two, a few milliseconds on a sound disk, is told
//! twice rather than never. An order of a user is answered once its outcome is on disk.
//!
//! The lock is held for computing, and for the bus, which waits for nobody.

use crate::event::{Timestamp, Uuid};
use crate::guests::alarm::{Moment, Nanoseconds};
use crate::guests::registry::{Changes, Registry};
use crate::guests::report::GuestsReport;
use crate::guests::{DomainNames, GuestEvent, GuestRequests, RequestError};
use crate::state::saver::Saver;
use crate::sys::clock::Monotonic;
use crate::xen::table::Table;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Time between two saves, unless an alarm changed.
const SAVE_EACH_NS: Nanoseconds = 1_000_000_000;
/// How long an order waits for the disk.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes an event; must not block.
pub type Publish = Box<dyn Fn(GuestEvent) + Send + Sync>;

/// The present by both clocks.
#[must_use]
pub fn now() -> Moment {
    moment(Monotonic::now(), Timestamp::now())
}

/// `now`, which is the present, by both clocks; by the host's as of the last tick.
pub(crate) fn moment_of_tick(now: Monotonic) -> Moment {
    moment(now, Timestamp::of_tick())
}

fn moment(now: Monotonic, wall: Timestamp) -> Moment {
    let ns = Nanoseconds::try_from(now.0).unwrap_or(Nanoseconds::MAX);
    Moment { ns, wall }
}

struct Inside {
    registry: Registry,
    /// Why there is no table to look at.
    no_table: Option<String>,
    /// What was handed to the saver, and when.
    saved: Changes,
    saved_ns: Option<Nanoseconds>,
}

/// The registry, shared.
pub struct SharedRegistry {
    inside: Mutex<Inside>,
    saver: Arc<Saver>,
    publish: Publish,
}

impl std::fmt::Debug for SharedRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedRegistry").finish_non_exhaustive()
    }
}

impl SharedRegistry {
    /// Over `registry`, as it was restored.
    #[must_use]
    pub fn new(registry: Registry, saver: Arc<Saver>, publish: Publish) -> Self {
        let inside = Inside {
            saved: registry.changes(),
            saved_ns: None,
            registry,
            no_table: None,
        };
        Self {
            inside: Mutex::new(inside),
            saver,
            publish,
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a look at the table. Gives the domains that are there, domid and creation
    /// number, where that has changed.
    pub fn turn(
        &self,
        at: Moment,
        table: &Table<'_>,
        names: &Arc<DomainNames>,
    ) -> Option<Vec<(u16, u64)>> {
        let mut inside = self.inside();
        if !Arc::ptr_eq(inside.registry.names(), names) {
            inside.registry.rename(names);
        }
        let came_or_went = self.turn_inside(&mut inside, at, table);
        came_or_went.then(|| inside.registry.domains().collect())
    }

    /// The same with the names that are known, unless somebody holds the lock just now. Does not wait. Whether domains came or went.
    pub fn try_turn(&self, at: Moment, table: &Table<'_>) -> bool {
        let mut inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.turn_inside(&mut inside, at, table)
    }

    fn turn_inside(&self, inside: &mut Inside, at: Moment, table: &Table<'_>) -> bool {
        let before = inside.registry.changes().domains;
        let happened = inside.registry.turn(at, table);
        let came_or_went = inside.registry.changes().domains != before;
        happened.into_iter().for_each(&self.publish);
        let (changes, saved) = (inside.registry.changes(), inside.saved);
        let rested = |then: Nanoseconds| at.ns.saturating_sub(then) >= SAVE_EACH_NS;
        let rested = inside.saved_ns.is_none_or(rested);
        if changes.urgent != saved.urgent || changes != saved && rested {
            self.enqueue_save(inside, at);
        }
        came_or_went
    }

    /// All guests as of now; none where somebody holds the lock just now. Does not wait.
    #[must_use]
    pub fn try_report(&self) -> Option<GuestsReport> {
        let inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(inside.registry.report(now().ns))
    }

    /// Why there is no table to look at from now on; none where there is one.
    pub fn set_no_table(&self, why: Option<String>) {
        self.inside().no_table = why;
    }

    /// Hands the state to the saver, changed or not: for the end.
    pub fn save(&self, at: Moment) {
        self.enqueue_save(&mut self.inside(), at);
    }

    fn enqueue_save(&self, inside: &mut Inside, at: Moment) -> u64 {
        inside.saved = inside.registry.changes();
        inside.saved_ns = Some(at.ns);
        let saved = inside.registry.saved(self.saver.boot_id(), at);
        self.saver.guests(saved)
    }

    fn order(
        &self,
        act: impl FnOnce(&mut Registry, Moment) -> Result<Vec<GuestEvent>, RequestError>,
    ) -> Result<(), RequestError> {
        let at = now();
        let mut inside = self.inside();
        let said = act(&mut inside.registry, at)?;
        said.into_iter().for_each(&self.publish);
        let given = self.enqueue_save(&mut inside, at);
        drop(inside);
        let saved = self.saver.wait(given, TIMEOUT);
        saved.then_some(()).ok_or(RequestError::NotSaved)
    }
}

impl GuestRequests for SharedRegistry {
    fn report(&self) -> GuestsReport {
        let inside = self.inside();
        GuestsReport {
            no_table: inside.no_table.clone(),
            ..inside.registry.report(now().ns)
        }
    }

    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        self.order(|registry, at| registry.acknowledge(uuid, uid, at))
    }

    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        log::info!("user {uid} closes the alarm of guest {uuid}");
        self.order(|registry, at| registry.close(uuid, at))
    }

    fn fed_elsewhere(&self, uuid: Uuid, expiries: u32) -> Result<(), RequestError> {
        self.order(|registry, at| registry.fed_elsewhere(uuid, expiries, at))?;
        log::info!("the alarm of guest {uuid} has ended, as it feeds on another host");
        Ok(())
    }
}

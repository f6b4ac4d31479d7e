// SPDX-License-Identifier: GPL-2.0-only
//! The guests' half of the monitor: what was kept, and the three threads that go on from it.
//!
//! In: the state directory, the liveness table, names. Out: events, by the bus; state, on
//! disk. [`GuestThreads::finish`] ends the threads in order: the last look, then the last save.

use super::names::Names;
use super::shared_registry::{self, SharedRegistry};
use super::watcher::Idle;
use super::{table, watcher};
use crate::config::Policy;
use crate::event::bus::Bus;
use crate::guests::alarm::Rules;
use crate::state::reset_reason::HostState;
use crate::state::saver::{self, Health, Opened, Saver};
use crate::sys::clock::Monotonic;
use crate::watchdog::candidates;
use crate::xen::table::Table;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the end of the last look is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the threads that follow guests share.
#[derive(Debug)]
pub struct GuestThreads {
    /// Where questions and orders go.
    pub registry: SharedRegistry,
    names: Names,
    saver: Arc<Saver>,
    stop: AtomicBool,
    /// The last look is done.
    looked: AtomicBool,
    idle: Idle<'static>,
}

/// Reads what was kept. Blocks as long as the disk does.
#[must_use]
pub fn open(policy: &Policy) -> Opened {
    let ns = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    let rules = Rules {
        clear_after_feeds: policy.guests.clear_after_feeds,
        clear_after_ns: ns(policy.guests.clear_after),
        boot_deadline_ns: ns(policy.guests.boot_deadline),
        ..Rules::default()
    };
    let fired = candidates::fired(&policy.devices, Path::new("/sys"), Path::new("/dev"));
    saver::open(
        &policy.state_directory,
        rules,
        shared_registry::now(),
        fired,
    )
}

impl GuestThreads {
    /// Goes on from what was kept; events go to `bus`.
    #[must_use]
    pub fn new(opened: Opened, bus: Arc<Bus>) -> Self {
        let publish = move |event: crate::guests::GuestEvent| {
            bus.publish(Some(event.guest), event.what);
        };
        let saver = Arc::clone(&opened.saver);
        Self {
            registry: SharedRegistry::new(opened.registry, saver, Box::new(publish)),
            names: Names::default(),
            saver: opened.saver,
            stop: AtomicBool::new(false),
            looked: AtomicBool::new(false),
            idle: Idle::default(),
        }
    }

    /// Where state is kept.
    #[must_use]
    pub fn saver(&self) -> &Saver {
        &self.saver
    }

    /// Keeps what the host watchdog does, for the next boot. Does not wait for the disk.
    pub fn host(&self, state: HostState) {
        self.saver.host(state);
    }

    /// Looks at the table and tells what guests did, once there is one: `first` is the first
    /// attempt to map it, and `mapped` gets it. The body of a thread, as are the next two;
    /// [`GuestThreads::finish`] ends them.
    pub fn look(&self, first: Result<Table<'static>, String>, mapped: impl FnOnce(Table<'static>)) {
        let first = Cell::new(Some(first));
        let attempt = || first.take().unwrap_or_else(table::map);
        let missing = |why: &str| {
            log::warn!("guests and pCPUs are not seen: {why}; trying on");
            self.registry.set_no_table(Some(why.to_owned()));
        };
        if let Some(table) = table::wait(attempt, table::AGAIN, &self.stop, missing) {
            self.registry.set_no_table(None);
            mapped(table);
            watcher::run(&table, &self.names, &self.registry, &self.idle, &self.stop);
        }
        self.looked.store(true, Ordering::Release);
    }

    /// Looks at the table while nobody else does, as there was no guest: see [`Idle::look`].
    pub fn look_while_idle(&self, now: Monotonic) {
        self.idle.look(&self.registry, now);
    }

    /// Has its own watcher look at the table, if it sleeps: takes no lock, for a thread that must not hang now.
    pub fn look_yourself(&self) {
        self.idle.wake();
    }

    /// Reads names.
    pub fn read_names(&self) {
        self.names.run(&self.stop);
    }

    /// Saves.
    pub fn save(&self) {
        self.saver.run();
    }

    /// How the saving goes.
    #[must_use]
    pub fn saving(&self) -> Health {
        self.saver.health()
    }

    /// Has everything saved, and the threads end, until `deadline`.
    ///
    /// # Errors
    /// Why not all is saved.
    pub fn finish(&self, deadline: Instant) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        self.names.wake();
        while !self.looked.load(Ordering::Acquire) && Instant::now() < deadline {
            // It may have looked whether to stop just before.
            self.idle.wake();
            thread::sleep(LOOK_EVERY);
        }
        self.saver
            .finish(deadline.saturating_duration_since(Instant::now()))
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The guests' half of the monitor: what was kept, and the three threads that go on from it.
//!
//! In: the state directory, the liveness table, names. Out: events, by the bus; state, on
//! disk. [`GuestThreads::finish`] ends the threads in order: the last look, then the last save.

use super::names::Names;
use super::shared_registry::{self, SharedRegistry};
use super::watcher;
use crate::config::Policy;
use crate::event::bus::Bus;
use crate::guests::alarm::Rules;
use crate::state::reset_reason::HostState;
use crate::state::saver::{self, Opened, Saver};
use crate::watchdog::sysfs::Attributes;
use crate::xen::table::Table;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the end of the last look is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The threads that follow guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestThread {
    /// Looks at the table and tells what guests did.
    Guests,
    /// Reads names.
    Names,
    /// Saves.
    State,
}

/// Those who follow guests.
#[derive(Debug)]
pub struct GuestThreads {
    /// Where questions and orders go.
    pub registry: SharedRegistry,
    names: Names,
    saver: Arc<Saver>,
    table: Option<Table<'static>>,
    stop: AtomicBool,
    /// The last look is done.
    looked: AtomicBool,
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
    let fired = Attributes::read(Path::new("/sys"), &policy.device).card_reset;
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
    pub fn new(opened: Opened, bus: Arc<Bus>, table: Option<Table<'static>>) -> Self {
        let publish = move |event: crate::guests::GuestEvent| {
            bus.publish(Some(event.guest), event.what);
        };
        let saver = Arc::clone(&opened.saver);
        Self {
            registry: SharedRegistry::new(opened.registry, saver, Box::new(publish)),
            names: Names::default(),
            saver: opened.saver,
            table,
            stop: AtomicBool::new(false),
            looked: AtomicBool::new(false),
        }
    }

    /// Keeps what the host watchdog does, for the next boot. Does not wait for the disk.
    pub fn host(&self, state: HostState) {
        self.saver.host(state);
    }

    /// The body of a thread; ends by [`GuestThreads::finish`].
    pub fn run(&self, thread: GuestThread) {
        match thread {
            GuestThread::Guests => {
                if let Some(table) = &self.table {
                    watcher::run(table, &self.names, &self.registry, &self.stop);
                }
                self.looked.store(true, Ordering::Release);
            }
            GuestThread::Names => self.names.run(&self.stop),
            GuestThread::State => self.saver.run(),
        }
    }

    /// Has everything saved, and the threads end, until `deadline`; whether it is saved.
    pub fn finish(&self, deadline: Instant) -> bool {
        self.stop.store(true, Ordering::Release);
        while !self.looked.load(Ordering::Acquire) && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
        self.saver
            .finish(deadline.saturating_duration_since(Instant::now()))
    }
}

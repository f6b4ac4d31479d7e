// SPDX-License-Identifier: GPL-2.0-only
//! The watcher: has the registry look at the table, four times a second, or, while there is no domain but dom0, when there is one.
//!
//! In: the table, the domains' names. Out: events and state, by the registry; the domains that
//! are there, to those who look for names. It waits for nothing but time, and its last look
//! is saved whatever came of it. While there is no guest it sleeps, and others, who look at the table about once a second anyhow, wake it
//! for the first one ([`Idle`]).

use crate::monitor::names::Names;
use crate::monitor::shared_registry::{SharedRegistry, moment_of_tick, now};
use crate::sys::clock::Monotonic;
use crate::xen::table::{Domain, Table};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Time between two looks.
pub const LOOK_EACH: Duration = Duration::from_millis(250);
/// The same while there is no domain but dom0, whatever became of those who would say so.
pub const LOOK_FOR_ANY_EACH: Duration = Duration::from_secs(60);
/// How long the first look waits for names.
const FIRST_NAMES: Duration = Duration::from_secs(1);

/// The watcher's sleep while there is no guest.
#[derive(Debug, Default)]
pub struct Idle<'t> {
    sleeps: AtomicBool,
    of: OnceLock<(Table<'t>, Thread)>,
}

impl<'t> Idle<'t> {
    /// Sleeps until it is woken, or for [`LOOK_FOR_ANY_EACH`]. What woke it before counts.
    fn sleep(&self, table: &Table<'t>) {
        self.of.get_or_init(|| (*table, thread::current()));
        self.sleeps.store(true, Ordering::SeqCst);
        thread::park_timeout(LOOK_FOR_ANY_EACH);
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// Looks at the table in the watcher's stead, if it sleeps, and wakes it once there is a guest. To be called about once a
    /// second; waits for nobody.
    pub fn look(&self, registry: &SharedRegistry, now: Monotonic) {
        if !self.sleeps.load(Ordering::SeqCst) {
            return;
        }
        let Some((table, _)) = self.of.get() else {
            return;
        };
        let is_new = registry.try_turn(moment_of_tick(now), table);
        if is_new || domains(table).next().is_some() {
            self.wake();
        }
    }

    /// Wakes it, if it sleeps.
    pub fn wake(&self) {
        if let Some((_, thread)) = self.of.get() {
            thread.unpark();
        }
    }
}

/// Watches until `stop` is set. The body of a thread of its own.
pub fn run<'t>(
    table: &Table<'t>,
    names: &Names,
    registry: &SharedRegistry,
    idle: &Idle<'t>,
    stop: &AtomicBool,
) {
    let follow = || {
        let there = domains(table).map(|domain| (domain.domid, domain.created));
        names.follow(there.collect());
    };
    // What the first look finds is told by name, unless xenstored hangs.
    follow();
    names.wait(FIRST_NAMES);
    while !stop.load(Ordering::Acquire) {
        if let Some(domains) = registry.turn(now(), table, &names.table()) {
            names.follow(domains);
        }
        match domains(table).next() {
            Some(_) => thread::sleep(LOOK_EACH),
            None => {
                idle.sleep(table);
                // Whoever looked meanwhile follows nobody.
                follow();
            }
        }
    }
    registry.turn(now(), table, &names.table());
    registry.save(now());
}

/// The domains that are there, but for dom0.
fn domains<'t>(table: &'t Table<'_>) -> impl Iterator<Item = Domain> + 't {
    let there = table.domains();
    there.filter(|domain| domain.exists && domain.domid > 0)
}

// SPDX-License-Identifier: GPL-2.0-only
//! The watcher: has the registry look at the table, four times a second, or twice while there is no domain but dom0.
//!
//! In: the table, the domains' names. Out: events and state, by the registry; the domains that
//! are there, to those who look for names. It waits for nothing but time, and its last look
//! is saved whatever came of it.

use crate::monitor::names::Names;
use crate::monitor::shared_registry::{SharedRegistry, now};
use crate::xen::table::{Domain, Table};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Time between two looks.
pub const LOOK_EACH: Duration = Duration::from_millis(250);
/// The same while there is no domain but dom0.
pub const LOOK_FOR_ANY_EACH: Duration = Duration::from_millis(500);
/// How long the first look waits for names.
const FIRST_NAMES: Duration = Duration::from_secs(1);

/// Watches until `stop` is set. The body of a thread of its own.
pub fn run(table: &Table<'_>, names: &Names, registry: &SharedRegistry, stop: &AtomicBool) {
    // What the first look finds is told by name, unless xenstored hangs.
    names.follow(
        domains(table)
            .map(|domain| (domain.domid, domain.created))
            .collect(),
    );
    names.wait(FIRST_NAMES);
    while !stop.load(Ordering::Acquire) {
        if let Some(domains) = registry.turn(now(), table, &names.table()) {
            names.follow(domains);
        }
        let is_any = domains(table).next().is_some();
        thread::sleep(if is_any { LOOK_EACH } else { LOOK_FOR_ANY_EACH });
    }
    registry.turn(now(), table, &names.table());
    registry.save(now());
}

/// The domains that are there, but for dom0.
fn domains<'t>(table: &'t Table<'_>) -> impl Iterator<Item = Domain> + 't {
    let there = table.domains();
    there.filter(|domain| domain.exists && domain.domid > 0)
}

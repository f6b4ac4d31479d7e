// SPDX-License-Identifier: GPL-2.0-only
//! The desk: the registry behind a lock, for the watcher and for people's questions.
//!
//! In: turns from the watcher, questions and orders from the control socket. Out: what the
//! registry says; happenings that an order caused go out with the next turn. The lock is
//! held for computing only.

use crate::event::{Timestamp, Uuid};
use crate::guests::registry::{Changes, Registry, Saved};
use crate::guests::report::GuestsReport;
use crate::guests::{Desk, DeskError, Happening};
use crate::monitor::domains::DomainTable;
use crate::sys::clock::Monotonic;
use crate::xen::snapshot::Snapshot;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Inside {
    registry: Registry,
    /// Caused by orders, not yet handed out. Bounded by the number of open alarms: each can
    /// be acknowledged once and closed once.
    outbox: Vec<Happening>,
}

/// The registry, shared.
#[derive(Debug)]
pub struct GuestsDesk {
    inside: Mutex<Inside>,
}

impl GuestsDesk {
    /// Over `registry`.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self {
            inside: Mutex::new(Inside {
                registry,
                outbox: Vec::new(),
            }),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from what was saved; for the start, before the first turn.
    pub fn replace(&self, registry: Registry) {
        self.inside().registry = registry;
    }

    /// A turn of the registry ([`Registry::turn`]), with what orders caused since the last
    /// one ahead of it.
    pub fn turn(
        &self,
        now: Monotonic,
        wall: Timestamp,
        snapshot: Option<&Snapshot>,
        domains: &DomainTable,
    ) -> Vec<Happening> {
        let mut inside = self.inside();
        let mut out = std::mem::take(&mut inside.outbox);
        out.extend(inside.registry.turn(now, wall, snapshot, domains));
        out
    }

    /// How often something changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.inside().registry.changes()
    }

    /// Kind is to be kept.
    #[must_use]
    pub fn saved(&self, boot_id: &str, now: Monotonic, wall: Timestamp) -> Saved {
        self.inside().registry.saved(boot_id, now, wall)
    }
}

impl Desk for GuestsDesk {
    fn report(&self) -> GuestsReport {
        self.inside().registry.report(Monotonic::now())
    }

    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), DeskError> {
        let mut inside = self.inside();
        let said = inside.registry.acknowledge(uuid, uid, Monotonic::now())?;
        inside.outbox.extend(said);
        Ok(())
    }

    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), DeskError> {
        let mut inside = self.inside();
        let (now, wall) = (Monotonic::now(), Timestamp::now());
        let said = inside.registry.close(uuid, now, wall)?;
        inside.outbox.extend(said);
        log::info!("user {uid} closed the alarm of guest {uuid}");
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Guests: who they are, how they do, and their alarms.
//!
//! ```text
//!   snapshots ──▶ watcher ──▶ registry ──▶ Happenings ──▶ events
//!                   ▲  │       guest, slot: what changed from look to look
//!   xenstore ──▶ domains│       alarm: the lifecycle, pure
//!                      ▼
//!                    saver ──▶ store: /var/lib/xenwarden
//! ```
//!
//! [`registry`] and [`alarm`] are pure: time, the looks at the hypervisor and the domains'
//! names are their inputs. [`domains`], [`watcher`] and [`saver`] are ordinary threads, of
//! which none can delay a kick.

pub mod alarm;
pub mod guest;
pub mod owners;
pub mod registry;
pub mod report;
pub mod slot;

use crate::event::{Guest, Kind, Uuid};
use report::GuestsReport;
use std::fmt;

/// Something that is to become an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// The guest that it is about.
    pub guest: Option<Guest>,
    /// The hypervisor's time of it, ns.
    pub xen_ns: Option<u64>,
    /// Kind happened.
    pub what: Kind,
}

/// Why an alarm cannot be acknowledged or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeskError {
    /// No guest of this UUID is known.
    NoGuest,
    /// It has no open alarm.
    NoAlarm,
}

impl fmt::Display for DeskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGuest => write!(f, "no guest of this UUID is known: see `xenwarden guests`"),
            Self::NoAlarm => write!(f, "this guest has no open alarm"),
        }
    }
}

/// Where people's questions and orders about guests arrive. Blocks for no longer than a
/// lock that is held for computing only.
pub trait Desk: Send + Sync {
    /// All guests as of now.
    fn report(&self) -> GuestsReport;

    /// Notes that user `uid` takes care of a guest's alarm.
    ///
    /// # Errors
    /// [`DeskError`].
    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), DeskError>;

    /// Ends a guest's alarm although the guest does not feed: nobody expects it to.
    ///
    /// # Errors
    /// [`DeskError`].
    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), DeskError>;
}

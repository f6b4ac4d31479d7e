// SPDX-License-Identifier: GPL-2.0-only
//! Guests: who they are, how they do, and their alarms. All of it pure: the time, the table
//! and the names are inputs.
//!
//! ```text
//!   table ──▶ changed ──▶ registry ──▶ guest ──▶ GuestEvents, which become events
//!             records     by UUID       │ slot, interpret: arms, feeds, expiries since the last look
//!                                       │ state: what its domain is doing
//!                                       └ alarm: the lifecycle
//! ```

pub mod alarm;
pub mod changed;
pub mod fed;
pub mod guest;
pub mod interpret;
pub mod owners;
pub mod registry;
pub mod report;
pub mod roster;
pub mod slot;
pub mod sorted;
pub mod stamp;
pub mod state;

use crate::event::{Guest, Kind, Uuid};
use report::GuestsReport;
use sorted::SortedMap;
use std::fmt;
use std::sync::Arc;

/// What happened to whom: it is to become an event.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestEvent {
    /// The guest.
    pub guest: Guest,
    /// What happened.
    pub what: Kind,
}

/// The names of domains, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainNames {
    /// By creation number.
    pub by_domain: SortedMap<u64, Arc<str>>,
    /// Why some may be missing.
    pub trouble: Option<String>,
}

/// Why an alarm is not acknowledged or closed, or not for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// No guest of this UUID is known.
    NoGuest,
    /// It has no open alarm.
    NoAlarm,
    /// A domain of it is on this host, or whether one is cannot be seen.
    MaybeHere,
    /// Its alarm is not the one that was meant.
    AnotherAlarm,
    /// It is done, but the disk has not taken it.
    NotSaved,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGuest => write!(f, "no guest of this UUID is known: see `xenwarden guests`"),
            Self::NoAlarm => write!(f, "this guest has no open alarm"),
            Self::MaybeHere => write!(
                f,
                "a domain of this guest is on this host, or nobody can see whether one is: its feeds here end its alarm"
            ),
            Self::AnotherAlarm => write!(f, "this guest's watchdog has expired again since"),
            Self::NotSaved => write!(
                f,
                "done, but not saved: the disk did not take it in time, so that it holds only \
                 until the monitor ends; see its log"
            ),
        }
    }
}

/// Where people's questions and orders about guests arrive.
pub trait GuestRequests: Send + Sync {
    /// All guests as of now. Blocks for no longer than a lock that is held for computing only.
    fn report(&self) -> GuestsReport;

    /// Notes that user `uid` takes care of a guest's alarm. Blocks until that is saved, but
    /// no longer than about a second.
    ///
    /// # Errors
    /// [`RequestError`].
    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError>;

    /// Ends a guest's alarm although the guest does not feed: nobody expects it to. Blocks
    /// likewise.
    ///
    /// # Errors
    /// [`RequestError`].
    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError>;

    /// Ends a guest's alarm of so many expiries as the guest feeds on another host, provided that no domain of it is on
    /// this one. Blocks likewise.
    ///
    /// # Errors
    /// [`RequestError`].
    fn fed_elsewhere(&self, uuid: Uuid, expiries: u32) -> Result<(), RequestError>;
}

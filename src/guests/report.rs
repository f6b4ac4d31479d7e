// SPDX-License-Identifier: GPL-2.0-only
//! The answer to `xenwarden guests`: each guest's state, feeds and alarm.

pub use super::state::DomainState;
use crate::event::{Timestamp, Uuid};
use serde::{Deserialize, Serialize};

/// All guests. Fields are only ever added within a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestsReport {
    /// Of this form: 1.
    pub version: u32,
    /// Guests that have a watchdog, had one, or have an open alarm.
    pub guests: Vec<GuestReport>,
    /// Age of the latest look at the table; null before the first.
    pub evidence_age_ms: Option<u64>,
    /// Why names may be missing.
    pub names_trouble: Option<String>,
    /// Why the hypervisor's liveness table is not seen, without which nothing is known of
    /// guests; null where it is.
    pub no_table: Option<String>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its UUID; of a domain without one it is made up from its creation number.
    pub uuid: Option<Uuid>,
    /// Its name; null while xenstore has not told it.
    pub name: Option<String>,
    /// The domain that it is, or last was.
    pub domid: u16,
    /// What that is doing.
    pub state: DomainState,
    /// Its armed slots.
    pub slots: Vec<SlotReport>,
    /// Its alarm, while one is open.
    pub alarm: Option<AlarmReport>,
    /// It is back and did not feed in time (`guest.boot_failed`), nor has it since.
    pub boot_failed: bool,
    /// Why nobody can see it feed, so that only an operator ends its alarm; null where feeds are
    /// seen, as those of Xen's guests are.
    #[serde(default)]
    pub feeds_unseen: Option<String>,
}

/// An armed watchdog slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The slot, from 1.
    pub slot: u8,
    /// The guest's timeout.
    pub timeout_s: u32,
    /// Since it was last seen to be armed or fed, by our clock.
    pub last_fed_age_ms: u64,
    /// Until it expires, at most; 0 when past.
    pub margin_ms: u64,
    /// It expired and was not fed since.
    pub expired: bool,
}

/// Where an open alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmPhase {
    /// The watchdog expired; nothing has come since.
    Raised,
    /// The guest was started again; it has not armed its watchdog.
    Rebooted,
    /// It was started again and did not feed within the boot deadline.
    BootFailed,
    /// It armed or fed; not yet as often, or as long, as it takes.
    Recovering,
    /// The guest is not on this host any more: not an alarm to act on here.
    Moved,
}

/// An open alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmReport {
    /// Where it stands.
    pub phase: AlarmPhase,
    /// When it was raised.
    pub raised: Timestamp,
    /// Expiries since.
    pub expiries: u32,
    /// Reboots since.
    pub reboots: u32,
    /// Somebody acknowledged it.
    pub acknowledged: bool,
}

impl AlarmReport {
    /// It is one to act on here.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase != AlarmPhase::Moved
    }
}

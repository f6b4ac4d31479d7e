// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog's last known state: the monitor writes it down, so that the next boot
//! can say why the host went down.
//!
//! In: what the host watchdog is doing, whenever that changes. Out: after a reset of the
//! host, the data of `host.reset_reason`. Pure but for [`boot_id`].

use crate::event::{Kind, Timestamp};
use crate::state::store::Stored;
use serde::{Deserialize, Serialize};

/// What the host watchdog is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum HostState {
    /// It is armed and kicked.
    Armed,
    /// It is not armed: the host may go down as it likes.
    Disarmed,
    /// It is armed, and kicks are withheld.
    Withholding {
        /// Why.
        reason: String,
    },
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Of the form.
    pub version: u32,
    /// dom0's boot.
    pub boot_id: String,
    /// When it was written.
    pub time: Timestamp,
    /// What was so then.
    #[serde(flatten)]
    pub state: HostState,
}

impl Stored for HostRecord {
    const FILE: &'static str = "last.json";
    const VERSION: u32 = 1;
}

/// What a host went down of that was armed and kicked.
pub const UNANNOUNCED: &str = "the host went down while its watchdog was armed and kicks were not \
    being withheld: power loss, a hang of dom0 or of the guard, or a kill";

impl HostRecord {
    /// Now, in this boot.
    #[must_use]
    pub fn new(boot_id: &str, time: Timestamp, state: HostState) -> Self {
        Self {
            version: Self::VERSION,
            boot_id: boot_id.to_owned(),
            time,
            state,
        }
    }

    /// Why the boot that these words are from ended, as seen from the boot `boot_id`; `None`
    /// when it has not, or ended with the watchdog disarmed, or when that cannot be told.
    /// `watchdog_fired`: what the device says of the reset.
    #[must_use]
    pub fn reset_reason(self, boot_id: &str, watchdog_fired: Option<bool>) -> Option<Kind> {
        if boot_id.is_empty() || self.boot_id.is_empty() || self.boot_id == boot_id {
            return None;
        }
        let reason = match self.state {
            HostState::Disarmed => return None,
            HostState::Withholding { reason } => reason,
            HostState::Armed => UNANNOUNCED.to_owned(),
        };
        Some(Kind::HostResetReason {
            reason,
            last_seen: self.time,
            watchdog_fired,
        })
    }
}

/// The boot that this is (random(4)); empty when it cannot be read.
#[must_use]
pub fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

// SPDX-License-Identifier: GPL-2.0-only
//! The host's heartbeat on disk: the monitor writes down what the host watchdog does, when
//! that changes and once a minute, so that the next boot knows until when the host lived.
//!
//! In: what the host watchdog is doing, whenever that changes; the guard page. Out:
//! [`HostRecord`], from which [`super::deduction`] tells why the host went down.

use crate::event::{Timestamp, Unkicked};
use crate::guard::page::{self, Reader, View};
use crate::state::store::Stored;
use crate::sys::clock::{Monotonic, NS_PER_MS, boottime_ns};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the host watchdog is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum HostState {
    /// It is armed and kicked.
    Armed,
    /// It is not armed: the host may go down as it likes.
    Disarmed,
    /// It runs on from one guard to the next.
    Kept,
    /// The host shuts down, and it runs on unkicked in case that hangs.
    Shutdown,
    /// It is armed and not kicked.
    Withholding {
        /// Why, for people.
        reason: String,
        /// Which of the ways this is; records of earlier releases do not say.
        #[serde(default)]
        cause: Unkicked,
    },
}

/// The host watchdog as the guard page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// The device.
    pub device: String,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout.
    pub timeout_ms: u64,
    /// Since the last kick that it took.
    pub last_kick_age_ms: u64,
    /// Since the guard last looked at the hypervisor.
    pub look_age_ms: u64,
    /// Kicks that it took since it was armed.
    pub kicks: u64,
    /// Kicks that it refused.
    pub refused: u64,
    /// Times that kicks were withheld.
    pub withholds: u64,
}

impl Watchdog {
    /// As of `now`.
    #[must_use]
    pub fn of_view(view: &View, now: Monotonic) -> Self {
        let View { info, status } = view;
        let age_ms = |then| now.since_ns(then) / NS_PER_MS;
        Self {
            device: info.device.display().to_string(),
            identity: info.identity.clone(),
            timeout_ms: info.timeout_ns / NS_PER_MS,
            last_kick_age_ms: age_ms(status.last_kick),
            look_age_ms: age_ms(status.looked),
            kicks: status.counters.kicks,
            refused: status.counters.refused,
            withholds: status.counters.withholds,
        }
    }

    /// As the guard page has it now; none where there is no guard.
    #[must_use]
    pub fn now() -> Option<Self> {
        let view = Reader::view_at(Path::new(page::PATH))?;
        Some(Self::of_view(&view, Monotonic::now()))
    }
}

/// The heartbeat.
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
    /// For how long dom0 had run (CLOCK_BOOTTIME).
    #[serde(default)]
    pub uptime_ms: Option<u64>,
    /// The host watchdog; none where no guard had run.
    #[serde(default)]
    pub watchdog: Option<Watchdog>,
    /// The monitor wrote it as it ended in order: no heartbeat came after.
    #[serde(default)]
    pub monitor_ended: bool,
}

impl Stored for HostRecord {
    const FILE: &'static str = "last.json";
    const VERSION: u32 = 1;
}

impl HostRecord {
    /// Of this boot, without what else is known.
    #[must_use]
    pub fn new(boot_id: &str, time: Timestamp, state: HostState) -> Self {
        Self {
            version: Self::VERSION,
            boot_id: boot_id.to_owned(),
            time,
            state,
            uptime_ms: None,
            watchdog: None,
            monitor_ended: false,
        }
    }

    /// Now, in the boot `boot_id`, with all that is known.
    #[must_use]
    pub fn now(boot_id: &str, state: HostState, monitor_ended: bool) -> Self {
        Self {
            uptime_ms: uptime_ms(),
            watchdog: Watchdog::now(),
            monitor_ended,
            ..Self::new(boot_id, Timestamp::now(), state)
        }
    }

    /// The last kick that it knows of.
    #[must_use]
    pub fn last_kick(&self) -> Option<Timestamp> {
        let watchdog = self.watchdog.as_ref()?;
        Some(self.time.before_ms(watchdog.last_kick_age_ms))
    }
}

/// For how long dom0's kernel has run.
#[must_use]
pub fn uptime_ms() -> Option<u64> {
    Some(boottime_ns()? / NS_PER_MS)
}

/// The boot that this is (random(4)); empty when it cannot be read.
#[must_use]
pub fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

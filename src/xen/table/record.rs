// SPDX-License-Identifier: GPL-2.0-only
//! The table's records as values.

use super::SLOTS;
use uuid::Uuid;

/// Why a domain shut down: `SHUTDOWN_*` of Xen's `public/sched.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// It powered off.
    Poweroff,
    /// It asked for a reboot.
    Reboot,
    /// It suspended itself, to be saved or migrated.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog expired.
    Watchdog,
    /// It asked to be reset in place.
    SoftReset,
    /// A reason that this decoder does not know.
    Other(u8),
}

impl Shutdown {
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            other => Self::Other(other),
        }
    }

    /// The number in the hypervisor's interface.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Poweroff => 0,
            Self::Reboot => 1,
            Self::Suspend => 2,
            Self::Crash => 3,
            Self::Watchdog => 4,
            Self::SoftReset => 5,
            Self::Other(code) => code,
        }
    }
}

/// A physical CPU's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pcpu {
    /// It is online, and its canary is set.
    pub online: bool,
    /// Runs of its canary; wraps.
    pub canary: u32,
    /// Requests to its scheduler; wraps.
    pub requested: u32,
    /// The value of `requested` at the scheduler's last decision.
    pub decided: u32,
    /// It ran the idle vCPU when vCPUs were last looked at for `starved`.
    pub idle: bool,
    /// The runnable vCPU placed on it that has waited longest.
    pub starved: Option<Starved>,
}

/// A runnable vCPU that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starved {
    /// For how long, milliseconds.
    pub ms: u32,
    /// Its domain.
    pub domid: u32,
    /// Its number in that domain.
    pub vcpu: u32,
}

/// A watchdog slot of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Arms and feeds; wraps, and leaves 0 out.
    pub sets: u32,
    /// The timeout, seconds, while it is armed (which it stays when it expires).
    pub armed: Option<u32>,
    /// The value of `sets` for which its handler last shut the domain down; 0: never.
    pub acted: u32,
    /// The value of `sets` for which its handler last came to its end, whatever it did.
    pub done: u32,
    /// Disarms; wraps.
    pub disarms: u32,
}

impl Slot {
    /// The handler of the present deadline has come to its end.
    #[must_use]
    pub fn serviced(&self) -> bool {
        self.done == self.sets
    }

    /// The present deadline passed unfed, and the handler shut the domain down for it.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.sets != 0 && self.acted == self.sets
    }
}

/// A domain's record. It outlives the domain, until another gets the domid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its domid.
    pub domid: u16,
    /// Its number among all domains that this host has created since it booted, from 1.
    pub created: u64,
    /// Its UUID, as the toolstack set it; nil where none did.
    pub uuid: Uuid,
    /// It is there.
    pub exists: bool,
    /// The toolstack has paused it.
    pub paused: bool,
    /// It is being destroyed, or was.
    pub dying: bool,
    /// It is shutting down, or has shut down.
    pub shutdown: Option<Shutdown>,
    /// Its watchdog.
    pub slots: [Slot; SLOTS],
}

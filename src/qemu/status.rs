// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's words for what a VM does, and for why it ends.
//!
//! In: the words of `query-status` and of the events RESET and SHUTDOWN (qapi/run-state.json).
//! Out: our terms. Pure. A word that is not known is `Unknown`, never fine.

use crate::event::Cause;
use crate::guests::state::DomainState;

/// What `query-status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// What the VM is doing.
    pub state: DomainState,
    /// It waits for its guest to come from elsewhere.
    pub incoming: bool,
    /// Its watchdog stopped it (`action=pause`), or a snapshot was loaded since.
    pub by_watchdog: bool,
}

impl Status {
    /// What the word of `RunState` means.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        let state = match word {
            "running" => DomainState::Running,
            // Its guest is elsewhere, on its way there, or on its way here.
            "inmigrate" | "finish-migrate" | "postmigrate" => DomainState::Suspended,
            "paused" | "prelaunch" | "debug" | "io-error" | "save-vm" | "restore-vm"
            | "suspended" | "watchdog" | "colo" => DomainState::Paused,
            "guest-panicked" | "internal-error" => DomainState::ShutDown(Cause::Crash),
            "shutdown" => DomainState::ShutDown(Cause::Poweroff),
            _ => DomainState::Unknown,
        };
        Self {
            state,
            incoming: word == "inmigrate",
            by_watchdog: word == "watchdog",
        }
    }
}

/// Why a QEMU is about to end: the `reason` of SHUTDOWN.
#[must_use]
pub fn ending(reason: &str) -> Cause {
    match reason {
        "guest-shutdown" => Cause::Poweroff,
        "guest-reset" | "host-qmp-system-reset" => Cause::Reboot,
        "guest-panic" => Cause::Crash,
        "host-qmp-quit" | "host-signal" | "host-ui" => Cause::Destroyed,
        _ => Cause::Unknown,
    }
}

/// Who reset the machine. (A snapshot that is loaded is no RESET: softmmu/runstate.c,
/// `qemu_system_reset`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// The guest, its firmware or its watchdog.
    Guest,
    /// Somebody else.
    Host,
}

impl Reset {
    /// The `reason` of RESET.
    #[must_use]
    pub fn from_reason(reason: &str) -> Self {
        match reason {
            "guest-reset" | "subsystem-reset" => Self::Guest,
            _ => Self::Host,
        }
    }
}

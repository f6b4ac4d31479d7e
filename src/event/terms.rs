// SPDX-License-Identifier: GPL-2.0-only
//! The terms that events are told in: severities, causes, and what evidence covers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much an event matters, in syslog's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Worth a look.
    Warning,
    /// Something is down or about to be.
    Error,
}

impl Severity {
    /// The name, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl From<Severity> for syslog::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::LOG_INFO,
            Severity::Warning => Self::LOG_WARNING,
            Severity::Error => Self::LOG_ERR,
        }
    }
}

/// Why a domain is no longer there, as far as the hypervisor showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ran until it was destroyed: somebody did that.
    Destroyed,
    /// The guest powered off.
    Poweroff,
    /// The guest asked for a reboot.
    Reboot,
    /// It was suspended: saved, or migrated elsewhere.
    Suspend,
    /// The guest crashed.
    Crash,
    /// Its watchdog expired.
    Watchdog,
    /// The hypervisor did not show it.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destroyed => "destroyed",
            Self::Poweroff => "powered off",
            Self::Reboot => "rebooted",
            Self::Suspend => "suspended",
            Self::Crash => "crashed",
            Self::Watchdog => "its watchdog expired",
            Self::Unknown => "for an unknown reason",
        })
    }
}

/// What ended an alarm whose guest was not seen to work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// Somebody destroyed the guest while it ran: nobody expects it to.
    Destroyed,
    /// The guest powered off: likewise.
    Poweroff,
    /// An operator said so.
    Operator,
    /// It has been `moved` for a day: whatever it does, it does elsewhere.
    Moved,
    /// It feeds its watchdog on another host of the pool.
    FedElsewhere,
    /// Its domain had no UUID and is gone: nobody could tell when it comes back.
    Unidentified,
    /// More guests are gone with open alarms than are remembered; this was the oldest.
    Evicted,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destroyed => "as the guest was destroyed",
            Self::Poweroff => "as the guest powered off",
            Self::Operator => "by an operator",
            Self::Moved => "as the guest did not come back to this host",
            Self::FedElsewhere => "as the guest feeds its watchdog on another host",
            Self::Unidentified => "as the domain is gone and had no UUID",
            Self::Evicted => "as too many are open",
        })
    }
}

/// Why feeds had paused before a guest fed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// The domain was paused.
    Paused,
    /// The domain was suspended: saved and restored, or migrated here.
    Suspended,
    /// The watchdog had expired, and the domain was kept.
    Expired,
    /// The watchdog had been disarmed.
    Disarmed,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "was paused",
            Self::Suspended => "was suspended",
            Self::Expired => "had expired",
            Self::Disarmed => "had disarmed it",
        })
    }
}

/// What the evidence covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coverage {
    /// Every guest watchdog and every physical CPU.
    Full,
    /// That dom0 and the guard run, and no more.
    Partial,
}

/// Why what a heartbeat heard does not count as a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// It has no seal, and a key is set.
    Unsealed,
    /// Its seal is not that of our key and this heartbeat's name.
    Seal,
    /// Our own end sent it, or one of the same role.
    Role,
    /// It is a recording, or came twice.
    Replayed,
    /// Its sender has not heard us for a timeout.
    Unheard,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsealed => "they are not sealed, and a key is set",
            Self::Seal => "they are sealed with another key, or for another heartbeat",
            Self::Role => "they are of our own role: one end has answers = true, the other false",
            Self::Replayed => "they were heard before",
            Self::Unheard => "it has not heard us for a timeout",
        })
    }
}

/// What is done for a heartbeat's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A script is sent to a monitor.
    Script,
    /// Commands are given to a QMP monitor.
    Qmp,
    /// A program is run.
    Hook,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Script => "sending the script",
            Self::Qmp => "giving the commands of QMP",
            Self::Hook => "running the hook",
        })
    }
}

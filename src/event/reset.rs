// SPDX-License-Identifier: GPL-2.0-only
//! Why a host went down, in words that programs tell apart.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why the host watchdog is armed and not kicked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unkicked {
    /// Kicks are withheld: work is not serviced, or that is not known.
    #[default]
    Withheld,
    /// Kicks do not reach the device: it refuses them, or they do not return.
    KickRefused,
    /// The guard has ended, and the device could not be disarmed.
    DisarmFailed,
    /// The guard tells nothing: it hangs, was stopped, or is gone.
    GuardSilent,
}

/// What brought the host down, as far as its records tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetCause {
    /// Kicks were withheld.
    Withheld,
    /// The host watchdog did not take kicks.
    KickRefused,
    /// The host watchdog could not be disarmed.
    DisarmFailed,
    /// The guard hung, was stopped or was gone.
    GuardSilent,
    /// The host was shut down, and that hung.
    ShutdownHung,
    /// dom0's kernel panicked, and kept its last words.
    Dom0Panic,
    /// The hypervisor or dom0 crashed, and a crash kernel kept what was left.
    Crash,
    /// A drill stopped the kicks, to see the host watchdog fire.
    Drill,
    /// The host watchdog fired, and nobody had written down that kicks would end: dom0, the
    /// hypervisor or the guard stopped from one moment to the next.
    Watchdog,
    /// The monitor had been stopped before, so nobody wrote down what came then.
    Unwatched,
    /// Nothing tells: power, a panic, a hang, or hardware.
    #[default]
    Unrecorded,
}

impl From<Unkicked> for ResetCause {
    fn from(why: Unkicked) -> Self {
        match why {
            Unkicked::Withheld => Self::Withheld,
            Unkicked::KickRefused => Self::KickRefused,
            Unkicked::DisarmFailed => Self::DisarmFailed,
            Unkicked::GuardSilent => Self::GuardSilent,
        }
    }
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Withheld => "kicks were withheld",
            Self::KickRefused => "the host watchdog did not take kicks",
            Self::DisarmFailed => "the host watchdog could not be disarmed",
            Self::GuardSilent => "the guard hung, was stopped or was gone",
            Self::ShutdownHung => "its shutdown hung",
            Self::Dom0Panic => "dom0's kernel panicked",
            Self::Crash => "the hypervisor or dom0 crashed",
            Self::Drill => "a drill stopped the kicks",
            Self::Watchdog => "the host watchdog fired on a host that was kicked until then",
            Self::Unwatched => "nobody watched any more",
            Self::Unrecorded => "it went down without a record",
        })
    }
}

/// How much the records say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// They say it.
    Known,
    /// They fit it, and nothing speaks against it.
    Likely,
    /// They do not tell, or contradict each other.
    #[default]
    Unknown,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "known",
            Self::Likely => "likely",
            Self::Unknown => "unknown",
        })
    }
}

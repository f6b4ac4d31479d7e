// SPDX-License-Identifier: GPL-2.0-only
//! What a domain is doing, as far as it matters to its guest.
//!
//! In: the state before and what the table shows now. Out: the state. Pure. A guest's
//! state is that of its current domain ([`super::guest`]); without a domain it is
//! [`DomainState::Gone`].

use crate::event::Cause;
use crate::xen::table::{Domain, Shutdown};
use serde::{Deserialize, Serialize};

/// What a domain is doing. Each state but the last two follows from the table alone, so
/// that each may come after each; `Gone` is left only by another domain of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// It may run: what it does counts, and so does what it fails to do. From everywhere: a
    /// domain that is paused or has shut down, even by its watchdog, may be resumed.
    Running,
    /// The toolstack paused it: it cannot feed, and nobody expects it to.
    Paused,
    /// It is suspended, being saved or migrated: likewise. From `Running`, or from `Paused`
    /// where it suspended itself between two looks.
    Suspended,
    /// It has shut down and is still there. By `watchdog` if its watchdog's handler did it,
    /// whatever reason the guest had set in advance (Xen keeps the first one:
    /// common/domain.c, domain_shutdown()). That stays until it is seen to run: what other
    /// vCPUs still did when it went down is no sign of life.
    ShutDown(Cause),
    /// It is not there, or is being destroyed, after which it cannot come back.
    Gone(Cause),
    /// Nobody has looked for too long. For reports only: no domain is kept so.
    Unknown,
}

impl DomainState {
    /// The state after `self` of a domain that is now as `record` says. `expired`: since
    /// then the handler of its watchdog has shut it down.
    #[must_use]
    pub fn next(self, record: &Domain, expired: bool) -> Self {
        let by_watchdog = expired || self == Self::ShutDown(Cause::Watchdog);
        let ended = record.dying || !record.exists;
        match record.shutdown {
            Some(_) if by_watchdog && ended => Self::Gone(Cause::Watchdog),
            Some(_) if by_watchdog => Self::ShutDown(Cause::Watchdog),
            Some(why) if ended => Self::Gone(cause(why)),
            None if ended => Self::Gone(Cause::Destroyed),
            Some(Shutdown::Suspend) => Self::Suspended,
            Some(why) => Self::ShutDown(cause(why)),
            None if record.paused => Self::Paused,
            None => Self::Running,
        }
    }

    /// The state of a domain whose end nobody saw.
    #[must_use]
    pub fn lost(self) -> Self {
        match self {
            Self::ShutDown(why) | Self::Gone(why) => Self::Gone(why),
            Self::Suspended => Self::Gone(Cause::Suspend),
            Self::Running | Self::Paused | Self::Unknown => Self::Gone(Cause::Unknown),
        }
    }

    /// Why a guest is no longer in a domain that is in this state. `None`: it may go on
    /// in another (it was saved, migrated, or merely paused).
    #[must_use]
    pub fn ended_by(self) -> Option<Cause> {
        match self {
            Self::Gone(Cause::Suspend) => None,
            Self::ShutDown(why) | Self::Gone(why) => Some(why),
            Self::Running | Self::Paused | Self::Suspended | Self::Unknown => None,
        }
    }
}

/// A soft reset is a reboot that the guest asked for, in place.
fn cause(why: Shutdown) -> Cause {
    match why {
        Shutdown::Poweroff => Cause::Poweroff,
        Shutdown::Reboot | Shutdown::SoftReset => Cause::Reboot,
        Shutdown::Suspend => Cause::Suspend,
        Shutdown::Crash => Cause::Crash,
        Shutdown::Watchdog => Cause::Watchdog,
        Shutdown::Other(_) => Cause::Unknown,
    }
}

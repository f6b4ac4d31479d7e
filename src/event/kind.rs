// SPDX-License-Identifier: GPL-2.0-only
//! The kinds of events, each with its own fields.

use crate::xen::Coverage;
use serde::{Deserialize, Serialize};

use super::Timestamp;

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
    /// Its domain had no UUID and is gone: nobody could tell when it comes back.
    Unidentified,
    /// More guests are gone with open alarms than are remembered; this was the oldest.
    Evicted,
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

/// Kind happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Kind {
    /// A guest armed a watchdog slot.
    #[serde(rename = "guest.armed")]
    GuestArmed {
        /// The slot, from 1.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Arms, disarms and feeds after a disarm of this slot that were left out before it, as
        /// they were more than 20 in a minute.
        #[serde(default)]
        left_out: u32,
    },
    /// A guest fed its watchdog for the first time since it booted.
    #[serde(rename = "guest.first_fed")]
    GuestFirstFed {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Since the domain was first seen; null if it was there before the daemon.
        since_seen_ms: Option<u64>,
    },
    /// A guest fed again after a break.
    #[serde(rename = "guest.fed_again")]
    GuestFedAgain {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Why there was a break.
        after: Gap,
        /// Since the feed before; null where that was another domain's.
        gap_ms: Option<u64>,
        /// As of [`Kind::GuestArmed`].
        #[serde(default)]
        left_out: u32,
    },
    /// A guest fed in the last fifth of its timeout; at most one a minute and slot.
    #[serde(rename = "guest.late")]
    GuestLate {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// What was left of it, at most.
        margin_ms: u64,
        /// Late feeds since the last such event, this one included.
        count: u32,
    },
    /// A guest did not feed in time, and the hypervisor ran its watchdog's handler.
    #[serde(rename = "guest.expired")]
    GuestExpired {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// From when the last feed was seen to when the expiry was, but at least the
        /// timeout; the timeout where nobody looked meanwhile.
        unfed_ms: u64,
        /// How often this slot of this domain was seen to have expired.
        expiries: u32,
    },
    /// A guest disarmed a slot.
    #[serde(rename = "guest.disarmed")]
    GuestDisarmed {
        /// The slot.
        slot: u8,
        /// As of [`Kind::GuestArmed`].
        #[serde(default)]
        left_out: u32,
    },
    /// A guest's last domain is gone, or is being destroyed.
    #[serde(rename = "guest.gone")]
    GuestGone {
        /// Why.
        cause: Cause,
    },
    /// A guest is back as another domain.
    #[serde(rename = "guest.rebooted")]
    GuestRebooted {
        /// The domain that it was.
        previous_domid: u16,
        /// Why that one is gone.
        cause: Cause,
    },
    /// A guest that had a watchdog did not feed it in time after it was started again.
    #[serde(rename = "guest.boot_failed")]
    GuestBootFailed {
        /// Since it was started again.
        waited_ms: u64,
    },
    /// A guest's alarm: its watchdog expired.
    #[serde(rename = "alarm.raised")]
    AlarmRaised {
        /// Expiries since the alarm was raised; more than 1 when it expired again.
        expiries: u32,
    },
    /// The guest demonstrably works again.
    #[serde(rename = "alarm.cleared")]
    AlarmCleared {
        /// How long the alarm was open.
        open_ms: u64,
        /// Expiries in that time.
        expiries: u32,
        /// Reboots in that time.
        reboots: u32,
        /// Feeds that it took.
        feeds: u32,
    },
    /// Somebody takes care of it; the alarm stays open.
    #[serde(rename = "alarm.acknowledged")]
    AlarmAcknowledged {
        /// Who, as a user id.
        uid: u32,
    },
    /// The alarm ended without the guest working again: nobody expects it to.
    #[serde(rename = "alarm.closed")]
    AlarmClosed {
        /// What ended it.
        cause: Closing,
        /// How long the alarm was open.
        open_ms: u64,
    },
    /// The guest is not on this host any more: it cannot feed here, and may work elsewhere.
    #[serde(rename = "alarm.moved")]
    AlarmMoved {
        /// Why its last domain here is gone.
        cause: Cause,
        /// How long the alarm has been open.
        open_ms: u64,
    },
    /// Kicks are withheld.
    #[serde(rename = "host.withhold")]
    HostWithhold {
        /// Kind is not serviced, or not known.
        reason: String,
        /// Since the last kick.
        last_kick_age_ms: u64,
        /// Until the host goes down, unless it is served again.
        left_ms: u64,
    },
    /// Kicks go on.
    #[serde(rename = "host.resumed")]
    HostResumed {
        /// How long the host watchdog was not kicked.
        unkicked_ms: u64,
        /// How close it was: what was left of its timeout.
        left_ms: u64,
    },
    /// The host watchdog is armed.
    #[serde(rename = "host.armed")]
    HostArmed {
        /// The device.
        device: String,
        /// The driver's name for it.
        identity: String,
        /// Its timeout.
        timeout_ms: u64,
        /// Kind the evidence covers.
        coverage: Coverage,
    },
    /// The host watchdog is disarmed.
    #[serde(rename = "host.disarmed")]
    HostDisarmed {},
    /// Why the host went down while its watchdog was armed, told by the next boot.
    #[serde(rename = "host.reset_reason")]
    HostResetReason {
        /// Why.
        reason: String,
        /// When the daemon last wrote down that it ran.
        last_seen: Timestamp,
        /// Whether the device says that it caused the reset; null where it cannot tell.
        watchdog_fired: Option<bool>,
    },
    /// The state on disk could not be used; it was kept aside, and the daemon began anew.
    #[serde(rename = "host.state_set_aside")]
    HostStateSetAside {
        /// The file.
        path: String,
        /// Where it is now; null if even that failed.
        kept_as: Option<String>,
        /// Kind is wrong with it.
        problem: String,
    },
    /// A sink was too slow, or failed.
    #[serde(rename = "sink.dropped")]
    SinkDropped {
        /// Which.
        sink: String,
        /// Events dropped since the last such event.
        count: u64,
        /// Since the daemon started.
        total: u64,
    },
}

/// Every kind there is, as in the JSON.
pub const KINDS: [&str; 21] = [
    "guest.armed",
    "guest.first_fed",
    "guest.fed_again",
    "guest.late",
    "guest.expired",
    "guest.disarmed",
    "guest.gone",
    "guest.rebooted",
    "guest.boot_failed",
    "alarm.raised",
    "alarm.cleared",
    "alarm.acknowledged",
    "alarm.closed",
    "alarm.moved",
    "host.withhold",
    "host.resumed",
    "host.armed",
    "host.disarmed",
    "host.reset_reason",
    "host.state_set_aside",
    "sink.dropped",
];

/// Whether `wanted` is a kind, or the beginning of one up to its dot (`guest.`).
#[must_use]
pub fn is_known(wanted: &str) -> bool {
    KINDS.iter().any(|kind| matches(wanted, kind))
}

/// Whether `wanted`, a kind or the beginning of one up to its dot, covers `kind`.
#[must_use]
pub fn matches(wanted: &str, kind: &str) -> bool {
    kind == wanted || (wanted.ends_with('.') && kind.starts_with(wanted))
}

impl Kind {
    /// The kind, as in the JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GuestArmed { .. } => "guest.armed",
            Self::GuestFirstFed { .. } => "guest.first_fed",
            Self::GuestFedAgain { .. } => "guest.fed_again",
            Self::GuestLate { .. } => "guest.late",
            Self::GuestExpired { .. } => "guest.expired",
            Self::GuestDisarmed { .. } => "guest.disarmed",
            Self::GuestGone { .. } => "guest.gone",
            Self::GuestRebooted { .. } => "guest.rebooted",
            Self::GuestBootFailed { .. } => "guest.boot_failed",
            Self::AlarmRaised { .. } => "alarm.raised",
            Self::AlarmCleared { .. } => "alarm.cleared",
            Self::AlarmAcknowledged { .. } => "alarm.acknowledged",
            Self::AlarmClosed { .. } => "alarm.closed",
            Self::AlarmMoved { .. } => "alarm.moved",
            Self::HostWithhold { .. } => "host.withhold",
            Self::HostResumed { .. } => "host.resumed",
            Self::HostArmed { .. } => "host.armed",
            Self::HostDisarmed {} => "host.disarmed",
            Self::HostResetReason { .. } => "host.reset_reason",
            Self::HostStateSetAside { .. } => "host.state_set_aside",
            Self::SinkDropped { .. } => "sink.dropped",
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::GuestExpired { .. }
            | Self::GuestBootFailed { .. }
            | Self::AlarmRaised { .. }
            | Self::HostWithhold { .. }
            | Self::HostResetReason { .. } => Severity::Error,
            Self::GuestLate { .. }
            | Self::AlarmMoved { .. }
            | Self::HostResumed { .. }
            | Self::HostDisarmed {}
            | Self::HostStateSetAside { .. }
            | Self::SinkDropped { .. } => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

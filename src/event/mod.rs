// SPDX-License-Identifier: GPL-2.0-only
//! Events: what happened, typed, with where and when.
//!
//! In: what the guard and the guests' registry notice. Out: one line of JSON each, of the
//! form that doc/events.schema.json and xenwarden-events(7) state; `tests/event_schema.rs`
//! holds the two together. Fields are only ever added within a version; what is not known
//! is null. Units are in the fields' names.

#[macro_use]
mod kinds;

pub mod bus;
pub mod describe;
pub mod kind;
pub mod request;
pub mod reset;
pub mod sequence;
mod terms;

pub use kind::{Action, Cause, Closing, Coverage, Gap, Kind, Refused, Severity};
pub use reset::{Confidence, ResetCause, Unkicked};
pub use uuid::Uuid;

use crate::sys::clock::wall_of_tick_ns;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The version of the form.
pub const VERSION: u32 = 1;

/// The fields that every event has: those of [`Event`] but for `what`'s own.
pub const COMMON: [&str; 8] = [
    "version",
    "seq",
    "time",
    "monotonic_ns",
    "host",
    "severity",
    "guest",
    "kind",
];

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub version: u32,
    /// Counts this host's events; it rises with each, also over restarts of the monitor
    /// and resets of the host, but may leave numbers out there.
    pub seq: u64,
    /// Wall time, RFC 3339 in UTC with microseconds; as good as the host's clock.
    pub time: Timestamp,
    /// CLOCK_MONOTONIC of dom0 when it was noticed, ns: compares within one boot.
    pub monotonic_ns: u64,
    /// The host's name.
    pub host: Arc<str>,
    /// How much it matters.
    pub severity: Severity,
    /// The guest that it is about; null for the host's own.
    pub guest: Option<Guest>,
    /// What happened: `kind` and the kind's own fields.
    #[serde(flatten)]
    pub what: Kind,
}

/// The domain of a guest that is none of Xen's: a VM of a QEMU without Xen. It is DOMID_INVALID of
/// xen/include/public/xen.h, which no domain has.
pub const NO_DOMAIN: u16 = 0x7ff4;

/// A guest as events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// The guest's UUID, which outlives reboots; always known at present.
    pub uuid: Option<Uuid>,
    /// The domain, which does not; [`NO_DOMAIN`] where it has none.
    pub domid: u16,
    /// Its name; null while xenstore has not told it.
    pub name: Option<Arc<str>>,
}

/// A moment of wall time, microseconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The one form that is written.
const WRITTEN: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

impl Timestamp {
    /// Now, by the host's clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from_ns(OffsetDateTime::now_utc().unix_timestamp_nanos())
    }

    /// The same as of the kernel's last tick, some milliseconds ago: to look, where mostly nothing comes of it.
    #[must_use]
    pub fn of_tick() -> Self {
        wall_of_tick_ns().map_or_else(Self::now, Self::from_ns)
    }

    /// So many milliseconds earlier.
    #[must_use]
    pub fn before_ms(self, ms: u64) -> Self {
        let us = i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(us))
    }

    /// Milliseconds since `earlier`; 0 when that is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1_000).unwrap_or(0)
    }

    fn from_ns(ns: i128) -> Self {
        Self(i64::try_from(ns.div_euclid(1_000)).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Year 9999 is the last that has this form.
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .unwrap_or(PrimitiveDateTime::MAX.assume_utc());
        let text = time.format(WRITTEN).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// A text is no time of the form that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTimestamp;

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a time: it has the form 2026-01-31T23:59:59.123456Z")
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Takes what RFC 3339 allows, and a space in place of the T; without an offset it is UTC.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let mut text = text.to_ascii_uppercase().replacen(' ', "T", 1);
        let (_, clock) = text.split_once('T').ok_or(InvalidTimestamp)?;
        if !clock.contains(['Z', '+', '-']) {
            text.push('Z');
        }
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        Ok(Self::from_ns(time.unix_timestamp_nanos()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
/// The name of this host, as events bear it.
#[must_use]
pub fn host_name() -> Arc<str> {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned()).into()
}

// SPDX-License-Identifier: GPL-2.0-only
//! Events: what happened, typed, with where and when.
//!
//! In: what the guard and the guests' registry notice. Out: one line of JSON each, of the
//! form that doc/events.schema.json and xenwarden-events(7) state; `tests/event_schema.rs`
//! holds the two together. Fields are only ever added within a version; what is not known
//! is null. Units are in the fields' names.

pub mod bus;
pub mod describe;
pub mod kind;
pub mod request;
pub mod sequence;

pub use kind::{Cause, Closing, Gap, Kind, Severity};
pub use uuid::Uuid;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The version of the form.
pub const VERSION: u32 = 1;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub version: u32,
    /// Counts this host's events; it rises with each, also over restarts of the daemon
    /// and resets of the host, but may leave numbers out there.
    pub seq: u64,
    /// Wall time, RFC 3339 in UTC with microseconds; as good as the host's clock.
    pub time: Timestamp,
    /// CLOCK_MONOTONIC of dom0 when it was noticed, ns: compares within one boot.
    pub monotonic_ns: u64,
    /// The hypervisor's system time when it happened, ns; null where the hypervisor has no
    /// part in it.
    pub xen_ns: Option<u64>,
    /// The host's name.
    pub host: Arc<str>,
    /// How much it matters.
    pub severity: Severity,
    /// The guest that it is about; null for the host's own.
    pub guest: Option<Guest>,
    /// Kind happened: `kind` and the kind's own fields.
    #[serde(flatten)]
    pub what: Kind,
}

/// A guest as events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// The domain's UUID, which outlives reboots; null while xenstore has not told it.
    pub uuid: Option<Uuid>,
    /// The domain, which does not.
    pub domid: u16,
    /// Its name; null while xenstore has not told it.
    pub name: Option<Arc<str>>,
}

/// A moment of wall time, microseconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

const US_PER_S: i64 = 1_000_000;

impl Timestamp {
    /// Now, by the host's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 is as good as none.
        let us = since.map_or(0, |d| d.as_micros());
        Self(i64::try_from(us).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, us) = (self.0.div_euclid(US_PER_S), self.0.rem_euclid(US_PER_S));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{us:06}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60
        )
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar:
/// years are counted from March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The day of a date; the inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A text is no time of the form that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATime;

impl fmt::Display for NotATime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a time: it has the form 2026-01-31T23:59:59.123456Z")
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    /// Takes `YYYY-MM-DDThh:mm:ss[.fraction]Z`, or a space in place of the T, or no Z.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        let text = text.strip_suffix('Z').unwrap_or(text);
        let (date, time) = text.split_once(['T', ' ']).ok_or(NotATime)?;
        let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
        let [year, month, day] = numbers(date, '-')?;
        let [hour, minute, second] = numbers(whole, ':')?;
        let round_trip = civil(days(year, month, day)) == (year, month, day);
        if !round_trip || hour > 23 || minute > 59 || second > 60 {
            return Err(NotATime);
        }
        let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
        if !is_fraction {
            return Err(NotATime);
        }
        let us = format!("{fraction:0<6}").get(..6).map(str::parse::<i64>);
        let Some(Ok(us)) = us else {
            return Err(NotATime);
        };
        let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Ok(Self(seconds * US_PER_S + us))
    }
}

fn numbers(text: &str, separator: char) -> Result<[i64; 3], NotATime> {
    let all_digits = text
        .bytes()
        .all(|b| b.is_ascii_digit() || char::from(b) == separator);
    let parts = text
        .split(separator)
        .map(str::parse)
        .collect::<Result<Vec<i64>, _>>();
    match parts.as_deref() {
        Ok(&[a, b, c]) if all_digits && text.len() <= 10 => Ok([a, b, c]),
        _ => Err(NotATime),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_and_read_back() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_000_001, "2000-02-28T23:59:59.000001Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_449_066_250_000, "2026-11-23T15:51:06.250000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ];
        for (us, text) in cases {
            assert_eq!(Timestamp(us).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(us)));
        }
    }

    #[test]
    fn every_day_of_800_years_has_its_own_date() {
        let mut last = civil(-146_097);
        for day in -146_096..146_097 {
            let date = civil(day);
            assert!(date > last && days(date.0, date.1, date.2) == day);
            last = date;
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let cases = [
            "",
            "2026",
            "2026-02-30T00:00:00Z",
            "2026-1-1T24:00:00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:0+Z",
            "x-01-01T00:00:00Z",
            "99999999999999999999-01-01T00:00:00Z",
            "2026-01-01T00:00:00.+1Z",
        ];
        for text in cases {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
    }
}

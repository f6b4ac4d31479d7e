// SPDX-License-Identifier: GPL-2.0-only
//! What QEMU tells of an emulated host: its own time and date, which are not this machine's, whether it is down, and where it was then.

use super::Machine;
use crate::error::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// The date of a host that is switched on for the first time, as QEMU's `-rtc base=` takes it.
pub const FIRST_DAY: &str = "2030-01-01T00:00:00";
/// One count of QEMU's HPET.
const HPET_PERIOD_NS: u64 = 10;

/// A date as QEMU tells it: C's `struct tm`.
#[derive(Debug, Deserialize)]
struct Date {
    #[serde(rename = "tm_year")]
    years_since_1900: u32,
    #[serde(rename = "tm_mon")]
    month_from_0: u32,
    #[serde(rename = "tm_mday")]
    day: u32,
    #[serde(rename = "tm_hour")]
    hour: u32,
    #[serde(rename = "tm_min")]
    minute: u32,
    #[serde(rename = "tm_sec")]
    second: u32,
}

impl Machine {
    /// The emulated host's own time since it was switched on; it stands still while the machine is stopped.
    ///
    /// It is read from the HPET, which counts QEMU's virtual clock (IA-PC HPET specification: main counter at 0xf0) and which
    /// the hypervisor keeps running.
    pub fn clock(&mut self) -> Result<Duration> {
        let read = json!({ "command-line": "xp /1gx 0xfed000f0" });
        let answer = self.qmp.execute("human-monitor-command", read)?;
        let text = answer.as_str().unwrap_or_default().trim();
        let count = text
            .rsplit_once("0x")
            .and_then(|(_, digits)| u64::from_str_radix(digits, 16).ok());
        let count = count.context(|| format!("cannot read the HPET: {text}"))?;
        Ok(Duration::from_nanos(count * HPET_PERIOD_NS))
    }

    /// The date of its battery-backed clock, as QEMU's `-rtc base=` takes it.
    pub(super) fn date(&mut self) -> Result<String> {
        let ask = json!({ "path": "/machine", "property": "rtc-time" });
        let answer = self.qmp.execute("qom-get", ask)?;
        let date: Date = serde_json::from_value(answer).context(|| "cannot read the RTC")?;
        let (year, month) = (date.years_since_1900 + 1900, date.month_from_0 + 1);
        Ok(format!(
            "{year}-{month:02}-{:02}T{:02}:{:02}:{:02}",
            date.day, date.hour, date.minute, date.second
        ))
    }

    /// Whether the host went down.
    pub fn is_down(&mut self) -> bool {
        self.qmp.has_event("SHUTDOWN").is_some()
    }

    /// Where each of its processors is, for people.
    pub fn places(&mut self) -> Result<String> {
        let ask = json!({ "command-line": "info registers -a" });
        let answer = self.qmp.execute("human-monitor-command", ask)?;
        let lines = answer.as_str().unwrap_or_default().lines();
        let places = lines.filter(|line| line.starts_with("CPU#") || line.contains("RIP="));
        Ok(places.map(str::trim).collect::<Vec<_>>().join("\n"))
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What QEMU tells of an emulated host: its own time and date, which are not this machine's, whether it is down, and where it was then.

use super::Machine;
use crate::error::{Context, Error, Result};
use crate::provision::Arch;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The date of a host that is switched on for the first time, as QEMU's `-rtc base=` takes it.
pub const FIRST_DAY: &str = "2030-01-01T00:00:00";
/// One count of QEMU's HPET.
const HPET_PERIOD_NS: u64 = 10;
/// The main counter of a PC's HPET.
const HPET_COUNTER: u64 = 0xfed0_00f0;
/// The ports of a PC's battery-backed clock (MC146818): the register's number, and behind it what is in it. Its alarm's seconds,
/// minutes and hours, and what fits any.
const RTC_PORT: u16 = 0x70;
const RTC_ALARMS: [u8; 3] = [1, 3, 5];
const RTC_ANY: u8 = 0xc0;
/// The seconds of the clock of Arm's board (PL031: its data register).
const ARM_SECONDS: u64 = 0x0901_0000;
/// The slot of the sound card of Arm's hosts, where its counter is in it (High Definition Audio Specification: WALCLK), and how often
/// that counts in a second: 32 bits, so it wraps after three minutes.
const SOUND_CARD: u64 = 0x13;
const WALL_CLOCK: u64 = 0x30;
const WALL_CLOCK_HZ: u64 = 24_000_000;

/// A reading of a clock that wraps, and one of a coarse clock of the same moment that does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    seconds: u32,
    count: u32,
    /// All counts since the machine was switched on.
    total: u64,
}

impl Counted {
    /// The next reading. Between the coarse clock's seconds and the counts there may be a second of rounding, never half a wrap.
    fn next(last: Option<Self>, seconds: u32, count: u32) -> Self {
        const WRAP: u64 = 1 << 32;
        let total = match last {
            None => u64::from(count),
            Some(last) => {
                let passed = u64::from(count.wrapping_sub(last.count));
                let about = u64::from(seconds.wrapping_sub(last.seconds)) * WALL_CLOCK_HZ;
                let wraps = (about + WRAP / 2).saturating_sub(passed) / WRAP;
                last.total + passed + wraps * WRAP
            }
        };
        Counted {
            seconds,
            count,
            total,
        }
    }

    fn time(self) -> Duration {
        Duration::from_nanos(self.total * 1_000 / (WALL_CLOCK_HZ / 1_000_000))
    }
}

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
    /// A PC's is read from the HPET, which counts QEMU's virtual clock and which the hypervisor keeps running; Arm's from a card.
    pub fn clock(&mut self) -> Result<Duration> {
        match self.arch {
            Arch::Amd64 => {
                let count = self.look_at(HPET_COUNTER, "g")?;
                Ok(Duration::from_nanos(count * HPET_PERIOD_NS))
            }
            Arch::Arm64 => {
                let card = self.sound_card()?;
                let [count, seconds] = [card + WALL_CLOCK, ARM_SECONDS]
                    .map(|register| self.look_at(register, "w").map(|word| word as u32));
                let counted = Counted::next(self.counted, seconds?, count?);
                self.counted = Some(counted);
                Ok(counted.time())
            }
        }
    }

    /// A device's register of the size that the monitor knows by this letter.
    fn look_at(&mut self, address: u64, size: &str) -> Result<u64> {
        let text = self.qmp.monitor(&format!("xp /1{size}x {address:#x}"))?;
        let word = text
            .rsplit_once("0x")
            .and_then(|(_, digits)| u64::from_str_radix(digits, 16).ok());
        word.context(|| format!("cannot read the register at {address:#x}: {text}"))
    }

    /// Where dom0's kernel has put the sound card's registers.
    fn sound_card(&mut self) -> Result<u64> {
        let buses = self.qmp.execute("query-pci", json!({}))?;
        let devices = buses.pointer("/0/devices").and_then(Value::as_array);
        let mut devices = devices.into_iter().flatten();
        let card = devices.find(|device| device["slot"] == SOUND_CARD);
        card.and_then(|card| card.pointer("/regions/0/address")?.as_u64())
            .context(|| "the sound card has no address yet")
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

    /// Has a PC's battery-backed clock ring each second (MC146818: a don't-care alarm), which nobody listens to, and not once a day:
    /// what has rung does not ring again. Its next alarm would be among the timers that the emulated time jumps to, and a host that has
    /// no other when its watchdog has fired would be a day older before it stands still.
    pub(super) fn have_no_alarm(&mut self) -> Result<()> {
        if self.arch != Arch::Amd64 {
            return Ok(());
        }
        let mut registers = RTC_ALARMS.into_iter();
        registers.try_for_each(|register| self.set_clock(register, RTC_ANY))
    }

    /// Writes a register of a PC's battery-backed clock.
    pub fn set_clock(&mut self, register: u8, byte: u8) -> Result<()> {
        self.write_port(RTC_PORT, register)?;
        self.write_port(RTC_PORT + 1, byte)
    }

    /// Writes to a PC's port, as a processor does.
    pub fn write_port(&mut self, port: u16, byte: u8) -> Result<()> {
        match self.qmp.monitor(&format!("o /1b {port:#x} {byte:#x}"))? {
            said if said.is_empty() => Ok(()),
            said => Err(Error::new(format!("cannot write to {port:#x}: {said}"))),
        }
    }

    /// Whether the host went down.
    pub fn is_down(&mut self) -> bool {
        self.qmp.has_event("SHUTDOWN").is_some()
    }

    /// Where each of its processors is, for people.
    pub fn places(&mut self) -> Result<String> {
        let said = self.qmp.monitor("info registers -a")?;
        let places = said.lines().filter(|line| {
            line.starts_with("CPU#") || line.contains("RIP=") || line.contains("PC=")
        });
        Ok(places.map(str::trim).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, WALL_CLOCK_HZ};

    #[test]
    fn a_counter_that_wraps_is_counted_on() {
        let hz = WALL_CLOCK_HZ;
        let mut last = None;
        // Seconds that pass between readings; the coarse clock is half a second behind.
        let mut passed = 0;
        for step in [3, 1, 200, 1, 178, 600, 0] {
            passed += step;
            let coarse = (passed * 2 - 1) / 2;
            let next = Counted::next(last, coarse as u32, (passed * hz) as u32);
            assert_eq!(next.time().as_secs(), passed);
            last = Some(next);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The withhold record: what was so when kicks ended, for the boot that comes next.
//!
//! In: what the monitor gathers at that moment. Out: a file of bounded size. What could not
//! be had is null, never a guess.

use super::reset_reason::Watchdog;
use crate::event::{Timestamp, Unkicked};
use crate::state::store::Stored;
use serde::{Deserialize, Serialize};

/// pCPUs that a record has room for; those that lag come first.
pub const MOST_PCPUS: usize = 64;
/// Guest watchdogs, likewise.
pub const MOST_SLOTS: usize = 64;
/// Entries of the guard page.
pub const MOST_ENTRIES: usize = 16;
/// Bytes of any one text.
pub const MOST_TEXT: usize = 1_000;

/// What was so when kicks ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WithholdRecord {
    /// Of the form. Fields are only ever added within a version.
    pub version: u32,
    /// dom0's boot.
    pub boot_id: String,
    /// When.
    pub time: Timestamp,
    /// For how long dom0 had run (CLOCK_BOOTTIME).
    pub uptime_ms: Option<u64>,
    /// Why.
    pub cause: Unkicked,
    /// The same for people.
    pub reason: String,
    /// The rest.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// The end of Xen's console, oldest line first; null where there is none to be had.
    #[serde(default)]
    pub console: Option<Console>,
}

/// What is gathered from memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The host watchdog; null where no guard page is to be had.
    pub watchdog: Option<Watchdog>,
    /// The pCPUs; null where the liveness table is not seen, or whoever looked hangs.
    pub pcpus: Option<Vec<PcpuEvidence>>,
    /// Armed guest watchdogs whose deadline had passed; null likewise.
    pub overdue: Option<Vec<OverdueSlot>>,
    /// The load average of dom0.
    pub load: Option<Load>,
    /// What the guard did last, oldest first.
    pub entries: Vec<GuardEntry>,
}

/// A pCPU, as the monitor had watched it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcpuEvidence {
    /// Its number.
    pub cpu: u32,
    /// It was online.
    pub online: bool,
    /// Since its canary was seen to run.
    pub canary_age_ms: u64,
    /// How long its canary was overdue; 0 while it was not due.
    pub canary_overdue_ms: u64,
    /// How long a request to its scheduler was outstanding; 0 where none was.
    pub request_age_ms: u64,
}

/// A guest watchdog whose handler had not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverdueSlot {
    /// The domain.
    pub domid: u16,
    /// The slot, from 1.
    pub slot: u8,
    /// The guest's timeout.
    pub timeout_s: u32,
    /// Since it was last armed or fed.
    pub last_fed_age_ms: u64,
}

/// /proc/loadavg (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Over one minute.
    pub minute_1: f64,
    /// Over five.
    pub minutes_5: f64,
    /// Over fifteen.
    pub minutes_15: f64,
}

/// Something that the guard had done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardEntry {
    /// How long before the record.
    pub age_ms: u64,
    /// What, for people.
    pub what: String,
}

/// The end of a log of Xen's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The file, which xenconsoled writes.
    pub path: String,
    /// Its last lines; they may hold anything, also what guests write there.
    pub lines: Vec<String>,
}

impl Stored for WithholdRecord {
    const FILE: &'static str = "withhold.json";
    const VERSION: u32 = 1;
}

impl Load {
    /// Of the text of /proc/loadavg.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(|word| word.parse::<f64>().ok());
        let mut next = || numbers.next()?.filter(|load| load.is_finite());
        Some(Self {
            minute_1: next()?,
            minutes_5: next()?,
            minutes_15: next()?,
        })
    }
}

impl Evidence {
    /// No more than a record has room for: the worst first.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Some(pcpus) = &mut self.pcpus {
            let worst = |p: &PcpuEvidence| p.canary_overdue_ms.max(p.request_age_ms);
            if pcpus.len() > MOST_PCPUS {
                pcpus.sort_by_key(|pcpu| std::cmp::Reverse(worst(pcpu)));
                pcpus.truncate(MOST_PCPUS);
            }
        }
        if let Some(overdue) = &mut self.overdue {
            let late = |s: &OverdueSlot| {
                s.last_fed_age_ms
                    .saturating_sub(u64::from(s.timeout_s) * 1_000)
            };
            overdue.sort_by_key(|slot| std::cmp::Reverse(late(slot)));
            overdue.truncate(MOST_SLOTS);
        }
        let surplus = self.entries.len().saturating_sub(MOST_ENTRIES);
        self.entries.drain(..surplus);
        for entry in &mut self.entries {
            entry.what = cut(&entry.what);
        }
        self
    }
}

/// At most [`MOST_TEXT`] bytes of a text.
#[must_use]
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

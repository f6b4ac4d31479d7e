// SPDX-License-Identifier: GPL-2.0-only
//! The live-fire drill: what `xenwarden drill` writes down while the host still lives, what the
//! next boot makes of it, and the fence bound that follows.
//!
//! In: beats, each of which says on the disk for how long the host has lived since its last
//! kick. Out: [`Measured`], within what time the host watchdog reset the host. Nobody outlives
//! the reset: it came after the last beat, and before the one that would have been next.

use super::reset_reason::boot_id;
use super::store::{Store, Stored, remove};
use crate::event::Timestamp;
use crate::guard::evidence::SLACK_NS;
use crate::guard::page::Info;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Beats that there must be, so that the time between them is known.
const FEWEST_BEATS: usize = 10;
/// Bytes of beats that are read: a minute's and more.
const MOST_BYTES: u64 = 1 << 20;
/// What one measurement may be short of the longest, milliseconds: many devices count whole
/// seconds, and so reset up to one later the next time (i6300esb, Linux
/// `drivers/watchdog/i6300esb.c`).
const GRANULARITY_MS: u64 = 1_000;

/// The period of a canary (xen-patches, public/liveness.h).
const CANARY_PERIOD_NS: u64 = NS_PER_S;

/// The host watchdog that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The device.
    pub device: String,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout.
    pub timeout_ms: u64,
}

impl From<&Info> for Tried {
    fn from(info: &Info) -> Self {
        Self {
            device: info.device.display().to_string(),
            identity: info.identity.clone(),
            timeout_ms: info.timeout_ns / NS_PER_MS,
        }
    }
}

/// A drill that has begun; or, in [`RUN`], one that the host has outlived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Of the form.
    pub version: u32,
    /// dom0's boot, which the drill is to end.
    pub boot_id: String,
    /// When.
    pub time: Timestamp,
    /// What is tried.
    #[serde(flatten)]
    pub tried: Tried,
}

impl DrillRecord {
    /// Of this boot and moment.
    #[must_use]
    pub fn now(tried: Tried) -> Self {
        Self {
            version: Self::VERSION,
            boot_id: boot_id(),
            time: Timestamp::now(),
            tried,
        }
    }
}

impl Stored for DrillRecord {
    const FILE: &'static str = "drill.json";
    const VERSION: u32 = 1;
}

/// What a drill has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The boot that it ended.
    pub boot_id: String,
    /// When it began.
    pub time: Timestamp,
    /// What was tried.
    #[serde(flatten)]
    pub tried: Tried,
    /// So long after the last kick the host still lived, milliseconds.
    pub alive_ms: u64,
    /// And so long after it it was down.
    pub down_ms: u64,
}

/// What drills have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drills {
    /// The last that measured anything.
    pub measured: Option<Measured>,
    /// One that the host has outlived since it was booted: its watchdog does not work.
    pub outlived: Option<DrillRecord>,
}

impl Drills {
    /// These, with what lies in `run`, normally [`RUN`], which no disk can hold up.
    #[must_use]
    pub fn new(measured: Option<Measured>, run: &Path) -> Self {
        Self {
            measured,
            outlived: Store::new(run).peek().ok().flatten(),
        }
    }

    /// When this host watchdog was shown not to work, if it was.
    #[must_use]
    pub fn failed(&self, info: &Info) -> Option<Timestamp> {
        let failed = self.outlived.as_ref();
        let failed = failed.filter(|failed| failed.tried == Tried::from(info));
        failed.map(|failed| failed.time)
    }
}

/// Where it is noted that a host has outlived a drill: for this boot, as the next one may have
/// been mended.
pub const RUN: &str = "/run/xenwarden";

/// Notes it.
///
/// # Errors
/// The errno of writing it.
pub fn note_failed(run: &Path, tried: &Tried) -> io::Result<()> {
    Store::new(run).save(&DrillRecord::now(tried.clone()))
}

/// The beats of a drill, on their way to the disk.
#[derive(Debug)]
pub struct Beats(File);

impl Beats {
    /// An empty file of beats, beside the record.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(store: &Store) -> io::Result<Self> {
        let path = path(store);
        remove(&path)?;
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        // Each write returns once its bytes are on the disk (open(2)).
        options.custom_flags(libc::O_DSYNC);
        options.open(&path).map(Self)
    }

    /// Writes that the host lives so long after its last kick. Blocks as long as the disk does.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn beat(&mut self, alive_ms: u64) -> io::Result<()> {
        self.0.write_all(format!("{alive_ms}\n").as_bytes())
    }
}

fn path(store: &Store) -> PathBuf {
    store.directory().join("drill.beats")
}

/// Forgets a drill that the host has outlived. What cannot be removed is told by its boot to be
/// of no reset.
pub fn forget(store: &Store) {
    let _ = store.remove::<DrillRecord>();
    let _ = remove(&path(store));
}

/// Whole lines of growing numbers; what a torn write left is none.
fn beats(text: &str) -> Vec<u64> {
    let lines = text.split_inclusive('\n');
    let lines = lines.map_while(|line| line.strip_suffix('\n')?.parse().ok());
    let mut last = 0;
    lines
        .take_while(|&beat| std::mem::replace(&mut last, beat) <= beat)
        .collect()
}

/// What the beats say, if there are enough of them.
fn measure(record: DrillRecord, beats: &[u64]) -> Option<Measured> {
    let (_, later) = beats.split_first()?;
    let gaps = beats.iter().zip(later).map(|(one, next)| next - one);
    let widest = gaps.max().filter(|_| beats.len() >= FEWEST_BEATS)?;
    let alive_ms = *beats.last()?;
    Some(Measured {
        boot_id: record.boot_id,
        time: record.time,
        tried: record.tried,
        alive_ms,
        down_ms: alive_ms + widest,
    })
}

/// A drill that ended a boot, as the next one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it has shown; none where it left too little, or another than the host watchdog
    /// reset the host.
    pub measured: Option<Measured>,
}

/// What became of the drill that was under way when the last boot ended; none where its kicks
/// had not been stopped yet. Blocks as long as the disk does.
#[must_use]
pub fn ended(record: DrillRecord, store: &Store, fired: Option<bool>) -> Option<Ended> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path(store));
    let mut bytes = Vec::new();
    let read = opened.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    let beats = beats(&String::from_utf8_lossy(&bytes));
    let _ = read.ok().filter(|_| !beats.is_empty())?;
    Some(Ended {
        measured: measure(record, &beats).filter(|_| fired != Some(false)),
    })
}

/// The time after which a host that is wedged, hung or dead is down: what the guard takes to
/// see a pCPU that stops (its canary's period, the slack, and a look before and after), and the
/// host watchdog. SPECIFICATION.md, Bounds, has what is left out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceBound {
    /// Milliseconds.
    pub ms: u64,
    /// When a drill measured the host watchdog's part; none: it is twice the timeout.
    pub measured: Option<Timestamp>,
}

impl FenceBound {
    /// Of the host watchdog that the guard has armed. None where a drill has shown that it
    /// does not reset this host.
    #[must_use]
    pub fn of(info: &Info, drills: &Drills) -> Option<Self> {
        if drills.failed(info).is_some() {
            return None;
        }
        let evidence_ms = (CANARY_PERIOD_NS + SLACK_NS + 2 * info.period_ns) / NS_PER_MS;
        // What ended within half the timeout was the drill, killed before the host was.
        let holds = |measured: &&Measured| {
            measured.tried == Tried::from(info)
                && measured.down_ms.saturating_mul(2) > measured.tried.timeout_ms
        };
        let measured = drills.measured.as_ref().filter(holds);
        let latest_ms = info.latest_ns / NS_PER_MS;
        let device_ms = match measured {
            // A short measurement, as of a disk that hung at the end, shortens nothing.
            Some(Measured { down_ms, tried, .. }) => {
                let down_ms = *down_ms.max(&tried.timeout_ms);
                down_ms.saturating_add(GRANULARITY_MS)
            }
            None => info.timeout_ns.saturating_mul(2) / NS_PER_MS,
        };
        let device_ms = device_ms.max(latest_ms);
        Some(Self {
            ms: device_ms.saturating_add(evidence_ms),
            measured: measured.map(|measured| measured.time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_torn_write_left_is_no_beat() {
        let cases: [(&str, &[u64]); 7] = [
            ("", &[]),
            ("12", &[]),
            ("10\n20\n3", &[10, 20]),
            ("10\n20\n30\n", &[10, 20, 30]),
            ("10\n20\n\0\0\0\n", &[10, 20]),
            ("10\n5\n6\n", &[10]),
            ("10\n\n20\n", &[10]),
        ];
        for (text, expected) in cases {
            assert_eq!(beats(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_reset_came_between_the_last_beat_and_the_next_that_would_have_come() {
        let record = || DrillRecord {
            version: 1,
            boot_id: "a".to_owned(),
            time: Timestamp(7),
            tried: Tried::default(),
        };
        let even: Vec<u64> = (1..=10).map(|n| n * 50).collect();
        let measured = measure(record(), &even).expect("enough beats");
        assert_eq!((measured.alive_ms, measured.down_ms), (500, 550));
        let uneven = [even.clone(), vec![700, 710]].concat();
        let measured = measure(record(), &uneven).expect("enough beats");
        assert_eq!((measured.alive_ms, measured.down_ms), (710, 910));
        assert_eq!(measure(record(), &even[1..]), None, "nine say too little");
        assert_eq!(measure(record(), &[]), None);
    }
}

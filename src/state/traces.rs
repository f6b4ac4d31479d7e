// SPDX-License-Identifier: GPL-2.0-only
//! What the last boot left behind besides the monitor's own records.
//!
//! In: the boot's id and clock, the host watchdog's bootstatus, the directories in which
//! pstore, systemd-pstore and crash kernels keep what they save. Out: [`Traces`]. It lists
//! names and, of a kernel's dump, reads the first bytes, which say what it is a dump of;
//! nothing else that a dying kernel wrote is looked at. All of it is bounded.
//!
//! Sources: Linux `Documentation/ABI/testing/pstore`, `fs/pstore/platform.c`
//! (`pstore_dump()`: each part begins with `REASON#COUNT PartN`), systemd-pstore(8), and
//! /var/crash of kdump-tools(8) and of XenServer's and XCP-ng's crash kernel.

use crate::event::Timestamp;
use crate::state::reset_reason::{boot_id, uptime_ms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Entries of a directory that are looked at.
const MOST_ENTRIES: usize = 512;
/// Names that are remembered.
const MOST_NAMES: usize = 1_024;
/// Bytes of a dump that are read.
const HEAD: usize = 16;

/// Where records of crashes are kept.
#[derive(Clone, Debug)]
pub struct Places {
    /// pstore itself, and where systemd-pstore moves its files.
    pub pstore: Vec<PathBuf>,
    /// Where crash kernels keep theirs.
    pub crash: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            pstore: vec!["/sys/fs/pstore".into(), "/var/lib/systemd/pstore".into()],
            crash: vec!["/var/crash".into()],
        }
    }
}

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordOf {
    /// The last words of a dom0 kernel that panicked.
    Panic,
    /// Those at an oops, which a kernel may survive.
    Oops,
    /// A kernel's words; at what cannot be read.
    Dump,
    /// A crash kernel ran.
    Crash,
}

/// A record of a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashRecord {
    /// Where it is.
    pub path: String,
    /// What of.
    pub of: RecordOf,
}

/// What the last boot left, and what this one knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// The present boot.
    pub boot_id: String,
    /// When its kernel started; none where the clock cannot be read.
    pub booted: Option<Timestamp>,
    /// Whether the host watchdog says that it caused the reset; none where it cannot tell.
    pub watchdog_fired: Option<bool>,
    /// Records that no earlier start has seen, those of panics first.
    pub records: Vec<CrashRecord>,
    /// The names of all records, to know them next time.
    pub names: BTreeSet<String>,
}

impl Traces {
    /// Of this host. `seen` are the names that an earlier start found; where there was none,
    /// what is older than `since` is not new. Blocks as long as the disk does.
    #[must_use]
    pub fn read(
        places: &Places,
        watchdog_fired: Option<bool>,
        seen: Option<&BTreeSet<String>>,
        since: Option<Timestamp>,
    ) -> Self {
        let mut traces = Self {
            boot_id: boot_id(),
            booted: uptime_ms().map(|ms| Timestamp::now().before_ms(ms)),
            watchdog_fired,
            ..Self::default()
        };
        let mut found = Vec::new();
        for place in &places.pstore {
            dumps(place, 2, &mut found);
        }
        for place in &places.crash {
            let stored = entries(place).filter(|path| path.is_dir());
            found.extend(stored.map(|path| (path, RecordOf::Crash)));
        }
        for (path, of) in found {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let is_new = match seen {
                Some(seen) => !seen.contains(name),
                None => since.is_some_and(|since| modified(&path) >= Some(since)),
            };
            let twice = traces.names.contains(name);
            if traces.names.len() < MOST_NAMES {
                traces.names.insert(name.to_owned());
            }
            if is_new && !twice {
                let path = path.display().to_string();
                traces.records.push(CrashRecord { path, of });
            }
        }
        let order = |record: &CrashRecord| record.of as u8;
        traces.records.sort_by_key(order);
        traces
    }

    /// The first record of a kind.
    #[must_use]
    pub fn first(&self, of: RecordOf) -> Option<&CrashRecord> {
        self.records.iter().find(|record| record.of == of)
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.flatten().take(MOST_ENTRIES).map(|e| e.path())
}

/// The dumps in a directory and, to a depth, below it.
fn dumps(directory: &Path, depth: u32, found: &mut Vec<(PathBuf, RecordOf)>) {
    for path in entries(directory) {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_link = path.is_symlink();
        if depth > 0 && !is_link && path.is_dir() {
            dumps(&path, depth - 1, found);
        } else if name.is_some_and(|name| name.starts_with("dmesg-")) && !is_link {
            let of = dump_of(&path);
            found.push((path, of));
        }
    }
}

/// `kmsg_dump_reason_str()` of kernel/printk/printk.c, and the number that follows.
fn dump_of(path: &Path) -> RecordOf {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let mut head = Vec::new();
    let read = opened.map(|file| file.take(HEAD as u64).read_to_end(&mut head));
    match read {
        Ok(Ok(_)) if head.starts_with(b"Panic#") => RecordOf::Panic,
        Ok(Ok(_)) if head.starts_with(b"Oops#") => RecordOf::Oops,
        _ => RecordOf::Dump,
    }
}

fn modified(path: &Path) -> Option<Timestamp> {
    let seconds = fs::symlink_metadata(path).ok()?.mtime();
    Some(Timestamp(seconds.saturating_mul(1_000_000)))
}

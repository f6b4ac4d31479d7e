// SPDX-License-Identifier: GPL-2.0-only
//! The guard page: what the guard tells, in memory that others map read-only.
//!
//! In: each look's decision, from the guard. Out: for the monitor and the command line,
//! a [`View`] of the present and the last decisions in a ring. The guard writes words and
//! never waits; a reader that was not quick enough for the ring learns how much it missed.
//! Whatever is read is checked: it may be torn, of another version, or anybody's bytes.
//!
//! The guard makes a new file at each start and puts it in the old one's place, so a
//! reader whose page has gone silent opens the path again. What the guard before it told is
//! still in it, and the numbers go on: nobody has to have read it in between. Without room for a file the
//! guard guards all the same, on memory that nobody sees.

pub mod latch;
mod layout;
mod reader;

pub use latch::withheld;
pub use reader::{Known, Reader};

use super::evidence::Work;
use super::gate::{Decision, Reason};
use super::histogram::Histogram;
use super::seqlock;
use crate::event::Coverage;
use crate::sys::clock::Monotonic;
use crate::sys::mapping::{Mapping, PAGE};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::ProtFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the guard puts it.
pub const PATH: &str = "/run/xenwarden/guard";
/// `XWGP` and the version of the layout.
const MAGIC: u64 = 0x0000_0002_5047_5758;
/// Bytes of the page.
const LEN: usize = 2 * PAGE;

/// Words of each part, and where it begins.
const INFO: (usize, usize) = (8, 64);
const STATUS: (usize, usize) = (80, 48);
const RING: usize = 128;
const ENTRY: usize = 8;
/// Entries that the ring holds.
pub const ENTRIES: u64 = 64;
/// A guard that finds more entries numbered begins another row: readers keep 24 bits.
const MOST_NUMBERED: u64 = 1 << 23;

/// What does not change while the guard guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The guard's process.
    pub pid: u32,
    /// When the first guard started of those whose entries are numbered in one row.
    pub started: Monotonic,
    /// The host watchdog's device.
    pub device: PathBuf,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout, ns: it resets no earlier than that after a kick.
    pub timeout_ns: u64,
    /// And no later than that, ns, by what is known of its driver.
    pub latest_ns: u64,
    /// The time between two looks, ns.
    pub period_ns: u64,
    /// What the evidence covers.
    pub coverage: Coverage,
    /// Xen's watchdog of dom0 stands behind it as a fence level.
    pub xen_slot: bool,
    /// What is not as it should be, though the guard guards.
    pub weakness: String,
}

/// What the guard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host watchdog is not armed yet.
    Starting,
    /// It is armed.
    Armed,
    /// The guard was asked to stop, and will once everything is served.
    Stopping,
    /// The host watchdog is disarmed, and the guard ends.
    Disarmed,
    /// The guard ends, and the host watchdog could not be disarmed.
    StillArmed,
    /// The guard ends, and the service manager keeps the host watchdog for the next one, or
    /// disarms it.
    Kept,
    /// The guard ends as the host shuts down, and the host watchdog runs on with a long timeout.
    Shutdown,
}

/// Figures of the kick path since the host watchdog was armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Looks.
    pub looks: u64,
    /// Kicks that the device took.
    pub kicks: u64,
    /// Kicks that it refused.
    pub refused: u64,
    /// Times that kicks were withheld.
    pub withholds: u64,
    /// The longest time between two kicks, ns.
    pub max_gap_ns: u64,
    /// The longest look, ns.
    pub max_look_ns: u64,
    /// The longest kick, ns.
    pub max_kick_ns: u64,
    /// Page faults of the guard without I/O.
    pub minor_faults: u64,
    /// And with.
    pub major_faults: u64,
    /// How late looks began, after the moment that they were meant for.
    pub late: Histogram,
    /// How long kicks took: the device's ioctl.
    pub kick_took: Histogram,
}

/// The present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the guard is doing.
    pub phase: Phase,
    /// When it last looked.
    pub looked: Monotonic,
    /// What it decided then.
    pub decision: Decision,
    /// Since when it has decided so.
    pub since: Monotonic,
    /// The last kick that the device took; the arming counts as the first.
    pub last_kick: Monotonic,
    /// When the gate last said kick, whether or not the device took it. Told before the kick, as
    /// that may take its time.
    pub served: Monotonic,
    /// When the device last answered to a kick; before `served` while it has not.
    pub answered: Monotonic,
    /// What debug keys hold up, while it is excused.
    pub excused: Option<Work>,
    /// Until when an operator inhibits the guard, so that it kicks whatever the evidence says.
    pub inhibited: Option<Monotonic>,
    /// For what it would withhold, were it not for that.
    pub ignored: Option<Reason>,
    /// Entries written into the ring so far.
    pub entries: u64,
    /// Figures.
    pub counters: Counters,
}

/// Both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What does not change.
    pub info: Info,
    /// What does.
    pub status: Status,
}

/// What a fence level goes by. Reading it allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// As [`Info::pid`].
    pub pid: u32,
    /// As [`Info::latest_ns`].
    pub latest_ns: u64,
    /// The present.
    pub status: Status,
}

/// Something that the guard did and people want to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// It armed the host watchdog. The last kick is that of a guard before it which had disarmed
    /// it, if there was one.
    Armed,
    /// It withholds from now on, or for another cause than before.
    Withhold(Reason),
    /// It kicks again.
    Resume,
    /// It excuses work that debug keys hold up.
    Excused(Work),
    /// The device refuses kicks: the first refusal, and once a minute while it goes on.
    Refused {
        /// The device's errno.
        errno: i32,
        /// Refusals since it last took a kick.
        count: u64,
    },
    /// The device takes kicks again.
    Taken {
        /// How many it had refused.
        refused: u64,
    },
    /// The host watchdog is disarmed.
    Disarmed,
    /// It could not be disarmed: it will fire.
    DisarmFailed {
        /// The errno.
        errno: i32,
        /// Within so many seconds, where it was given a longer timeout; or 0.
        within_s: u32,
    },
    /// It armed nothing, but goes on with the host watchdog as it ran: the last kick is that of
    /// the guard before it.
    TakenOver,
    /// An operator inhibits it from now on, or until another time than before.
    Inhibited {
        /// Until when.
        until: Monotonic,
    },
    /// Nobody inhibits it any more.
    InhibitEnded {
        /// Before its time.
        early: bool,
    },
    /// It kicks only because it is inhibited: it would withhold for this.
    Ignored(Reason),
    /// It ended and left the host watchdog to the service manager.
    Kept {
        /// The timeout with which it runs on until it is taken over or disarmed, seconds.
        after_s: u32,
    },
    /// It ended as the host shuts down, and the host watchdog resets a shutdown that hangs.
    Shutdown {
        /// Within so many seconds.
        within_s: u32,
    },
}

/// An entry of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 0.
    pub number: u64,
    /// When it happened.
    pub at: Monotonic,
    /// The last kick before that.
    pub last_kick: Monotonic,
    /// What.
    pub kind: EntryKind,
}

/// Entries as far as they are still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Entries that were overwritten before they were read.
    pub lost: u64,
    /// The number to ask for next.
    pub next: u64,
}

/// The guard's end.
#[derive(Debug)]
pub struct Writer {
    words: &'static [AtomicU64],
    entries: u64,
    /// What [`Info::started`] is, where a guard before this one began the row of entries.
    started: Option<Monotonic>,
    /// The last that the guard before this one told.
    before: Option<Status>,
}

impl Writer {
    /// Makes a page at `path`, in the place of an older one, readable for `group` where that may be set. Without
    /// room for a new one the older one serves on, as it has its memory already.
    ///
    /// # Errors
    /// The errno of making it; [`Writer::private`] is then left.
    pub fn create(path: &Path, group: Option<u32>) -> io::Result<Self> {
        let old = Reader::open(path).ok();
        let latch = latch::load(path);
        let created = Self::create_new(path, group, old.as_ref(), latch);
        created.or_else(|error| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW);
            let again = |old| Self::over_file(&options.open(path)?, Some(old));
            old.as_ref().map(again).unwrap_or(Err(error))
        })
    }

    fn create_new(
        path: &Path,
        group: Option<u32>,
        old: Option<&Reader>,
        latch: Option<[u64; 2]>,
    ) -> io::Result<Self> {
        let new = path.with_extension("new");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // What cannot be removed is told by the making of a new one.
        let _ = fs::remove_file(&new);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&new)?;
        if let Some(group) = group {
            // A group that may not read is no reason to tell nobody.
            let _ = nix::unistd::fchown(&file, None, Some(group.into()));
        }
        let writer = Self::over_file(&file, old)?;
        // A start that fails after this hides nothing from the next.
        latch::store(writer.words, latch.unwrap_or_default());
        fs::rename(&new, path)?;
        Ok(writer)
    }

    fn over_file(file: &File, old: Option<&Reader>) -> io::Result<Self> {
        let len = i64::try_from(LEN).map_err(io::Error::other)?;
        // A page that has no memory yet would fault on the kick path, or end the guard.
        fallocate(file, FallocateFlags::empty(), 0, len)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Ok(Self::over(Mapping::new(file, LEN, prot)?, old))
    }

    /// A page that nobody sees.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn private() -> io::Result<Self> {
        Ok(Self::over(Mapping::private(LEN)?, None))
    }

    /// Over fresh memory, which begins with what an older page tells, if it tells anything.
    fn over(mapping: Mapping, old: Option<&Reader>) -> Self {
        let words = mapping.leak();
        let old = old.and_then(|page| Some((page.words(), page.view()?)));
        let old = old.filter(|(_, view)| view.status.entries < MOST_NUMBERED);
        let (told, view) = old.unzip();
        for (word, told) in words.iter().zip(told.unwrap_or_default()) {
            word.store(told.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if let Some(first) = words.first() {
            first.store(MAGIC, Ordering::Release);
        }
        let before = view.as_ref().map(|view| view.status);
        Self {
            words,
            entries: before.map_or(0, |status| status.entries),
            before,
            started: view.map(|view| view.info.started),
        }
    }

    fn cell(&self, start: usize, len: usize) -> &'static [AtomicU64] {
        self.words.get(start..start + len).unwrap_or_default()
    }

    /// Says what does not change. `started` is that of an older page, where there is one.
    pub fn info(&self, info: &Info) {
        let info = Info {
            started: self.started.unwrap_or(info.started),
            ..info.clone()
        };
        seqlock::write(self.cell(INFO.0, INFO.1), &layout::encode_info(&info));
        latch::lasts(self.words, &info);
    }

    /// Says how things are. Allocates nothing, never waits. `entries` is filled in.
    pub fn status(&self, status: &Status) {
        let status = Status {
            entries: self.entries,
            ..*status
        };
        latch::tell(self.words, &status);
        seqlock::write(
            self.cell(STATUS.0, STATUS.1),
            &layout::encode_status(&status),
        );
    }

    /// Says that a look at `looked` came to a kick at `served`, and leaves all else as [`Writer::status`] has said it. Allocates nothing,
    /// never waits.
    pub fn serves(&self, looked: Monotonic, served: Monotonic) {
        seqlock::change(
            self.cell(STATUS.0, STATUS.1),
            [(layout::LOOKED, looked.0), (layout::SERVED, served.0)],
        );
    }

    /// How this guard begins, which has armed the host watchdog at `armed` or, with `ran_on`,
    /// has it as it ran; and the last kick before that, or when a guard before it disarmed.
    #[must_use]
    pub fn begins(&self, armed: Monotonic, ran_on: bool) -> (EntryKind, Monotonic) {
        let Some(before) = self.before else {
            let kind = if ran_on {
                EntryKind::TakenOver
            } else {
                EntryKind::Armed
            };
            return (kind, armed);
        };
        match before.phase {
            Phase::StillArmed | Phase::Shutdown => (EntryKind::TakenOver, before.last_kick),
            _ if ran_on => (EntryKind::TakenOver, before.last_kick),
            // What the service manager kept and did not give back it has closed.
            Phase::Disarmed | Phase::Kept => (EntryKind::Armed, before.looked),
            Phase::Starting | Phase::Armed | Phase::Stopping => (EntryKind::Armed, armed),
        }
    }

    /// Adds an entry to the ring; the next status makes it known. Allocates nothing, never
    /// waits.
    pub fn entry(&mut self, at: Monotonic, last_kick: Monotonic, kind: EntryKind) {
        let [tag, a, b, c] = layout::encode_kind(kind);
        let values = [self.entries, at.0, last_kick.0, tag, a, b, c];
        seqlock::write(self.cell(place(self.entries), ENTRY), &values);
        self.entries += 1;
    }

    /// The other end of a page, for tests and for [`Writer::private`].
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::over(self.words)
    }
}

fn place(number: u64) -> usize {
    RING + usize::try_from(number % ENTRIES).unwrap_or(0) * ENTRY
}

// SPDX-License-Identifier: GPL-2.0-only
//! Deadlines that others give the guard, in memory that it maps read-only.
//!
//! In: pairs of words in a file below /run. Out: until when each holds, if it does. Whatever lies
//! there is harmless: a pair counts only if its second word is the first by a mark, for no
//! later than it may be, and not for ever by being there. To look reads two words.
//!
//! The guard makes the file where it is missing and leaves one that is there as it is, so that a
//! deadline outlives the guard; with /run it goes with the boot, as the clock that it counts by.

use crate::sys::clock::Monotonic;
use crate::sys::mapping::{Mapping, PAGE};
use crate::sys::word::Word;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::mman::ProtFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the one lies with which an operator inhibits the guard, and its number there.
pub const INHIBIT: (&str, usize) = ("/run/xenwarden/inhibit", 0);
/// `XWDL` and the version, in both halves: no pair by accident.
const MARK: u64 = 0x4c44_5758_4c44_5759;

/// The guard's end.
#[derive(Debug, Default)]
pub struct Deadlines {
    words: &'static [AtomicU64],
    most_ns: u64,
}

impl Deadlines {
    /// Those in the file at `path`, none of which may be further away than `most_ns`.
    ///
    /// # Errors
    /// The errno of making or mapping it.
    pub fn open(path: &Path, most_ns: u64) -> io::Result<Self> {
        let file = options().create(true).mode(0o600).open(path)?;
        let file = regular(file)?;
        let len = i64::try_from(PAGE).map_err(io::Error::other)?;
        // A page that has no memory yet would fault on the kick path, or end the guard.
        fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let words = Mapping::new(&file, PAGE, ProtFlags::PROT_READ)?.leak();
        Ok(Self { words, most_ns })
    }

    /// Until when deadline number `n` holds, if it does at `now`. Allocates nothing.
    #[must_use]
    pub fn until(&self, n: usize, now: Monotonic) -> Option<Monotonic> {
        until(self.words.get(2 * n..2 * n + 2)?, self.most_ns, now)
    }
}

/// Until when this pair of words holds. Whatever order its writer's bytes become visible in, two
/// halves of different deadlines are none.
pub fn until<W: Word>(pair: &[W], most_ns: u64, now: Monotonic) -> Option<Monotonic> {
    let mut words = pair.iter().map(|word| word.load(Ordering::Relaxed));
    let (deadline, check) = (words.next()?, words.next()?);
    let is_one = deadline ^ check == MARK;
    let left_ns = deadline.checked_sub(now.0).filter(|_| is_one)?;
    (1..=most_ns)
        .contains(&left_ns)
        .then_some(Monotonic(deadline))
}

/// The pair that says so.
#[must_use]
pub fn pair(until: Option<Monotonic>) -> [u64; 2] {
    until.map_or([0, 0], |until| [until.0, until.0 ^ MARK])
}

/// Whoever sets one holds this meanwhile.
#[derive(Debug)]
pub struct Setting(Flock<File>);

impl Setting {
    /// Of the file at `path`, which a guard has made. Waits for another who sets one.
    ///
    /// # Errors
    /// `NotFound`: no guard has run since the boot. `PermissionDenied` for anybody but root.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = regular(options().open(path)?)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive);
        Ok(Self(locked.map_err(|(_, errno)| errno)?))
    }

    /// Sets deadline number `n`, or takes it back.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn set(&self, n: usize, until: Option<Monotonic>) -> io::Result<()> {
        let bytes: Vec<u8> = pair(until)
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let at = u64::try_from(16 * n).map_err(io::Error::other)?;
        self.0.write_all_at(&bytes, at)
    }

    /// The file, for what else lies in it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The readers' end of the guard page.
//!
//! In: its words, which may be torn, of another version, or anybody's bytes. Out: what of them
//! can be made out. It never waits for the guard.

use super::{
    ENTRIES, Entries, Entry, INFO, Info, LEN, MAGIC, STATUS, Status, View, Vitals, layout, place,
};
use crate::guard::seqlock;
use crate::sys::mapping::Mapping;
use nix::sys::mman::ProtFlags;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Attempts to read a cell that is being written.
const ATTEMPTS: u32 = 64;

#[derive(Debug)]
enum Words {
    Mapped(Mapping),
    Static(&'static [AtomicU64]),
}

/// The end of everybody but the guard.
#[derive(Debug)]
pub struct Reader {
    words: Words,
}

/// What was made out of a page.
#[derive(Debug)]
pub struct Known {
    /// How often its info was written, as its cell counts.
    version: u64,
    /// The present.
    pub view: View,
}

impl Reader {
    /// Of a page in this process.
    pub(super) fn over(words: &'static [AtomicU64]) -> Self {
        Self {
            words: Words::Static(words),
        }
    }

    /// What the page at `path` tells now; none where there is no guard page, or it tells nothing.
    /// Does not block.
    #[must_use]
    pub fn view_at(path: &Path) -> Option<View> {
        Self::open(path).ok()?.view()
    }

    /// Maps the page at `path`. Does not block, whatever is there.
    ///
    /// # Errors
    /// The errno of open(2) or mmap(2); `InvalidData` where it is no guard page.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        let no_page = || io::Error::new(io::ErrorKind::InvalidData, "not a guard page");
        if !metadata.is_file() || metadata.len() != LEN as u64 {
            return Err(no_page());
        }
        let mapping = Mapping::new(&file, LEN, ProtFlags::PROT_READ)?;
        let magic = mapping.words().first().map(|w| w.load(Ordering::Acquire));
        if magic != Some(MAGIC) {
            return Err(no_page());
        }
        Ok(Self {
            words: Words::Mapped(mapping),
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        match &self.words {
            Words::Mapped(mapping) => mapping.words(),
            Words::Static(words) => words,
        }
    }

    fn cell<const N: usize>(&self, start: usize) -> Option<[u64; N]> {
        let cell = self.words().get(start..start + N + 1)?;
        let mut values = [0; N];
        (0..ATTEMPTS)
            .any(|_| seqlock::read(cell, &mut values))
            .then_some(values)
    }

    /// The present; none before the guard has told, and where it cannot be made out.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        Some(View {
            info: self.info()?,
            status: self.status()?,
        })
    }

    /// As [`Reader::view`], for one that looked before: what has not changed since is not made out again.
    #[must_use]
    pub fn know(&self, last: Option<Known>) -> Option<Known> {
        // Read first: what is written meanwhile is made out the next time.
        let version = self.words().get(INFO.0)?.load(Ordering::Acquire);
        let info = match last.filter(|last| last.version == version) {
            Some(last) => last.view.info,
            None => self.info()?,
        };
        let status = self.status()?;
        let view = View { info, status };
        Some(Known { version, view })
    }

    /// What a fence level goes by; none as for [`Self::view`]. Allocates nothing.
    #[must_use]
    pub fn vitals(&self) -> Option<Vitals> {
        let status = self.status()?;
        layout::decode_vitals(&self.cell(INFO.0)?, status)
    }

    /// What does not change.
    #[must_use]
    pub fn info(&self) -> Option<Info> {
        layout::decode_info(&self.cell(INFO.0)?)
    }

    /// What does.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        layout::decode_status(&self.cell(STATUS.0)?)
    }

    /// The ring's entries from number `from` on.
    #[must_use]
    pub fn entries(&self, from: u64) -> Entries {
        let Some(Status { entries: next, .. }) = self.status() else {
            return Entries {
                next: from,
                ..Entries::default()
            };
        };
        let first = from.max(next.saturating_sub(ENTRIES)).min(next);
        let read = |number| {
            let values = self.cell(place(number))?;
            layout::decode_entry(&values).filter(|entry| entry.number == number)
        };
        let entries: Vec<Entry> = (first..next).filter_map(read).collect();
        let wanted = next.saturating_sub(from);
        Entries {
            lost: wanted.saturating_sub(entries.len() as u64),
            entries,
            next,
        }
    }
}

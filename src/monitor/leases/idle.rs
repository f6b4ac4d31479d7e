// SPDX-License-Identifier: GPL-2.0-only
//! Sleep, while no guard has a lease: most hosts have none, and four turns a second for nobody cost more than all else that a
//! monitor without guests does.
//!
//! In: the page's directory, from inotify(7). Out: how long to sleep, and what wakes. Promise: whoever cannot be told of a new page
//! looks for it as often as if there were leases.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// The longest sleep: whatever inotify missed is found after that.
pub const LONGEST: Duration = Duration::from_secs(5);

/// Told of whatever appears in a directory, or befalls it.
#[derive(Debug)]
pub struct Watched(Inotify);

impl Watched {
    /// Watches the directory of `page`; none where the kernel does not let it. Does not block.
    #[must_use]
    pub fn directory_of(page: &Path) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let appears = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let is_gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        inotify
            .add_watch(
                page.parent()?,
                appears | is_gone | AddWatchFlags::IN_ONLYDIR,
            )
            .ok()?;
        Some(Self(inotify))
    }

    /// Takes what was told; none once the directory is not there any more.
    #[must_use]
    pub fn heard(self) -> Option<Self> {
        let is_gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_Q_OVERFLOW;
        while let Ok(told) = self.0.read_events() {
            if told.iter().any(|event| event.mask.intersects(is_gone)) {
                return None;
            }
        }
        Some(self)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

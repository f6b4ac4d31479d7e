// SPDX-License-Identifier: GPL-2.0-only
//! Sleep, while no guard has a lease: most hosts have none, and four turns a second for nobody cost more than all else that a
//! monitor without guests does.
//!
//! In: the page's directory, from inotify(7). Out: how long to sleep, and what wakes. Promise: whoever cannot be told of a new page
//! looks for it as often as if there were leases.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// The longest sleep: whatever inotify missed is found after that.
pub const LONGEST: Duration = Duration::from_secs(60);

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

    /// Takes what was told. None once the directory is not there any more, or something was told: it may have come after the last look for
    /// a page, so that one more is due before whoever waits may sleep.
    #[must_use]
    pub fn quiet(self) -> Option<Self> {
        // None waits for more; a failure is one of the queue, of which nobody knows what it held.
        matches!(self.0.read_events(), Err(Errno::EAGAIN)).then_some(self)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_told_and_once() {
        let directory = std::env::temp_dir().join(format!("xwi-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        let page = directory.join("leases");
        let watched = || Watched::directory_of(&page).expect("watched");
        assert!(watched().quiet().is_some_and(|w| w.quiet().is_some()));
        for act in [
            &|| std::fs::write(directory.join("new"), "") as _,
            &|| std::fs::rename(directory.join("new"), &page) as _,
            &|| std::fs::remove_dir_all(&directory) as _,
        ] as [&dyn Fn() -> std::io::Result<()>; 3]
        {
            let watched = watched();
            act().expect("done");
            assert!(watched.quiet().is_none());
        }
    }
}

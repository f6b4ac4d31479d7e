// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors that the service manager kept for this process: the sd_listen_fds(3) protocol,
//! as systemd's file descriptor store speaks it.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// `SD_LISTEN_FDS_START` (systemd's sd-daemon.h).
const FIRST: RawFd = 3;
/// More than these nobody keeps for us.
const MOST: RawFd = 32;

/// Those that the environment names, if it means this process. They are there once: a second
/// call finds none.
#[must_use]
pub fn inherited() -> Vec<OwnedFd> {
    let named = inherited_by_name().into_iter();
    named.map(|(_, descriptor)| descriptor).collect()
}

/// The same, each with the name that it was given, which may be empty.
#[must_use]
pub fn inherited_by_name() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let for_us = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    let count = count.unwrap_or(0).clamp(0, MOST);
    if !for_us || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    let named = (FIRST..FIRST + count).zip(names);
    named
        .filter_map(|(number, name)| Some((name.to_owned(), take(number)?)))
        .collect()
}

/// Takes what is open under this number.
fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only asked whether it is open, which harms nobody if it is not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is open, and by the protocol it belongs to this process; this runs once for each,
    // so that nobody else here owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

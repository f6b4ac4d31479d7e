// SPDX-License-Identifier: GPL-2.0-only
//! The size of a terminal: TIOCGWINSZ (ioctl_tty(2)), which nix does not wrap.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Rows of the terminal; none where it is no terminal, or does not know.
#[must_use]
pub fn rows(terminal: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and the pointer is a live struct winsize.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_row > 0).then(|| usize::from(size.ws_row))
}

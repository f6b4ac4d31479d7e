// SPDX-License-Identifier: GPL-2.0-only
//! Waking a thread that waits in poll(2).

use std::io;
use std::os::unix::net::UnixStream;

/// A byte written to the first makes the second readable. Neither ever blocks: the first is full only where the second is readable
/// already.
///
/// # Errors
/// The errno of socketpair(2) or of fcntl(2).
pub fn waking_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((wake, woken))
}

// SPDX-License-Identifier: GPL-2.0-only
//! The near end of a unix socket: to connect, and to give up in time.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to the socket at `path` on which no call takes longer than `timeout`, in whole
/// seconds. connect(2) waits for room in the listener's queue for at most SO_SNDTIMEO (unix(7),
/// `unix_stream_connect` of Linux' net/unix/af_unix.c).
///
/// # Errors
/// Those of socket(2) and connect(2); `WouldBlock` where nobody took it in time.
pub fn in_time(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let timeout = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(timeout, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(timeout, 0))?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

// SPDX-License-Identifier: GPL-2.0-only
//! The process behind a VM's socket, as the kernel knows it.
//!
//! In: a connection. Out: which process it is, and whose. Unknown where the kernel does not tell, as
//! of a process of another PID namespace.

use super::vm::Process;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs;
use std::os::unix::net::UnixStream;

/// The process that listens there (unix(7), SO_PEERCRED: the one that called listen(2)).
#[must_use]
pub fn process(stream: &UnixStream) -> Option<u32> {
    let peer = getsockopt(stream, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0)
}

/// Which process it is, its number being used again some day.
#[must_use]
pub fn identity(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let started = rest.split(' ').nth(19)?.parse().ok()?;
    Some(Process { pid, started })
}

/// Its effective user now: a QEMU with `-runas` listens before it changes that (proc(5), status).
#[must_use]
pub fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}

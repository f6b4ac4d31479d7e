// SPDX-License-Identifier: GPL-2.0-only
//! Who is at the other end of a unix socket: SO_PEERCRED and SO_PEERGROUPS (unix(7),
//! net/core/sock.c).

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// asm-generic/socket.h; the libc crate lacks it.
const SO_PEERGROUPS: libc::c_int = 59;
/// NGROUPS_MAX of linux/limits.h is more; whoever is in so many groups is known by his
/// first ones.
const MAX_GROUPS: usize = 1024;

/// A peer as of its connect(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups; empty where the kernel does not tell (before Linux 4.13).
    pub groups: Vec<u32>,
}

/// Who connected. Does not block.
///
/// # Errors
/// The errno of getsockopt(2).
pub fn peer(stream: &UnixStream) -> Result<Peer, Errno> {
    let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(Peer {
        uid: credentials.uid(),
        gid: credentials.gid(),
        groups: groups(stream).unwrap_or_default(),
    })
}

fn groups(stream: &UnixStream) -> Option<Vec<u32>> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).ok()?;
    // SAFETY: the buffer is live and as long as `bytes` says; the kernel writes no more
    // than that and the length.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    Errno::result(answer).ok()?;
    groups.truncate(usize::try_from(bytes).ok()? / size_of::<u32>());
    Some(groups)
}

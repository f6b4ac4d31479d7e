// SPDX-License-Identifier: GPL-2.0-only
//! The supplementary groups of a socket's peer: SO_PEERGROUPS, which nix does not have.
//!
//! Source: Linux `include/uapi/asm-generic/socket.h` and `net/core/sock.c`
//! (`sk_getsockopt`), since 4.13: the option fills an array of gid_t and sets the length;
//! when the array is too short it fails with ERANGE and sets the length that it takes.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Groups that a first attempt has room for; few processes have more.
const USUAL_GROUPS: usize = 64;
/// NGROUPS_MAX of `include/uapi/linux/limits.h`.
const MAX_GROUPS: usize = 65_536;

/// The groups, besides the primary one, that the peer of a connected unix socket was in
/// when it connected. Does not block; allocates at most 256 KiB.
///
/// # Errors
/// ENOPROTOOPT before Linux 4.13, ENODATA where the socket has no peer.
pub fn groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0; USUAL_GROUPS];
    match fill(socket, &mut groups) {
        Ok(count) => groups.truncate(count),
        Err((Errno::ERANGE, needed)) if needed <= MAX_GROUPS => {
            groups.resize(needed, 0);
            let count = fill(socket, &mut groups).map_err(|(errno, _)| errno)?;
            groups.truncate(count);
        }
        Err((errno, _)) => return Err(errno),
    }
    Ok(groups)
}

/// How many groups there are, or the errno with how many it would take room for.
fn fill(socket: BorrowedFd<'_>, groups: &mut [u32]) -> Result<usize, (Errno, usize)> {
    let bytes = libc::socklen_t::try_from(size_of_val(groups));
    let mut length = bytes.map_err(|_| (Errno::EINVAL, 0))?;
    // SAFETY: the descriptor is open for the borrow's time; the buffer is live, writable
    // and `length` bytes long; gid_t is u32 on Linux.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
    Errno::result(answer).map_err(|errno| (errno, count))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peers_groups_are_those_of_its_process() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let expected = nix::unistd::getgroups().expect("groups");
        let expected: Vec<u32> = expected.into_iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(groups(ours.as_fd()), Ok(expected));
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert_eq!(groups(file.as_fd()), Err(Errno::ENOTSOCK));
    }
}

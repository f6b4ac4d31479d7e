// SPDX-License-Identifier: GPL-2.0-only
//! The socket of one lease: systemd's notify protocol (sd_notify(3)), one datagram each.
//!
//! In: datagrams from anybody who can write to it. Out: what its client says, if the kernel says
//! that it is root or the lease's user. The socket belongs to that user and nobody else may write
//! to it, so that no other user's flood takes the room of a renewal. Never waits; what one turn takes from
//! it is bounded. Descriptors that come with a datagram are closed by the kernel (unix(7)), as no room is given for them.

use crate::guard::leases::page::View;
use crate::sys::clock::Monotonic;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use std::fs::{self, Permissions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Datagrams that one turn takes; the kernel keeps fewer (net.unix.max_dgram_qlen of unix(7)).
const TURN: usize = 1_024;
/// Bytes of a datagram that are read; the rest of a longer one is dropped.
const LONGEST: usize = 4_096;

/// Begins a line that limits a renewal, ns of `CLOCK_MONOTONIC`.
pub const UNTIL: &str = "X_XENWARDEN_UNTIL=";

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// `WATCHDOG=1`, and what `X_XENWARDEN_UNTIL=` says with it: no longer than until then.
    Renew {
        /// A time of `CLOCK_MONOTONIC`.
        until: Option<Monotonic>,
    },
    /// `STOPPING=1`
    Release,
    /// `WATCHDOG=trigger`: it is to count as lapsed at once.
    Trigger,
}

/// What the lines of a datagram come to: the last of them that means something.
#[must_use]
pub fn said(datagram: &[u8]) -> Option<Said> {
    let lines = || datagram.split(|byte| *byte == b'\n');
    let mut said = lines().filter_map(|line| match line {
        b"WATCHDOG=1" => Some(Said::Renew { until: None }),
        b"STOPPING=1" => Some(Said::Release),
        b"WATCHDOG=trigger" => Some(Said::Trigger),
        _ => None,
    });
    match said.next_back() {
        Some(Said::Renew { .. }) => {
            let limits = lines().filter_map(|line| line.strip_prefix(UNTIL.as_bytes()));
            let until = limits.map(until).next_back();
            Some(Said::Renew { until })
        }
        said => said,
    }
}

/// What a limit says; one that cannot be read has passed: it was to shorten the renewal.
fn until(text: &[u8]) -> Monotonic {
    let text = std::str::from_utf8(text).unwrap_or_default();
    Monotonic(text.parse().unwrap_or(0).max(1))
}

/// What one turn brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The last that the client said.
    pub said: Option<Said>,
    /// Datagrams of others, and who the last of them was.
    pub refused: Option<(u64, u32)>,
}

/// The socket of a lease.
#[derive(Debug)]
pub struct LeaseSocket {
    /// The lease.
    pub lease: View,
    socket: UnixDatagram,
    /// Device and inode of its name: another process may have put its own there, or removed it.
    place: (u64, u64),
}

impl LeaseSocket {
    /// Makes it in `directory`, in the place of an earlier one. Its user alone may write to it.
    ///
    /// # Errors
    /// The errno of making it, or giving it to its user.
    pub fn bind(directory: &Path, lease: View) -> io::Result<Self> {
        let path = free(directory, &lease)?;
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        if lease.uid != 0 {
            nix::unistd::chown(&path, Some(lease.uid.into()), None)?;
        }
        let found = fs::symlink_metadata(&path)?;
        let place = (found.dev(), found.ino());
        Ok(Self {
            lease,
            socket,
            place,
        })
    }

    /// Whether its name in `directory` leads to it.
    #[must_use]
    pub fn is_there(&self, directory: &Path) -> bool {
        let found = fs::symlink_metadata(directory.join(self.lease.name.as_str()));
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.place)
    }

    /// The same for a lease of that name and user, as another page has it.
    #[must_use]
    pub fn serving(self, lease: View) -> Self {
        Self { lease, ..self }
    }

    /// Takes all that has come in.
    pub fn turn(&self) -> Turn {
        let mut turn = Turn::default();
        let mut bytes = [0; LONGEST];
        for _ in 0..TURN {
            match self.receive(&mut bytes) {
                Ok((from, len)) => self.take(&mut turn, from, bytes.get(..len).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        turn
    }

    fn take(&self, turn: &mut Turn, from: Option<u32>, datagram: &[u8]) {
        let may_say = |uid: u32| uid == 0 || uid == self.lease.uid;
        match from.filter(|uid| may_say(*uid)) {
            Some(_) => {
                turn.said = said(datagram).or(turn.said);
            }
            None => {
                let (count, _) = turn.refused.unwrap_or_default();
                turn.refused = Some((count + 1, from.unwrap_or(u32::MAX)));
            }
        }
    }

    /// Who sent the next datagram, where the kernel says so, and its length.
    fn receive(&self, bytes: &mut [u8]) -> Result<(Option<u32>, usize), Errno> {
        let mut space = cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let len = message.bytes;
        let uid = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::ScmCredentials(from) => Some(from.uid()),
                _ => None,
            })
        });
        Ok((uid, len))
    }
}

impl AsFd for LeaseSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where it is to be, with nothing there any more. Only a socket is removed.
fn free(directory: &Path, lease: &View) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(lease.name.as_str());
    match fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(&path)?,
        Ok(_) => {
            let text = "exists and is no socket: not replacing it";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_means_something_counts_and_no_other_is_one() {
        let renew = |until: Option<u64>| Said::Renew {
            until: until.map(Monotonic),
        };
        let cases: [(&[u8], Option<Said>); 15] = [
            (b"WATCHDOG=1", Some(renew(None))),
            (b"READY=1\nWATCHDOG=1\n", Some(renew(None))),
            (b"WATCHDOG=1\nSTOPPING=1", Some(Said::Release)),
            (b"STOPPING=1\nSTATUS=bye\nWATCHDOG=1", Some(renew(None))),
            (b"WATCHDOG=trigger", Some(Said::Trigger)),
            (
                b"X_XENWARDEN_UNTIL=7000\nWATCHDOG=1",
                Some(renew(Some(7_000))),
            ),
            (
                b"WATCHDOG=1\nX_XENWARDEN_UNTIL=8\nX_XENWARDEN_UNTIL=9",
                Some(renew(Some(9))),
            ),
            // It has passed.
            (b"WATCHDOG=1\nX_XENWARDEN_UNTIL=soon", Some(renew(Some(1)))),
            (b"X_XENWARDEN_UNTIL=7000", None),
            (b"WATCHDOG=10", None),
            (b"STOPPING=0", None),
            (b"STOPPING=10", None),
            (b" WATCHDOG=1", None),
            (b"watchdog=1\0", None),
            (b"", None),
        ];
        for (datagram, expected) in cases {
            assert_eq!(said(datagram), expected, "{datagram:?}");
        }
    }
}

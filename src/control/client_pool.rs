// SPDX-License-Identifier: GPL-2.0-only
//! What the control socket and the event socket share: who gets in, and who gives way.
//!
//! In: connections. Out: clients, at most so many. Promises: no waiting for a client; one
//! that was let in is looked at in the round that accepts it, so that what it asked already
//! is answered even if it gives way then. The thread sleeps until a client, a new one or
//! one of the other descriptors needs something, or a client's time is up.
//!
//! # Who gets in, and who gives way
//!
//! The socket's mode (0660) keeps strangers out of connect(2). One that got in all the same
//! (before the mode was set, or by the gid of a group that is not the configured one) is told
//! so at once by its credentials and never takes a place.
//!
//! That leaves root and the members of the group. When all places are taken, the user with
//! the most connections loses its oldest, one that has not asked for anything first, so that
//! one user's flood, however large, takes no place from another's single request; root's
//! give way to root only.

use super::peer::{Peer, gid_of};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

/// Clients taken in one round, so that a flood cannot keep the others waiting.
const ACCEPT: usize = 16;
/// Bytes of a refused client's request that are read, so that closing does not reset the
/// connection before it has read why.
const IGNORED: usize = 1024;

/// A client that has a place.
pub trait Client {
    /// Whose it is.
    fn uid(&self) -> u32;

    /// Whether it has not asked for anything yet.
    fn is_idle(&self) -> bool;

    /// What to wait for; poll(2) adds the peer's hanging up.
    fn poll_fd(&self) -> PollFd<'_>;

    /// When it is given up, if it is.
    fn deadline(&self) -> Option<Instant>;
}

/// The clients of a socket, in the order of their age.
pub struct ClientPool<C> {
    /// Those who have a place.
    pub clients: VecDeque<C>,
    most: usize,
    group: Option<u32>,
    refuse: fn(&str) -> Vec<u8>,
    /// What a stranger is told, and one for whom there is no place.
    words: [&'static str; 2],
}

impl<C: Client> ClientPool<C> {
    /// So many places, for root, this process' own user and the group. Who is refused is told
    /// the first of the `words` where it may not ask, else the second, in the form of `refuse`.
    #[must_use]
    pub fn new(
        most: usize,
        group: Option<u32>,
        refuse: fn(&str) -> Vec<u8>,
        words: [&'static str; 2],
    ) -> Self {
        Self {
            clients: VecDeque::new(),
            most,
            group,
            refuse,
            words,
        }
    }

    /// Sleeps until there is something to do, at once if `busy`. An interrupted or failed
    /// wait only makes the round come early. Whether `other` is readable or hung up.
    pub fn wait(&self, listener: &UnixListener, other: BorrowedFd<'_>, busy: bool) -> bool {
        let mut fds = vec![
            PollFd::new(other, PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.clients.iter().map(Client::poll_fd));
        let next = self.clients.iter().filter_map(Client::deadline).min();
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = match (busy, left) {
            (true, _) => PollTimeout::ZERO,
            (false, None) => PollTimeout::NONE,
            // Rounded up, so that the last round does not spin.
            (false, Some(left)) => {
                let ms = u16::try_from(left.as_millis().saturating_add(1));
                PollTimeout::from(ms.unwrap_or(u16::MAX))
            }
        };
        let _ = poll(&mut fds, timeout);
        fds.first().and_then(PollFd::any).unwrap_or(false)
    }

    /// Lets new ones in, as `make` makes them. Gives those that lost their places.
    pub fn accept(
        &mut self,
        listener: &UnixListener,
        mut make: impl FnMut(UnixStream, Peer) -> C,
    ) -> Vec<C> {
        let mut out = Vec::new();
        for _ in 0..ACCEPT {
            let Ok((stream, _)) = listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let [stranger, full] = self.words;
            match Peer::of(&stream, self.group) {
                Ok(peer) if peer.may_ask() => match self.make_room(peer.uid) {
                    Ok(loser) => {
                        out.extend(loser);
                        self.clients.push_back(make(stream, peer));
                    }
                    Err(PoolFull) => self.refuse(stream, full),
                },
                _ => self.refuse(stream, stranger),
            }
        }
        out
    }

    /// The words fit into a new socket's empty buffer, or are not told.
    fn refuse(&self, mut stream: UnixStream, why: &str) {
        let _ = stream.read(&mut [0; IGNORED]);
        let _ = stream.write(&(self.refuse)(why));
    }

    fn make_room(&mut self, uid: u32) -> Result<Option<C>, PoolFull> {
        if self.clients.len() < self.most {
            return Ok(None);
        }
        let uids: Vec<u32> = self.clients.iter().map(Client::uid).collect();
        let oldest = connection_to_close(&uids, uid).ok_or(PoolFull)?;
        let loser = uids.get(oldest).copied();
        let is_idle = |client: &C| Some(client.uid()) == loser && client.is_idle();
        let idle = self.clients.iter().position(is_idle);
        Ok(self.clients.remove(idle.unwrap_or(oldest)))
    }
}

struct PoolFull;

/// Whose connection gives way when all places are taken and the user `newcomer` wants one:
/// the place, among connections in the order of their age, of the oldest of the user who
/// would have the most. Root's give way to root only; none where all are root's and the
/// newcomer is not. Counting the newcomer among them, one user's flood, however large, takes
/// no place from another's single connection.
fn connection_to_close(uids: &[u32], newcomer: u32) -> Option<usize> {
    let share = |uid: u32| {
        let has = uids.iter().filter(|other| **other == uid).count();
        has + usize::from(uid == newcomer)
    };
    let may = |uid: u32| uid != 0 || newcomer == 0;
    let candidates = uids.iter().copied().filter(|uid| may(*uid));
    let most = candidates.map(share).max()?;
    uids.iter().position(|uid| may(*uid) && share(*uid) == most)
}

/// Binds the socket at `path`, mode 0660, given to `group` where that exists, replacing a
/// dead one that an earlier process left.
///
/// # Errors
/// The errno of making the directory or the socket; `AddrInUse` when another process answers
/// there, `AlreadyExists` when something else than a socket is there.
pub fn bind(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if is_listened_to(path) {
        let text = "another process listens on this socket";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            let text = "exists and is no socket: not replacing it";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = gid_of(group) {
        nix::unistd::chown(path, None, Some(gid.into()))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether somebody listens on the socket. Does not block: where the listener's queue is
/// full, as that of a stopped process may be, connect(2) says EAGAIN (unix(7)).
#[must_use]
pub fn is_listened_to(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), &UnixAddr::new(path)?));
    matches!(connected, Ok(()) | Err(Errno::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_with_the_most_connections_gives_way_and_root_only_to_root() {
        let cases: [(&[u32], u32, Option<usize>); 11] = [
            (&[], 0, None),
            (&[0], 0, Some(0)),
            (&[7, 0, 0, 7, 0], 0, Some(1)),
            (&[7, 0, 0, 7, 0], 7, Some(0)),
            (&[0, 7, 7, 7], 0, Some(1)),
            (&[0, 0, 0, 7], 9, Some(3)),
            (&[0, 0, 0], 7, None),
            (&[5, 5, 9, 9], 0, Some(0)),
            // Who already has as many as anybody else loses one of its own.
            (&[5, 5, 9, 9], 9, Some(2)),
            (&[5, 9], 9, Some(1)),
            (&[1, 2, 3], 4, Some(0)),
        ];
        for (uids, newcomer, place) in cases {
            assert_eq!(
                connection_to_close(uids, newcomer),
                place,
                "{uids:?} {newcomer}"
            );
        }
    }

    #[test]
    fn a_flood_of_one_user_takes_no_place_from_another() {
        for other in [0, 1_000] {
            let mut uids = vec![other];
            for _ in 0..1_000 {
                if uids.len() >= 32 {
                    uids.remove(connection_to_close(&uids, 33).expect("one gives way"));
                }
                uids.push(33);
            }
            assert_eq!(uids.iter().filter(|uid| **uid == other).count(), 1);
            assert_eq!(connection_to_close(&uids, 0), Some(1), "root is let in");
        }
    }
}

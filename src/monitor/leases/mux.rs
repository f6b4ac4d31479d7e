// SPDX-License-Identifier: GPL-2.0-only
//! A second front for leases: the socket of Proxmox VE's watchdog-mux, for its clients.
//!
//! In: connections of root's programs, each of which is a lease of its own: any byte renews it, and
//! after a last `V` its end releases it (src/watchdog-mux.c and PVE::HA::Env::PVE2 of
//! pve-ha-manager). Out: what each lease's client says. A client that ends without a `V` leaves its
//! lease, which lapses: nobody can renew it any more. Of more clients than there are leases the
//! last are refused: they see the end of their connection.

use super::socket::Said;
use crate::guard::leases::page::View;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What a client sends last if it stops in order.
const MAGIC: u8 = b'V';
/// Bytes that one turn takes from a client.
const TURN: usize = 256;

/// A client, and its lease.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    lease: View,
    /// The last byte was a `V`.
    is_closing: bool,
}

/// The socket, and who is connected.
#[derive(Debug)]
pub struct Mux {
    listener: UnixListener,
    free: Vec<View>,
    clients: Vec<Client>,
}

impl Mux {
    /// Makes the socket at `path`, for root only, with these leases to give.
    ///
    /// # Errors
    /// The errno of making it.
    pub fn bind(path: &Path, mut leases: Vec<View>) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        // The first is given first.
        leases.reverse();
        Ok(Self {
            listener,
            free: leases,
            clients: Vec::new(),
        })
    }

    /// The same leases, as another page has them; whose lease is gone is let go.
    pub fn renumber(&mut self, leases: &[View]) {
        let find = |lease: &mut View| {
            let same = leases.iter().find(|one| one.name == lease.name);
            same.map(|one| *lease = *one).is_some()
        };
        self.free.retain_mut(find);
        self.clients.retain_mut(|client| find(&mut client.lease));
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        let all = std::iter::once(self.listener.as_fd()).chain(clients);
        all.map(|fd| PollFd::new(fd, PollFlags::POLLIN))
    }

    /// Takes all that has come in: for each lease that somebody spoke of, what.
    pub fn turn(&mut self) -> Vec<(View, Said)> {
        let mut said = Vec::new();
        while let Ok((stream, _)) = self.listener.accept() {
            let Some(lease) = self.free.pop() else {
                continue;
            };
            if stream.set_nonblocking(true).is_err() {
                self.free.push(lease);
                continue;
            }
            said.push((lease, Said::Renew));
            self.clients.push(Client {
                stream,
                lease,
                is_closing: false,
            });
        }
        let free = &mut self.free;
        self.clients.retain_mut(|client| {
            let (one, stays) = client.turn();
            said.extend(one.map(|one| (client.lease, one)));
            // What nobody can renew any more is given to nobody else: it lapses.
            if !stays && one == Some(Said::Release) {
                free.push(client.lease);
            }
            stays
        });
        said
    }
}

impl Client {
    /// What it says, and whether it stays.
    fn turn(&mut self) -> (Option<Said>, bool) {
        let mut bytes = [0; TURN];
        match self.stream.read(&mut bytes) {
            Ok(0) => (self.is_closing.then_some(Said::Release), false),
            Ok(len) => {
                let last = len.checked_sub(1).and_then(|at| bytes.get(at));
                self.is_closing = last == Some(&MAGIC);
                (Some(Said::Renew), true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => (None, true),
                _ => (self.is_closing.then_some(Said::Release), false),
            },
        }
    }
}

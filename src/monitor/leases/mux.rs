// SPDX-License-Identifier: GPL-2.0-only
//! A second front for leases: the socket of Proxmox VE's watchdog-mux, for its clients.
//!
//! In: connections of root's programs, each of which is a lease of its own: any byte renews it, and
//! after a last `V` its end releases it (src/watchdog-mux.c and PVE::HA::Env::PVE2 of
//! pve-ha-manager). Out: what each lease's client says. A client that ends without a `V` leaves its
//! lease, which lapses: nobody can renew it any more. Of more clients than there are leases the
//! last are refused: they see the end of their connection, and that is told.
//!
//! Its clients are pve-ha-lrm and pve-ha-crm (PVE::HA::LRM and PVE::HA::CRM). Each connects once it has its lock, sends nothing then, a NUL each ten
//! seconds or so, and a `V` before it closes. Neither connects anew when a byte cannot be sent. The workers of the former have its
//! connection as well, which so ends only with the last of them. Where watchdog-mux ends its kicks at once, as a client has gone without a `V`, here its lease lapses
//! when the last renewal is 60 s old.
//!
//! The service manager keeps the connections, each by the name of its lease, for the next monitor.

use crate::control::client_pool::is_listened_to;
use crate::control::peer::Peer;
use crate::guard::leases::page::{Connection, View};
use crate::sys::notify::Notifier;
use nix::poll::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What a client sends last if it stops in order.
const MAGIC: u8 = b'V';
/// Bytes that one read takes from a client, and reads that one turn makes.
const READ: usize = 256;
const READS: usize = 64;

/// Connections that the service manager kept, by the names of their leases.
pub type Kept = BTreeMap<String, UnixStream>;

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
    /// None: it cannot be made, or is not wanted; who was kept is served all the same.
    listener: Option<UnixListener>,
    free: Vec<View>,
    clients: Vec<Client>,
    manager: Notifier,
    refused: Option<(u64, u32)>,
}

/// What a client's turn comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoke {
    /// It renews its lease; or stops in order, if it says nothing more.
    Renews {
        /// The last that it said was a `V`.
        is_closing: bool,
    },
    /// It has stopped in order.
    Releases,
    /// It is gone, without having given its lease back.
    Gone,
}

impl Mux {
    /// With these leases to give; those of connections that were `kept` are given, also where the
    /// socket at `path` cannot be made.
    #[must_use]
    pub fn new(path: Option<&Path>, leases: Vec<View>, mut kept: Kept) -> Self {
        let listener = path.and_then(|path| {
            let made = listen(path);
            let path = path.display();
            made.inspect_err(|error| log::error!("leases.watchdog_mux: {path}: {error}"))
                .ok()
        });
        let (mut free, mut clients) = (Vec::new(), Vec::new());
        for lease in leases {
            match kept.remove(lease.name.as_str()) {
                Some(stream) => clients.extend(Client::new(stream, lease)),
                // Nobody is there who could renew it, and nobody else is to have it.
                None if lease.is_running() => {}
                None => free.push(lease),
            }
        }
        // The first is given first.
        free.reverse();
        Self {
            listener,
            free,
            clients,
            manager: Notifier::from_environment(),
            refused: None,
        }
    }

    /// The same leases, as another page has them; whose lease is gone is let go.
    pub fn renumber(&mut self, leases: &[View]) {
        let find = |lease: &mut View| {
            let same = leases.iter().find(|one| one.name == lease.name);
            same.map(|one| *lease = *one).is_some()
        };
        self.clients.retain_mut(|client| find(&mut client.lease));
        let is_free = |lease: &&View| {
            let held = self.clients.iter().any(|one| one.lease.name == lease.name);
            !held && !lease.is_running()
        };
        // The first is given first.
        self.free = leases.iter().filter(is_free).copied().rev().collect();
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        let all = self.listener.iter().map(AsFd::as_fd).chain(clients);
        all.map(|fd| PollFd::new(fd, PollFlags::POLLIN))
    }

    /// Connections for which there was no lease since this was asked last, and whose the last of them was.
    pub fn take_refused(&mut self) -> Option<(u64, u32)> {
        self.refused.take()
    }

    /// Takes all that has come in: for each lease that somebody spoke of, what.
    pub fn turn(&mut self) -> Vec<(View, Spoke)> {
        let mut spoke = Vec::new();
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let Some(lease) = self.free.pop() else {
                let (count, _) = self.refused.unwrap_or_default();
                let uid = Peer::of(&stream, None).map_or(u32::MAX, |peer| peer.uid);
                self.refused = Some((count.saturating_add(1), uid));
                continue;
            };
            let lease = View {
                connection: Connection::None,
                ..lease
            };
            let Ok(client) = Client::new(stream, lease) else {
                self.free.push(lease);
                continue;
            };
            let name = lease.name.as_str();
            // What is left under that name, if its end could not be told.
            self.manager.forget(name);
            let kept = self.manager.keep(name, client.stream.as_fd());
            if let Err(errno) = kept {
                let text = "will not outlive this monitor";
                log::warn!("{name}: its connection {text}: {}", errno.desc());
            }
            spoke.push((lease, Spoke::Renews { is_closing: false }));
            self.clients.push(client);
        }
        let (free, manager) = (&mut self.free, &self.manager);
        self.clients.retain_mut(|client| {
            let (one, stays) = client.turn();
            spoke.extend(one.map(|one| (client.lease, one)));
            if !stays {
                manager.forget(client.lease.name.as_str());
            }
            // What nobody can renew any more is given to nobody else: it lapses.
            if one == Some(Spoke::Releases) {
                free.push(client.lease);
            }
            stays
        });
        spoke
    }
}

/// Makes the socket, for root only.
fn listen(path: &Path) -> io::Result<UnixListener> {
    // Proxmox VE's own daemon may serve it.
    if is_listened_to(path) {
        let text = "another process listens on this socket: mask watchdog-mux.service";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Client {
    fn new(stream: UnixStream, lease: View) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            lease,
            is_closing: lease.connection == Connection::Closing,
        })
    }

    /// What it says, and whether it stays.
    fn turn(&mut self) -> (Option<Spoke>, bool) {
        let mut bytes = [0; READ];
        let mut spoke = None;
        // To its end, so that a last `V` and the end are one.
        for _ in 0..READS {
            let is_over = match self.stream.read(&mut bytes) {
                Ok(0) => true,
                Ok(len) => {
                    let last = len.checked_sub(1).and_then(|at| bytes.get(at));
                    self.is_closing = last == Some(&MAGIC);
                    spoke = Some(Spoke::Renews {
                        is_closing: self.is_closing,
                    });
                    continue;
                }
                Err(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ),
            };
            return match (is_over, self.is_closing) {
                (false, _) => (spoke, true),
                (true, true) => (Some(Spoke::Releases), false),
                (true, false) => (Some(Spoke::Gone), false),
            };
        }
        (spoke, true)
    }
}

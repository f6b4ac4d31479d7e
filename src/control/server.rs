// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: a request line in, one JSON line out, close.
//!
//! In: `status` and `guests` from root and one group, `ack UUID` and `close UUID` from root.
//! Out: the answer, or `{"error": ...}`. Clients are untrusted: a request is at most 256
//! bytes and must come within 2 s, and so must the reading of the answer; at most 32 are
//! served at once. So the memory stays bounded whatever they do: 32 requests, and 32
//! answers. Must never wait for a client.
//!
//! # Who gets in, and who gives way
//!
//! The socket's mode (0660) keeps strangers out of connect(2). One that got in all the same
//! (before the mode was set, or by the gid of a group that is not the configured one) is told
//! so at once by its credentials and never takes a place.
//!
//! That leaves root and the members of the group. When all places are taken, the user with
//! the most connections loses its oldest, so that one user's flood, however large, takes no
//! place from another's single request; root's give way to root only. Within one user the newest stay; as each is looked
//! at in the round that accepts it, a request that came with its connection is answered
//! even then.

use crate::control::peer::{Peer, Progress, RequestLine, gid_of, gives_way, line};
use crate::control::status::{Sources, gather};
use crate::event::Uuid;
use crate::guests::{Desk, DeskError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest request, bytes.
const MAX_REQUEST: usize = 256;
/// Clients served at once.
const MAX_CLIENTS: usize = 32;
/// How long a client may take for its request and for reading its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the server waits at most before it looks whether to end, milliseconds.
const TICK_MS: u16 = 500;

/// Kind a request may be answered from.
pub struct Context<'a> {
    /// Where status comes from.
    pub sources: Sources<'a>,
    /// Where guests are known.
    pub desk: &'a dyn Desk,
    /// The group that may ask, by [`gid_of`]; none: root only.
    pub group: Option<u32>,
}

/// Why a request is not answered.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

/// Kind was done.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Acknowledged(Uuid),
    Closed(Uuid),
}

/// Binds the socket at `path`, mode 0660, given to `group` where that exists, replacing a
/// dead one that an earlier daemon left.
///
/// # Errors
/// The errno of making the directory or the socket; `AddrInUse` when a daemon answers
/// there, `AlreadyExists` when something else than a socket is there.
pub fn bind(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if is_listened_to(path) {
        let text = "another daemon listens on this socket";
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
fn is_listened_to(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), &UnixAddr::new(path)?));
    matches!(connected, Ok(()) | Err(Errno::EAGAIN))
}

struct Client {
    stream: UnixStream,
    peer: Peer,
    request: RequestLine,
    answer: VecDeque<u8>,
    deadline: Instant,
}

enum State {
    Open,
    Done,
}

/// Serves until the kicker has ended.
pub fn run(listener: &UnixListener, context: &Context<'_>) {
    let mut clients: VecDeque<Client> = VecDeque::new();
    while !context.sources.ledger.ended.load(Ordering::Relaxed) {
        wait(listener, &clients);
        accept(listener, &mut clients, context.group);
        let now = Instant::now();
        clients.retain_mut(|client| {
            now < client.deadline && matches!(client.advance(context), Ok(State::Open))
        });
    }
}

fn wait(listener: &UnixListener, clients: &VecDeque<Client>) {
    let mut fds = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    fds.extend(clients.iter().map(|client| {
        let flags = if client.answer.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        };
        PollFd::new(client.stream.as_fd(), flags)
    }));
    // An interrupted or failed wait only makes the round come early.
    let _ = poll(&mut fds, PollTimeout::from(TICK_MS));
}

fn accept(listener: &UnixListener, clients: &mut VecDeque<Client>, group: Option<u32>) {
    // At most as many as are served at once, so that a flood cannot keep us here, and so
    // that none of this round gives way before it was looked at.
    for _ in 0..MAX_CLIENTS {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        let peer = match Peer::of(&stream, group) {
            Ok(peer) if peer.may_ask() => peer,
            _ => {
                // It fits into any socket's buffer; what does not is not missed.
                let _ = stream.write(&refuse(NOT_ALLOWED));
                continue;
            }
        };
        if clients.len() >= MAX_CLIENTS {
            let uids: Vec<u32> = clients.iter().map(|client| client.peer.uid).collect();
            let Some(index) = gives_way(&uids, peer.uid) else {
                let _ = stream.write(&refuse(FULL));
                continue;
            };
            clients.remove(index);
        }
        clients.push_back(Client {
            stream,
            peer,
            request: RequestLine::new(MAX_REQUEST),
            answer: VecDeque::new(),
            deadline: Instant::now() + PATIENCE,
        });
    }
}

impl Client {
    /// Reads or writes as far as it goes without waiting.
    fn advance(&mut self, context: &Context<'_>) -> io::Result<State> {
        if self.answer.is_empty() {
            let answer = match self.request.read(&mut self.stream)? {
                Progress::Waiting => return Ok(State::Open),
                Progress::Closed => return Ok(State::Done),
                Progress::TooLong => refuse("the request is too long"),
                Progress::Line(request) => answer(&request, self.peer, context),
            };
            self.answer = answer.into();
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<State> {
        while !self.answer.is_empty() {
            match self.stream.write(self.answer.as_slices().0) {
                Ok(n) => drop(self.answer.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(State::Open);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(State::Done)
    }
}

const NOT_ALLOWED: &str = "not allowed: only root and the configured group may ask";
const FULL: &str = "too many requests at once: try again later";
const ROOT_ONLY: &str = "not allowed: only root may acknowledge or close an alarm";
const UNKNOWN: &str =
    "unknown request: this daemon knows `status`, `guests`, `ack UUID` and `close UUID`";

fn answer(request: &[u8], peer: Peer, context: &Context<'_>) -> Vec<u8> {
    let request = std::str::from_utf8(request).unwrap_or_default();
    let (word, operand) = match request.split_once(' ') {
        Some((word, operand)) => (word, Some(operand)),
        None => (request, None),
    };
    let desk = context.desk;
    match (word, operand) {
        ("status", None) => line(&gather(&context.sources)),
        ("guests", None) => line(&desk.report()),
        ("ack", Some(uuid)) => order(uuid, peer, Done::Acknowledged, |uuid| {
            desk.acknowledge(uuid, peer.uid)
        }),
        ("close", Some(uuid)) => order(uuid, peer, Done::Closed, |uuid| desk.close(uuid, peer.uid)),
        _ => refuse(UNKNOWN),
    }
}

/// Has an order carried out if the peer may give it.
fn order(
    uuid: &str,
    peer: Peer,
    done: fn(Uuid) -> Done,
    act: impl FnOnce(Uuid) -> Result<(), DeskError>,
) -> Vec<u8> {
    if !peer.may_change() {
        return refuse(ROOT_ONLY);
    }
    match uuid.parse::<Uuid>() {
        Err(error) => refuse(&format!("not a UUID: {error}")),
        Ok(uuid) => match act(uuid) {
            Ok(()) => line(&done(uuid)),
            Err(error) => refuse(&error.to_string()),
        },
    }
}

fn refuse(error: &str) -> Vec<u8> {
    line(&Refusal { error })
}

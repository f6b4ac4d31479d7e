// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: a request line in, one JSON line out, close.
//!
//! Anybody who can open the socket may ask (its mode is 0660, for root and one group).
//! Clients are untrusted: a request is at most 256 bytes and must come within
//! 2 s; at most 32 are served at once, the oldest gives way. So the
//! memory stays bounded whatever they do, and one that stalls delays no other.

use crate::guests::names::Names;
use crate::ledger::Ledger;
use crate::status::{Armed, gather};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
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

/// What a request may be answered from.
#[derive(Debug)]
pub struct Context<'a> {
    /// What does not change.
    pub armed: &'a Armed,
    /// What does.
    pub ledger: &'a Ledger,
    /// The domains' names.
    pub names: &'a Names,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
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
    if UnixStream::connect(path).is_ok() {
        let text = "another daemon answers on this socket";
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
    if let Ok(Some(group)) = nix::unistd::Group::from_name(group) {
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    answer: VecDeque<u8>,
    deadline: Instant,
}

enum Progress {
    Waiting,
    Done,
}

/// Serves until the kicker has ended.
pub fn run(listener: &UnixListener, context: &Context<'_>) {
    let mut clients: VecDeque<Client> = VecDeque::new();
    while !context.ledger.ended.load(Ordering::Relaxed) {
        wait(listener, &clients);
        accept(listener, &mut clients);
        let now = Instant::now();
        clients.retain_mut(|client| {
            now < client.deadline && matches!(client.advance(context), Ok(Progress::Waiting))
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

fn accept(listener: &UnixListener, clients: &mut VecDeque<Client>) {
    // At most as many as are served at once, so that a flood cannot keep us here.
    for _ in 0..MAX_CLIENTS {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        if clients.len() >= MAX_CLIENTS {
            clients.pop_front();
        }
        clients.push_back(Client {
            stream,
            request: Vec::new(),
            answer: VecDeque::new(),
            deadline: Instant::now() + PATIENCE,
        });
    }
}

impl Client {
    /// Reads or writes as far as it goes without waiting.
    fn advance(&mut self, context: &Context<'_>) -> io::Result<Progress> {
        if self.answer.is_empty() {
            let mut bytes = [0; MAX_REQUEST];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Progress::Done),
                Ok(n) => self.request.extend(bytes.iter().take(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Waiting);
                }
                Err(error) => return Err(error),
            }
            match self.request.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    let request = self.request.get(..end).unwrap_or_default();
                    self.answer = answer(request, context).into();
                }
                None if self.request.len() >= MAX_REQUEST => {
                    self.answer = refuse("the request is too long").into();
                }
                None => return Ok(Progress::Waiting),
            }
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<Progress> {
        while !self.answer.is_empty() {
            match self.stream.write(self.answer.as_slices().0) {
                Ok(n) => drop(self.answer.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Waiting);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::Done)
    }
}

fn answer(request: &[u8], context: &Context<'_>) -> Vec<u8> {
    match request {
        b"status" => line(&gather(context.armed, context.ledger, context.names)),
        _ => refuse("unknown request: this daemon knows `status`"),
    }
}

fn refuse(error: &str) -> Vec<u8> {
    line(&Refusal { error })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value)
        .unwrap_or_else(|_| br#"{"error":"the answer cannot be encoded"}"#.to_vec());
    bytes.push(b'\n');
    bytes
}

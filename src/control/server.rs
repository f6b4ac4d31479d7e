// SPDX-License-Identifier: GPL-2.0-only
//! The control socket's server: a request line in, one JSON line out, close.
//!
//! In: [`Request`]s; those that change something from root only, events from whom they are of. Out: the answer, or a
//! [`Refusal`]. Clients are untrusted: a request has a largest length, beyond which it is read and dropped, and must come within 2 s,
//! and so must the reading of the answer; at most 32 are served at once ([`super::client_pool`]).
//! So the memory stays bounded whatever they do. Must never wait for a client.

use crate::control::client_pool::{self, ClientPool};
use crate::control::peer::{Peer, Progress, RequestLine};
use crate::control::protocol::{BUSY, Done, MAX_REQUEST, Refusal, Request, Told, line};
use crate::control::status::Status;
use crate::control::tell::Tellers;
use crate::guests::GuestRequests;
use crate::state::history::Resets;
use nix::poll::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// Clients served at once.
const MAX_CLIENTS: usize = 32;
/// How long a client may take for its request and for reading its answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that one read drops of a request that is too long, and reads that one turn makes.
const DROPPED: usize = 4_096;
const DROPS: usize = 16;

const REFUSALS: [&str; 2] = [
    "not allowed: only root and the configured group may ask",
    BUSY,
];
const ROOT_ONLY: &str = "not allowed: only root may acknowledge or close an alarm";
const MONITOR_ONLY: &str =
    "xenwarden-monitor alone knows that: here are `guests`, `ack UUID` and `close UUID`";
const NOT_YOURS: &str = "not allowed: this user may not tell of such events";

/// What a request may be answered from.
pub struct Context<'a> {
    /// Where guests are known.
    pub guests: &'a dyn GuestRequests,
    /// What the monitor knows besides; none: this is another process of ours.
    pub monitor: Option<MonitorContext<'a>>,
    /// The group that may ask, by [`gid_of`](super::peer::gid_of); none: root only.
    pub group: Option<u32>,
}

/// What the monitor alone answers.
pub struct MonitorContext<'a> {
    /// Gathers the status.
    pub status: &'a dyn Fn() -> Status,
    /// The last resets of the host.
    pub resets: &'a Resets,
    /// Who may tell of events.
    pub tellers: &'a Tellers,
    /// Publishes one, and gives its number; or says why not.
    pub publish: &'a dyn Fn(Told) -> Result<u64, Refusal>,
}

struct Client {
    stream: UnixStream,
    peer: Peer,
    request: RequestLine,
    answer: VecDeque<u8>,
    /// The request was too long. What is left of it is read: a socket that is closed with bytes unread resets the
    /// connection (unix(7)), and the answer would be lost with it.
    is_too_long: bool,
    deadline: Instant,
}

impl client_pool::Client for Client {
    fn uid(&self) -> u32 {
        self.peer.uid
    }

    fn is_idle(&self) -> bool {
        false
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let flags = if self.answer.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        };
        PollFd::new(self.stream.as_fd(), flags)
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }
}

enum State {
    Open,
    Done,
}

/// Serves until `stop` is readable or hung up.
pub fn run(listener: &UnixListener, context: &Context<'_>, stop: &impl AsFd) {
    let refuse = |why: &str| line(&Refusal::new(why));
    let mut pool = ClientPool::new(MAX_CLIENTS, context.group, refuse, REFUSALS);
    while !pool.wait(listener, stop.as_fd(), false) {
        pool.accept(listener, |stream, peer| Client {
            stream,
            peer,
            request: RequestLine::new(MAX_REQUEST),
            answer: VecDeque::new(),
            is_too_long: false,
            deadline: Instant::now() + TIMEOUT,
        });
        let now = Instant::now();
        pool.clients.retain_mut(|client| {
            now < client.deadline && matches!(client.advance(context), Ok(State::Open))
        });
    }
}

impl Client {
    /// Reads or writes as far as it goes without waiting.
    fn advance(&mut self, context: &Context<'_>) -> io::Result<State> {
        if self.is_too_long && self.answer.is_empty() {
            return self.drop_rest();
        }
        if self.answer.is_empty() {
            let answer = match self.request.read(&mut self.stream)? {
                Progress::Waiting => return Ok(State::Open),
                Progress::Closed => return Ok(State::Done),
                Progress::TooLong => {
                    self.is_too_long = true;
                    Err(Refusal::new("the request is too long"))
                }
                Progress::Line(request) => {
                    let request = std::str::from_utf8(&request).unwrap_or_default();
                    let request = request.parse();
                    request.and_then(|request| answer(request, self.peer, context))
                }
            };
            self.answer = answer.unwrap_or_else(|refusal| line(&refusal)).into();
        }
        match self.write()? {
            State::Done if self.is_too_long => {
                self.stream.shutdown(Shutdown::Write)?;
                Ok(State::Open)
            }
            state => Ok(state),
        }
    }

    fn drop_rest(&mut self) -> io::Result<State> {
        let mut dropped = [0; DROPPED];
        for _ in 0..DROPS {
            match self.stream.read(&mut dropped) {
                Ok(0) => return Ok(State::Done),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(State::Open)
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

fn answer(request: Request, peer: Peer, context: &Context<'_>) -> Result<Vec<u8>, Refusal> {
    if request.changes() && !peer.may_change() && !is_of_pool(&request, peer, context) {
        return Err(Refusal::new(ROOT_ONLY));
    }
    let guests = context.guests;
    let done = match request {
        Request::Guests => return Ok(line(&guests.report())),
        Request::Ack(uuid) => guests
            .acknowledge(uuid, peer.uid)
            .map(|()| Done::Acknowledged(uuid)),
        Request::Close(uuid) => guests.close(uuid, peer.uid).map(|()| Done::Closed(uuid)),
        Request::Elsewhere(uuid, expiries) => guests
            .fed_elsewhere(uuid, expiries)
            .map(|()| Done::Closed(uuid)),
        Request::Status | Request::Why | Request::Tell(_) => {
            let monitor = context.monitor.as_ref();
            let monitor = monitor.ok_or_else(|| Refusal::new(MONITOR_ONLY))?;
            return answer_of_monitor(request, peer, monitor);
        }
    };
    done.map(|done| line(&done)).map_err(Refusal::new)
}

/// What is known from other hosts: that somebody acknowledged an alarm there, or that the guest feeds there. It ends no
/// alarm of a guest that is on this one.
fn is_of_pool(request: &Request, peer: Peer, context: &Context<'_>) -> bool {
    let monitor = context.monitor.as_ref();
    matches!(request, Request::Ack(_) | Request::Elsewhere(..))
        && monitor.is_some_and(|monitor| monitor.tellers.may_settle(peer.uid))
}

fn answer_of_monitor(
    request: Request,
    peer: Peer,
    monitor: &MonitorContext<'_>,
) -> Result<Vec<u8>, Refusal> {
    match request {
        Request::Status => Ok(line(&(monitor.status)())),
        Request::Why => Ok(line(monitor.resets)),
        Request::Tell(told) if monitor.tellers.may_tell(peer.uid, &told) => {
            (monitor.publish)(*told).map(|number| line(&Done::Told(number)))
        }
        _ => Err(Refusal::new(NOT_YOURS)),
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The pool's clients: who asks once, and who follows events.
//!
//! In: connections, which are not trusted. Out: answers; of events those after the client's cursor, from what is known.
//! There is no queue for a follower: it has a place in each host's log, and is given what comes after as it reads. One that is too slow
//! loses nothing while that is kept, and is told what it missed otherwise. Promises: at most [`MAX_CLIENTS`], each with
//! bounded memory; nobody waits for one.

use super::fencer::Fencer;
use super::node::Node;
use super::protocol::{Done, MAX_REQUEST, Notice, PoolStatus, Request, Subscription};
use super::record::{At, HostId, Position};
use super::store::Store;
use super::told::{self, Filter};
use crate::control::peer::{Peer, Progress, RequestLine};
use crate::control::protocol::{BUSY, Refusal, line};
use crate::event::Uuid;
use crate::fencing::told::{EACH_S, Progress as Fenced, Request as FencingRequest};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// Clients at once.
pub const MAX_CLIENTS: usize = 128;
/// How long a request may take to come, and an answer to be read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that wait for a follower before it is given more.
const FULL: usize = 64 << 10;
/// Records of one host that one round looks at for a follower.
const LOOK: usize = 512;

/// What an answer is made of.
#[derive(Debug)]
pub struct Context<'a> {
    /// The member.
    pub node: &'a mut Node,
    /// This host's part in fencing.
    pub fencer: &'a mut Fencer,
    /// Why it is not on the ring.
    pub trouble: Option<&'a str>,
    /// What it says of itself but for that.
    pub status: PoolStatus,
    /// Now, ns of CLOCK_MONOTONIC.
    pub now: u64,
}

#[derive(Debug)]
enum State {
    Asking(RequestLine),
    /// Closed once all is written.
    Answered,
    /// Answered once this host's record of that place is in its state.
    Waits(Position, Uuid),
    Follows(Box<Follower>),
    /// Told how far the order for this node is, at that time again or once it changes.
    Fences(u32, Instant, Option<Fenced>),
}

#[derive(Debug)]
struct Follower {
    filter: Filter,
    cursor: BTreeMap<HostId, Position>,
    /// It is told what it missed also of hosts that it has not named.
    tells: bool,
    follow: bool,
    /// The store's changes that it has seen.
    seen: Option<u64>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    peer: Peer,
    state: State,
    out: Vec<u8>,
    deadline: Instant,
    writes: bool,
    /// It waits, or has waited, for the order for this node.
    fences: Option<u32>,
}

/// All of them.
#[derive(Debug)]
pub struct Clients {
    listener: UnixListener,
    group: Option<u32>,
    all: BTreeMap<u64, Client>,
    next: u64,
}

impl Clients {
    /// At this listener, which does not block; tokens of their descriptors are `first` and higher.
    #[must_use]
    pub fn new(listener: UnixListener, group: Option<u32>, first: u64) -> Self {
        Self {
            listener,
            group,
            all: BTreeMap::new(),
            next: first,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Takes who has come.
    pub fn accept(&mut self, poller: &Epoll) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let peer = Peer::of(&stream, self.group);
            let Ok(peer) = peer.and_then(|peer| stream.set_nonblocking(true).map(|()| peer)) else {
                continue;
            };
            let refusal = match peer.may_ask() {
                false => Some("not allowed: only root and the configured group may ask"),
                true if self.all.len() >= MAX_CLIENTS => Some(BUSY),
                true => None,
            };
            if let Some(why) = refusal {
                let _ = stream.write(&line(&Refusal::new(why)));
                continue;
            }
            let token = self.next;
            self.next = self.next.saturating_add(1);
            if poller
                .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token))
                .is_err()
            {
                continue;
            }
            let client = Client {
                stream,
                peer,
                state: State::Asking(RequestLine::new(MAX_REQUEST)),
                out: Vec::new(),
                deadline: Instant::now() + TIMEOUT,
                writes: false,
                fences: None,
            };
            self.all.insert(token, client);
        }
    }

    /// Gives everybody what there is, as far as it goes without waiting. `ready`: who sent something, or has left.
    pub fn serve(&mut self, ready: &[u64], poller: &Epoll, context: &mut Context<'_>) {
        let now = Instant::now();
        self.all.retain(|token, client| {
            let stays = client.serve(ready.contains(token), context, now);
            let stays = stays.unwrap_or(false);
            if let (false, Some(node)) = (stays, client.fences) {
                context.fencer.leave(node);
            }
            if stays && client.writes == client.out.is_empty() {
                client.writes = !client.out.is_empty();
                let mut flags = EpollFlags::EPOLLIN;
                flags.set(EpollFlags::EPOLLOUT, client.writes);
                let mut event = EpollEvent::new(flags, *token);
                return poller.modify(&client.stream, &mut event).is_ok();
            }
            stays
        });
    }
}

impl Client {
    /// Whether it stays.
    fn serve(&mut self, ready: bool, context: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        if ready && !self.read(context)? {
            return Ok(false);
        }
        if let State::Waits(position, guest) = self.state {
            let own = context.node.host();
            if context.node.store().position(own) >= position {
                self.answer(line(&Done::Acknowledged(guest)));
            } else if now >= self.deadline {
                self.answer(line(&Refusal::new(
                    "it is not on this host's disk yet: it may still come to be",
                )));
            }
        }
        self.fence(context, now);
        loop {
            let mut ended = false;
            if let State::Follows(follower) = &mut self.state {
                ended = self.out.len() < FULL && follower.fill(context.node.store(), &mut self.out);
            }
            if ended {
                self.state = State::Answered;
                self.deadline = now + TIMEOUT;
            }
            if self.out.is_empty() {
                break;
            }
            if !self.write()? {
                break;
            }
        }
        if matches!(self.state, State::Answered) && self.out.is_empty() && !self.lingers() {
            return Ok(false);
        }
        Ok(match &self.state {
            State::Answered => now < self.deadline,
            State::Asking(_) => now < self.deadline,
            State::Waits(..) | State::Follows(_) => true,
            // Lines that nobody reads are no reason to keep it.
            State::Fences(..) => self.out.len() < FULL,
        })
    }

    /// Tells one that fences how far that is.
    fn fence(&mut self, context: &mut Context<'_>, now: Instant) {
        let State::Fences(node, again, told) = self.state else {
            return;
        };
        match context.fencer.progress(node) {
            Ok(progress @ Fenced::Down(_)) => {
                self.out.extend(line(&progress));
                self.state = State::Answered;
                self.deadline = now + TIMEOUT;
            }
            Ok(progress) => {
                let waits = |progress: &Fenced| match progress {
                    Fenced::Waits { wait, .. } => Some(*wait),
                    Fenced::Down(_) => None,
                };
                let is_new = told
                    .as_ref()
                    .is_none_or(|told| waits(told) != waits(&progress));
                if is_new || now >= again {
                    self.out.extend(line(&progress));
                    let again = now + Duration::from_secs(EACH_S) / 2;
                    self.state = State::Fences(node, again, Some(progress));
                }
            }
            Err(refusal) => {
                self.out.extend(line(&refusal));
                self.state = State::Answered;
                self.deadline = now + TIMEOUT;
            }
        }
    }

    /// Ends this side, and takes what was not read until the client ends its own: to close before would be a reset, and the
    /// answer lost with it (unix(7), ECONNRESET). Whether it has not.
    fn lingers(&mut self) -> bool {
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut bytes = [0; 4_096];
        for _ in 0..16 {
            match self.stream.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(0) | Err(_) => return false,
            }
        }
        true
    }

    /// Whether all was written.
    fn write(&mut self) -> io::Result<bool> {
        match self.stream.write(&self.out) {
            Ok(count) => {
                self.out.drain(..count);
                Ok(self.out.is_empty())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it is still there.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        loop {
            let State::Asking(request) = &mut self.state else {
                return self.is_there();
            };
            match request.read(&mut self.stream)? {
                Progress::Waiting => {}
                Progress::Closed => return Ok(false),
                Progress::TooLong => {
                    self.answer(line(&Refusal::new("the request is too long")));
                    return Ok(true);
                }
                Progress::Line(request) => {
                    self.asked(&request, context);
                    return Ok(true);
                }
            }
            // There may be more of the line; a read that finds nothing ends it.
            let mut byte = [0];
            let peeked = nix::sys::socket::recv(
                std::os::fd::AsRawFd::as_raw_fd(&self.stream),
                &mut byte,
                nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            );
            if peeked.is_err() {
                return Ok(true);
            }
        }
    }

    /// What it still sends is of no interest, its end is. One that has only ended its own side still reads.
    fn is_there(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 256];
        match self.stream.read(&mut bytes) {
            Ok(0) => Ok(matches!(self.state, State::Waits(..) | State::Answered)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn answer(&mut self, answer: Vec<u8>) {
        self.out = answer;
        self.state = State::Answered;
        self.deadline = Instant::now() + TIMEOUT;
    }

    fn asked(&mut self, request: &[u8], context: &mut Context<'_>) {
        let request = std::str::from_utf8(request).unwrap_or_default().parse();
        match request {
            Ok(Request::Hosts) => {
                let mut report = context.node.hosts_report(context.now);
                report.trouble = context.trouble.map(str::to_owned);
                self.answer(line(&report));
            }
            Ok(Request::Guests) => self.answer(line(&context.node.guests_report(context.now))),
            Ok(Request::Status) => {
                context.status.hash = context.node.store_mut().hash();
                self.answer(line(&context.status));
            }
            Ok(Request::Ack(_)) if !self.peer.may_change() => {
                let why = "not allowed: only root may acknowledge an alarm";
                self.answer(line(&Refusal::new(why)));
            }
            Ok(Request::Ack(guest)) => match context.node.acknowledge(guest, self.peer.uid) {
                Ok(position) => {
                    self.state = State::Waits(position, guest);
                    self.deadline = Instant::now() + TIMEOUT;
                }
                Err(why) => self.answer(line(&Refusal::new(why))),
            },
            Ok(Request::Fencing(FencingRequest::Power(host))) => {
                let powers = context.fencer.powers(host.as_deref());
                self.answer(powers.map_or_else(|why| line(&why), |powers| line(&powers)));
            }
            Ok(Request::Fencing(FencingRequest::Fence(_))) if !self.peer.may_change() => {
                let why = "not allowed: only root may fence a host";
                self.answer(line(&Refusal::new(why)));
            }
            Ok(Request::Fencing(FencingRequest::Fence(host))) => {
                match context.fencer.order(&host) {
                    Ok(node) => {
                        self.fences = Some(node);
                        self.state = State::Fences(node, Instant::now(), None);
                    }
                    Err(why) => self.answer(line(&why)),
                }
            }
            Ok(Request::Events(subscription)) => {
                let follower = Follower::new(subscription, context.node.store());
                self.state = State::Follows(Box::new(follower));
            }
            Err(refusal) => self.answer(line(&refusal)),
        }
    }
}

impl Follower {
    fn new(subscription: Subscription, store: &Store) -> Self {
        let Subscription {
            after,
            follow,
            kinds,
            guest,
        } = subscription;
        let tells = after.is_some();
        let cursor = match after {
            Some(after) => after.into_iter().map(|at| (at.host, at.position)).collect(),
            None if follow => store.positions(),
            None => BTreeMap::new(),
        };
        Self {
            filter: Filter { kinds, guest },
            cursor,
            tells,
            follow,
            seen: None,
        }
    }

    /// Adds what comes next; whether this was all that it asked for.
    fn fill(&mut self, store: &Store, out: &mut Vec<u8>) -> bool {
        if self.seen == Some(store.changes()) {
            return false;
        }
        let mut all = true;
        for (host, log) in store.hosts() {
            let cursor = self.cursor.entry(host).or_default();
            let base = log.base().position;
            if *cursor < base {
                *cursor = base;
                if self.tells {
                    let at = At {
                        host,
                        position: base,
                    };
                    out.extend(line(&Notice::MissedUpto(at)));
                }
            }
            for (count, stored) in log.after(*cursor).into_iter().flatten().enumerate() {
                if count >= LOOK || out.len() >= FULL {
                    all = false;
                    break;
                }
                *cursor = stored.position;
                let event = told::event(store, stored);
                if let Some(event) = event.filter(|event| self.filter.wants(event)) {
                    out.extend(line(&event));
                }
            }
        }
        if all {
            self.seen = Some(store.changes());
        }
        all && !self.follow
    }
}

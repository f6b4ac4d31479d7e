// SPDX-License-Identifier: GPL-2.0-only
//! The pool's clients: who asks once, and who follows events.
//!
//! In: connections, which are not trusted. Out: answers; of events those after the client's cursor, from what is known.
//! There is no queue for a follower: it has a place in each host's log, and is given what comes after as it reads. One that is too slow
//! loses nothing while that is kept, and is told what it missed otherwise. Promises: at most [`MAX_CLIENTS`] and [`ROOTS`] more of
//! root's, each with bounded memory; nobody waits for one. Followers never take all places, so that who fences finds one.

use super::fencer::Fencer;
use super::follower::{FULL, Follower};
use super::node::Node;
use super::promises::Promises;
use super::protocol::{Done, MAX_REQUEST, PoolStatus, Request};
use super::record::Position;
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
/// Those of them that follow events: all others end by themselves, within seconds or with what they wait for.
pub const MAX_FOLLOWERS: usize = 96;
/// Places for root alone when all others are taken: fence_xenwarden's.
pub const ROOTS: usize = 16;
/// How long a request may take to come, and an answer to be read.
const TIMEOUT: Duration = Duration::from_secs(5);

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
    /// What hosts promise.
    pub promises: &'a Promises,
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
struct Client {
    stream: UnixStream,
    peer: Peer,
    state: State,
    out: Vec<u8>,
    deadline: Instant,
    writes: bool,
    /// It waits, or has waited, for the order for this node.
    fences: Option<u32>,
    /// There is a place for one more that follows events.
    may_follow: bool,
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
                true if self.all.len() >= most(peer) => Some(BUSY),
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
                may_follow: false,
            };
            self.all.insert(token, client);
        }
    }

    /// Gives everybody what there is, as far as it goes without waiting. `ready`: who sent something, or has left.
    pub fn serve(&mut self, ready: &[u64], poller: &Epoll, context: &mut Context<'_>) {
        let now = Instant::now();
        let mut followers = self.all.values().filter(|client| client.follows()).count();
        self.all.retain(|token, client| {
            client.may_follow = followers < MAX_FOLLOWERS;
            let before = client.follows();
            let served = client.serve(ready.contains(token), context, now);
            followers = followers.saturating_add(usize::from(!before && client.follows()));
            let stays = served.unwrap_or(false) && client.polls(*token, poller);
            if let (false, Some(node)) = (stays, client.fences) {
                context.fencer.leave(node);
            }
            stays
        });
    }
}

/// How many clients there may be already for this one to have a place.
fn most(peer: Peer) -> usize {
    match peer.may_change() {
        true => MAX_CLIENTS.saturating_add(ROOTS),
        false => MAX_CLIENTS,
    }
}

impl Client {
    fn follows(&self) -> bool {
        matches!(self.state, State::Follows(_))
    }

    /// Has the loop woken for what it does next; whether that is so.
    fn polls(&mut self, token: u64, poller: &Epoll) -> bool {
        if self.writes != self.out.is_empty() {
            return true;
        }
        self.writes = !self.out.is_empty();
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, self.writes);
        let mut event = EpollEvent::new(flags, token);
        poller.modify(&self.stream, &mut event).is_ok()
    }

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
            Ok(progress @ Fenced::Down(how)) => {
                context.node.fenced(node, how);
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
                for host in &mut report.hosts {
                    context.promises.tell(host, context.now);
                }
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
            Ok(Request::Events(_)) if !self.may_follow => {
                self.answer(line(&Refusal::new(BUSY)));
            }
            Ok(Request::Events(subscription)) => {
                let follower = Follower::new(subscription, context.node.store());
                self.state = State::Follows(Box::new(follower));
            }
            Err(refusal) => self.answer(line(&refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fencer::Settings;
    use super::super::node::Identity;
    use super::super::ring::Counted;
    use super::super::store::Store;
    use super::super::wire::Message;
    use super::*;
    use crate::config::leases::LeaseName;
    use crate::fencing::Beat;
    use crate::fencing::member::{Say, Terms};
    use crate::sys::clock::Monotonic;
    use crate::sys::corosync::Votes;
    use nix::sys::epoll::EpollCreateFlags;
    use std::path::Path;

    /// The part in fencing of the first of three hosts, of which all are there.
    fn fencer(directory: &Path) -> Fencer {
        let settings = Settings {
            terms: Terms::default(),
            lease: LeaseName::default(),
            page: directory.join("leases"),
            kept: directory.join("fencing.json"),
        };
        let own = Uuid::from_u128(1);
        let mut fencer = Fencer::new(own, "host1", settings).expect("nothing is kept");
        fencer.joined(1);
        fencer.nodes(&[1, 2, 3]);
        fencer.members(&[1, 2, 3]);
        let votes = Votes {
            quorate: true,
            expected_votes: 3,
            total_votes: 3,
            quorum: 2,
            ..Votes::default()
        };
        let counted = Counted {
            votes,
            of: [(1, 1), (2, 1), (3, 1)].into(),
            asked: Monotonic::now(),
            regrouping_ms: Some(2_000),
        };
        fencer.votes(&counted, true);
        for node in [2, 3] {
            let beat = Beat {
                name: format!("host{node}"),
                boot: Uuid::from_u128(u128::from(node)),
                sent: 1,
                up_ms: 100_000,
                ..Beat::default()
            };
            fencer.hear(node, &Say::Beat(beat));
        }
        fencer
    }

    /// Whether its next beat comes with an order.
    fn orders(fencer: &mut Fencer) -> bool {
        let next = Monotonic::now().0;
        std::thread::sleep(Duration::from_millis(1_100));
        fencer.tick(next.saturating_add(1_100_000_000));
        let mut ordered = false;
        while let Some(bytes) = fencer.next_message() {
            let message = Message::decode(&bytes).expect("a message").0;
            ordered |= matches!(message, Message::Fencing(Say::Order(_)));
        }
        ordered
    }

    #[test]
    fn an_order_is_withdrawn_with_its_client_however_that_goes() {
        for leaves in [true, false] {
            let name = format!("xenwarden-clients-{}-{leaves}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&directory).expect("a directory");
            let listener = UnixListener::bind(directory.join("sock")).expect("a socket");
            let mut clients = Clients::new(listener, None, 1);
            let mut fencer = fencer(&directory);
            let node = fencer.order("host2").expect("an order");
            assert!(orders(&mut fencer));
            let (mut stream, theirs) = UnixStream::pair().expect("a pair");
            stream.set_nonblocking(true).expect("set");
            // It does not read, so that the loop is to be told to wait for room; which a descriptor that was never added refuses.
            while stream.write(&[b'x'; 4_096]).is_ok() {}
            let theirs = Some(theirs).filter(|_| !leaves);
            let client = Client {
                stream,
                peer: Peer {
                    uid: 0,
                    in_group: false,
                },
                state: State::Fences(node, Instant::now(), None),
                out: Vec::new(),
                deadline: Instant::now() + TIMEOUT,
                writes: false,
                fences: Some(node),
                may_follow: false,
            };
            clients.all.insert(1, client);
            let identity = Identity {
                host: Uuid::from_u128(1),
                name: "host1".to_owned(),
                boot_id: "boot".to_owned(),
            };
            let mut node = Node::new(identity, Store::new(10), Vec::new(), false);
            let mut context = Context {
                node: &mut node,
                fencer: &mut fencer,
                trouble: None,
                status: PoolStatus::default(),
                promises: &Promises::default(),
                now: 1,
            };
            let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
            clients.serve(&[1], &poller, &mut context);
            drop(theirs);
            assert_eq!(clients.count(), 0, "leaves: {leaves}");
            assert!(!orders(&mut fencer), "leaves: {leaves}");
            let _ = std::fs::remove_dir_all(&directory);
        }
    }

    #[test]
    fn an_order_that_waits_for_room_on_the_ring_is_not_said_once_nobody_waits_for_it() {
        let name = format!("xenwarden-clients-{}-waits", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut fencer = fencer(&directory);
        let both = ["host2", "host3"].map(|host| fencer.order(host).expect("an order"));
        fencer.tick(Monotonic::now().0);
        fencer.leave(both[0]);
        let mut ordered = Vec::new();
        while let Some(bytes) = fencer.next_message() {
            if let Message::Fencing(Say::Order(order)) = Message::decode(&bytes).expect("one").0 {
                ordered.push(order.boot.node);
            }
        }
        assert_eq!(ordered, [both[1]]);
        let _ = std::fs::remove_dir_all(&directory);
    }
}

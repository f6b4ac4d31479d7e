// SPDX-License-Identifier: GPL-2.0-only
//! The event socket: one line of JSON asks, lines of events and notices answer.
//!
//! In: a [`Subscription`](crate::event::request::Subscription) from each client, events
//! from the bus. Out: the kept events that were asked for, then, to those who follow, new
//! ones. Root may subscribe, the daemon's own user, and whose effective or supplementary
//! groups have the socket's group; the socket's mode says so too, but somebody may have loosened it.
//!
//! Promises: one thread, which waits for no client; at most [`MAX_CLIENTS`], and a bounded
//! queue for each. A client that reads too slowly is told which event it lost first, and
//! dropped. One that has not asked within 2 s is closed. When all places are taken, the user
//! with the most loses one, as at the [`control`](crate::control::server) socket, and that client is
//! told so: nobody can keep others out, and nobody but root can take a place from root.
//!
//! The thread sleeps in poll(2). The bus writes a byte to a socket pair with each event
//! ([`Bus::attach_waking`]), so new events go out at once; a tick of half a second only
//! bounds how long a stop takes.

mod client;

use crate::control::peer::{Peer, gives_way, line};
use crate::event::Event;
use crate::event::bus::Bus;
use crate::event::request::Notice;
use client::Client;
use crossbeam_channel::{Receiver, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The name on the bus.
pub const NAME: &str = "events-socket";

/// Clients served at once.
pub const MAX_CLIENTS: usize = 64;
/// Clients taken in one round, so that a flood cannot keep the others waiting.
const ACCEPT: usize = 16;
/// Events taken in one round, likewise.
const TAKE: usize = 256;
/// The longest sleep.
const TICK: Duration = Duration::from_millis(500);

/// Kind the socket's server goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events that are kept for replay.
    pub keep: usize,
    /// The group that may subscribe, by [`gid_of`](crate::control::peer::gid_of); none: root only.
    pub group: Option<u32>,
}

/// The most recent events.
#[derive(Debug)]
pub(crate) struct Kept {
    events: VecDeque<Arc<Event>>,
    keep: usize,
    /// The number that the next event will have, as far as is known here.
    next_seq: u64,
}

impl Kept {
    fn add(&mut self, event: Arc<Event>) {
        self.next_seq = event.seq.saturating_add(1);
        if self.events.len() >= self.keep {
            self.events.pop_front();
        }
        if self.keep > 0 {
            self.events.push_back(event);
        }
    }

    /// The number of the oldest that is kept; of the next event where none is.
    fn oldest(&self) -> u64 {
        self.events.front().map_or(self.next_seq, |e| e.seq)
    }

    /// Those from number `seq` on.
    fn since(&self, seq: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|event| event.seq < seq);
        self.events.range(start..)
    }
}

struct Server<'a> {
    clients: VecDeque<Client>,
    kept: Kept,
    group: Option<u32>,
    bus: &'a Bus,
}

/// Serves until the queue ends or `stop` is set. `queue` and `woken` are from
/// [`Bus::attach_waking`]; the listener must not block.
pub fn run(
    listener: &UnixListener,
    queue: &Receiver<Arc<Event>>,
    mut woken: &UnixStream,
    settings: &Settings,
    bus: &Bus,
    stop: &AtomicBool,
) {
    let mut server = Server {
        clients: VecDeque::new(),
        kept: Kept {
            events: VecDeque::new(),
            keep: settings.keep,
            next_seq: bus.next_seq(),
        },
        group: settings.group,
        bus,
    };
    loop {
        let more = !queue.is_empty();
        server.wait(listener, woken, if more { Duration::ZERO } else { TICK });
        // Before the queue: an event that comes after this wakes the next wait.
        let mut bytes = [0; 1024];
        while matches!(woken.read(&mut bytes), Ok(n) if n == bytes.len()) {}
        let ended = server.take(queue) || stop.load(Ordering::Relaxed);
        server.accept(listener);
        server.advance();
        if ended {
            return;
        }
    }
}

impl Server<'_> {
    /// Sleeps until a client, a new one or an event needs something, or for `longest`. An interrupted or
    /// failed wait only makes the round come early.
    fn wait(&self, listener: &UnixListener, woken: &UnixStream, longest: Duration) {
        let mut fds = vec![
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.clients.iter().map(Client::poll_fd));
        let ms = PollTimeout::try_from(longest).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut fds, ms);
    }

    /// Takes new events; true when there will be no more.
    fn take(&mut self, queue: &Receiver<Arc<Event>>) -> bool {
        for _ in 0..TAKE {
            match queue.try_recv() {
                Ok(event) => {
                    let mut text = None;
                    let mut lost = 0;
                    for client in &mut self.clients {
                        lost += client.tell(&event, &mut text);
                    }
                    self.kept.add(event);
                    self.count(lost);
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
        false
    }

    fn count(&self, lost: u64) {
        if lost > 0 {
            self.bus.count_failed(NAME, lost);
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        for _ in 0..ACCEPT {
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let peer = match Peer::of(&stream, self.group) {
                Ok(peer) if peer.may_ask() => peer,
                _ => {
                    let why = "only root and the group of this socket may subscribe";
                    refuse(&stream, why);
                    continue;
                }
            };
            if !self.make_room(peer.uid) {
                refuse(
                    &stream,
                    "too many subscribers: close one or try again later",
                );
                continue;
            }
            let mut client = Client::new(stream, peer.uid);
            // Kind it asked already is answered before anybody can take its place.
            client.read_request(&self.kept);
            self.clients.push_back(client);
        }
    }

    /// Has a client give way to a new one of the user `uid`, where all places are taken: of
    /// whom [`gives_way`] says the oldest that has not asked for anything, or else the oldest.
    fn make_room(&mut self, uid: u32) -> bool {
        if self.clients.len() < MAX_CLIENTS {
            return true;
        }
        let uids: Vec<u32> = self.clients.iter().map(Client::uid).collect();
        let Some(oldest) = gives_way(&uids, uid) else {
            return false;
        };
        let loser = uids.get(oldest).copied();
        let is_idle = |client: &Client| Some(client.uid()) == loser && client.has_not_asked();
        let idle = self.clients.iter().position(is_idle);
        let Some(client) = self.clients.remove(idle.unwrap_or(oldest)) else {
            return false;
        };
        self.count(client.give_way());
        true
    }

    fn advance(&mut self) {
        let now = Instant::now();
        let mut lost = 0;
        let kept = &self.kept;
        self.clients.retain_mut(|client| {
            client.read_request(kept);
            lost += client.replay(kept);
            let done = client.write(now);
            lost += done.unwrap_or(0);
            done.is_none()
        });
        self.count(lost);
    }
}

/// The notice fits into a new socket's empty buffer, or is not told. Kind the client asked
/// already is read first: to close with it unread would reset the connection.
fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.read(&mut [0; client::MAX_REQUEST]);
    let _ = stream.write(&line(&Notice::Error(why.to_owned())));
}

// SPDX-License-Identifier: GPL-2.0-only
//! The event socket: one line of JSON asks, lines of events and notices answer.
//!
//! In: a [`Subscription`](crate::event::request::Subscription) from each client, events
//! from the bus. Out: the kept events that were asked for, then, to those who follow, new
//! ones. Root may subscribe, the monitor's own user, and whose effective or supplementary
//! groups have the socket's group; the socket's mode says so too, but somebody may have loosened it.
//!
//! Promises: one thread, which waits for no client; at most [`MAX_CLIENTS`], and a bounded
//! queue for each. A client that reads too slowly is told which event it lost first, and
//! dropped. One that has not asked within 2 s is closed. Who gets in and who gives way, and is
//! told so, is as at the control socket ([`crate::control::client_pool`]).
//!
//! The thread sleeps in poll(2). The bus writes a byte to a socket pair with each event
//! ([`Bus::attach_waking`]), and closes it at the end.

mod client;
mod kept;

use crate::control::client_pool::ClientPool;
use crate::control::protocol::line;
use crate::event::Event;
use crate::event::bus::Bus;
use crate::event::request::Notice;
use client::Client;
use crossbeam_channel::{Receiver, TryRecvError};
use kept::Kept;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;

/// The name on the bus.
pub const NAME: &str = "events-socket";

/// Clients served at once.
pub const MAX_CLIENTS: usize = 64;
/// Events taken in one round, so that a flood cannot keep the clients waiting.
const TAKE: usize = 256;

const REFUSALS: [&str; 2] = [
    "only root and the group of this socket may subscribe",
    "too many subscribers: close one or try again later",
];

/// What the socket's server goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events that are kept for replay.
    pub keep: usize,
    /// The group that may subscribe, by [`gid_of`](crate::control::peer::gid_of); none: root only.
    pub group: Option<u32>,
}

struct Server<'a> {
    pool: ClientPool<Client>,
    kept: Kept,
    bus: &'a Bus,
}

/// Serves until the bus is closed. `queue` and `woken` are from [`Bus::attach_waking`]; the
/// listener must not block.
pub fn run(
    listener: &UnixListener,
    queue: &Receiver<Arc<Event>>,
    mut woken: &UnixStream,
    settings: &Settings,
    bus: &Bus,
) {
    let refuse = |why: &str| line(&Notice::Error(why.to_owned()));
    let mut server = Server {
        pool: ClientPool::new(MAX_CLIENTS, settings.group, refuse, REFUSALS),
        kept: Kept::new(settings.keep, bus.next_seq()),
        bus,
    };
    loop {
        let more = !queue.is_empty() || server.pool.clients.iter().any(Client::is_replaying);
        server.pool.wait(listener, woken.as_fd(), more);
        // Before the queue: an event that comes after this wakes the next wait.
        let mut bytes = [0; 1024];
        while matches!(woken.read(&mut bytes), Ok(n) if n == bytes.len()) {}
        let ended = server.take(queue);
        server.accept(listener);
        server.advance();
        if ended {
            return;
        }
    }
}

impl Server<'_> {
    /// Takes new events; true when there will be no more.
    fn take(&mut self, queue: &Receiver<Arc<Event>>) -> bool {
        for _ in 0..TAKE {
            match queue.try_recv() {
                Ok(event) => {
                    let mut text = None;
                    let mut lost = 0;
                    for client in &mut self.pool.clients {
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
        let kept = &self.kept;
        let losers = self.pool.accept(listener, |stream, peer| {
            let mut client = Client::new(stream, peer.uid);
            // What it asked already is answered before anybody can take its place.
            client.read_request(kept);
            client
        });
        let lost = losers.into_iter().map(Client::give_way).sum();
        self.count(lost);
    }

    fn advance(&mut self) {
        let now = Instant::now();
        let mut lost = 0;
        let kept = &self.kept;
        self.pool.clients.retain_mut(|client| {
            client.read_request(kept);
            lost += client.replay(kept);
            let done = client.write(now);
            lost += done.unwrap_or(0);
            done.is_none()
        });
        self.count(lost);
    }
}

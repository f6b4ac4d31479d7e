// SPDX-License-Identifier: GPL-2.0-only
//! One end of a stream with its connections: a heartbeat's node, or a monitor to be told.
//!
//! In: an [`Endpoint`]; readiness, time. Out: connections that are opened, read, written and made again. Promises: a
//! bounded number of connections, each with a bounded memory; a peer that proved to live is never displaced by one that
//! did not; a client connects again for ever, at growing distances. Never: a wait.

mod places;

use super::open::{self, Listener, Opened};
use super::plan::{Endpoint, Place};
use super::poller::{Part, Poller, Ready, Token};
use super::resolver::Resolver;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

/// Until an attempt to connect is given up.
const CONNECT_NS: u64 = 5 * NS_PER_S;
/// The first distance of attempts, and the last where none is configured.
const SOONEST_NS: u64 = 250 * NS_PER_MS;
const LATEST_NS: u64 = 10 * NS_PER_S;
/// What the loop lends to a link.
#[derive(Clone, Copy, Debug)]
pub struct Net<'a> {
    /// Where descriptors are waited for.
    pub poller: &'a Poller,
    /// Where names are looked up.
    pub resolver: &'a Resolver,
}

/// A connection.
#[derive(Debug)]
pub struct Connection<T> {
    io: File,
    /// Who is at the other end, as far as can be told.
    pub peer: String,
    /// It is given up at this time unless it is open then; none: it is open.
    connecting: Option<u64>,
    /// When it was made, ns, and when its peer last proved to live.
    opened: u64,
    proved: Option<u64>,
    /// How many were made before it: of those of one time, who came first.
    number: u64,
    out: Vec<u8>,
    only_read: bool,
    /// What its user keeps with it.
    pub data: T,
}

/// A link.
#[derive(Debug)]
pub struct Link<T> {
    endpoint: Endpoint,
    beat: u32,
    part: Part,
    /// A silent TCP connection of a client is made again after so long, ns.
    patience_ns: u64,
    /// A connection that has proved nothing for so long is closed where places are short.
    timeout_ns: u64,
    /// When it was told last that nobody is accepted.
    told_at: Option<u64>,
    listener: Option<Listener>,
    paused_until: Option<u64>,
    connections: Vec<Option<Connection<T>>>,
    /// Connections made so far.
    made: u64,
    attempt_at: Option<u64>,
    backoff_ns: u64,
    addresses: VecDeque<SocketAddr>,
    /// Why there is no connection, if that is known.
    trouble: Option<String>,
    blank: T,
}

/// What a readiness comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing for the link's user.
    Nothing,
    /// These many connections were accepted; each is new.
    Accepted,
    /// This connection of ours is open now.
    Connected(usize),
    /// This connection has something to read, or has ended.
    Readable(usize),
}

impl<T: Clone> Link<T> {
    /// A link of a heartbeat. `blank` is what each new connection begins with.
    pub fn new(
        endpoint: Endpoint,
        (beat, part): (u32, Part),
        limit: usize,
        timeout_ns: u64,
        blank: T,
    ) -> Self {
        let limit = if endpoint.listens { limit } else { 1 };
        Self {
            endpoint,
            beat,
            part,
            patience_ns: timeout_ns.saturating_mul(2).max(CONNECT_NS),
            timeout_ns,
            told_at: None,
            listener: None,
            paused_until: None,
            connections: std::iter::repeat_with(|| None).take(limit).collect(),
            made: 0,
            attempt_at: None,
            backoff_ns: SOONEST_NS,
            addresses: VecDeque::new(),
            trouble: None,
            blank,
        }
    }

    /// Listens, or has the first attempt to connect be due. Blocks where a name is to be looked
    /// up to listen at.
    ///
    /// # Errors
    /// Why it cannot be listened there.
    pub fn start(&mut self, now: u64, net: Net<'_>) -> io::Result<()> {
        if !self.endpoint.listens {
            self.attempt_at = Some(now);
            return Ok(());
        }
        let listener = open::listen(&self.endpoint.place)?;
        net.poller.add(listener.as_fd(), self.token(0), false)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// When [`Link::due`] is wanted, ns.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let own = self.connections.first().and_then(Option::as_ref);
        let own = own.filter(|_| !self.endpoint.listens);
        let connecting = own.and_then(|connection| connection.connecting);
        let silent = own
            .filter(|c| c.connecting.is_none() && self.is_tcp())
            .map(|connection| {
                let last = connection.proved.unwrap_or(connection.opened);
                last.saturating_add(self.patience_ns)
            });
        let times = [self.attempt_at, connecting, silent, self.paused_until];
        times.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn due(&mut self, now: u64, net: Net<'_>) {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            if let Some(listener) = &self.listener {
                let _ = net.poller.add(listener.as_fd(), self.token(0), false);
            }
        }
        if self.endpoint.listens {
            return;
        }
        if self.attempt_at.is_some_and(|at| now >= at) {
            self.attempt_at = None;
            self.attempt(now, net);
        } else if self.next().is_some_and(|at| now >= at) {
            let connecting = self.connection(0).is_some_and(|c| c.connecting.is_some());
            let why = if connecting {
                "no answer"
            } else {
                "it says nothing"
            };
            self.close(0, now, why);
        }
    }

    /// Addresses that were asked for.
    pub fn resolved(&mut self, found: Result<Vec<SocketAddr>, String>, now: u64, net: Net<'_>) {
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses.into();
                self.attempt(now, net);
            }
            Ok(_) => self.failed(now, "the name has no address"),
            Err(why) => self.failed(now, &why),
        }
    }

    /// Connects anew, as the peer is lost: a dead connection would be noticed much later.
    pub fn renew(&mut self, now: u64) {
        if self.is_tcp() && !self.endpoint.listens && self.connection(0).is_some() {
            self.close(0, now, "it is silent");
        }
    }

    /// What a readiness of the descriptor `slot` means.
    pub fn ready(&mut self, ready: Ready, now: u64, net: Net<'_>) -> Outcome {
        let Some(at) = usize::from(ready.token.slot).checked_sub(1) else {
            self.accept(now, net);
            return Outcome::Accepted;
        };
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return Outcome::Nothing;
        };
        if connection.connecting.is_some() {
            return self.connected(at, now, net);
        }
        if ready.writable && !connection.out.is_empty() {
            self.flush(at, now, net);
        }
        match ready.readable {
            true => Outcome::Readable(at),
            false => Outcome::Nothing,
        }
    }

    /// Reads once from a connection; 0: there is nothing more, or it was closed.
    pub fn read(&mut self, at: usize, into: &mut [u8], now: u64) -> usize {
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return 0;
        };
        match connection.io.read(into) {
            Ok(0) => {
                self.close(at, now, "it has ended");
                0
            }
            Ok(n) => n,
            Err(error) if is_later(&error) => 0,
            Err(error) => {
                self.close(at, now, &error.to_string());
                0
            }
        }
    }

    /// Sends a frame if there is room for it. One that finds no room at all is left out:
    /// the next is as good. False: it was.
    pub fn send(&mut self, at: usize, frame: &[u8], now: u64, net: Net<'_>) -> bool {
        let free = |c: &Connection<T>| c.out.is_empty() && !c.only_read && c.connecting.is_none();
        if !self.connection(at).is_some_and(free) {
            return false;
        }
        self.queue(at, frame, now, net);
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return false;
        };
        // What was begun is sent to its end.
        let left_out = connection.out.len() == frame.len();
        if left_out {
            connection.out = Vec::new();
            self.want_write(at, false, net);
        }
        !left_out
    }

    /// Sends all of `bytes`, in time. Only for what is sent seldom, as it is kept until then.
    pub fn queue(&mut self, at: usize, bytes: &[u8], now: u64, net: Net<'_>) {
        if let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) {
            connection.out.extend_from_slice(bytes);
            self.flush(at, now, net);
        }
    }

    /// Whether everything that was queued there was taken by the kernel.
    #[must_use]
    pub fn is_flushed(&self, at: usize) -> bool {
        self.connection(at)
            .is_some_and(|connection| connection.out.is_empty())
    }

    /// A connection, open or about to be.
    #[must_use]
    pub fn connection(&self, at: usize) -> Option<&Connection<T>> {
        self.connections.get(at).and_then(Option::as_ref)
    }

    /// The same, to change what is kept with it.
    pub fn data(&mut self, at: usize) -> Option<&mut T> {
        let connection = self.connections.get_mut(at).and_then(Option::as_mut);
        connection.map(|connection| &mut connection.data)
    }

    /// The numbers of the open connections.
    #[must_use]
    pub fn open(&self) -> Vec<usize> {
        let open = |(at, connection): (usize, &Option<Connection<T>>)| {
            let connection = connection.as_ref()?;
            connection.connecting.is_none().then_some(at)
        };
        self.connections
            .iter()
            .enumerate()
            .filter_map(open)
            .collect()
    }

    /// The peer of this connection proved to live.
    pub fn prove(&mut self, at: usize, now: u64) {
        if let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) {
            connection.proved = Some(now);
        }
        self.backoff_ns = SOONEST_NS;
        self.trouble = None;
    }

    /// Why there is no connection, if that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Closes a connection. A client's is made again.
    pub fn close(&mut self, at: usize, now: u64, why: &str) {
        let Some(place) = self.connections.get_mut(at) else {
            return;
        };
        if place.take().is_some() && !self.endpoint.listens {
            self.failed(now, why);
        }
    }

    /// Closes all connections, and makes none.
    pub fn rest(&mut self) {
        for connection in &mut self.connections {
            *connection = None;
        }
        self.attempt_at = None;
        self.addresses.clear();
    }

    fn token(&self, slot: usize) -> Token {
        Token {
            beat: self.beat,
            part: self.part,
            slot: u16::try_from(slot).unwrap_or(u16::MAX),
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.endpoint.place, Place::Tcp(_))
    }

    fn failed(&mut self, now: u64, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            log::info!("{}: {why}; connecting again", self.endpoint.place);
            self.trouble = Some(why.to_owned());
        }
        let latest = (self.patience_ns / 8).clamp(SOONEST_NS, LATEST_NS);
        let fixed = self
            .endpoint
            .reconnect_ms
            .map(|ms| ms.saturating_mul(NS_PER_MS));
        let delay = fixed.unwrap_or(self.backoff_ns.min(latest));
        self.backoff_ns = self.backoff_ns.saturating_mul(2).min(LATEST_NS);
        self.attempt_at = Some(now.saturating_add(delay));
    }

    fn attempt(&mut self, now: u64, net: Net<'_>) {
        let opened = match &self.endpoint.place {
            Place::Tcp(host) => {
                let known = self.addresses.pop_front();
                let asker = (self.beat, self.part);
                match known.or_else(|| net.resolver.ask(asker, host)) {
                    Some(address) => open::tcp(address),
                    None => return,
                }
            }
            Place::Unix(path) => open::unix(path),
            Place::Device(path) => open::device(path),
        };
        let added = opened.and_then(|opened| {
            net.poller
                .add(&opened.io, self.token(1), opened.connecting)?;
            Ok(opened)
        });
        match added {
            Ok(opened) => self.install(0, opened, now),
            Err(error) => self.failed(now, &error.to_string()),
        }
    }

    fn install(&mut self, at: usize, opened: Opened, now: u64) {
        let connection = Connection {
            io: opened.io,
            peer: opened.peer,
            // What is open at once is seen to be so by its first readiness, as the others are.
            connecting: Some(now.saturating_add(CONNECT_NS)),
            opened: now,
            proved: None,
            number: self.made,
            out: Vec::new(),
            only_read: opened.only_read,
            data: self.blank.clone(),
        };
        self.made = self.made.saturating_add(1);
        if let Some(place) = self.connections.get_mut(at) {
            *place = Some(connection);
        }
    }

    fn connected(&mut self, at: usize, now: u64, net: Net<'_>) -> Outcome {
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return Outcome::Nothing;
        };
        let error = match self.endpoint.place {
            Place::Device(_) => Ok(0),
            _ => getsockopt(&connection.io, sockopt::SocketError),
        };
        match error {
            Ok(0) => {
                connection.connecting = None;
                connection.opened = now;
                self.want_write(at, false, net);
                Outcome::Connected(at)
            }
            Ok(error) => {
                self.close(at, now, Errno::from_raw(error).desc());
                Outcome::Nothing
            }
            Err(_) => Outcome::Nothing,
        }
    }

    fn flush(&mut self, at: usize, now: u64, net: Net<'_>) {
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let wrote = match connection.io.write(&connection.out) {
            Ok(n) => {
                drop(connection.out.drain(..n.min(connection.out.len())));
                Ok(())
            }
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = wrote {
            return self.close(at, now, &error.to_string());
        }
        let waits = !connection.out.is_empty();
        if !waits {
            connection.out = Vec::new();
        }
        self.want_write(at, waits, net);
    }

    fn want_write(&self, at: usize, wanted: bool, net: Net<'_>) {
        if let Some(connection) = self.connection(at) {
            let token = self.token(at.saturating_add(1));
            let _ = net.poller.change(&connection.io, token, wanted);
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

// SPDX-License-Identifier: GPL-2.0-only
//! A heartbeat's node on streams: pulses go out on every connection, and come in on any.
//!
//! In: readiness, time. Out: facts: a pulse that counts and as of when, one that is refused, a round trip. Promises: one readiness is
//! one read, so that a flood on one connection delays nobody; each pulse is answered at once, or not at all.
//! Never: a judgement of what the facts mean.

use super::frame::{PULSE, REPLY, Sealed};
use super::link::{Link, Net, Outcome};
use super::plan::{BeatPlan, Endpoint};
use super::poller::{Part, Ready};
use super::protocol::{Heard, Protocol, Reader};
use super::psk::{Purpose, Refused, Seal};
use crate::event;
use crate::sys::clock::NS_PER_MS;
use std::io;
use std::net::SocketAddr;

/// Sealed frames that prove nothing yet are answered no more often than this: they may be recordings.
const UNPROVEN_NS: u64 = 100 * NS_PER_MS;
/// Bytes of one read.
const CHUNK: usize = 4_096;

/// What was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A pulse counts, as of this moment, ns, on the connection of this number.
    Pulse {
        /// When its sender is known to have lived.
        as_of: u64,
        /// The connection.
        at: usize,
    },
    /// One does not.
    Refused {
        /// Why.
        reason: event::Refused,
        /// The connection.
        at: usize,
    },
    /// Ours was answered after so long, ns.
    RoundTrip(u64),
    /// A connection was opened, or closed.
    Reconnect,
}

/// The node.
#[derive(Debug)]
pub struct Stream {
    link: Link<Reader>,
    protocol: Protocol,
    answers: bool,
    seal: Option<Seal>,
    /// Nothing is sent: our own VMM does not live.
    mute: bool,
    /// When the last pulse was sent that is not answered yet, ns.
    unanswered: Option<u64>,
    unproven_at: u64,
}

impl Stream {
    /// The node of the heartbeat `plan`, which has this number.
    #[must_use]
    pub fn new(plan: &BeatPlan, endpoint: &Endpoint, beat: u32, seal: Option<Seal>) -> Self {
        let timeout_ns = plan.timeout_ms.saturating_mul(NS_PER_MS);
        let reader = Reader::new(plan.protocol);
        let limit = plan.max_connections;
        Self {
            link: Link::new(
                endpoint.clone(),
                (beat, Part::Node),
                limit,
                timeout_ns,
                reader,
            ),
            protocol: plan.protocol,
            answers: plan.answers,
            seal,
            mute: false,
            unanswered: None,
            unproven_at: 0,
        }
    }

    /// Listens, or begins to connect.
    ///
    /// # Errors
    /// Why it cannot be listened there.
    pub fn start(&mut self, now: u64, net: Net<'_>) -> io::Result<()> {
        self.link.start(now, net)
    }

    /// When [`Stream::due`] is wanted, ns.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.link.next()
    }

    /// Does what is due.
    pub fn due(&mut self, now: u64, net: Net<'_>) {
        if self.link.next().is_some_and(|at| now >= at) {
            self.link.due(now, net);
        }
    }

    /// Addresses that were asked for.
    pub fn resolved(&mut self, found: Result<Vec<SocketAddr>, String>, now: u64, net: Net<'_>) {
        self.link.resolved(found, now, net);
    }

    /// The peer is lost: a client's connection is made anew.
    pub fn renew(&mut self, now: u64) {
        self.link.renew(now);
    }

    /// Sends nothing from now on, or speaks again.
    pub fn mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Sends a pulse to everybody who is connected, if pulses are sent at all.
    pub fn pulse(&mut self, now: u64, net: Net<'_>) {
        let open = self.link.open();
        if !self.protocol.sends() || self.mute || open.is_empty() {
            return;
        }
        let sealed = self.seal.as_mut().map(|seal| seal.pulse(now));
        let frame = sealed.as_ref().map_or(PULSE, |sealed| sealed.as_slice());
        for at in open {
            if self.link.send(at, frame, now, net) {
                self.unanswered = Some(now);
            }
        }
    }

    /// A descriptor is ready.
    pub fn ready(&mut self, ready: Ready, now: u64, net: Net<'_>, facts: &mut Vec<Fact>) {
        match self.link.ready(ready, now, net) {
            Outcome::Nothing | Outcome::Accepted => {}
            Outcome::Connected(at) => {
                facts.push(Fact::Reconnect);
                self.greet(at, now, net);
            }
            Outcome::Readable(at) => self.read(at, now, net, facts),
        }
    }

    /// Reads once more from everybody: what has arrived counts, although nobody has looked yet.
    pub fn listen(&mut self, now: u64, net: Net<'_>, facts: &mut Vec<Fact>) {
        for at in self.link.open() {
            self.read(at, now, net, facts);
        }
    }

    /// The connection's peer proved to live.
    pub fn prove(&mut self, at: usize, now: u64) {
        self.link.prove(at, now);
    }

    /// Who is at the other end of a connection.
    #[must_use]
    pub fn peer(&self, at: usize) -> Option<&str> {
        self.link
            .connection(at)
            .map(|connection| connection.peer.as_str())
    }

    /// How many are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.link.open().len()
    }

    /// Why nobody is, if that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.link.trouble()
    }

    /// A new connection gets a pulse at once, so that its peer need not wait for an interval.
    fn greet(&mut self, at: usize, now: u64, net: Net<'_>) {
        if !self.protocol.sends() || self.mute {
            return;
        }
        let sealed = self.seal.as_mut().map(|seal| seal.pulse(now));
        let frame = sealed.as_ref().map_or(PULSE, |sealed| sealed.as_slice());
        if self.link.send(at, frame, now, net) {
            self.unanswered = Some(now);
        }
    }

    fn read(&mut self, at: usize, now: u64, net: Net<'_>, facts: &mut Vec<Fact>) {
        let mut buffer = [0; CHUNK];
        let count = self.link.read(at, &mut buffer, now);
        let bytes = buffer.get(..count).unwrap_or_default();
        let mut heard = Vec::new();
        match self.link.data(at) {
            Some(reader) => reader.take(bytes, |what| heard.push(what)),
            None => facts.push(Fact::Reconnect),
        }
        for what in heard {
            match what {
                Heard::Sign => facts.push(Fact::Pulse { as_of: now, at }),
                Heard::Pulse => {
                    facts.push(Fact::Pulse { as_of: now, at });
                    if self.answers && !self.mute {
                        self.link.send(at, REPLY, now, net);
                    }
                }
                Heard::Reply => {
                    facts.push(Fact::Pulse { as_of: now, at });
                    let sent = self.unanswered.take();
                    facts.extend(sent.map(|sent| Fact::RoundTrip(now.saturating_sub(sent))));
                }
                Heard::Plain => facts.push(Fact::Refused {
                    reason: event::Refused::Unsealed,
                    at,
                }),
                Heard::Sealed(frame) => self.open(at, &frame, now, net, facts),
            }
        }
    }

    fn open(&mut self, at: usize, frame: &Sealed, now: u64, net: Net<'_>, facts: &mut Vec<Fact>) {
        let Some(seal) = &mut self.seal else {
            return;
        };
        let genuine = match seal.open(frame, now) {
            Ok(genuine) => genuine,
            Err(reason) => {
                let reason = reason_told(reason);
                return facts.push(Fact::Refused { reason, at });
            }
        };
        if let Some(as_of) = genuine.as_of {
            facts.push(Fact::Pulse { as_of, at });
        }
        if genuine.unheard {
            let reason = event::Refused::Unheard;
            facts.push(Fact::Refused { reason, at });
        }
        if genuine.purpose == Purpose::Reply {
            let sent = genuine.echoed_at;
            facts.extend(sent.map(|sent| Fact::RoundTrip(now.saturating_sub(sent))));
            return;
        }
        let proven = genuine.as_of.is_some();
        if !self.mute && (proven || now >= self.unproven_at) {
            if !proven {
                self.unproven_at = now.saturating_add(UNPROVEN_NS);
            }
            let reply = seal.reply(frame);
            self.link.send(at, &reply, now, net);
        }
    }
}

fn reason_told(reason: Refused) -> event::Refused {
    match reason {
        Refused::Seal => event::Refused::Seal,
        Refused::Role => event::Refused::Role,
        Refused::Old => event::Refused::Replayed,
    }
}

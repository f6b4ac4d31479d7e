// SPDX-License-Identifier: GPL-2.0-only
//! This host's monitor, as the pool's member hears it: two threads that may wait for it.
//!
//! In: the monitor's event socket and its control socket. Out: its events, each once and in their order, and how the host
//! and its guests are, every two seconds. A monitor that is not there is asked again; what it does not say is unknown,
//! never fine. Events go on after the last that was read, by the monitor's own numbers (xenwarden-events(7), THE EVENT
//! SOCKET), so nothing is lost while it keeps them.

use super::alarms::Settled;
use super::record::{GuardFacts, HostFacts, ResetFacts, short};
use crate::control::connect;
use crate::control::protocol::{Done, Request, read};
use crate::control::status::Status;
use crate::event::Uuid;
use crate::event::request::{Notice, Subscription};
use crate::guests::report::GuestsReport;
use crate::state::history::Resets;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::eventfd::EventFd;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the monitor is asked how the host is.
const EVERY: Duration = Duration::from_secs(2);
/// And while somebody waits for this host to withhold: its watchdog leaves it a few seconds to say so.
const URGENT: Duration = Duration::from_millis(200);
/// How long each step of asking may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before the first attempt to connect again, and the longest such wait.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Longest line of the event socket, and longest answer, bytes.
const MAX_LINE: u64 = 1 << 20;
const MAX_ANSWER: u64 = 64 << 20;
/// Lines that wait for the loop; the monitor keeps the others.
const LINES: usize = 256;
/// Alarms that the monitor is told of at once.
const ORDERS: usize = 64;

/// The threads.
#[derive(Debug)]
pub struct Monitor {
    /// Events; the loop takes them when it has room.
    pub events: Receiver<Vec<u8>>,
    /// How the host is.
    pub facts: Receiver<(HostFacts, Option<GuestsReport>)>,
    orders: Sender<(Uuid, Settled)>,
    is_urgent: Arc<AtomicBool>,
}

impl Monitor {
    /// Starts them. `next`: the first event that is wanted.
    ///
    /// # Errors
    /// The errno of starting one.
    pub fn start(
        events_socket: PathBuf,
        control_socket: PathBuf,
        next: u64,
        wake: &Arc<EventFd>,
    ) -> io::Result<Self> {
        let (tell_events, events) = bounded(LINES);
        let (tell_facts, facts) = bounded(1);
        let (orders, to_do) = bounded(ORDERS);
        let is_urgent = Arc::<AtomicBool>::default();
        let reader = Reader {
            socket: events_socket,
            next,
            tell: tell_events,
            wake: Arc::clone(wake),
            progress: false,
        };
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || reader.run())?;
        let asker = Asker {
            socket: control_socket,
            tell: tell_facts,
            is_urgent: Arc::clone(&is_urgent),
            orders: to_do,
            wake: Arc::clone(wake),
            refused: String::new(),
        };
        thread::Builder::new()
            .name("facts".to_owned())
            .spawn(move || asker.run())?;
        Ok(Self {
            events,
            facts,
            orders,
            is_urgent,
        })
    }

    /// Has it asked how the host is, again and again, from now on.
    pub fn hurry(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Has the monitor told of its alarms; what finds no room is told later.
    pub fn settle(&self, settled: Vec<(Uuid, Settled)>) {
        for order in settled {
            let _ = self.orders.try_send(order);
        }
    }
}

/// Nobody listens any more.
struct Over;

struct Reader {
    socket: PathBuf,
    next: u64,
    tell: Sender<Vec<u8>>,
    wake: Arc<EventFd>,
    progress: bool,
}

/// What a line must have, to be counted.
#[derive(Deserialize)]
struct Numbered {
    kind: String,
    seq: Option<u64>,
}

impl Reader {
    fn run(mut self) {
        let mut delay = FIRST;
        let mut trouble = String::new();
        loop {
            match self.session() {
                Ok(()) => {}
                Err(Ended::Over(Over)) => return,
                Err(Ended::Because(why)) if why != trouble => {
                    log::warn!("{}: {why}; trying again", self.socket.display());
                    trouble = why;
                }
                Err(Ended::Because(_)) => {}
            }
            if std::mem::take(&mut self.progress) {
                (delay, trouble) = (FIRST, String::new());
            }
            thread::sleep(delay);
            delay = delay.saturating_mul(2).min(LONGEST);
        }
    }

    fn session(&mut self) -> Result<(), Ended> {
        let because = |error: io::Error| Ended::Because(error.to_string());
        let mut stream = connect::in_time(&self.socket, TIMEOUT).map_err(because)?;
        let subscription = Subscription {
            since_seq: Some(self.next),
            follow: true,
            ..Subscription::default()
        };
        let mut request =
            serde_json::to_vec(&subscription).map_err(|error| Ended::Because(error.to_string()))?;
        request.push(b'\n');
        stream.write_all(&request).map_err(because)?;
        // From now on it may be silent for as long as nothing happens.
        stream.set_read_timeout(None).map_err(because)?;
        let mut lines = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            let count = Read::by_ref(&mut lines)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .map_err(because)?;
            if count == 0 {
                return Ok(());
            }
            if line.pop() != Some(b'\n') {
                return Err(Ended::Because("a line has no end".to_owned()));
            }
            self.line(line)?;
        }
    }

    fn line(&mut self, line: Vec<u8>) -> Result<(), Ended> {
        let Ok(numbered) = serde_json::from_slice::<Numbered>(&line) else {
            return self.notice(&line);
        };
        if let Some(seq) = numbered.seq {
            if seq < self.next {
                log::warn!(
                    "the monitor's events begin anew at {seq}, after {}: its state was lost",
                    self.next
                );
            }
            self.next = seq.saturating_add(1);
        }
        if numbered.kind.is_empty() {
            return Ok(());
        }
        self.progress = true;
        let told = self.tell.send(line).map_err(|_| Ended::Over(Over));
        let _ = self.wake.write(1);
        told
    }

    fn notice(&mut self, line: &[u8]) -> Result<(), Ended> {
        match serde_json::from_slice(line) {
            Ok(Notice::Error(why)) => Err(Ended::Because(format!("the monitor refuses: {why}"))),
            Ok(Notice::DroppedFrom(seq)) => {
                self.next = seq;
                Err(Ended::Because(
                    "events were read too slowly; going on from there".to_owned(),
                ))
            }
            Ok(Notice::ReplayBeginsAt(seq)) => {
                if self.next > 0 && seq > self.next {
                    log::warn!(
                        "the monitor no longer keeps its events {} to {}: the pool has not seen them",
                        self.next,
                        seq.saturating_sub(1)
                    );
                }
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }
}

enum Ended {
    Over(Over),
    Because(String),
}

struct Asker {
    socket: PathBuf,
    tell: Sender<(HostFacts, Option<GuestsReport>)>,
    orders: Receiver<(Uuid, Settled)>,
    wake: Arc<EventFd>,
    refused: String,
    is_urgent: Arc<AtomicBool>,
}

impl Asker {
    fn run(mut self) {
        loop {
            for (guest, settled) in self.orders.try_iter().collect::<Vec<_>>() {
                self.order(guest, settled);
            }
            let facts = facts(&self.socket);
            if self.tell.send(facts).is_err() {
                return;
            }
            let _ = self.wake.write(1);
            thread::sleep(match self.is_urgent.load(Ordering::Relaxed) {
                true => URGENT,
                false => EVERY,
            });
        }
    }

    /// An alarm that was acknowledged elsewhere is so here. One whose guest feeds elsewhere the monitor ends, provided that
    /// it sees no domain of the guest here: a process that speaks to a network ends no other.
    fn order(&mut self, guest: Uuid, settled: Settled) {
        let (request, what) = match settled {
            Settled::Acknowledged => (Request::Ack(guest), "acknowledge"),
            Settled::Ended { expiries } => (Request::Elsewhere(guest, expiries), "end"),
        };
        let answer = ask::<Done>(&self.socket, &request);
        let why = answer.err().unwrap_or_default();
        if why != self.refused && !why.is_empty() {
            log::warn!("the monitor does not {what} the alarm of {guest}: {why}");
        }
        self.refused = why;
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, String> {
    let text = |error: io::Error| error.to_string();
    let mut stream: UnixStream = connect::in_time(socket, TIMEOUT).map_err(text)?;
    match stream.write_all(format!("{request}\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(text(error)),
        _ => {}
    }
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .map_err(text)?;
    match read(&answer) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refusal)) => Err(refusal.error),
        Err(error) => Err(error),
    }
}

/// How the host is, as its monitor says. Blocks, some seconds at most.
fn facts(socket: &Path) -> (HostFacts, Option<GuestsReport>) {
    let status: Option<Status> = ask(socket, &Request::Status).ok();
    let Some(status) = status else {
        return (HostFacts::default(), None);
    };
    let resets: Option<Resets> = ask(socket, &Request::Why).ok();
    let reset = resets.and_then(|resets| {
        let last = resets.resets.into_iter().next()?;
        Some(ResetFacts {
            time: Some(last.last_seen),
            text: short(&last.reason),
        })
    });
    let watchdog = &status.host_watchdog;
    let guard = GuardFacts {
        device: short(&watchdog.device.to_string_lossy()),
        identity: short(&watchdog.identity),
        timeout_ms: watchdog.timeout_ms,
        fence_bound_ms: watchdog.fence_bound_ms,
        kick: status.decision.kick,
        reason: status.decision.reason.as_deref().map(short),
        coverage: status.coverage,
        weakness: status.weakness.as_deref().map(short),
        inhibited: status.inhibited.is_some(),
    };
    let guests = ask(socket, &Request::Guests).ok();
    let guests = guests.filter(|report: &GuestsReport| report.no_table.is_none());
    let guard = Some(guard);
    (HostFacts { guard, reset }, guests)
}

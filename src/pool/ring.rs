// SPDX-License-Identifier: GPL-2.0-only
//! The thread that is on the ring: corosync may keep it waiting, and nothing else.
//!
//! In: messages to be said. Out: what the ring tells, in its order. corosync killed, restarted, or never started: it is
//! said once, and joined again, after a tenth of a second at first and five at most. A loop that does not take what is told
//! makes corosync slow all members down, as its flow control does; so nothing is lost, and nothing grows.

use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sys::corosync::{Connection, Counter, Libraries, Told, Votes, regrouping_ms};
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The group: its name has the version of what is said in it.
pub const GROUP: &str = "xenwarden-pool/1";
/// Messages that wait to be said, and what is told and waits to be taken.
const OUT: usize = 16;
const IN: usize = 1_024;
/// What one round takes of the ring.
const ROUND: usize = 256;
const FIRST_NS: u64 = 100 * NS_PER_MS;
const LONGEST_NS: u64 = 5_000 * NS_PER_MS;
/// A ring without room is asked again after so long.
const AGAIN_MS: u16 = 5;
/// A ring that says nothing is looked at this often.
const IDLE_MS: u16 = 500;
/// And how quorum is counted.
const COUNT_NS: u64 = NS_PER_S;

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// On the ring, as this node.
    Joined(u32),
    /// Off it, and why.
    Lost(String),
    /// What it tells.
    Told(Told),
    /// How quorum is counted.
    Votes(Counted),
}

/// How quorum is counted, as of a moment.
#[derive(Debug)]
pub struct Counted {
    /// By this node's corosync.
    pub votes: Votes,
    /// The votes of each node of the ring.
    pub of: BTreeMap<u32, u32>,
    /// When that was asked.
    pub asked: Monotonic,
    /// How long the ring may deliver nothing while it forms anew, ms; none: not known.
    pub regrouping_ms: Option<u64>,
}

/// The way to the thread.
#[derive(Debug)]
pub struct RingThread {
    say: Sender<Vec<u8>>,
    nudge: Arc<EventFd>,
    /// What it tells.
    pub events: Receiver<Event>,
}

impl RingThread {
    /// Starts it; `wake` is written to with each event.
    ///
    /// # Errors
    /// The errno of an eventfd, or of starting it.
    pub fn start(libraries: Libraries, group: String, wake: &Arc<EventFd>) -> io::Result<Self> {
        let (say, to_say) = bounded(OUT);
        let (tell, events) = bounded(IN);
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let nudge = Arc::new(EventFd::from_flags(flags)?);
        let member = Member {
            libraries,
            group,
            to_say,
            tell,
            wake: Arc::clone(wake),
            nudge: Arc::clone(&nudge),
            held: None,
            nodes: Vec::new(),
            counter: None,
            regrouping_ms: None,
        };
        thread::Builder::new()
            .name("ring".to_owned())
            .spawn(move || member.run())?;
        Ok(Self { say, nudge, events })
    }

    /// Whether there is room for a message.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.say.is_full()
    }

    /// Has a message said, if there is room.
    pub fn say(&self, message: Vec<u8>) {
        match self.say.try_send(message) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        let _ = self.nudge.write(1);
    }
}

/// Nobody takes what is told any more: the program ends.
struct Over;

struct Member {
    libraries: Libraries,
    group: String,
    to_say: Receiver<Vec<u8>>,
    tell: Sender<Event>,
    wake: Arc<EventFd>,
    nudge: Arc<EventFd>,
    /// What the ring had no room for.
    held: Option<Vec<u8>>,
    /// The nodes on it.
    nodes: Vec<u32>,
    /// Where votes are asked for, and what was asked with it.
    counter: Option<Counter>,
    regrouping_ms: Option<u64>,
}

impl Member {
    fn run(mut self) {
        let mut delay = FIRST_NS;
        let mut trouble = String::new();
        loop {
            let why = match Connection::join(self.libraries, &self.group) {
                Ok(connection) => {
                    delay = FIRST_NS;
                    match self.on_ring(&connection) {
                        Ok(why) => why,
                        Err(Over) => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            // Nobody was told that it was on the ring again, so that is not said again either.
            if why != trouble || delay == FIRST_NS {
                trouble.clone_from(&why);
                if self.tell(Event::Lost(why)).is_err() {
                    return;
                }
            }
            thread::sleep(Duration::from_nanos(delay));
            delay = delay.saturating_mul(2).min(LONGEST_NS);
        }
    }

    fn tell(&self, event: Event) -> Result<(), Over> {
        let told = self.tell.send(event).map_err(|_| Over);
        let _ = self.wake.write(1);
        told
    }

    /// Gives why it is on the ring no longer.
    fn on_ring(&mut self, connection: &Connection) -> Result<String, Over> {
        // What was to be said to another ring is not for this one.
        self.held = None;
        while self.to_say.try_recv().is_ok() {}
        self.tell(Event::Joined(connection.node))?;
        self.nodes.clear();
        self.counter = None;
        let mut counted = self.count_votes(connection)?;
        loop {
            match self.say(connection) {
                Ok(full) => self.wait(connection, if full { AGAIN_MS } else { IDLE_MS }),
                Err(why) => return Ok(why),
            }
            if Monotonic::now().since_ns(counted) >= COUNT_NS {
                counted = self.count_votes(connection)?;
            }
            let told = match connection.dispatch(ROUND) {
                Ok(told) => told,
                Err(error) => return Ok(error.to_string()),
            };
            let counts = told
                .iter()
                .any(|told| matches!(told, Told::Quorum(_) | Told::Nodes(_)));
            for told in told {
                if let Told::Nodes(nodes) = &told {
                    self.nodes.clone_from(nodes);
                }
                self.tell(Event::Told(told))?;
            }
            if counts {
                counted = self.count_votes(connection)?;
            }
        }
    }

    /// Says what there is to say; whether the ring has no room.
    fn say(&mut self, connection: &Connection) -> Result<bool, String> {
        let mut said = false;
        loop {
            let next = self.held.take().map_or_else(|| self.to_say.try_recv(), Ok);
            match next {
                Ok(message) => match connection.send(&message) {
                    Ok(()) => said = true,
                    Err(error) if error.passes() => {
                        self.held = Some(message);
                        break;
                    }
                    Err(error) => return Err(error.to_string()),
                },
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        if said {
            // There is room for more.
            let _ = self.wake.write(1);
        }
        Ok(self.held.is_some())
    }

    fn wait(&self, connection: &Connection, ms: u16) {
        let of = connection.fds();
        let mut fds: Vec<PollFd<'_>> = of
            .iter()
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        fds.push(PollFd::new(self.nudge.as_fd(), PollFlags::POLLIN));
        // An interrupted or failed wait only makes the round come early.
        let _ = poll(&mut fds, PollTimeout::from(ms));
        let _ = self.nudge.read();
    }

    /// When that was.
    fn count_votes(&mut self, connection: &Connection) -> Result<Monotonic, Over> {
        let asked = Monotonic::now();
        if self.counter.is_none() {
            self.counter = Counter::open(self.libraries).ok();
            self.regrouping_ms = regrouping_ms(self.libraries).ok();
        }
        let Some(counter) = &self.counter else {
            return Ok(asked);
        };
        match counter.votes(connection.node) {
            Ok(votes) => {
                let one = |node: &u32| Some((*node, counter.votes(*node).ok()?.node_votes));
                // A part of the votes is worse than none.
                let Some(of) = self.nodes.iter().map(one).collect() else {
                    return Ok(asked);
                };
                let regrouping_ms = self.regrouping_ms;
                self.tell(Event::Votes(Counted {
                    votes,
                    of,
                    asked,
                    regrouping_ms,
                }))?;
            }
            // Another connection may do; the ring's own end is told by itself.
            Err(_) => self.counter = None,
        }
        Ok(asked)
    }
}

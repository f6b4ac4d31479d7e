// SPDX-License-Identifier: GPL-2.0-only
//! Events to journald with their fields or, where there is none, as lines to /dev/log.
//!
//! In: events. Out: datagrams. A receiver that is slow is given a second; one that has
//! stalled for longer costs the events that it does not take, each counted, and no more
//! time, until it takes one again.

use super::devlog::DevLog;
use super::journal::{self, DatagramSender, Sent, encode};
use crate::event::Event;
use crate::event::bus::Bus;
use crate::event::describe::describe;
use crossbeam_channel::Receiver;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The name on the bus.
pub const NAME: &str = "syslog";

/// How long a full receiver is waited for: a burst of events outruns the few datagrams
/// that a unix socket queues (net.unix.max_dgram_qlen, 10 by default).
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is asked in that time.
const AGAIN: Duration = Duration::from_millis(5);

/// Where journald and syslog listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// journald's native socket.
    pub journal: PathBuf,
    /// syslog's.
    pub devlog: PathBuf,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            journal: journal::SOCKET.into(),
            devlog: "/dev/log".into(),
        }
    }
}

/// Writes events until the bus is closed; what is queued then is tried until the bus' deadline,
/// and the rest counted. `told`: what somebody else has told the journal already.
pub fn run(
    queue: &Receiver<Arc<Event>>,
    sockets: &Sockets,
    bus: &Bus,
    told: impl Fn(&Event) -> bool,
) {
    let mut writer = Writer {
        journal: DatagramSender::new(&sockets.journal),
        devlog: DevLog::new(&sockets.devlog, journal::NAME),
        timeout: TIMEOUT,
        bus,
    };
    for event in queue {
        if !told(&event) && !writer.write(&event) {
            bus.count_undelivered(NAME, &event);
        }
    }
}

struct Writer<'a> {
    journal: DatagramSender,
    devlog: DevLog,
    /// None is left after a receiver stalled, until it takes something again.
    timeout: Duration,
    bus: &'a Bus,
}

impl Writer<'_> {
    fn write(&mut self, event: &Event) -> bool {
        let deadline = Instant::now() + self.timeout;
        while !self.bus.is_over() {
            match self.offer(event) {
                Sent::Yes => {
                    self.timeout = TIMEOUT;
                    return true;
                }
                Sent::Failed => return false,
                Sent::Stalled => {}
            }
            if Instant::now() >= deadline {
                self.timeout = Duration::ZERO;
                return false;
            }
            thread::sleep(AGAIN);
        }
        false
    }

    /// journald serves /dev/log as well: an event goes to one of them, never to both. One that
    /// is merely full is not passed by.
    fn offer(&mut self, event: &Event) -> Sent {
        if self.journal.is_there() {
            match self.journal.send(&encode(event)) {
                Sent::Failed => {}
                sent => return sent,
            }
        }
        self.devlog.offer(event.severity.into(), &describe(event))
    }
}

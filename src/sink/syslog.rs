// SPDX-License-Identifier: GPL-2.0-only
//! Events to journald with their fields or, where there is none, as lines to /dev/log.
//!
//! In: events. Out: datagrams. A receiver that is slow is given a second; one that has
//! stalled for longer costs the events that it does not take, each counted, and no more
//! time, until it takes one again.

use super::devlog::DevLog;
use super::ending::Ending;
use super::journal::{Sent, Wire, encode};
use crate::event::bus::Bus;
use crate::event::describe::describe;
use crate::event::{self, Event};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};
use syslog::Severity;

/// The name on the bus.
pub const NAME: &str = "syslog";

/// How long a full receiver is waited for: a burst of events outruns the few datagrams
/// that a unix socket queues (net.unix.max_dgram_qlen, 10 by default).
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is asked in that time.
const AGAIN: Duration = Duration::from_millis(5);
/// How long its end may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long nothing may happen before the stop flag is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Where the daemons listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// journald's native socket.
    pub journal: PathBuf,
    /// syslog's.
    pub devlog: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            journal: "/run/systemd/journal/socket".into(),
            devlog: "/dev/log".into(),
        }
    }
}

/// Writes events until the bus is closed or `stop` is set; what is queued then is tried for
/// at most a second in all, and the rest counted.
pub fn run(queue: &Receiver<Arc<Event>>, places: &Places, bus: &Bus, stop: &AtomicBool) {
    let mut writer = Writer {
        journal: Wire::new(&places.journal),
        devlog: DevLog::new(&places.devlog, "xenwardend"),
        patience: PATIENCE,
        ending: Ending::new(bus, stop, FAREWELL),
    };
    let write = |writer: &mut Writer<'_>, event: &Event| {
        if !writer.write(event) {
            bus.count_undelivered(NAME, event);
        }
    };
    while !writer.ending.has_begun() {
        match queue.recv_timeout(TICK) {
            Ok(event) => write(&mut writer, &event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    for event in queue.try_iter().take(queue.len()) {
        write(&mut writer, &event);
    }
}

struct Writer<'a> {
    journal: Wire,
    devlog: DevLog,
    /// None is left after a receiver stalled, until it takes something again.
    patience: Duration,
    ending: Ending<'a>,
}

impl Writer<'_> {
    fn write(&mut self, event: &Event) -> bool {
        let deadline = Instant::now() + self.patience;
        while !self.ending.is_over() {
            match self.offer(event) {
                Sent::Yes => {
                    self.patience = PATIENCE;
                    return true;
                }
                Sent::Failed => return false,
                Sent::Stalled => {}
            }
            if Instant::now() >= deadline {
                self.patience = Duration::ZERO;
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
        self.devlog.offer(severity(event), &describe(event))
    }
}

fn severity(event: &Event) -> Severity {
    match event.severity {
        event::Severity::Error => Severity::LOG_ERR,
        event::Severity::Warning => Severity::LOG_WARNING,
        event::Severity::Info => Severity::LOG_INFO,
    }
}

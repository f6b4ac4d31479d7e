// SPDX-License-Identifier: GPL-2.0-only
//! The end of a sink: how long it may still work off what it has.
//!
//! In: the bus, the stop flag. Out: whether the end has begun, and whether it is over. The
//! daemon's end waits for the sinks, and its service manager for the daemon: so what is
//! left of a queue must never decide how long that takes.

use crate::event::bus::Bus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Watches for the end.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    bus: &'a Bus,
    stop: &'a AtomicBool,
    allowed: Duration,
    until: Option<Instant>,
}

impl<'a> Ending<'a> {
    /// Of a sink that may go on for `allowed` once the bus is closed or `stop` is set. That
    /// time begins with the next call of a method, so those are to be called often.
    pub(super) fn new(bus: &'a Bus, stop: &'a AtomicBool, allowed: Duration) -> Self {
        Self {
            bus,
            stop,
            allowed,
            until: None,
        }
    }

    /// Whether the sink is to end.
    pub(super) fn has_begun(&mut self) -> bool {
        if self.until.is_none() && (self.bus.is_closed() || self.stop.load(Ordering::Relaxed)) {
            self.until = Some(Instant::now() + self.allowed);
        }
        self.until.is_some()
    }

    /// Whether its time is up.
    pub(super) fn is_over(&mut self) -> bool {
        self.has_begun() && self.until.is_some_and(|until| Instant::now() >= until)
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The operating system, as the kick path meets it.
//!
//! In: the clock, signals, the service manager's socket, deadlines, leases. Out: a [`World`]. Nothing
//! here waits, but the sleep.

use super::deadlines::{Deadlines, INHIBIT};
use super::gate::Reason;
use super::leases::Leases;
use super::request::Request;
use super::run::World;
use crate::sys::clock::{Monotonic, Suspended, sleep_until};
use crate::sys::notify::Notifier;
use crate::sys::stopwatch::Stopwatch;
use crate::watchdog::Ends;
use crate::watchdog::fence::reset;
use std::fs::File;

/// What the guard has said to the service manager.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Ready,
    Stopping,
}

/// The operating system, as the kick path meets it.
pub struct Host {
    request: Request,
    deadlines: Deadlines,
    leases: Option<Leases<'static>>,
    suspended: Suspended,
    stopwatch: Stopwatch,
    notifier: Notifier,
    told: Told,
    sysrq: Option<File>,
}

impl Host {
    /// `request` is made by whoever wants the guard to end.
    #[must_use]
    pub fn new(request: Request, notifier: Notifier) -> Self {
        Self {
            request,
            deadlines: Deadlines::default(),
            leases: None,
            suspended: Suspended::default(),
            stopwatch: Stopwatch::default(),
            notifier,
            told: Told::Nothing,
            sysrq: None,
        }
    }

    /// The service manager.
    #[must_use]
    pub fn manager(&self) -> &Notifier {
        &self.notifier
    }

    /// Heeds these deadlines from now on.
    #[must_use]
    pub fn heeding(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Goes by these leases from now on.
    #[must_use]
    pub fn leased(self, leases: Option<Leases<'static>>) -> Self {
        Self { leases, ..self }
    }

    /// Resets the host through this, where nothing else does.
    #[must_use]
    pub fn resorting_to(self, sysrq: Option<File>) -> Self {
        Self { sysrq, ..self }
    }
}

impl World for Host {
    fn now(&self) -> Monotonic {
        self.stopwatch.now()
    }

    fn soon(&self) -> Monotonic {
        self.stopwatch.soon()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        sleep_until(when);
    }

    fn ends(&self) -> Option<Ends> {
        self.request.ends()
    }

    fn inhibited(&self, now: Monotonic) -> Option<Monotonic> {
        self.deadlines.until(INHIBIT.1, now)
    }

    fn leases(&self, now: Monotonic) -> Option<Reason> {
        let leases = self.leases.as_ref()?;
        leases.slept(self.suspended.ns(), now);
        leases.against(now)
    }

    fn strict_leases(&self, now: Monotonic) -> Option<Reason> {
        self.leases.as_ref()?.strictly_against(now)
    }

    fn is_promised(&self) -> bool {
        self.leases.as_ref().is_some_and(Leases::is_promised)
    }

    fn last_resort(&mut self) {
        if let Some(sysrq) = &mut self.sysrq {
            reset(sysrq);
        }
    }

    fn looked(&mut self) {
        let (message, then) = match (self.told, self.ends().is_some()) {
            (Told::Nothing, false) => ("READY=1", Told::Ready),
            (Told::Nothing | Told::Ready, true) => ("STOPPING=1", Told::Stopping),
            _ => return,
        };
        if self.notifier.tell(message) {
            self.told = then;
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The table of wedges: what is injected, what must come of it, and within which bound.

use crate::wedge::Cpus::{All, One};
use crate::wedge::Fault::{
    self, GuestHandler, Handler, HypfsLock, ReprogramFails, RunqueueLock, SysctlLock, TimerLock,
};
use crate::wedge::Instead::{Returns, Spins, SpinsDeaf};
use crate::wedge::Softirq::{Schedule, Timer};
use std::time::Duration;

/// Kind must come of a wedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The host goes down within [`FROM_INJECTION`] of the injection.
    DownFromInjection,
    /// The host goes down within [`FROM_DEADLINE`] of the deadline of a guest that no longer feeds.
    DownFromDeadline,
    /// The host lives: neither timers nor the scheduler are touched.
    Lives,
}

/// Slack 0.5 s, one sample 0.25 s, the host watchdog's 5 s, and its granularity of 1 s.
pub const FROM_DEADLINE: Duration = Duration::from_millis(6750);
/// One period of the canary more.
pub const FROM_INJECTION: Duration = Duration::from_millis(7750);

/// A row of the table.
#[derive(Debug)]
pub struct Wedge {
    /// Its name on command lines and in results.
    pub name: &'static str,
    /// Kind it is, for people.
    pub what: &'static str,
    /// Kind is injected.
    pub fault: Fault,
    /// Kind must come of it.
    pub expected: Expected,
    /// Kind the guard may give as its reason, if it still runs: one of these is part of it.
    pub reasons: &'static [&'static str],
}

impl Wedge {
    /// The row of this name.
    pub fn named(name: &str) -> Option<&'static Wedge> {
        WEDGES.iter().find(|wedge| wedge.name == name)
    }
}

// Which evidence is the first to show a fault depends on where dom0's processors happened to run. A fault of one processor can
// also keep the guard's own sampler from its hypercall or from its next tick: then the evidence is stale or has run out.
const CPU0: &[&str] = &[
    "of pcpu 0",
    "guest watchdog of",
    "evidence stale",
    "evidence ran out",
];
const CPU1: &[&str] = &[
    "of pcpu 1",
    "guest watchdog of",
    "evidence stale",
    "evidence ran out",
];
const ANY_CPU: &[&str] = &[
    "of pcpu",
    "guest watchdog of",
    "evidence stale",
    "evidence ran out",
];
const HANDLER: &[&str] = &["guest watchdog of", "of pcpu 0", "evidence stale"];
const NO_SAMPLE: &[&str] = &["evidence stale"];

const fn row(
    name: &'static str,
    what: &'static str,
    fault: Fault,
    expected: Expected,
    reasons: &'static [&'static str],
) -> Wedge {
    Wedge {
        name,
        what,
        fault,
        expected,
        reasons,
    }
}

use Expected::{DownFromDeadline, DownFromInjection, Lives};

/// All wedges.
#[rustfmt::skip]
pub const WEDGES: &[Wedge] = &[
    row("timer-lost-0", "pCPU 0 services no timer", Handler(Timer, One(0), Returns), DownFromInjection, CPU0),
    row("timer-lost-1", "pCPU 1 services no timer", Handler(Timer, One(1), Returns), DownFromInjection, CPU1),
    row("timer-lost-all", "no pCPU services a timer", Handler(Timer, All, Returns), DownFromInjection, ANY_CPU),
    row("timer-spin-0", "pCPU 0 spins where it services timers", Handler(Timer, One(0), Spins), DownFromInjection, CPU0),
    row("timer-spin-1", "pCPU 1 spins where it services timers", Handler(Timer, One(1), Spins), DownFromInjection, CPU1),
    row("timer-spin-irqoff-0", "pCPU 0 spins, interrupts off", Handler(Timer, One(0), SpinsDeaf), DownFromInjection, CPU0),
    row("timer-spin-irqoff-1", "pCPU 1 spins, interrupts off", Handler(Timer, One(1), SpinsDeaf), DownFromInjection, CPU1),
    row("sched-lost-0", "pCPU 0 schedules nothing", Handler(Schedule, One(0), Returns), DownFromInjection, CPU0),
    row("sched-lost-1", "pCPU 1 schedules nothing", Handler(Schedule, One(1), Returns), DownFromInjection, CPU1),
    row("sched-lost-all", "no pCPU schedules anything", Handler(Schedule, All, Returns), DownFromInjection, ANY_CPU),
    row("timer-lock-0", "the timer lock of pCPU 0 is stuck", TimerLock(0), DownFromInjection, ANY_CPU),
    row("timer-lock-1", "the timer lock of pCPU 1 is stuck", TimerLock(1), DownFromInjection, ANY_CPU),
    row("runqueue-lock", "the scheduler's run queue lock is stuck", RunqueueLock, DownFromInjection, ANY_CPU),
    row("reprogram-fails", "the timer interrupt is never programmed again", ReprogramFails, DownFromInjection, ANY_CPU),
    row("guest-handler-lost", "expired guest watchdogs are ignored", GuestHandler(Returns), DownFromDeadline, HANDLER),
    row("guest-handler-spins", "the handler of guest watchdogs spins", GuestHandler(Spins), DownFromDeadline, HANDLER),
    row("hypfs-lock", "the way to the evidence itself is stuck", HypfsLock, DownFromInjection, NO_SAMPLE),
    row("sysctl-lock", "the toolstack's control calls are stuck", SysctlLock, Lives, &[]),
];

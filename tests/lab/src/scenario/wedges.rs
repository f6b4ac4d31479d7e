// SPDX-License-Identifier: GPL-2.0-only
//! The table of wedges: what is injected, what must come of it, and within which bound.

use crate::machine::Shape;
use crate::wedge::Cpus::{All, One};
use crate::wedge::Fault::{
    self, ClockFrozen, GuestHandler, Handler, HypfsLock, Lost, PicksIdle, ReprogramFails,
    RunqueueLock, SysctlLock, TimerInterrupt, TimerLock,
};
use crate::wedge::Instead::{Returns, Spins, SpinsDeaf};
use crate::wedge::Softirq::{Schedule, Timer};
use std::time::Duration;

/// What must come of a wedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The host goes down within [`FROM_INJECTION`] of the injection.
    DownFromInjection,
    /// The host goes down within [`FROM_DEADLINE`] of the deadline of a guest that no longer feeds.
    DownFromDeadline,
    /// The host lives: neither timers nor the scheduler are touched.
    Lives,
    /// A guest is bound to the pCPU, and starved vCPUs are evidence: the host goes down within [`FROM_STARVING`] of the injection.
    DownFromStarving(u8),
    /// A guest is bound to the pCPU, and nobody asked for that evidence: the host lives, and that the pCPU starves is told.
    LivesStarving(u8),
    /// Nobody is bound to the pCPU: the host lives, also with that evidence, and there is nothing to tell.
    LivesElsewhere,
    /// Without patches: the host goes down within [`FROM_INJECTION_ON_STOCK`] of the injection.
    DownOnStock,
    /// Without patches: the same from the deadline of a guest that no longer feeds.
    DownFromDeadlineOnStock,
    /// Without patches: that a guest's deadline has passed is not seen, and the host lives.
    LivesUnseen,
}

impl Expected {
    /// Whether the host goes down.
    pub fn is_down(self) -> bool {
        matches!(
            self,
            DownFromInjection
                | DownFromDeadline
                | DownFromStarving(_)
                | DownOnStock
                | DownFromDeadlineOnStock
        )
    }
}

/// What is added to the host watchdog's own bound: slack 0.5 s and one sample 0.25 s.
pub const FROM_DEADLINE: Duration = Duration::from_millis(750);
/// One period of the canary more.
pub const FROM_INJECTION: Duration = Duration::from_millis(1750);
/// The hypervisor's first look 1 s, the guard's 0.25 s, what is granted 3 s, the hypervisor's next look 1 s, all before the host watchdog's own bound.
pub const FROM_STARVING: Duration = Duration::from_millis(5_250);

/// Without patches: what a probe may be silent for 10 s, a walk over the pCPUs 1 s, its last sign of life and a sample 0.5 s.
pub const FROM_INJECTION_ON_STOCK: Duration = Duration::from_millis(11_500);
/// The same where the vCPU that probes may be kept waiting for 10 s first: seven tenths of that are left to the probe then.
pub const FROM_INJECTION_HELD_ON_STOCK: Duration = Duration::from_millis(17_500);

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Wedge {
    /// Its name on command lines and in results.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// What is injected.
    pub fault: Fault,
    /// What must come of it.
    pub expected: Expected,
    /// What may be given as the reason, if anybody still runs: one of these is part of it.
    pub reasons: &'static [&'static str],
    /// The host that it is injected into.
    pub shape: Shape,
    /// dom0 is left alone: kicks are withheld, and why must be said.
    pub leaves_dom0: bool,
}

impl Wedge {
    /// The row of this name.
    pub fn named(name: &str) -> Option<&'static Wedge> {
        WEDGES.iter().find(|wedge| wedge.name == name)
    }

    /// The same on a hypervisor without patches, where that is another row.
    pub fn on_stock(&self) -> Option<Wedge> {
        let expected = match (self.expected, self.fault) {
            (DownFromDeadline, GuestHandler(Returns)) => LivesUnseen,
            (DownFromDeadline, _) => DownFromDeadlineOnStock,
            (DownFromInjection | DownFromStarving(_), _) => DownOnStock,
            (Lives, _) => Lives,
            _ => return None,
        };
        // A probe of the pCPU; elsewhere it depends on where dom0 happened to run.
        let is_apart = self.leaves_dom0 && self.expected == DownFromInjection;
        Some(Wedge {
            shape: self.shape.stock()?,
            expected,
            reasons: if is_apart { self.reasons } else { ON_STOCK },
            // The vCPU that does not come back may take the rest of dom0 along.
            leaves_dom0: false,
            ..*self
        })
    }
}

// Which evidence is the first to show a fault depends on where dom0's processors happened to run, where it runs everywhere.
const CPU0: &[&str] = &["of pcpu 0", "guest watchdog of"];
const CPU1: &[&str] = &["of pcpu 1", "guest watchdog of"];
const CPU2: &[&str] = &["of pcpu 2"];
const CPU3: &[&str] = &["of pcpu 3"];
const STARVED0: &[&str] = &["on idle pcpu 0"];
const STARVED1: &[&str] = &["on idle pcpu 1"];
const STARVED2: &[&str] = &["on idle pcpu 2"];
const ANY_CPU: &[&str] = &["of pcpu", "guest watchdog of", "evidence stale"];
const ON_STOCK: &[&str] = &["dom0 vcpu", "probe of", "evidence stale"];
const HANDLER: &[&str] = &["guest watchdog of", "of pcpu 0"];

/// A wedge of a host with dom0 on every pCPU: often it stops dom0 as well, before any evidence could tell.
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
        shape: Shape::Everywhere,
        leaves_dom0: false,
    }
}

/// A wedge of a pCPU without dom0, which lives on: nothing but the evidence brings the host down, and the reason is said.
const fn apart(
    name: &'static str,
    what: &'static str,
    fault: Fault,
    reasons: &'static [&'static str],
) -> Wedge {
    Wedge {
        shape: Shape::Apart,
        leaves_dom0: true,
        ..row(name, what, fault, DownFromInjection, reasons)
    }
}

/// A wedge of a pCPU without dom0 that stops dom0 all the same: nobody answers its interprocessor interrupts, or its timers move there.
const fn spreads(
    name: &'static str,
    what: &'static str,
    fault: Fault,
    reasons: &'static [&'static str],
) -> Wedge {
    Wedge {
        leaves_dom0: false,
        ..apart(name, what, fault, reasons)
    }
}

/// A scheduler that always picks idle on one pCPU, which leaves dom0 alone: it moves to the others.
const fn idles(
    name: &'static str,
    what: &'static str,
    cpu: u8,
    expected: Expected,
    reasons: &'static [&'static str],
) -> Wedge {
    Wedge {
        shape: if cpu < 2 {
            Shape::Everywhere
        } else {
            Shape::Apart
        },
        leaves_dom0: true,
        ..row(name, what, PicksIdle(cpu), expected, reasons)
    }
}

use Expected::{
    DownFromDeadline, DownFromDeadlineOnStock, DownFromInjection, DownFromStarving, DownOnStock,
    Lives, LivesElsewhere, LivesStarving, LivesUnseen,
};

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
    row("clock-frozen-0", "the clock of pCPU 0 stands still", ClockFrozen(0), DownFromInjection, CPU0),
    row("clock-frozen-1", "the clock of pCPU 1 stands still", ClockFrozen(1), DownFromInjection, CPU1),
    row("runqueue-lock", "the scheduler's run queue lock is stuck", RunqueueLock, DownFromInjection, ANY_CPU),
    row("reprogram-fails", "the timer interrupt is never programmed again", ReprogramFails, DownFromInjection, ANY_CPU),
    row("apic-lost", "the timer interrupt is ignored", TimerInterrupt, DownFromInjection, ANY_CPU),
    row("raise-softirq-lost", "deferred work is never asked for", Lost(&["raise_softirq", "cpu_raise_softirq"]), DownFromInjection, ANY_CPU),
    row("do-softirq-lost", "deferred work is never done", Lost(&["do_softirq"]), DownFromInjection, ANY_CPU),
    row("events-lost", "no guest is told of an event, dom0 neither", Lost(&["vcpu_mark_events_pending"]), DownFromInjection, ANY_CPU),
    row("singleshot-lost", "no guest's own timer fires, dom0's neither", Lost(&["vcpu_singleshot_timer_fn"]), DownFromInjection, ANY_CPU),
    row("wake-lost", "no vCPU that sleeps is woken", Lost(&["vcpu_wake"]), DownFromInjection, ANY_CPU),
    row("guest-handler-lost", "expired guest watchdogs are ignored", GuestHandler(Returns), DownFromDeadline, HANDLER),
    row("guest-handler-spins", "the handler of guest watchdogs spins", GuestHandler(Spins), DownFromDeadline, HANDLER),
    apart("timer-lost-2", "pCPU 2, without dom0, services no timer", Handler(Timer, One(2), Returns), CPU2),
    apart("timer-lost-3", "pCPU 3, without dom0, services no timer", Handler(Timer, One(3), Returns), CPU3),
    apart("timer-spin-2", "pCPU 2, without dom0, spins where it services timers", Handler(Timer, One(2), Spins), CPU2),
    apart("timer-spin-3", "pCPU 3, without dom0, spins where it services timers", Handler(Timer, One(3), Spins), CPU3),
    apart("sched-lost-2", "pCPU 2, without dom0, schedules nothing", Handler(Schedule, One(2), Returns), CPU2),
    apart("sched-lost-3", "pCPU 3, without dom0, schedules nothing", Handler(Schedule, One(3), Returns), CPU3),
    apart("clock-frozen-2", "the clock of pCPU 2, without dom0, stands still", ClockFrozen(2), CPU2),
    apart("clock-frozen-3", "the clock of pCPU 3, without dom0, stands still", ClockFrozen(3), CPU3),
    spreads("timer-spin-irqoff-2", "pCPU 2, without dom0, spins, interrupts off", Handler(Timer, One(2), SpinsDeaf), CPU2),
    spreads("timer-spin-irqoff-3", "pCPU 3, without dom0, spins, interrupts off", Handler(Timer, One(3), SpinsDeaf), CPU3),
    spreads("timer-lock-2", "the timer lock of pCPU 2, without dom0, is stuck", TimerLock(2), ANY_CPU),
    spreads("timer-lock-3", "the timer lock of pCPU 3, without dom0, is stuck", TimerLock(3), ANY_CPU),
    idles("idle-only-0", "pCPU 0 only ever idles; a guest bound to it starves, which was asked to be evidence", 0, DownFromStarving(0), STARVED0),
    idles("idle-only-1", "pCPU 1 only ever idles; a guest bound to it starves, which was asked to be evidence", 1, DownFromStarving(1), STARVED1),
    idles("idle-only-2", "pCPU 2, without dom0, only ever idles; a guest bound to it starves, which was asked to be evidence", 2, DownFromStarving(2), STARVED2),
    idles("idle-only-1-told", "pCPU 1 only ever idles; a guest bound to it starves, which is told and no more", 1, LivesStarving(1), &[]),
    idles("idle-only-2-told", "pCPU 2, without dom0, only ever idles; a guest bound to it starves, which is told and no more", 2, LivesStarving(2), &[]),
    idles("idle-only-1-unbound", "pCPU 1 only ever idles; nobody is bound to it, so all run on pCPU 0, and nobody notices", 1, LivesElsewhere, &[]),
    row("hypfs-lock", "the lock of the hypervisor's file system is stuck", HypfsLock, Lives, &[]),
    row("sysctl-lock", "the toolstack's control calls are stuck", SysctlLock, Lives, &[]),
];

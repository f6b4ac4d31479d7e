// SPDX-License-Identifier: GPL-2.0-only
//! The kick path: look, judge, ask the gate, kick or withhold, tell, sleep.
//!
//! In: a way to look at the hypervisor, an armed host watchdog. Out: kicks, and the guard
//! page. One thread runs it and does nothing else: it allocates nothing, takes no lock,
//! faults no page, logs nothing, makes no hypercall, and touches no file but the host
//! watchdog (and, until they have arrived, sends the service manager READY=1 and STOPPING=1
//! over a socket that never blocks). If anything in it hangs no kick comes, and that is the detection.
//!
//! Asked to stop it disarms, or at a shutdown leaves the device a long timeout, but only while
//! the gate says kick: a host that is being withheld must go down even if somebody stops the
//! guard meanwhile.

use super::evidence::Verdict;
use super::gate::{Decision, Reason, and_leases, decide, overrule};
use super::page::{Counters, EntryKind, Phase, Status, Writer};
use super::sight::Sight;
use crate::sys::clock::{Monotonic, NS_PER_S};
use crate::sys::realtime::{PageFaults, page_faults_of_this_thread};
use crate::watchdog::{Ends, HostWatchdog, LetGo};
use std::cell::Cell;
use std::io;

/// While the device refuses kicks it is told so often, ns.
const REFUSED_EACH_NS: u64 = 60 * NS_PER_S;
/// The kernel is asked so often how many pages the guard faulted, ns: a system call.
const FAULTS_EACH_NS: u64 = 5 * NS_PER_S;

/// Time, and what comes from outside while it passes.
pub trait World {
    /// CLOCK_MONOTONIC.
    fn now(&self) -> Monotonic;
    /// The same, a moment after [`World::now`]: cheaper, where that costs something.
    fn soon(&self) -> Monotonic {
        self.now()
    }
    /// Lets time pass until `when`.
    fn sleep_until(&mut self, when: Monotonic);
    /// Why the guard is to end, where somebody asks for that.
    fn ends(&self) -> Option<Ends>;
    /// Until when an operator inhibits the guard, if one does now.
    fn inhibited(&self, _now: Monotonic) -> Option<Monotonic> {
        None
    }
    /// Why leases are against a kick, if they are.
    fn leases(&self, _now: Monotonic) -> Option<Reason> {
        None
    }
    /// The same for leases that hold also while the guard is inhibited.
    fn strict_leases(&self, _now: Monotonic) -> Option<Reason> {
        None
    }
    /// Whether a strict lease runs: others were told that this host goes down with its end, so it is not let go of before.
    fn is_promised(&self) -> bool {
        false
    }
    /// The host should be down long since, and is not: resets it, if that is allowed.
    fn last_resort(&mut self) {}
    /// Called after each look: tells the service manager what it is to know, until that has
    /// arrived. Never blocks.
    fn looked(&mut self);
}

/// Kicks `watchdog`, armed at `armed`, each `period_ns` while everything is served. Returns
/// once it was asked to stop and has let go of it.
pub fn run<W: HostWatchdog>(
    mut watchdog: W,
    sight: &mut dyn Sight,
    world: &mut dyn World,
    page: &mut Writer,
    armed: Monotonic,
    period_ns: u64,
) -> LetGo {
    let mut history = History::new(armed);
    let mut next = world.now();
    let read = Cell::new(next);
    let (begins, before) = page.begins(armed, watchdog.ran_on());
    page.entry(armed, before, begins);
    loop {
        // The clock is read as a look begins, as it ends, and once more after a kick: the first of them in any case by the kernel.
        let readings = Cell::new(0_u32);
        let (verdict, looked) = sight.look(&|| {
            let first = readings.replace(readings.get().saturating_add(1)) == 0;
            read.set(if first { world.now() } else { world.soon() });
            read.get()
        });
        history.began(looked.since_ns(next));
        // One that did not read it after is not taken at its word.
        if readings.get() < 2 {
            read.set(world.soon());
        }
        let now = read.get();
        let evidence = decide(verdict, now.since_ns(looked), period_ns);
        let evidence = and_leases(evidence, world.leases(now));
        let inhibited = world.inhibited(now);
        let decision = overrule(evidence, inhibited.is_some(), world.strict_leases(now));
        if decision == Decision::Kick {
            history.serves(page, looked, now);
            let outcome = watchdog.kick();
            read.set(world.soon());
            history.kicked(page, now, read.get(), outcome);
        }
        history.inhibited(page, now, inhibited, (evidence, decision));
        history.decided(page, now, decision);
        history.excused(page, now, verdict);
        let stays = world.is_promised();
        let ends = world.ends().filter(|why| !(stays && *why == Ends::Stopped));
        history.tell(page, looked, now, ends.is_some());
        if let Some(why) = ends.filter(|_| decision == Decision::Kick) {
            return end(watchdog, why, &mut history, page);
        }
        world.looked();
        next = next_tick(next, read.get(), period_ns);
        world.sleep_until(next);
    }
}

/// The tick after `last`; ticks that were missed are not made up for.
#[must_use]
pub fn next_tick(last: Monotonic, now: Monotonic, period_ns: u64) -> Monotonic {
    let next = last.plus_ns(period_ns);
    if next < now { now } else { next }
}

fn end<W: HostWatchdog>(watchdog: W, why: Ends, history: &mut History, page: &mut Writer) -> LetGo {
    let outcome = watchdog.let_go(why);
    let (kind, phase) = match &outcome {
        LetGo::Disarmed => (EntryKind::Disarmed, Phase::Disarmed),
        LetGo::Kept { after_s } => (EntryKind::Kept { after_s: *after_s }, Phase::Kept),
        LetGo::Shutdown { within_s } => {
            let within_s = *within_s;
            (EntryKind::Shutdown { within_s }, Phase::Shutdown)
        }
        LetGo::Runs { error, within_s } => {
            let (errno, within_s) = (errno(error), within_s.unwrap_or(0));
            (
                EntryKind::DisarmFailed { errno, within_s },
                Phase::StillArmed,
            )
        }
    };
    let status = &mut history.status;
    page.entry(status.looked, status.last_kick, kind);
    status.phase = phase;
    page.status(status);
    outcome
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// What the guard remembers, to tell only what changed. It begins with a kick: the arming.
struct History {
    status: Status,
    base: PageFaults,
    /// When the faults were counted last.
    counted: Monotonic,
    /// Refusals since the device last took a kick, and when that was told last.
    refused: u64,
    refused_told: Monotonic,
}

impl History {
    fn new(armed: Monotonic) -> Self {
        Self {
            status: Status {
                phase: Phase::Armed,
                looked: armed,
                decision: Decision::Kick,
                since: armed,
                last_kick: armed,
                served: armed,
                answered: armed,
                excused: None,
                inhibited: None,
                ignored: None,
                entries: 0,
                counters: Counters::default(),
            },
            base: page_faults_of_this_thread().unwrap_or_default(),
            counted: armed,
            refused: 0,
            refused_told: armed,
        }
    }

    /// A look began so late.
    fn began(&mut self, late_ns: u64) {
        self.status.counters.late.add(late_ns);
    }

    /// The gate says kick: told at once, as whoever counts from here on must not count the time
    /// that the device takes.
    fn serves(&mut self, page: &mut Writer, looked: Monotonic, now: Monotonic) {
        (self.status.looked, self.status.served) = (looked, now);
        // The first look's has not been told as a whole yet.
        match self.status.counters.looks {
            0 => page.status(&self.status),
            _ => page.serves(looked, now),
        }
    }

    fn kicked(
        &mut self,
        page: &mut Writer,
        began: Monotonic,
        ended: Monotonic,
        outcome: io::Result<()>,
    ) {
        let Status {
            counters,
            last_kick,
            answered,
            ..
        } = &mut self.status;
        *answered = ended;
        let took_ns = ended.since_ns(began);
        counters.max_kick_ns = counters.max_kick_ns.max(took_ns);
        counters.kick_took.add(took_ns);
        if let Err(error) = outcome {
            counters.refused += 1;
            self.refused += 1;
            let count = self.refused;
            if count == 1 || began.since_ns(self.refused_told) >= REFUSED_EACH_NS {
                let errno = errno(&error);
                page.entry(began, *last_kick, EntryKind::Refused { errno, count });
                self.refused_told = began;
            }
            return;
        }
        if self.refused != 0 {
            let refused = std::mem::take(&mut self.refused);
            page.entry(began, *last_kick, EntryKind::Taken { refused });
        }
        counters.kicks += 1;
        counters.max_gap_ns = counters.max_gap_ns.max(began.since_ns(*last_kick));
    }

    /// Notes the decision; a turn to kicking is told with the kick before it.
    fn decided(&mut self, page: &mut Writer, now: Monotonic, decision: Decision) {
        let status = &mut self.status;
        let told = match (status.decision, decision) {
            (Decision::Kick, Decision::Kick) => None,
            (_, Decision::Kick) => Some(EntryKind::Resume),
            (Decision::Withhold(old), Decision::Withhold(new)) if old.same_cause(&new) => None,
            (_, Decision::Withhold(reason)) => Some(EntryKind::Withhold(reason)),
        };
        let turned = (status.decision == Decision::Kick) != (decision == Decision::Kick);
        if turned {
            status.since = now;
            status.counters.withholds += u64::from(decision != Decision::Kick);
        }
        if let Some(kind) = told {
            page.entry(now, status.last_kick, kind);
        }
        if decision == Decision::Kick && self.refused == 0 {
            status.last_kick = now;
        }
        status.decision = decision;
    }

    /// Notes that an operator inhibits the guard, and what that has it ignore.
    fn inhibited(
        &mut self,
        page: &mut Writer,
        now: Monotonic,
        until: Option<Monotonic>,
        (evidence, decision): (Decision, Decision),
    ) {
        let Status {
            inhibited,
            ignored,
            last_kick,
            ..
        } = &mut self.status;
        match (*inhibited, until) {
            (old, Some(new)) if old != Some(new) => {
                page.entry(now, *last_kick, EntryKind::Inhibited { until: new });
            }
            (Some(old), None) => {
                let early = now < old;
                page.entry(now, *last_kick, EntryKind::InhibitEnded { early });
            }
            _ => {}
        }
        let ignores = match (evidence, decision) {
            (Decision::Withhold(reason), Decision::Kick) => until.map(|_| reason),
            _ => None,
        };
        let same = |new: &Reason| ignored.is_some_and(|old| old.same_cause(new));
        if let Some(reason) = ignores.filter(|new| !same(new)) {
            page.entry(now, *last_kick, EntryKind::Ignored(reason));
        }
        (*inhibited, *ignored) = (until, ignores);
    }

    fn excused(&mut self, page: &mut Writer, now: Monotonic, verdict: Verdict) {
        let excused = match verdict {
            Verdict::Served { excused } => excused,
            _ => None,
        };
        if let Some(work) = excused.filter(|_| self.status.excused.is_none()) {
            page.entry(now, self.status.last_kick, EntryKind::Excused(work));
        }
        self.status.excused = excused;
    }

    fn tell(&mut self, page: &mut Writer, looked: Monotonic, ended: Monotonic, stops: bool) {
        let Status {
            counters, phase, ..
        } = &mut self.status;
        counters.looks += 1;
        counters.max_look_ns = counters.max_look_ns.max(ended.since_ns(looked));
        if stops || ended.since_ns(self.counted) >= FAULTS_EACH_NS {
            self.counted = ended;
            if let Ok(faults) = page_faults_of_this_thread() {
                counters.minor_faults = faults.minor.saturating_sub(self.base.minor);
                counters.major_faults = faults.major.saturating_sub(self.base.major);
            }
        }
        if stops {
            *phase = Phase::Stopping;
        }
        self.status.looked = looked;
        page.status(&self.status);
    }
}

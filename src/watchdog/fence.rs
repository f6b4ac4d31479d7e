// SPDX-License-Identifier: GPL-2.0-only
//! The fence levels behind the hardware: Xen's watchdog of dom0, and sysrq. Each has a deadline
//! of its own and a thread of its own, as each may hang.
//!
//! In: the guard page, where the kick path says when everything was last served. Out: a slot of
//! dom0's watchdog that is fed while that is fresh, and a reset by the kernel when the host
//! should be down and is not. The kick path knows nothing of it.
//!
//! ```text
//!   T + 0    the gate last said kick
//!   T + L    the hardware resets (L: within what time, by what is known of the device)
//!   T + L+2  Xen's slot expires: the hypervisor reboots the host
//!   T + L+4  sysrq b: dom0's kernel does, 2 s later at the latest
//! ```
//!
//! With a crash dump Xen's slot is the first: it expires `timeout_s` and 0.5 to 1 s later than T + 0, Xen
//! runs its crash kernel, and the hardware, which was armed with a longer timeout, gives that its time.

use crate::guard::page::{Phase, Reader, Vitals};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, sleep_until};
use crate::sys::privcmd::Privcmd;
use crate::sys::realtime::{become_realtime, spawn};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::thread::JoinHandle;

/// How often the slot's level looks, ns: what it feeds is to follow the last kick closely.
const SLOT_EACH_NS: u64 = 500 * NS_PER_MS;
/// And sysrq's, where not everything was served a moment ago.
const SYSRQ_EACH_NS: u64 = 2 * NS_PER_S;
/// A level that is later than this was away, ns.
const AWAY_NS: u64 = 500 * NS_PER_MS;
/// What was served within this is fresh, ns: some looks of the guard may be late.
const FRESH_NS: u64 = NS_PER_S;
/// Xen's slot fires so long after the hardware should have, seconds.
const SLOT_AFTER_S: u32 = 2;
/// And sysrq so long after it.
pub const SYSRQ_AFTER_NS: u64 = 4 * NS_PER_S;
/// The same, as what is judged.
pub const SYSRQ_AFTER: Overdue = Overdue::SinceReset(SYSRQ_AFTER_NS);
/// A slot that comes before the hardware: it is never overdue, as it is fed or not, and is fed while the
/// device takes its time for a kick, as long as the hardware does not fire either.
pub const BEFORE_HARDWARE: Overdue = Overdue::SinceServed(u64::MAX);
/// Where the kernel takes commands, whatever kernel.sysrq says (Linux
/// `Documentation/admin-guide/sysrq.rst`).
pub const SYSRQ: &str = "/proc/sysrq-trigger";

/// What a level makes of the guard page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The guard has told nothing since this level began.
    NotYet,
    /// Everything was served just now.
    Fresh,
    /// It was not, and the hardware has its time still.
    Silent,
    /// The host should be down.
    Overdue,
    /// The guard has let go of the host watchdog.
    Ended,
}

/// Whether a level was there when it meant to look. One that was away may have been so together
/// with the guard, as when the process was stopped or the machine stood still: the guard
/// has its turn first, which is as long as a level may be late.
#[derive(Debug, Default)]
pub struct Presence {
    was_away: bool,
    returned: Option<Monotonic>,
}

impl Presence {
    /// What to make of `judged` in a look that ends at `now` and was due at `due`. A level that
    /// is late again and again is on a host that is not well: only the first of such looks
    /// gives a turn.
    pub fn weigh(&mut self, judged: Judged, due: Monotonic, now: Monotonic) -> Judged {
        let is_away = now.since_ns(due) > AWAY_NS;
        if is_away && !self.was_away {
            self.returned = Some(now);
        }
        self.was_away = is_away;
        let turn = self.returned.is_some_and(|at| now.since_ns(at) <= AWAY_NS);
        match judged {
            Judged::Overdue if turn => Judged::Silent,
            judged => judged,
        }
    }
}

/// When a host should be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// So long after the hardware should have reset it, ns.
    SinceReset(u64),
    /// So long after everything was last served, ns. The time that the device takes for a kick
    /// is not counted: while it does, the hardware decides.
    SinceServed(u64),
}

/// What `told`, of the guard `pid`, says to a level that began at `began`.
#[must_use]
pub fn judge(
    told: Option<Vitals>,
    pid: u32,
    began: Monotonic,
    now: Monotonic,
    overdue: Overdue,
) -> Judged {
    // A page begins with what the guard before this one told.
    let Some(Vitals {
        latest_ns, status, ..
    }) = told.filter(|told| told.pid == pid)
    else {
        return Judged::NotYet;
    };
    let (since, fresh_ns, overdue_ns) = match overdue {
        Overdue::SinceReset(ns) => (status.served, FRESH_NS, latest_ns.saturating_add(ns)),
        Overdue::SinceServed(_) if status.answered < status.served => {
            (status.served, latest_ns, latest_ns)
        }
        Overdue::SinceServed(ns) => (status.answered, FRESH_NS, ns),
    };
    let served_ns = now.since_ns(since);
    match status.phase {
        _ if status.looked < began => Judged::NotYet,
        Phase::Starting => Judged::NotYet,
        // Nobody feeds Xen's slot from then on, and another guard may come.
        Phase::Disarmed | Phase::Kept | Phase::StillArmed | Phase::Shutdown => Judged::Ended,
        _ if served_ns > overdue_ns => Judged::Overdue,
        _ if served_ns <= fresh_ns => Judged::Fresh,
        _ => Judged::Silent,
    }
}

/// A domain's own watchdog: `SCHEDOP_watchdog`.
pub trait DomainWatchdog: Send {
    /// See [`Privcmd::domain_watchdog`].
    ///
    /// # Errors
    /// As there.
    fn set(&self, id: u32, timeout_s: u32) -> Result<u32, Errno>;
}

impl DomainWatchdog for Privcmd {
    fn set(&self, id: u32, timeout_s: u32) -> Result<u32, Errno> {
        self.domain_watchdog(id, timeout_s)
    }
}

/// One of dom0's two slots. xenwatchdogd takes one, XenServer's xhad both; whoever clears them
/// clears ours, so that it is taken anew when it is lost.
pub struct Slot<W: DomainWatchdog> {
    watchdog: W,
    id: Option<u32>,
}

impl<W: DomainWatchdog> Slot<W> {
    /// None is taken yet.
    pub fn new(watchdog: W) -> Self {
        Self { watchdog, id: None }
    }

    /// Feeds it; takes one where there is none, or it was lost.
    ///
    /// # Errors
    /// ENOSPC where both are taken; it is tried again at the next call.
    pub fn feed(&mut self, timeout_s: u32) -> Result<(), Errno> {
        let still_ours = |id: &u32| self.watchdog.set(*id, timeout_s).is_ok();
        self.id = self.id.filter(still_ours);
        if self.id.is_none() {
            self.id = Some(self.watchdog.set(0, timeout_s)?);
        }
        Ok(())
    }

    /// Takes one and gives it back.
    ///
    /// # Errors
    /// None can be had now; one that is given back later is taken then.
    pub fn try_one(mut self, timeout_s: u32) -> io::Result<()> {
        self.feed(timeout_s).map_err(|errno| match errno {
            Errno::ENOSPC => io::Error::other("both slots are taken"),
            errno => errno.into(),
        })?;
        self.release();
        Ok(())
    }

    /// Disarms it.
    pub fn release(&mut self) {
        if let Some(id) = self.id.take() {
            // Lost already, if it fails.
            let _ = self.watchdog.set(id, 0);
        }
    }
}

/// The timeout of Xen's slot, where the hardware resets within `latest_ns`, seconds. `first_s` is
/// what it is where the slot is to fire before the hardware.
#[must_use]
pub fn slot_timeout_s(latest_ns: u64, first_s: Option<u32>) -> u32 {
    let latest_s = u32::try_from(latest_ns.div_ceil(NS_PER_S)).unwrap_or(u32::MAX);
    first_s.unwrap_or(latest_s.saturating_add(SLOT_AFTER_S))
}

/// Where sysrq is to be triggered; opened early, as a host that is going down may open nothing.
///
/// # Errors
/// The errno of open(2).
pub fn open_sysrq(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Resets the host through `sysrq`. It does not return, unless that fails; then it may be tried
/// again.
pub fn reset(sysrq: &mut File) {
    let _ = sysrq.write_all(b"b");
}

/// Feeds `slot` while the guard page is fresh, by a thread of `priority`, which ends when the
/// guard has disarmed the host watchdog: then it is disarmed as well. For its
/// timeout see [`slot_timeout_s`].
///
/// # Errors
/// The errno of making the thread.
pub fn keep_slot<W>(
    mut slot: Slot<W>,
    page: Reader,
    priority: u8,
    first_s: Option<u32>,
) -> io::Result<JoinHandle<()>>
where
    W: DomainWatchdog + 'static,
{
    let mut told = false;
    let overdue = first_s.map_or(SYSRQ_AFTER, |_| BEFORE_HARDWARE);
    level(
        ("fence-slot", SLOT_EACH_NS, next_slot),
        overdue,
        page,
        priority,
        move |judged, latest_ns| match judged {
            Judged::Fresh => {
                if let Err(errno) = slot.feed(slot_timeout_s(latest_ns, first_s)) {
                    // Whoever has it may give it back. This thread may hang in saying so.
                    if !std::mem::replace(&mut told, true) {
                        let why = errno.desc();
                        let _ =
                            writeln!(io::stderr(), "xenwardend: no watchdog slot of dom0: {why}");
                    }
                }
            }
            Judged::Ended => slot.release(),
            Judged::NotYet | Judged::Silent | Judged::Overdue => {}
        },
    )
}

/// Resets the host through `sysrq` when it should be down and is not, by a thread of `priority`.
///
/// # Errors
/// The errno of making the thread.
pub fn last_resort(mut sysrq: File, page: Reader, priority: u8) -> io::Result<JoinHandle<()>> {
    level(
        ("fence-sysrq", SYSRQ_EACH_NS, next_sysrq),
        SYSRQ_AFTER,
        page,
        priority,
        move |judged, _| {
            if judged == Judged::Overdue {
                reset(&mut sysrq);
            }
        },
    )
}

/// Until the next look there is nothing that it could have missed: what it feeds goes stale.
fn next_slot(_: Judged, _: Option<Vitals>, usual: Monotonic) -> Monotonic {
    usual
}

/// Where everything was served a moment ago, the host should be down no sooner than that: nothing is to be done before. One usual step
/// is left, so that a level that stood still until just after that moment knows that it was away.
fn next_sysrq(judged: Judged, told: Option<Vitals>, usual: Monotonic) -> Monotonic {
    let told = told.filter(|_| judged == Judged::Fresh);
    let step_before = |Vitals {
                           latest_ns, status, ..
                       }| {
        let since: Monotonic = status.served;
        since
            .plus_ns(latest_ns)
            .plus_ns(SYSRQ_AFTER_NS - SYSRQ_EACH_NS)
    };
    told.map_or(usual, |told| usual.max(step_before(told)))
}

/// The moment of a level's next look, which is at `usual` or later.
type Next = fn(Judged, Option<Vitals>, usual: Monotonic) -> Monotonic;

/// Calls `act` with what the page says, again and again, until the guard has ended.
fn level(
    (name, each_ns, looks_next): (&str, u64, Next),
    overdue: Overdue,
    page: Reader,
    priority: u8,
    mut act: impl FnMut(Judged, u64) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let pid = std::process::id();
    let began = Monotonic::now();
    spawn(name, move || {
        // Without it this level is late on a busy host; the ones before it are not.
        let _ = become_realtime(priority);
        let mut presence = Presence::default();
        let mut next = began.plus_ns(each_ns);
        loop {
            sleep_until(next);
            let told = page.vitals();
            let now = Monotonic::now();
            let judged = presence.weigh(judge(told, pid, began, now, overdue), next, now);
            act(judged, told.map_or(0, |told| told.latest_ns));
            if judged == Judged::Ended {
                return;
            }
            let usual = next.plus_ns(each_ns).max(now);
            next = looks_next(judged, told, usual);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{
        Judged, NS_PER_MS, NS_PER_S, Presence, SYSRQ_AFTER, SYSRQ_EACH_NS, judge, next_sysrq,
    };
    use crate::guard::gate::Decision;
    use crate::guard::page::{Counters, Phase, Status, Vitals};
    use crate::sys::clock::Monotonic;

    #[test]
    fn a_machine_that_stood_still_until_just_after_it_was_due_gives_the_guard_its_turn_first() {
        let began = Monotonic(100 * NS_PER_S);
        let served = began.plus_ns(NS_PER_S);
        let told = Some(Vitals {
            pid: 1,
            latest_ns: 6 * NS_PER_S,
            status: Status {
                phase: Phase::Armed,
                looked: served,
                decision: Decision::Kick,
                since: served,
                last_kick: served,
                served,
                answered: served,
                excused: None,
                inhibited: None,
                ignored: None,
                entries: 0,
                counters: Counters::default(),
            },
        });
        let next = next_sysrq(Judged::Fresh, told, served.plus_ns(SYSRQ_EACH_NS));
        for returned_ms in (0..12_000).step_by(10) {
            let now = next.max(served.plus_ns(returned_ms * NS_PER_MS));
            let judged = judge(told, 1, began, now, SYSRQ_AFTER);
            let weighed = Presence::default().weigh(judged, next, now);
            assert_ne!(weighed, Judged::Overdue, "back after {returned_ms} ms");
        }
    }
}

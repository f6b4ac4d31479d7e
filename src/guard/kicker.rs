// SPDX-License-Identifier: GPL-2.0-only
//! The kicker: reads the evidence, asks the gate, kicks or withholds.
//!
//! The loop fits on a screen and does nothing else: it allocates nothing, takes no lock,
//! faults no page, logs nothing, and touches no file but the host watchdog. Between the
//! gate and the kick stands nothing.
//!
//! When asked to stop it disarms, but only while the gate says kick: a host that is
//! being withheld must go down even if somebody stops the daemon meanwhile.

use crate::guard::gate::{Decision, decide};
use crate::guard::ledger::{Ledger, Note, record_faults};
use crate::guard::sampler::next_tick;
use crate::sys::clock::{Monotonic, sleep_until};
use crate::sys::realtime::page_faults_of_this_thread;
use crate::watchdog::Barrel;
use std::io;
use std::sync::atomic::Ordering;

/// Kicks `barrel`, armed at `armed`, each `period_ns` while the evidence, at most
/// `max_age_ns` old, says that everything is served; returns once stopped and disarmed.
pub fn run(
    mut barrel: Box<dyn Barrel>,
    ledger: &Ledger,
    armed: Monotonic,
    period_ns: u64,
    max_age_ns: u64,
) {
    let base = page_faults_of_this_thread().unwrap_or_default();
    let mut history = History::new(armed);
    let mut next = Monotonic::now();
    loop {
        let now = Monotonic::now();
        let decision = decide(now, ledger.evidence(), max_age_ns);
        if decision == Decision::Kick {
            let outcome = barrel.kick();
            history.kicked(ledger, now, outcome);
        }
        history.decided(ledger, now, decision);
        if decision == Decision::Kick && ledger.stop.load(Ordering::Relaxed) {
            break;
        }
        if let Ok(now) = page_faults_of_this_thread() {
            record_faults(&ledger.counters.kicker_faults, base, now);
        }
        next = next_tick(next, Monotonic::now(), period_ns);
        sleep_until(next);
    }
    ledger.note(match barrel.disarm() {
        Ok(()) => {
            ledger.disarmed.store(true, Ordering::Release);
            Note::Disarmed
        }
        Err(error) => Note::DisarmFailed {
            errno: errno(&error),
        },
    });
    ledger.ended.store(true, Ordering::Release);
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Kind the kicker remembers, to note only what changed. It begins with a kick: the
/// arming.
struct History {
    last_kick: Monotonic,
    decision: Decision,
    since: Monotonic,
}

impl History {
    fn new(armed: Monotonic) -> Self {
        Self {
            last_kick: armed,
            decision: Decision::Kick,
            since: armed,
        }
    }

    fn kicked(&mut self, ledger: &Ledger, began: Monotonic, outcome: io::Result<()>) {
        let counters = &ledger.counters;
        let took = Monotonic::now().since_ns(began);
        counters.max_kick_ns.fetch_max(took, Ordering::Relaxed);
        if let Err(error) = outcome {
            counters.failed_kicks.fetch_add(1, Ordering::Relaxed);
            ledger.note(Note::KickFailed {
                at: began,
                errno: errno(&error),
            });
            return;
        }
        let gap = began.since_ns(self.last_kick);
        counters.max_kick_gap_ns.fetch_max(gap, Ordering::Relaxed);
        counters.kicks.fetch_add(1, Ordering::Relaxed);
        counters.last_kick.store(began.0, Ordering::Relaxed);
    }

    fn decided(&mut self, ledger: &Ledger, now: Monotonic, decision: Decision) {
        let (turned, new_cause) = match (self.decision, decision) {
            (Decision::Kick, Decision::Kick) => (false, false),
            (Decision::Withhold(old), Decision::Withhold(new)) => (false, !old.same_cause(&new)),
            _ => (true, true),
        };
        if turned {
            self.since = now;
            let withheld = u64::from(decision != Decision::Kick);
            let withholds = &ledger.counters.withholds;
            withholds.fetch_add(withheld, Ordering::Relaxed);
        }
        ledger.put_decision(decision, self.since);
        if new_cause {
            ledger.note(Note::Decided {
                at: now,
                decision,
                last_kick: self.last_kick,
            });
        }
        if decision == Decision::Kick {
            self.last_kick = Monotonic(ledger.counters.last_kick.load(Ordering::Relaxed));
        }
        self.decision = decision;
    }
}

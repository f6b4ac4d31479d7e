// SPDX-License-Identifier: GPL-2.0-only
//! The narrator: tells people what the kicker did, as the kicker itself must not.
//!
//! In: the kicker's notes; while the evidence is stale, looks of its own. Out: log lines.
//! It polls: to be woken would cost the kicker a system call.
//!
//! A wedge often stops the sampler first, and "evidence stale" tells whoever is paged
//! little. So while kicks are withheld for want of evidence, the narrator looks at the
//! hypervisor itself, from wherever it happens to run, and says what is not serviced.
//! That is for people only: it changes no decision.

use crate::event::Kind;
use crate::guard::evidence::{Unknown, Verdict, Work};
use crate::guard::gate::{Decision, Reason};
use crate::guard::ledger::{Ledger, Note};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::xen::Hypervisor;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// How often it looks for notes.
const POLL: Duration = Duration::from_millis(100);

/// Who else is told. Neither may block for longer than a lock is held for computing.
pub trait Listener {
    /// Something happened to the host watchdog.
    fn host(&self, what: Kind);

    /// Another round is done.
    fn turn(&self);
}

/// Logs notes, and tells `listener`, until the kicker has ended and all its notes are told.
/// `own` is what it looks at the hypervisor with, if it can.
pub fn run(
    ledger: &Ledger,
    timeout_ns: u64,
    own: Option<Box<dyn Hypervisor>>,
    listener: &dyn Listener,
) {
    let mut second_look = own.map(SecondLook::new);
    loop {
        let last_round = ledger.ended.load(Ordering::Acquire);
        while let Some(note) = ledger.take_note() {
            if let Some(what) = tell(note, timeout_ns) {
                listener.host(what);
            }
        }
        listener.turn();
        if last_round {
            return;
        }
        if let Some(second_look) = &mut second_look {
            second_look.turn(ledger);
        }
        thread::sleep(POLL);
    }
}

/// The narrator's own eyes.
struct SecondLook {
    hypervisor: Box<dyn Hypervisor>,
    /// Kind it has told of the present withhold.
    told: Option<Work>,
}

impl SecondLook {
    fn new(hypervisor: Box<dyn Hypervisor>) -> Self {
        Self {
            hypervisor,
            told: None,
        }
    }

    /// Looks if kicks are withheld for want of evidence; may block as long as the
    /// hypervisor does.
    fn turn(&mut self, ledger: &Ledger) {
        if !wants_evidence(ledger) {
            self.told = None;
            return;
        }
        let evidence = self.hypervisor.look(None);
        let Verdict::Lagging { work, since } = evidence.verdict else {
            return;
        };
        if self.told != Some(work) {
            let overdue_ms = Monotonic::now().since_ns(since) / NS_PER_MS;
            log::error!("a second look finds: {work} not serviced for {overdue_ms} ms");
            self.told = Some(work);
        }
    }
}

fn wants_evidence(ledger: &Ledger) -> bool {
    use Decision::Withhold;
    use Reason::Unknown as For;
    matches!(
        ledger.decision(),
        Some((
            Withhold(For(Unknown::Stale { .. } | Unknown::Unconfirmed { .. })),
            _
        ))
    )
}

/// Logs a note; gives the event that it makes, if any.
fn tell(note: Note, timeout_ns: u64) -> Option<Kind> {
    let errno = |raw: i32| nix::errno::Errno::from_raw(raw).desc();
    match note {
        Note::Decided {
            at,
            decision,
            last_kick,
        } => return Some(tell_decision(at, decision, last_kick, timeout_ns)),
        Note::KickFailed { errno: raw, .. } => {
            log::error!("the host watchdog refused a kick: {}", errno(raw));
        }
        Note::Disarmed => {
            log::info!("disarmed the host watchdog");
            return Some(Kind::HostDisarmed {});
        }
        Note::DisarmFailed { errno: raw } => log::error!(
            "cannot disarm the host watchdog, it will fire: {}",
            errno(raw)
        ),
    }
    None
}

fn tell_decision(at: Monotonic, decision: Decision, last_kick: Monotonic, timeout_ns: u64) -> Kind {
    let age_ns = at.since_ns(last_kick);
    let left_ms = timeout_ns.saturating_sub(age_ns) / NS_PER_MS;
    let age_ms = age_ns / NS_PER_MS;
    match decision {
        Decision::Withhold(reason) => {
            log::error!(
                "withhold: {reason} (last kick {age_ms} ms ago; the host goes down in \
                 {left_ms} ms unless it is served again)"
            );
            Kind::HostWithhold {
                reason: reason.to_string(),
                last_kick_age_ms: age_ms,
                left_ms,
            }
        }
        Decision::Kick => {
            log::info!(
                "resume: everything is served again (last kick {age_ms} ms ago, {left_ms} ms \
                 were left)"
            );
            Kind::HostResumed {
                unkicked_ms: age_ms,
                left_ms,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::patched::Patched;
    use crate::xen::simulated::{Scene, Simulated};

    fn withheld(why: Unknown) -> Ledger {
        let ledger = Ledger::new();
        let decision = Decision::Withhold(Reason::Unknown(why));
        ledger.put_decision(decision, Monotonic::now());
        ledger
    }

    fn eyes() -> SecondLook {
        let mut scene = Scene::healthy(2, 2);
        scene.pcpus[1].canary_due = scene.now - 2_000 * NS_PER_MS;
        SecondLook::new(Box::new(Patched::new(Simulated::still(&scene))))
    }

    #[test]
    fn stale_evidence_is_explained_by_a_look_of_ones_own() {
        let mut eyes = eyes();
        eyes.turn(&withheld(Unknown::Stale { age_ns: 1 }));
        assert_eq!(eyes.told, Some(Work::PcpuTimers(1)));
    }

    #[test]
    fn nobody_looks_while_kicks_go_on_or_the_cause_is_known() {
        let kicking = Ledger::new();
        kicking.put_decision(Decision::Kick, Monotonic::now());
        for ledger in [Ledger::new(), kicking, withheld(Unknown::ClockStalled)] {
            let mut eyes = eyes();
            eyes.turn(&ledger);
            assert_eq!(eyes.told, None);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What the host watchdog is doing, which the next boot has to know
//! ([`crate::state::reset_reason`]).
//!
//! In: events of the host, the guard page. Out: [`HostState`]. Pure.

use crate::event::Kind;
use crate::guard::gate::Decision;
use crate::guard::page::{Phase, Status};
use crate::state::reset_reason::HostState;

/// As the guard page has it.
#[must_use]
pub fn of_page(status: &Status) -> HostState {
    match (status.phase, status.decision) {
        (Phase::Starting | Phase::Disarmed, _) => HostState::Disarmed,
        (_, Decision::Kick) => HostState::Armed,
        (_, Decision::Withhold(reason)) => HostState::Withholding {
            reason: reason.to_string(),
        },
    }
}

/// As an event says it; none where the event says nothing of it. A guard that is back need
/// not kick: then the page tells, as it is `now`.
#[must_use]
pub fn of_event(what: &Kind, now: Option<&Status>) -> Option<HostState> {
    let withheld = |reason: String| Some(HostState::Withholding { reason });
    match what {
        Kind::HostWithhold { reason, .. } => withheld(reason.clone()),
        Kind::HostKickRefused { error, .. } => {
            withheld(format!("the host watchdog refused kicks: {error}"))
        }
        Kind::HostDisarmFailed { error } => {
            withheld(format!("the host watchdog could not be disarmed: {error}"))
        }
        Kind::HostGuardSilent { .. } => withheld("the guard hung or was gone".to_owned()),
        Kind::HostArmed { .. } | Kind::HostResumed { .. } | Kind::HostKickTaken { .. } => {
            Some(HostState::Armed)
        }
        Kind::HostGuardBack { .. } => now.map(of_page),
        Kind::HostDisarmed {} => Some(HostState::Disarmed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Work;
    use crate::guard::gate::Reason;
    use crate::guard::page::Counters;
    use crate::sys::clock::Monotonic;

    #[test]
    fn a_guard_that_is_back_and_withholds_still_says_why() {
        let reason = Reason::Lagging {
            work: Work::PcpuTimers(3),
            overdue_ns: 700_000_000,
        };
        let status = |decision| Status {
            phase: Phase::Armed,
            looked: Monotonic(9),
            decision,
            since: Monotonic(5),
            last_kick: Monotonic(5),
            excused: None,
            entries: 2,
            counters: Counters::default(),
        };
        let back = Kind::HostGuardBack { silent_ms: 1_200 };
        let withheld = HostState::Withholding {
            reason: reason.to_string(),
        };
        let withholds = status(Decision::Withhold(reason));
        assert_eq!(of_event(&back, Some(&withholds)), Some(withheld));
        let kicks = status(Decision::Kick);
        assert_eq!(of_event(&back, Some(&kicks)), Some(HostState::Armed));
        assert_eq!(of_event(&back, None), None);
    }
}

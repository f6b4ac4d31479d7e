// SPDX-License-Identifier: GPL-2.0-only
//! What the host watchdog is doing, which the next boot has to know
//! ([`crate::state::reset_reason`]).
//!
//! In: events of the host, the guard page. Out: [`HostState`]. Pure.

use crate::control::status;
use crate::event::Kind;
use crate::guard::gate::Decision;
use crate::guard::page::{Phase, View};
use crate::state::reset_reason::HostState;
use crate::sys::clock::Monotonic;

/// As the guard page has it, and as kicks that do not arrive show.
#[must_use]
pub fn of_page(view: &View, now: Monotonic) -> HostState {
    let reason = match (view.status.phase, view.status.decision) {
        (Phase::Starting | Phase::Disarmed, _) => return HostState::Disarmed,
        (_, Decision::Withhold(reason)) => Some(reason.to_string()),
        (_, Decision::Kick) => status::decision(view, now).reason,
    };
    reason.map_or(HostState::Armed, |reason| HostState::Withholding { reason })
}

/// As an event says it; none where the event says nothing of it. A guard that is back need
/// not kick: then the page tells, as it is `now`.
#[must_use]
pub fn of_event(what: &Kind, now: Option<HostState>) -> Option<HostState> {
    let withheld = |reason: String| Some(HostState::Withholding { reason });
    match what {
        Kind::HostWithhold { reason, .. } => withheld(reason.clone()),
        Kind::HostKickRefused { error, .. } => {
            withheld(format!("the host watchdog refused kicks: {error}"))
        }
        Kind::HostDisarmFailed { error } => {
            withheld(format!("the host watchdog could not be disarmed: {error}"))
        }
        // A guard that withheld before it fell silent has said why.
        Kind::HostGuardSilent { .. } => {
            now.or_else(|| withheld("the guard hung or was gone".to_owned()))
        }
        Kind::HostArmed { .. } | Kind::HostResumed { .. } | Kind::HostKickTaken { .. } => {
            Some(HostState::Armed)
        }
        Kind::HostGuardBack { .. } => now,
        Kind::HostDisarmed {} => Some(HostState::Disarmed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Coverage;
    use crate::guard::evidence::Work;
    use crate::guard::gate::Reason;
    use crate::guard::page::{Counters, Info, Status};
    use crate::sys::clock::NS_PER_S;

    const LOOKED: Monotonic = Monotonic(100 * NS_PER_S);

    fn view(phase: Phase, decision: Decision) -> View {
        View {
            info: Info {
                pid: 7,
                started: Monotonic(5),
                device: "/dev/watchdog0".into(),
                identity: String::new(),
                timeout_ns: 5 * NS_PER_S,
                period_ns: NS_PER_S / 4,
                coverage: Coverage::Full,
                weakness: String::new(),
            },
            status: Status {
                phase,
                looked: LOOKED,
                decision,
                since: LOOKED,
                last_kick: LOOKED,
                excused: None,
                entries: 2,
                counters: Counters::default(),
            },
        }
    }

    #[test]
    fn a_guard_that_is_back_and_withholds_still_says_why() {
        let reason = Reason::Lagging {
            work: Work::PcpuTimers(3),
            overdue_ns: 700_000_000,
        };
        let back = Kind::HostGuardBack { silent_ms: 1_200 };
        let withheld = HostState::Withholding {
            reason: reason.to_string(),
        };
        let withholds = of_page(&view(Phase::Armed, Decision::Withhold(reason)), LOOKED);
        assert_eq!(of_event(&back, Some(withholds.clone())), Some(withheld));
        let kicks = of_page(&view(Phase::Armed, Decision::Kick), LOOKED);
        assert_eq!(of_event(&back, Some(kicks)), Some(HostState::Armed));
        assert_eq!(of_event(&back, None), None);
        // Nor does it matter that the guard which withheld has been silent since.
        let later = view(Phase::Armed, Decision::Withhold(reason));
        let now = of_page(&later, LOOKED.plus_ns(9 * NS_PER_S));
        assert_eq!(now, withholds);
        let silent = Kind::HostGuardSilent { silent_ms: 9_000 };
        assert_eq!(of_event(&silent, Some(now)), Some(withholds));
    }

    #[test]
    fn a_page_on_which_no_kick_arrives_any_more_is_not_that_of_a_kicked_host() {
        let armed = view(Phase::Armed, Decision::Kick);
        assert_eq!(of_page(&armed, LOOKED), HostState::Armed);
        let mut refused = armed.clone();
        refused.status.last_kick = Monotonic(LOOKED.0 - 3 * NS_PER_S);
        let cases = [
            (armed, LOOKED.plus_ns(3 * NS_PER_S), "hangs or is gone"),
            (refused, LOOKED, "kicks do not reach"),
            (
                view(Phase::StillArmed, Decision::Kick),
                LOOKED,
                "without disarming",
            ),
        ];
        for (view, now, expected) in cases {
            match of_page(&view, now) {
                HostState::Withholding { reason } => assert!(reason.contains(expected), "{reason}"),
                state => panic!("{state:?}, not {expected}"),
            }
        }
    }
}

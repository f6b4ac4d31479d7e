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

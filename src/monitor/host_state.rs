// SPDX-License-Identifier: GPL-2.0-only
//! What the host watchdog is doing, which the next boot has to know
//! ([`crate::state::reset_reason`]).
//!
//! In: events of the host, the guard page. Out: [`HostState`]. Pure but for [`present`], which
//! reads the page, and [`note`], which writes down what it finds.

use crate::control::status;
use crate::event::{Kind, Unkicked};
use crate::guard::gate::Decision;
use crate::guard::page::{self, Phase, Reader, View};
use crate::state::reset_reason::{HostRecord, HostState, boot_id};
use crate::state::store::Store;
use crate::sys::clock::Monotonic;
use std::io;
use std::path::Path;

/// What the host watchdog does, as the guard page tells; none where there is none.
#[must_use]
pub fn present() -> Option<HostState> {
    let view = Reader::view_at(Path::new(page::PATH))?;
    Some(of_page(&view, Monotonic::now()))
}

/// Writes down how the guard has ended, for a host that shuts down: there the monitor ends
/// before it. Without a guard page there is nothing to write. Blocks as long as the disk does.
///
/// # Errors
/// Those of writing.
pub fn note(directory: &Path) -> io::Result<()> {
    let state = match present() {
        None => return Ok(()),
        // At a shutdown no other guard comes: the service manager has disarmed it.
        Some(HostState::Kept) => HostState::Disarmed,
        Some(state) => state,
    };
    Store::new(directory).save(&HostRecord::now(&boot_id(), state, true))
}

/// As the guard page has it, and as kicks that do not arrive show.
#[must_use]
pub fn of_page(view: &View, now: Monotonic) -> HostState {
    let (cause, reason) = match (view.status.phase, view.status.decision) {
        (Phase::Starting | Phase::Disarmed, _) => return HostState::Disarmed,
        (Phase::Kept, _) => return HostState::Kept,
        (Phase::Shutdown, _) => return HostState::Shutdown,
        (_, Decision::Withhold(reason)) => (Unkicked::Withheld, Some(reason.to_string())),
        (phase, Decision::Kick) => {
            let silent = status::is_silent(view, now);
            let cause = match phase {
                Phase::StillArmed => Unkicked::DisarmFailed,
                _ if silent => Unkicked::GuardSilent,
                _ => Unkicked::KickRefused,
            };
            (cause, status::decision(view, now).reason)
        }
    };
    reason.map_or(HostState::Armed, |reason| HostState::Withholding {
        reason,
        cause,
    })
}

/// As an event says it; none where the event says nothing of it. A guard that is back need
/// not kick: then the page tells, as it is `now`.
#[must_use]
pub fn of_event(what: &Kind, now: Option<HostState>) -> Option<HostState> {
    let unkicked = |cause, reason: String| Some(HostState::Withholding { reason, cause });
    match what {
        Kind::HostWithhold { reason, .. } => unkicked(Unkicked::Withheld, reason.clone()),
        Kind::HostKickRefused { error, .. } => unkicked(
            Unkicked::KickRefused,
            format!("the host watchdog refused kicks: {error}"),
        ),
        Kind::HostDisarmFailed { error, .. } => unkicked(
            Unkicked::DisarmFailed,
            format!("the host watchdog could not be disarmed: {error}"),
        ),
        // A guard that withheld before it fell silent has said why.
        Kind::HostGuardSilent { .. } => now.or_else(|| {
            let reason = "the guard hung or was gone".to_owned();
            unkicked(Unkicked::GuardSilent, reason)
        }),
        Kind::HostArmed { .. } | Kind::HostResumed { .. } | Kind::HostKickTaken { .. } => {
            Some(HostState::Armed)
        }
        Kind::HostGuardBack { .. } => now,
        Kind::HostDisarmed {} => Some(HostState::Disarmed),
        Kind::HostKept { .. } => Some(HostState::Kept),
        Kind::HostShutdown { .. } => Some(HostState::Shutdown),
        _ => None,
    }
}

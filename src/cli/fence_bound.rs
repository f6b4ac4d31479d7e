// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden fence-bound`: one number for scripts, from the monitor or,
//! where that is down, from the guard page and the state directory.

use super::EXIT_OK;
use super::connection::{NoAnswer, ask};
use super::output::Output;
use crate::config::Policy;
use crate::control::protocol::Request;
use crate::control::status::Status;
use crate::event::Coverage;
use crate::guard::page::{self, Reader};
use crate::state::drill::{self, Drills};
use crate::state::history::History;
use crate::state::store::Store;
use crate::sys::clock::Monotonic;
use std::path::Path;

/// Shows after how many seconds this host is down once it is wedged, hung or dead.
pub fn run(
    socket: &Path,
    policy: impl FnOnce() -> Result<Policy, String>,
    output: &mut Output,
) -> Result<u8, String> {
    let status = match ask::<Status>(socket, &Request::Status) {
        Ok((status, _)) => status,
        Err(refused @ NoAnswer::Refused(_)) => return Err(refused.into()),
        Err(NoAnswer::CannotTell(why)) => without_monitor(Path::new(page::PATH), &policy()?, &why)?,
    };
    let bound_ms = status.host_watchdog.fence_bound_ms;
    let watchdog = &status.host_watchdog;
    let why = match (&status.inhibited, status.coverage) {
        _ if watchdog.drill_failed.is_some() => {
            "a drill has shown that the host watchdog does not reset this host"
        }
        _ if watchdog.device.as_os_str().is_empty() => "no host watchdog is armed",
        (Some(_), _) => "while the guard is inhibited a host may fall silent and be kicked",
        (None, Coverage::Partial) => "with partial coverage a host may fall silent and be kicked",
        (None, Coverage::Full) => "no host watchdog is armed",
    };
    let bound_ms = bound_ms.ok_or_else(|| format!("there is no bound: {why}"))?;
    let text = format!("{}\n", bound_ms.div_ceil(1_000));
    let _ = output.write(text.as_bytes())?;
    Ok(EXIT_OK)
}

fn without_monitor(page: &Path, policy: &Policy, why: &str) -> Result<Status, String> {
    let view = Reader::view_at(page).ok_or_else(|| why.to_owned())?;
    // A drill may have measured more than is assumed.
    let history = Store::new(&policy.state_directory).peek::<History>()?;
    let measured = history.and_then(|history| history.measured);
    let drills = Drills::new(measured, Path::new(drill::RUN));
    Ok(Status::of_guard(&view, Some(&drills), Monotonic::now()))
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden status`: from the monitor or, where that is down, from the guard page alone.

use super::connection::{NoAnswer, ask};
use super::output::Output;
use super::{EXIT_NOT_OK, EXIT_OK, print_error};
use crate::cli::text::render;
use crate::control::inhibit;
use crate::control::leases;
use crate::control::protocol::{Request, line};
use crate::control::status::Status;
use crate::guard::leases::page::PATH as LEASES;
use crate::guard::page::{self, Reader};
use crate::sys::clock::Monotonic;
use std::path::Path;

/// Shows the status; fine while the host watchdog is kicked.
pub fn run(socket: &Path, json: bool, output: &mut Output) -> Result<u8, String> {
    let status = match ask::<Status>(socket, &Request::Status) {
        Ok((status, _)) => status,
        Err(refused @ NoAnswer::Refused(_)) => return Err(refused.into()),
        Err(NoAnswer::CannotTell(why)) => without_monitor(Path::new(page::PATH), why)?,
    };
    let mut text = String::new();
    if json {
        text = String::from_utf8(line(&status)).map_err(|error| error.to_string())?;
    } else {
        render(&status, &mut text).map_err(|error| error.to_string())?;
    }
    let _ = output.write(text.as_bytes())?;
    Ok(if status.decision.kick {
        EXIT_OK
    } else {
        EXIT_NOT_OK
    })
}

/// What the guard itself tells.
fn without_monitor(page: &Path, why: String) -> Result<Status, String> {
    let Some(view) = Reader::view_at(page) else {
        return Err(why);
    };
    print_error(&format!(
        "the monitor does not answer ({why}); this is from the guard alone"
    ));
    let mut status = Status::of_guard(&view, None, Monotonic::now());
    inhibit::tell(&mut status, Path::new(inhibit::PATH));
    status.leases = leases::of_page(Path::new(LEASES), Monotonic::now());
    Ok(status)
}

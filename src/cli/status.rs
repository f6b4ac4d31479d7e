// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden status`.

use super::arguments::Ask;
use super::connection::ask;
use super::output::Output;
use super::{FINE, NOT_FINE};
use crate::cli::text::render;
use crate::control::status::Status;

/// Shows the status; fine while the host watchdog is kicked.
pub fn run(request: &Ask, output: &mut Output) -> Result<u8, String> {
    let (status, line) = ask::<Status>(&request.socket, "status")?;
    let mut text = String::new();
    if request.json {
        text = line;
    } else {
        render(&status, &mut text).map_err(|error| error.to_string())?;
    }
    let _ = output.write(text.as_bytes())?;
    Ok(if status.decision.kick { FINE } else { NOT_FINE })
}

// SPDX-License-Identifier: GPL-2.0-only
//! The command line: what an admin asks and orders, in a process of its own.
//!
//! In: arguments. Out: text or JSON on stdout, complaints of one line on stderr, an exit
//! code. Promises that no daemon, however broken, keeps it waiting for ever unless it was
//! told to follow, and that nothing of a guest's making moves the cursor. Must never open
//! the watchdog.

mod ack;
pub mod arguments;
mod connection;
mod events;
mod guests;
mod output;
mod status;
pub mod text;

use crate::exit::USAGE;
use arguments::{Command, parse};
use output::Output;
use std::process::ExitCode;

/// All is fine; or done.
const FINE: u8 = 0;
/// The host is withheld; alarms are open; or the daemon refused to do what was ordered.
const NOT_FINE: u8 = 1;
/// The daemon does not answer, or not sensibly, or knows nothing itself.
const CANNOT_TELL: u8 = 2;

/// Does what the arguments (without the program's name) say.
#[must_use]
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let command = match parse(arguments) {
        Ok(command) => command,
        Err(message) => {
            complain(&message);
            return ExitCode::from(USAGE);
        }
    };
    let mut output = Output::stdout();
    let outcome = match command {
        Command::Say(text) => output.write(text.as_bytes()).map(|_| FINE),
        Command::Status(request) => status::run(&request, &mut output),
        Command::Guests { request, watch } => guests::run(&request, watch, &mut output),
        Command::Events(request) => events::run(&request, &mut output),
        Command::Ack(request) => ack::run(&request, &mut output),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            complain(&message);
            ExitCode::from(CANNOT_TELL)
        }
    }
}

/// One line on stderr. Nobody may be there to read it.
fn complain(message: &str) {
    use std::io::Write;
    let message = crate::cli::text::plain(message);
    let _ = writeln!(std::io::stderr(), "xenwarden: {message}");
}

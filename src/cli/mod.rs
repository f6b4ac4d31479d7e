// SPDX-License-Identifier: GPL-2.0-only
//! The command line: what an admin asks and orders, in a process of its own.
//!
//! In: arguments, the configuration. Out: text or JSON on stdout, complaints of one line on stderr, an exit
//! code. Promises that no monitor, however broken, keeps it waiting for ever unless it was
//! told to follow, and that nothing of a guest's making moves the cursor. Must never open
//! the watchdog.

mod ack;
pub mod arguments;
mod check;
mod connection;
mod drill;
mod events;
mod fence_bound;
mod guests;
mod inhibit;
mod output;
mod pool;
mod pulses;
mod sources;
mod status;
pub mod text;
mod why;

use crate::config::{self, ConfigError, DEFAULT_PATH, Policy};
use crate::exit::USAGE;
use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser};
use output::Output;
use sources::Sources;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// All is fine; or done.
const EXIT_OK: u8 = 0;
/// A host is withheld, or gone from the pool; alarms are open; a heartbeat is lost; the last reset is unexplained; or the monitor refused
/// to do what was ordered.
const EXIT_NOT_OK: u8 = 1;
/// The monitor does not answer, or not sensibly, or knows nothing itself.
const EXIT_UNKNOWN: u8 = 2;

/// The hypervisor's liveness table is not seen, so nothing is known of guests.
const EXIT_NO_TABLE: u8 = 3;

/// Does what the arguments say, of which the first is the program's name.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if error.exit_code() == 0 => {
            // Help or the version; nobody may be there to read it.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            print_error(&arguments::usage_error(&error));
            return ExitCode::from(USAGE);
        }
    };
    match act(&arguments, &mut Output::stdout()) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            print_error(&message);
            ExitCode::from(EXIT_UNKNOWN)
        }
    }
}

fn act(arguments: &Arguments, output: &mut Output) -> Result<u8, String> {
    if let Some(done) = act_on_pool(arguments, output) {
        return done;
    }
    let control = || socket(arguments, |policy| policy.control_socket);
    // A socket that was named is the only one that is meant.
    let sources = || {
        let of = match arguments.socket {
            Some(_) => Sources::only,
            None => Sources::with_qemu,
        };
        control().map(of)
    };
    match &arguments.command {
        Command::Status { json } => status::run(&control()?, *json, output),
        // Asked above.
        Command::Hosts { .. } => Ok(EXIT_UNKNOWN),
        Command::Guests { watch, json, .. } => guests::run(&sources()?, *json, *watch, output),
        Command::Pulses { json } => {
            let place = arguments.socket.as_deref();
            pulses::run(place.unwrap_or(Path::new(pulses::DIRECTORY)), *json, output)
        }
        Command::Events(events) => {
            let socket = socket(arguments, |policy| policy.events.socket)?;
            events::run(&socket, events, output)
        }
        Command::Why { json } => {
            let socket = control()?;
            why::run(&socket, || policy(arguments), *json, output)
        }
        Command::Drill { host } => {
            let policy = policy(arguments)?;
            drill::run(&control()?, &policy, host.as_deref(), output)
        }
        Command::FenceBound => fence_bound::run(&control()?, || policy(arguments), output),
        Command::Ack { guest, close, .. } => ack::run(&sources()?, guest, *close, output),
        Command::Inhibit { span, reason } => {
            let longest_ns = policy(arguments)?.inhibit_longest_ns;
            inhibit::order(
                &inhibit::Place::default(),
                *span,
                longest_ns,
                reason,
                output,
            )
        }
        Command::Resume => inhibit::end(&inhibit::Place::default(), output),
        Command::Check { json } => {
            let config = arguments.config.as_deref();
            check::run(config.unwrap_or(Path::new(DEFAULT_PATH)), *json, output)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "xenwarden", &mut text);
            output.write(&text).map(|_| EXIT_OK)
        }
    }
}

/// What the pool is asked. None: it is not.
fn act_on_pool(arguments: &Arguments, output: &mut Output) -> Option<Result<u8, String>> {
    let socket = pool_socket(arguments);
    Some(match &arguments.command {
        Command::Hosts { json } => pool::hosts(socket, *json, output),
        Command::Guests {
            pool: true, json, ..
        } => pool::guests(socket, *json, output),
        Command::Events(events) if events.pool => {
            let subscription = events.pool_subscription();
            subscription.and_then(|asked| pool::events(socket, asked, events.json, output))
        }
        Command::Ack {
            guest, pool: true, ..
        } => pool::acknowledge(socket, guest, output),
        _ => return None,
    })
}

/// Where the pool is asked.
fn pool_socket(arguments: &Arguments) -> &Path {
    let named = arguments.socket.as_deref();
    named.unwrap_or(Path::new(crate::pool::protocol::SOCKET))
}

/// Where to ask: as told, or as the configuration says.
fn socket(arguments: &Arguments, of: fn(Policy) -> PathBuf) -> Result<PathBuf, String> {
    if let Some(socket) = &arguments.socket {
        return Ok(socket.clone());
    }
    let policy = policy(arguments);
    policy
        .map(of)
        .map_err(|error| format!("{error}; or name the socket with --socket"))
}

/// As the configuration says, which need not be there unless it was named.
fn policy(arguments: &Arguments) -> Result<Policy, String> {
    let named = arguments.config.as_deref();
    match config::load(named.unwrap_or(Path::new(DEFAULT_PATH))) {
        Err(ConfigError::Unreadable { error, .. })
            if named.is_none() && error.kind() == io::ErrorKind::NotFound =>
        {
            Policy::from_file(config::file::File::default())
        }
        loaded => loaded.map_err(|error| error.to_string()),
    }
}

/// One line on stderr. Nobody may be there to read it.
fn print_error(message: &str) {
    use std::io::Write;
    let message = crate::cli::text::plain(message);
    let _ = writeln!(std::io::stderr(), "xenwarden: {message}");
}

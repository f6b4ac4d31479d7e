// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-monitor: tells and answers what the guard and the guests do.
//! xenwarden-monitor(8) is its manual.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use xenwarden::config::{self, Policy, STATE_DIRECTORY};
use xenwarden::exit::{self, CONFIG, Failure, IOERR, OSERR, USAGE};
use xenwarden::monitor::privileges::{self, Kept};
use xenwarden::monitor::{host_state, services};
use xenwarden::sink;
use xenwarden::sink::journal::NAME;
use xenwarden::sys::realtime::keep_little_memory;

/// Tells and answers what the guard (xenwardend) and the guests do: events, alarms, sockets,
/// hooks, metrics. It may be stopped at any moment; the host is guarded all the same. See
/// xenwarden-monitor(8).
#[derive(Debug, Parser)]
#[command(name = "xenwarden-monitor", version)]
struct Arguments {
    /// Read this configuration
    #[arg(long, short, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Write down how the guard has ended, for the next boot, and end: for a shutdown, at
    /// which the monitor ends before the guard
    #[arg(long)]
    record_stop: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let code = if error.exit_code() == 0 { 0 } else { USAGE };
            return ExitCode::from(code);
        }
    };
    exit::end(NAME, run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let policy = config::load(&arguments.config).map_err(|error| Failure::new(CONFIG, error));
    if arguments.record_stop {
        return record_stop(policy);
    }
    let policy = policy?;
    keep_little_memory();
    // What writes the log needs no privilege.
    let begin = || _ = privileges::give_up(Kept::default());
    sink::log::start(NAME, policy.level, policy.syslog, begin)
        .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
    services::run(&policy)
}

/// A configuration that cannot be read does not hide how the guard has ended: it is noted where it is unless told otherwise.
fn record_stop(policy: Result<Policy, Failure>) -> Result<(), Failure> {
    let (directory, failure) = match policy {
        Ok(policy) => (policy.state_directory, None),
        Err(failure) => (STATE_DIRECTORY.into(), Some(failure)),
    };
    let noted = host_state::note(&directory).map_err(|error| {
        let directory = directory.display();
        Failure::new(
            IOERR,
            format!("how the guard has ended is not saved in {directory}: {error}"),
        )
    });
    failure.map_or(noted, Err)
}

// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-monitor: tells and answers what the guard and the guests do.
//! xenwarden-monitor(8) is its manual.

use lexopt::prelude::{Long, Short};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use xenwarden::config::{self, Policy, STATE_DIRECTORY};
use xenwarden::exit::{self, CONFIG, Failure, IOERR, OSERR, USAGE};
use xenwarden::monitor::privileges::{self, Kept};
use xenwarden::monitor::{host_state, services};
use xenwarden::sink;
use xenwarden::sink::journal::NAME;
use xenwarden::sys::realtime::keep_little_memory;

const HELP: &str = "\
xenwarden-monitor: tells and answers what the guard (xenwardend) and the guests do: events,
alarms, sockets, hooks, metrics. It may be stopped at any moment; the host is guarded all the
same. See xenwarden-monitor(8).

usage: xenwarden-monitor [OPTIONS]

  -c, --config FILE   read this configuration (/etc/xenwarden/xenwarden.conf)
      --record-stop   write down how the guard has ended, for the next boot, and end: for a
                      shutdown, at which the monitor ends before the guard
  -V, --version       say the version
  -h, --help          say this";

/// What the command line asks for.
enum Request {
    Run(PathBuf),
    RecordStop(PathBuf),
    Say(&'static str),
}

fn main() -> ExitCode {
    exit::end(NAME, parse(lexopt::Parser::from_env()).and_then(serve))
}

fn parse(mut arguments: lexopt::Parser) -> Result<Request, Failure> {
    let usage = |error| Failure::new(USAGE, format!("{error}; {NAME} --help explains"));
    let mut config = PathBuf::from(config::DEFAULT_PATH);
    let mut record_stop = false;
    while let Some(argument) = arguments.next().map_err(usage)? {
        match argument {
            Short('c') | Long("config") => config = arguments.value().map_err(usage)?.into(),
            Long("record-stop") => record_stop = true,
            Short('V') | Long("version") => {
                let version = concat!("xenwarden-monitor ", env!("CARGO_PKG_VERSION"));
                return Ok(Request::Say(version));
            }
            Short('h') | Long("help") => return Ok(Request::Say(HELP)),
            other => return Err(usage(other.unexpected())),
        }
    }
    Ok(match record_stop {
        true => Request::RecordStop(config),
        false => Request::Run(config),
    })
}

fn serve(request: Request) -> Result<(), Failure> {
    match request {
        Request::Say(text) => writeln!(io::stdout(), "{text}")
            .map_err(|error| Failure::new(OSERR, format!("stdout: {error}"))),
        Request::RecordStop(path) => record_stop(load(&path)),
        Request::Run(path) => run(&load(&path)?),
    }
}

fn load(path: &Path) -> Result<Policy, Failure> {
    config::load(path).map_err(|error| Failure::new(CONFIG, error))
}

fn run(policy: &Policy) -> Result<(), Failure> {
    keep_little_memory();
    // What writes the log needs no privilege.
    let begin = || _ = privileges::give_up(Kept::default());
    sink::log::start(NAME, policy.level, policy.syslog, begin)
        .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
    services::run(policy)
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

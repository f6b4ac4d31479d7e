// SPDX-License-Identifier: GPL-2.0-only
//! xenwardend, the guard: parse, assemble, run. xenwardend(8) is its manual.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use xenwarden::config::{self, DEFAULT_PATH, Policy};
use xenwarden::exit::{CONFIG, Failure, OSERR, USAGE};
use xenwarden::guard::{assembly as guard, startup};
use xenwarden::sink;

const USAGE_TEXT: &str = "usage: xenwardend [--config FILE] [--check-config] [--version] [--help]";

/// What the command line asks for.
enum Request {
    Run(PathBuf),
    CheckConfig(PathBuf),
    Say(String),
}

fn main() -> ExitCode {
    xenwarden::sys::realtime::keep_one_malloc_arena();
    match parse(arguments()).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Before logging has started (its level is then off) stderr is all there is.
            if log::max_level() == log::LevelFilter::Off {
                eprintln!("xenwardend: {}", failure.message);
            } else {
                log::error!("{}", failure.message);
                log::logger().flush();
            }
            failure.into()
        }
    }
}

/// What is not UTF-8 is no file name that the configuration could be in, nor an option.
fn arguments() -> impl Iterator<Item = String> {
    let arguments = std::env::args_os().skip(1);
    arguments.map(|a| a.to_string_lossy().into_owned())
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| Failure::new(OSERR, format!("stdout: {error}")))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, Failure> {
    let mut config = PathBuf::from(DEFAULT_PATH);
    let mut check = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--config" => {
                let path = arguments.next();
                config = path
                    .ok_or_else(|| Failure::new(USAGE, "--config needs a file"))?
                    .into();
            }
            "--check-config" => check = true,
            "--version" => {
                let version = concat!("xenwardend ", env!("CARGO_PKG_VERSION"));
                return Ok(Request::Say(version.to_owned()));
            }
            "--help" => return Ok(Request::Say(USAGE_TEXT.to_owned())),
            other => {
                let message = format!("unknown argument {other:?}; {USAGE_TEXT}");
                return Err(Failure::new(USAGE, message));
            }
        }
    }
    Ok(if check {
        Request::CheckConfig(config)
    } else {
        Request::Run(config)
    })
}

fn load(path: &std::path::Path) -> Result<Policy, Failure> {
    config::load(path).map_err(|error| Failure::new(CONFIG, error))
}

fn serve(request: Request) -> Result<(), Failure> {
    match request {
        Request::Say(text) => say(&text)?,
        Request::CheckConfig(path) => {
            let device = startup::check_device(&load(&path)?)?;
            say(&format!("{}: ok; {device}", path.display()))?;
        }
        Request::Run(path) => {
            let policy = load(&path)?;
            sink::log::start(policy.level, policy.syslog)
                .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
            let eyes = guard::Eyes {
                sampler: startup::open_hypervisor(&policy)?,
                narrator: startup::open_hypervisor(&policy).ok(),
            };
            startup::inspect_watchdog(&policy)?;
            guard::run(&policy, eyes)?;
            log::logger().flush();
        }
    }
    Ok(())
}

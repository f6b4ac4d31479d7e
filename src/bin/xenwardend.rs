// SPDX-License-Identifier: GPL-2.0-only
//! xenwardend, the guard: parse, then guard. xenwardend(8) is its manual.

use lexopt::prelude::{Long, Short};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use xenwarden::config::{self, DEFAULT_PATH, Policy};
use xenwarden::exit::{CONFIG, Failure, OSERR, USAGE};
use xenwarden::guard::devices::{self, Shown};
use xenwarden::guard::start;
use xenwarden::watchdog::fast;

const HELP: &str = "\
xenwardend, the guard: arms the host watchdog and kicks it only while the hypervisor serves
every guest watchdog and every physical CPU. See xenwardend(8).

usage: xenwardend [OPTIONS]

  -c, --config FILE   read this configuration (/etc/xenwarden/xenwarden.conf)
      --check-config  say all that is wrong with it, touch nothing, and end
  -V, --version       say the version
  -h, --help          say this";

/// What the command line asks for.
enum Request {
    Run(PathBuf),
    CheckConfig(PathBuf),
    FastFence(String),
    Say(&'static str),
}

fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                // Whoever closed stderr does not want to know.
                let _ = writeln!(io::stderr(), "xenwardend: {line}");
            }
            failure.into()
        }
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Request, Failure> {
    let usage = |error| Failure::new(USAGE, format!("{error}; xenwardend --help explains"));
    let mut config = PathBuf::from(DEFAULT_PATH);
    let mut check = false;
    while let Some(argument) = arguments.next().map_err(usage)? {
        match argument {
            Short('c') | Long("config") => {
                config = arguments.value().map_err(usage)?.into();
            }
            Long("check-config") => check = true,
            // For the guard itself.
            Long(fast::OPTION) => {
                let words = arguments.value().map_err(usage)?;
                return Ok(Request::FastFence(words.to_string_lossy().into_owned()));
            }
            Short('V') | Long("version") => {
                return Ok(Request::Say(concat!(
                    "xenwardend ",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Short('h') | Long("help") => return Ok(Request::Say(HELP)),
            other => return Err(usage(other.unexpected())),
        }
    }
    Ok(if check {
        Request::CheckConfig(config)
    } else {
        Request::Run(config)
    })
}

fn load(path: &Path) -> Result<Policy, Failure> {
    config::load(path).map_err(|error| Failure::new(CONFIG, error))
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| Failure::new(OSERR, format!("stdout: {error}")))
}

fn serve(request: Request) -> Result<(), Failure> {
    match request {
        Request::Say(text) => say(text),
        Request::CheckConfig(path) => {
            let policy = load(&path)?;
            let mut wrong = config::check::check(&policy);
            match devices::check_devices(&policy, &Shown::default()) {
                Ok(device) if wrong.is_empty() => {
                    return say(&format!("{}: ok; {device}", path.display()));
                }
                // What it is not was said already.
                Err(failure) if wrong.iter().all(|line| !line.starts_with("host-watchdog.")) => {
                    wrong.push(failure.message);
                }
                _ => {}
            }
            let lines = wrong
                .iter()
                .map(|line| format!("{}: {line}", path.display()));
            Err(Failure::new(CONFIG, lines.collect::<Vec<_>>().join("\n")))
        }
        Request::FastFence(words) => fast::run(&words),
        Request::Run(path) => start::guard(&load(&path)?),
    }
}

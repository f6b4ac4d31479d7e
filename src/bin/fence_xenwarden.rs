// SPDX-License-Identifier: GPL-2.0-only
//! fence_xenwarden: a fence agent for Pacemaker. fence_xenwarden(8) is its manual.

use std::io::{self, Read};
use std::process::ExitCode;
use xenwarden::fencing::agent::options::{MAX_STDIN, Options, Wanted};
use xenwarden::fencing::agent::{DONE, FAILED, run};

const USAGE: &str = "usage: fence_xenwarden [-o ACTION] [-n HOST] [--power-timeout SECONDS] [--socket-path PATH]\n\
    Without arguments, options are read from stdin, a line each: action=off, plug=HOST. See fence_xenwarden(8).";

fn main() -> ExitCode {
    let code = wanted().and_then(|wanted| match wanted {
        Wanted::Run(options) => run(&options),
        Wanted::Help => {
            println!("{USAGE}");
            Ok(DONE)
        }
        Wanted::Version => {
            println!("fence_xenwarden {}", env!("CARGO_PKG_VERSION"));
            Ok(DONE)
        }
    });
    match code {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("fence_xenwarden: {why}");
            // Whatever went wrong: 2 would say that the host is off.
            ExitCode::from(FAILED)
        }
    }
}

fn wanted() -> Result<Wanted, String> {
    if std::env::args_os().len() > 1 {
        return Options::from_arguments(std::env::args_os().skip(1));
    }
    let mut text = Vec::new();
    let read = io::stdin().lock().take(MAX_STDIN).read_to_end(&mut text);
    read.map_err(|error| format!("stdin: {error}"))?;
    Options::from_stdin(&String::from_utf8_lossy(&text)).map(Wanted::Run)
}

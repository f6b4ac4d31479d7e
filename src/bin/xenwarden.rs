// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden, the command line. xenwarden(1) is its manual.
//!
//! It talks to the daemon's sockets and never opens the watchdog.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    xenwarden::cli::run(arguments.map(|a| a.to_string_lossy().into_owned()))
}

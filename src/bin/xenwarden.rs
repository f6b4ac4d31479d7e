// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden, the command line. xenwarden(1) is its manual.
//!
//! It talks to the monitor's sockets, reads the guard page, and never opens the watchdog.

use std::process::ExitCode;

fn main() -> ExitCode {
    xenwarden::cli::run(std::env::args_os())
}

// SPDX-License-Identifier: GPL-2.0-only
//! Exit codes, as sysexits.h names them, and the one line that goes with each.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// `EX_USAGE`: the command line is wrong.
pub const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: no Xen, no evidence, no watchdog.
pub const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: the program itself is at fault.
pub const SOFTWARE: u8 = 70;
/// `EX_OSERR`: the system refused what the program needs.
pub const OSERR: u8 = 71;
/// `EX_IOERR`: what was to be saved is not.
pub const IOERR: u8 = 74;
/// `EX_NOPERM`: not allowed.
pub const NOPERM: u8 = 77;
/// `EX_CONFIG`: the configuration is wrong.
pub const CONFIG: u8 = 78;

/// Why the program does not run: an exit code and one line.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is wrong, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: u8, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure.code)
    }
}

/// What a program whose log is started by [`crate::sink::log::start`] ends with. Why it failed goes to its log, or, where that has not
/// started, to stderr, a line each; whoever closed that does not want to know.
#[must_use]
pub fn end(name: &str, done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else {
        log::logger().flush();
        return ExitCode::SUCCESS;
    };
    // Before logging has started its level is off.
    if log::max_level() == log::LevelFilter::Off {
        for line in failure.message.lines() {
            let _ = writeln!(io::stderr(), "{name}: {line}");
        }
    } else {
        log::error!("{}", failure.message);
        log::logger().flush();
    }
    failure.into()
}

// SPDX-License-Identifier: GPL-2.0-only
//! Configuration: a file, parsed ([`mod@file`]), then validated into a [`Policy`].
//!
//! In: the path of a TOML file. Out: a policy that is whole and free of contradictions,
//! or errors that name file, line or key, and what to do. Nothing is half-applied. [`check`]
//! says what of this host does not fit the policy.

pub mod accounts;
pub mod check;
pub mod file;
pub mod leases;
pub mod policy;
mod problems;
pub mod sinks;

pub use policy::{Policy, SAMPLES_PER_DEADLINE, STATE_DIRECTORY};

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the guard and the monitor look unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/xenwarden/xenwarden.conf";

/// Largest file that is read, bytes.
const MAX_SIZE: u64 = 64 * 1024;

/// Why there is no policy. One line, or one for each value that cannot be.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be at some line.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The line's text.
        text: String,
        /// What is wrong.
        message: String,
    },
    /// Values, or two values together, cannot be.
    Invalid {
        /// The file.
        path: PathBuf,
        /// The keys concerned and what to do, a line for each that is wrong.
        message: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(
                    f,
                    "{}: cannot read the configuration: {error}; an empty file takes all defaults",
                    plain(path)
                )
            }
            Self::Malformed {
                path,
                line,
                text,
                message,
            } => write!(f, "{}:{line}: {message} (in: {text})", plain(path)),
            Self::Invalid { path, message } => {
                let lines = message
                    .lines()
                    .map(|line| format!("{}: {line}", plain(path)));
                f.write_str(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

/// Reads, parses and validates the file at `path`.
///
/// # Errors
/// [`ConfigError`].
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let bytes = read(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let file = file::parse(path, &bytes)?;
    Policy::from_file(file).map_err(|message| ConfigError::Invalid {
        path: path.to_owned(),
        message,
    })
}

/// The path as one line.
fn plain(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace(char::is_control, "?")
}

/// Reads a plain file of bounded size: a fifo or a device may have no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    if found.len() > MAX_SIZE {
        return Err(io::Error::other("larger than 64 KiB"));
    }
    fs::read(path)
}

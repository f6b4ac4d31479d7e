// SPDX-License-Identifier: GPL-2.0-only
//! The configuration file as it is written: every key optional, unknown ones refused.
//!
//! xenwarden.conf(5) documents the keys; init/xenwarden.conf is the shipped file.

use super::ConfigError;
use crate::hypervisor::Coverage;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// `[host-watchdog]`
    pub host_watchdog: HostWatchdog,
    /// `[evidence]`
    pub evidence: Evidence,
    /// `[log]`
    pub log: Log,
    /// `[control]`
    pub control: Control,
}

/// `[host-watchdog]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostWatchdog {
    /// The device.
    pub device: Option<PathBuf>,
    /// Its timeout, seconds.
    pub timeout_s: Option<u32>,
}

/// `[evidence]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evidence {
    /// What the evidence must cover.
    pub coverage: Option<Coverage>,
    /// The time between two looks, milliseconds.
    pub sample_ms: Option<u32>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Whether to log to /dev/log as well as to stderr.
    pub syslog: Option<bool>,
    /// The least severe level to log.
    pub level: Option<Level>,
}

/// Log levels by their names in the `log` crate.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Withholds and failures.
    Error,
    /// And what hampers, but does not endanger.
    Warn,
    /// And what the daemon does.
    Info,
    /// And what only its developers want.
    Debug,
}

/// `[control]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The group that may ask for status.
    pub group: Option<String>,
}

/// Parses `bytes`, the contents of `path`.
///
/// # Errors
/// [`ConfigError::Malformed`] with the line.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<File, ConfigError> {
    let malformed = |offset: usize, message: &str| {
        let before = bytes.get(..offset).unwrap_or(bytes);
        let line = before.iter().filter(|b| **b == b'\n').count();
        let text = bytes.split(|b| *b == b'\n').nth(line).unwrap_or_default();
        ConfigError::Malformed {
            path: path.to_owned(),
            line: line + 1,
            text: String::from_utf8_lossy(text)
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(80)
                .collect(),
            message: message.replace('\n', ", "),
        }
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|e| malformed(e.valid_up_to(), "not UTF-8: save the file as UTF-8"))?;
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        malformed(offset, error.message())
    })
}

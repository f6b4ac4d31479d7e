// SPDX-License-Identifier: GPL-2.0-only
//! The configuration file as it is written: every key optional, unknown ones refused.
//!
//! xenwarden.conf(5) documents the keys; init/xenwarden.conf is the shipped file.

use super::ConfigError;
use crate::event::Coverage;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// `[host-watchdog]`
    pub host_watchdog: HostWatchdog,
    /// `[fence]`
    pub fence: Fence,
    /// `[fast]`
    pub fast: Fast,
    /// `[crash_dump]`
    #[serde(rename = "crash_dump")]
    pub crash_dump: CrashDump,
    /// `[realtime]`
    pub realtime: Realtime,
    /// `[evidence]`
    pub evidence: Evidence,
    /// `[maintenance]`
    pub maintenance: Maintenance,
    /// `[log]`
    pub log: Log,
    /// `[control]`
    pub control: Control,
    /// `[guests]`
    pub guests: Guests,
    /// `[state]`
    pub state: State,
    /// `[events]`
    pub events: Events,
    /// Each `[[hook]]`
    pub hook: Vec<Hook>,
    /// `[hooks]`
    pub hooks: Hooks,
    /// `[metrics]`
    pub metrics: Metrics,
    /// Each `[[lease]]`
    pub lease: Vec<Lease>,
    /// `[leases]`
    pub leases: Leases,
}

/// `[host-watchdog]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostWatchdog {
    /// The device, or several.
    pub device: Option<OneOrMore>,
    /// Its timeout, seconds.
    pub timeout_s: Option<u32>,
    /// Its timeout where it runs on and no guard does, seconds.
    pub stopped_timeout_s: Option<u32>,
    /// Its timeout once the guard has ended for a shutdown, seconds; 0: it is disarmed.
    pub shutdown_timeout_s: Option<u32>,
}

/// `[fence]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fence {
    /// Whether one of Xen's two watchdog slots of dom0 resets the host after the hardware should have.
    pub xen_slot: Option<bool>,
    /// Whether sysrq does, after both.
    pub sysrq: Option<bool>,
}

/// `[fast]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fast {
    /// Whether sysrq resets the host as soon as the guard has died.
    pub guard_death: Option<bool>,
    /// When nothing has been served for so long it does as well, milliseconds.
    pub withheld_ms: Option<u32>,
}

/// `[crash_dump]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrashDump {
    /// The hardware's timeout where Xen runs a crash kernel first, seconds.
    pub hardware_s: Option<u32>,
}

/// `[realtime]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Realtime {
    /// The guard's priority.
    pub priority: Option<u32>,
}

/// A text, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// `[evidence]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evidence {
    /// What the evidence must cover.
    pub coverage: Option<Coverage>,
    /// The time between two looks, milliseconds.
    pub sample_ms: Option<u32>,
    /// How long a runnable vCPU may wait on a pCPU that idles, seconds.
    pub starved_s: Option<u32>,
    /// Without a table: how long a vCPU of dom0, or a probe of a pCPU, may be silent, seconds.
    pub silent_s: Option<u32>,
    /// Without a table: whether pCPUs are probed.
    pub pin_probe: Option<bool>,
}

/// `[maintenance]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// How long the guard may be inhibited at a time, seconds.
    pub longest_s: Option<u32>,
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
    /// And what the monitor does.
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

/// `[guests]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guests {
    /// Feeds that clear an alarm.
    pub clear_after_feeds: Option<u32>,
    /// Seconds of feeding that it takes to clear an alarm.
    pub clear_after_s: Option<u32>,
    /// Seconds in which a guest that was started again must feed.
    pub boot_deadline_s: Option<u32>,
}

/// `[state]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Where what must outlive the monitor is kept.
    pub directory: Option<PathBuf>,
}

/// `[events]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// The event socket.
    pub socket: Option<PathBuf>,
    /// Events that are kept for replay.
    pub keep: Option<u32>,
    /// Whether events go to the journal or /dev/log.
    pub syslog: Option<bool>,
}

/// `[[hook]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Kinds, or their beginnings up to a dot.
    pub kinds: Vec<String>,
    /// The program.
    pub program: PathBuf,
    /// How long it may take, seconds.
    pub timeout_s: Option<u32>,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// `[hooks]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Programs that may run at once.
    pub concurrency: Option<u32>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// The file for node_exporter.
    pub textfile: Option<PathBuf>,
}

/// `[[lease]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Who may renew it.
    pub user: Option<String>,
    /// For how long a renewal is good, seconds.
    pub timeout_s: Option<u32>,
    /// Whether it is to be renewed at all.
    pub required: Option<bool>,
    /// Whether its deadline counts though no monitor has looked since.
    pub strict: Option<bool>,
}

/// `[leases]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leases {
    /// What a required one has until its first renewal, seconds.
    pub begin_s: Option<u32>,
    /// How long the monitor may be away, seconds.
    pub unserved_s: Option<u32>,
    /// The socket of watchdog-mux.
    pub watchdog_mux: Option<PathBuf>,
}

/// Parses `bytes`, the contents of `path`.
///
/// # Errors
/// [`ConfigError::Malformed`] with the line.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<File, ConfigError> {
    parse_as(path, bytes)
}

/// The same for another program's file of this kind.
///
/// # Errors
/// As of [`parse`].
pub fn parse_as<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ConfigError> {
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

// SPDX-License-Identifier: GPL-2.0-only
//! The policy on guests' alarms and on where events go: the parts of
//! [`Policy`](super::Policy) that no kick depends on.

use super::file;
use super::policy::absolute;
use crate::event::kind::{KINDS, is_known};
use crate::sink::hooks::Hook;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Hooks, and arguments of one, that still make sense; each costs memory.
const MAX_HOOKS: usize = 64;
const MAX_ARGUMENTS: usize = 64;

/// When alarms of guests clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guests {
    /// Feeds that it takes: 1 to 1000.
    pub clear_after_feeds: u32,
    /// How long a guest must have fed: 0 s to an hour.
    pub clear_after: Duration,
    /// How long a guest that was started again may take to feed: 10 s to a day.
    pub boot_deadline: Duration,
}

/// Where events can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The event socket.
    pub socket: PathBuf,
    /// Events kept for replay, at most 65536.
    pub keep: usize,
    /// They go to the journal or /dev/log as well.
    pub syslog: bool,
}

/// Programs to run for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Which, for what.
    pub hooks: Vec<Hook>,
    /// How many may run at once: 1 to 16.
    pub concurrency: usize,
}

impl Guests {
    pub(super) fn from_file(file: &file::Guests) -> Result<Self, String> {
        let feeds = file.clear_after_feeds;
        let s = |key, given, range, default| {
            let s = within(key, given, range, default, " seconds")?;
            Ok::<_, String>(Duration::from_secs(u64::from(s)))
        };
        Ok(Self {
            clear_after_feeds: within("guests.clear_after_feeds", feeds, 1..=1_000, 1, "")?,
            clear_after: s("guests.clear_after_s", file.clear_after_s, 0..=3_600, 0)?,
            boot_deadline: s(
                "guests.boot_deadline_s",
                file.boot_deadline_s,
                10..=86_400,
                300,
            )?,
        })
    }
}

impl Events {
    pub(super) fn from_file(file: file::Events) -> Result<Self, String> {
        let keep = within("events.keep", file.keep, 0..=65_536, 4_096, " events")?;
        Ok(Self {
            socket: absolute("events.socket", file.socket, "/run/xenwarden/events.sock")?,
            keep: usize::try_from(keep).unwrap_or(usize::MAX),
            syslog: file.syslog.unwrap_or(true),
        })
    }
}

impl Hooks {
    pub(super) fn from_file(limits: &file::Hooks, all: Vec<file::Hook>) -> Result<Self, String> {
        let concurrency = within("hooks.concurrency", limits.concurrency, 1..=16, 4, "")?;
        if all.len() > MAX_HOOKS {
            return Err(format!("hook: more than {MAX_HOOKS} of them: use fewer"));
        }
        let hooks = all.into_iter().zip(1..);
        Ok(Self {
            hooks: hooks
                .map(|(hook, n)| one_hook(hook, n))
                .collect::<Result<_, _>>()?,
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        })
    }
}

/// The `n`th `[[hook]]` of the file.
fn one_hook(hook: file::Hook, n: u32) -> Result<Hook, String> {
    if hook.kinds.is_empty() {
        let all = "[\"alarm.\"] for all of alarms";
        return Err(format!(
            "hook {n}: kinds is empty: say for which events, as {all}"
        ));
    }
    if let Some(kind) = hook.kinds.iter().find(|kind| !is_known(kind)) {
        return Err(format!(
            "hook {n}: kinds has {kind:?}, which is no kind: use one of {}, or a beginning such as \
             \"guest.\"",
            KINDS.join(", ")
        ));
    }
    let count = hook.arguments.len();
    if count > MAX_ARGUMENTS || hook.arguments.iter().any(|a| a.contains('\0')) {
        return Err(format!(
            "hook {n}: arguments: at most {MAX_ARGUMENTS}, and without zero bytes"
        ));
    }
    let timeout_s = format!("hook {n}: timeout_s");
    let timeout_s = within(&timeout_s, hook.timeout_s, 1..=300, 10, " seconds")?;
    Ok(Hook {
        kinds: hook.kinds,
        program: absolute(&format!("hook {n}: program"), Some(hook.program), "")?,
        arguments: hook.arguments,
        timeout: Duration::from_secs(u64::from(timeout_s)),
    })
}

/// The file for node_exporter, if there is to be one.
pub(super) fn metrics_textfile(file: file::Metrics) -> Result<Option<PathBuf>, String> {
    let Some(given) = file.textfile else {
        return Ok(None);
    };
    let path = absolute("metrics.textfile", Some(given), "")?;
    if path
        .extension()
        .is_some_and(|extension| extension == "prom")
    {
        return Ok(Some(path));
    }
    Err(format!(
        "metrics.textfile = {path:?}: must end with .prom, as node_exporter reads nothing else"
    ))
}

fn within(
    key: &str,
    given: Option<u32>,
    range: RangeInclusive<u32>,
    default: u32,
    unit: &str,
) -> Result<u32, String> {
    let value = given.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (range.start(), range.end());
    Err(format!("{key} = {value}: must be {low} to {high}{unit}"))
}

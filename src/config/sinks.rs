// SPDX-License-Identifier: GPL-2.0-only
//! The policy on guests' alarms and on where events go: the parts of
//! [`Policy`](super::Policy) that no kick depends on.

use super::file;
use super::problems::Problems;
use crate::event::Event;
use crate::event::kind::{KINDS, is_known, matches};
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

/// A program and what it is run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Kinds, or their beginnings up to a dot (`guest.`).
    pub kinds: Vec<String>,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Hook {
    /// Whether it is run for the event.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let kind = event.what.kind();
        self.kinds.iter().any(|wanted| matches(wanted, kind))
    }
}

impl Guests {
    pub(super) fn from_file(file: &file::Guests, wrong: &mut Problems) -> Self {
        let feeds = file.clear_after_feeds;
        let mut s = |key, given, range, default| {
            let s = wrong.within(key, given, range, default, " seconds");
            Duration::from_secs(u64::from(s))
        };
        Self {
            clear_after: s("guests.clear_after_s", file.clear_after_s, 0..=3_600, 0),
            boot_deadline: s(
                "guests.boot_deadline_s",
                file.boot_deadline_s,
                10..=86_400,
                300,
            ),
            clear_after_feeds: wrong.within("guests.clear_after_feeds", feeds, 1..=1_000, 1, ""),
        }
    }
}

impl Events {
    pub(super) fn from_file(file: file::Events, wrong: &mut Problems) -> Self {
        let keep = wrong.within("events.keep", file.keep, 0..=65_536, 4_096, " events");
        Self {
            socket: wrong.absolute("events.socket", file.socket, "/run/xenwarden/events.sock"),
            keep: usize::try_from(keep).unwrap_or(usize::MAX),
            syslog: file.syslog.unwrap_or(true),
        }
    }
}

impl Hooks {
    pub(super) fn from_file(
        limits: &file::Hooks,
        all: Vec<file::Hook>,
        wrong: &mut Problems,
    ) -> Self {
        let concurrency = wrong.within("hooks.concurrency", limits.concurrency, 1..=16, 4, "");
        if all.len() > MAX_HOOKS {
            wrong.add(format!("hook: more than {MAX_HOOKS} of them: use fewer"));
        }
        let hooks = all.into_iter().zip(1..);
        Self {
            hooks: hooks.map(|(hook, n)| one_hook(hook, n, wrong)).collect(),
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        }
    }
}

/// The `n`th `[[hook]]` of the file.
fn one_hook(hook: file::Hook, n: u32, wrong: &mut Problems) -> Hook {
    if hook.kinds.is_empty() {
        let all = "[\"alarm.\"] for all of alarms";
        wrong.add(format!(
            "hook {n}: kinds is empty: say for which events, as {all}"
        ));
    }
    for kind in hook.kinds.iter().filter(|kind| !is_known(kind)) {
        wrong.add(format!(
            "hook {n}: kinds has {kind:?}, which is no kind: use one of {}, or a beginning such as \
             \"guest.\"",
            KINDS.join(", ")
        ));
    }
    let count = hook.arguments.len();
    if count > MAX_ARGUMENTS || hook.arguments.iter().any(|a| a.contains('\0')) {
        wrong.add(format!(
            "hook {n}: arguments: at most {MAX_ARGUMENTS}, and without zero bytes"
        ));
    }
    let timeout_s = format!("hook {n}: timeout_s");
    let timeout_s = wrong.within(&timeout_s, hook.timeout_s, 1..=300, 10, " seconds");
    Hook {
        kinds: hook.kinds,
        program: wrong.absolute(&format!("hook {n}: program"), Some(hook.program), ""),
        arguments: hook.arguments,
        timeout: Duration::from_secs(u64::from(timeout_s)),
    }
}

/// The file for node_exporter, if there is to be one.
pub(super) fn metrics_textfile(file: file::Metrics, wrong: &mut Problems) -> Option<PathBuf> {
    let path = wrong.absolute("metrics.textfile", Some(file.textfile?), "");
    if path.extension().is_none_or(|extension| extension != "prom") {
        wrong.add(format!(
            "metrics.textfile = {path:?}: must end with .prom, as node_exporter reads nothing else"
        ));
    }
    Some(path)
}

// SPDX-License-Identifier: GPL-2.0-only
//! Sinks that stall, hang or are full: kicks must go on, and losses must be counted and shown.

use super::figures::Figures;
use super::lives::WATCHED;
use super::{Row, ready};
use crate::error::{Error, Result};
use crate::guest::{Guest, TinyGuest};
use crate::host::{Host, MONITOR, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use std::time::Duration;

/// All rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "syslog-stalled", what: "the reader of /dev/log is stopped", run: |lab, phase| disturbed(lab, phase, "killall -STOP syslogd", Some("syslog")) },
    Row { name: "subscribers-stalled", what: "70 subscribers read nothing, and the next one is served", run: |lab, phase| disturbed(lab, phase, STALL_SUBSCRIBERS, None) },
    Row { name: "hook-hangs", what: "hooks never end", run: |lab, phase| disturbed(lab, phase, HOOK_HANGS, Some("hooks")) },
    Row { name: "hook-forks", what: "hooks leave processes behind", run: |lab, phase| disturbed(lab, phase, HOOK_FORKS, Some("hooks")) },
    Row { name: "disk-full", what: "the disk for the state is full", run: disk_full },
];

/// More than there are places.
const STALL_SUBSCRIBERS: &str = "n=0; while [ $n -lt 70 ]; do (setsid sh -c 'xenwarden events --follow --json | sleep 1000000' < /dev/null > /dev/null 2>&1 &); n=$((n+1)); done";
const HOOK_HANGS: &str =
    "cat > /etc/xenwarden/hook <<'END'\n#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\nEND";
const HOOK_FORKS: &str =
    "cat > /etc/xenwarden/hook <<'END'\n#!/bin/sh\nsleep 1000 &\nsleep 1000 &\nexit 0\nEND";
/// Lets the monitor run the hook for each event, once it is started anew.
const CONFIGURE_HOOK: &str =
    "chmod 755 /etc/xenwarden/hook && cat >> /etc/xenwarden/xenwarden.conf <<'END'
[[hook]]
kinds = [\"guest.\"]
program = \"/etc/xenwarden/hook\"
timeout_s = 2
END";
/// For how long a guest arms and disarms its slots, and how long before each: a sample must see both.
const STORM: Duration = Duration::from_secs(20);
const STORM_PAUSE_NS: u64 = 300_000_000;
/// What of the host's time the toolstack or the guest may take.
const SLOW: Duration = Duration::from_secs(120);

/// Disturbs the sinks, makes many events, and has the host live on. `loser` must then be counted as losing.
fn disturbed(
    laboratory: &Laboratory,
    phase: Duration,
    disturb: &str,
    loser: Option<&str>,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let outcome = storm(&mut host, disturb, loser);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn storm(host: &mut Host, disturb: &str, loser: Option<&str>) -> Result<Vec<String>> {
    host.dom0_ok(disturb, PROMPT)?;
    if disturb.contains("/etc/xenwarden/hook") {
        host.dom0_ok(CONFIGURE_HOOK, PROMPT)?;
        host.end_program(MONITOR, "-TERM")?;
        host.start_program(MONITOR)?;
    }
    let soon = host.machine.clock()? + Duration::from_secs(5);
    host.create_tiny(&TinyGuest {
        name: "storm".to_owned(),
        arms_at_ns: soon.as_nanos() as u64,
        watchdog_s: 60,
        feeds_each_ns: None,
        toggles_each_ns: Some(STORM_PAUSE_NS),
    })?;
    host.pass(STORM)?;
    host.lives_on(WATCHED)?;
    host.dom0_ok("xenwarden events --json | grep -q guest.disarmed", PROMPT)?;
    let status = host.status()?;
    let dropped = status.monitor.unwrap_or_default().dropped;
    let lost = |sink: &str| {
        let sinks = dropped.sinks.iter().filter(|(name, _)| name.contains(sink));
        sinks.map(|(_, lost)| *lost).sum::<u64>()
    };
    let mut notes = vec![format!(
        "max kick gap {} ms",
        status.kick_path.max_kick_gap_ms
    )];
    if let Some(sink) = loser {
        if lost(sink) == 0 {
            return Err(Error::new(format!(
                "{sink} lost nothing that is shown: {dropped:?}"
            )));
        }
        notes.push(format!("{sink} lost {}", lost(sink)));
    }
    Ok(notes)
}

/// An alarm is raised while nothing can be saved; once there is room it is.
fn disk_full(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.follow_events()?;
    let outcome = fill_disk(&mut host);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// To the last block, of which a last write of 64 KiB leaves some.
const FILL: &str = "cd /var/lib/xenwarden; cat /dev/zero > fill; dd if=/dev/zero of=fill-more bs=1k; sync; ! echo more > more || [ ! -s more ]";

fn fill_disk(host: &mut Host) -> Result<Vec<String>> {
    let saved = "grep -q db1e0000 /var/lib/xenwarden/guests.json";
    host.dom0_ok(FILL, SLOW)?;
    host.create(&Guest {
        uuid: Some("db1e0000-0000-4000-8000-000000000001"),
        ..Guest::named("full")
    })?;
    host.tell_guest("full", "killall -9 watchdog")?;
    host.wait_events("\"name\":\"full\".*\"kind\":\"alarm.raised\"", 1, SLOW)?;
    host.lives_on(WATCHED)?;
    if host.dom0(saved, PROMPT)?.code == 0 {
        return Err(Error::new("the disk was not full after all"));
    }
    host.dom0_ok("rm /var/lib/xenwarden/fill*", PROMPT)?;
    host.pass(Duration::from_secs(15))?;
    host.dom0_ok(saved, PROMPT)?;
    let gap = host.status()?.kick_path.max_kick_gap_ms;
    Ok(vec![format!("max kick gap {gap} ms")])
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden why`: why the host went down, from the monitor or, where that is down, from what
//! it keeps on disk.

use super::connection::{NoAnswer, ask};
use super::output::Output;
use super::text::{columns, plain, span};
use super::{EXIT_NOT_OK, EXIT_OK, print_error};
use crate::config::Policy;
use crate::control::protocol::{Request, line};
use crate::event::{ResetCause, Timestamp};
use crate::state::deduction::Reset;
use crate::state::history::{self, Resets};
use crate::state::reset_reason::Watchdog;
use crate::state::store::Store;
use crate::state::traces::Places;
use crate::state::withhold::{Evidence, WithholdRecord};
use crate::watchdog::candidates;
use std::fmt::{self, Write};
use std::path::Path;

/// Shows why the host went down last, and the times before.
pub fn run(
    socket: &Path,
    policy: impl FnOnce() -> Result<Policy, String>,
    json: bool,
    output: &mut Output,
) -> Result<u8, String> {
    let resets = match ask::<Resets>(socket, &Request::Why) {
        Ok((resets, _)) => resets,
        Err(refused @ NoAnswer::Refused(_)) => return Err(refused.into()),
        Err(NoAnswer::CannotTell(why)) => without_monitor(&policy()?, &why)?,
    };
    let mut text = String::new();
    if json {
        text = String::from_utf8(line(&resets)).map_err(|error| error.to_string())?;
    } else {
        render(&resets, &mut text).map_err(|error| error.to_string())?;
    }
    let _ = output.write(text.as_bytes())?;
    let last = resets.resets.first().map(|reset| reset.cause);
    Ok(match last {
        Some(ResetCause::Unrecorded | ResetCause::Unwatched) => EXIT_NOT_OK,
        _ => EXIT_OK,
    })
}

/// What is on disk, and what follows from it.
fn without_monitor(policy: &Policy, why: &str) -> Result<Resets, String> {
    let fired = candidates::fired(&policy.devices, Path::new("/sys"), Path::new("/dev"));
    let directory = &policy.state_directory;
    let found = history::look(&Store::new(directory), &Places::default(), fired);
    match found {
        Ok(Some(history)) => {
            print_error(&format!(
                "the monitor does not answer ({why}); this is what it left in {}",
                directory.display()
            ));
            Ok(history.resets)
        }
        Ok(None) => Err(format!(
            "{why}; and nothing was ever written down in {}",
            directory.display()
        )),
        Err(problem) => Err(format!(
            "{why}; and what the monitor keeps cannot be read, which only root may: {problem}"
        )),
    }
}

/// Writes all of it for people.
fn render(resets: &Resets, to: &mut impl Write) -> fmt::Result {
    let Some((last, before)) = resets.resets.split_first() else {
        return writeln!(to, "no reset of this host is recorded");
    };
    reset(last, to)?;
    if !before.is_empty() {
        writeln!(to, "\nBEFORE")?;
    }
    let row = |reset: &Reset| {
        let seen = format!("last seen {}", moment(reset.last_seen));
        vec![seen, reset.confidence.to_string(), plain(&reset.reason)]
    };
    let rows: Vec<_> = before.iter().map(row).collect();
    lines(columns(&[], rows), to)
}

fn reset(reset: &Reset, to: &mut impl Write) -> fmt::Result {
    writeln!(to, "cause          {}", reset.cause)?;
    writeln!(to, "reason         {}", plain(&reset.reason))?;
    let fired = match reset.watchdog_fired {
        Some(true) => "the host watchdog says that it fired",
        Some(false) => "the host watchdog says that it did not fire",
        None => "the host watchdog does not say whether it fired",
    };
    writeln!(to, "confidence     {}: {fired}", reset.confidence)?;
    writeln!(to, "last seen      {}", moment(reset.last_seen))?;
    if let Some(kick) = reset.last_kick {
        writeln!(to, "last kick      {}, that is known of", moment(kick))?;
    }
    if let Some(booted) = reset.booted {
        let later = span(booted.since_ms(reset.last_seen));
        writeln!(to, "next boot      {}, {later} later", moment(booted))?;
    }
    if let Some(ms) = reset.uptime_ms {
        writeln!(to, "uptime         dom0 had run for {}", span(ms))?;
    }
    if reset.monitor_ended {
        writeln!(to, "monitor        had been stopped in order")?;
    }
    if let Some(watchdog) = &reset.watchdog {
        self::watchdog(watchdog, to)?;
    }
    for record in &reset.records {
        writeln!(to, "record         {}", plain(&record.path))?;
    }
    match &reset.withhold {
        Some(record) => withhold(record, to),
        None => Ok(()),
    }
}

fn watchdog(watchdog: &Watchdog, to: &mut impl Write) -> fmt::Result {
    writeln!(
        to,
        "host watchdog  {} ({}), timeout {}, {} kicks, {} refused, {} withholds",
        plain(&watchdog.device),
        plain(&watchdog.identity),
        span(watchdog.timeout_ms),
        watchdog.kicks,
        watchdog.refused,
        watchdog.withholds
    )
}

/// The evidence of the moment when kicks ended.
fn withhold(record: &WithholdRecord, to: &mut impl Write) -> fmt::Result {
    writeln!(to, "\nWHEN KICKS ENDED, {}", moment(record.time))?;
    let Evidence {
        watchdog,
        pcpus,
        overdue,
        load,
        entries,
    } = &record.evidence;
    if let Some(watchdog) = watchdog {
        let (kick, look) = (span(watchdog.last_kick_age_ms), span(watchdog.look_age_ms));
        writeln!(to, "last kick {kick} before, last look {look} before")?;
    }
    if let Some(load) = load {
        writeln!(
            to,
            "load average {:.2} {:.2} {:.2}",
            load.minute_1, load.minutes_5, load.minutes_15
        )?;
    }
    match pcpus {
        None => writeln!(to, "of pCPUs nothing was to be had")?,
        Some(pcpus) => {
            let row = |p: &crate::state::withhold::PcpuEvidence| {
                let online = if p.online { "online" } else { "offline" };
                vec![
                    p.cpu.to_string(),
                    online.to_owned(),
                    format!("{} before", span(p.canary_age_ms)),
                    owed(p.canary_overdue_ms),
                    owed(p.request_age_ms),
                ]
            };
            let heads = ["PCPU", "STATE", "CANARY", "TIMERS", "SCHEDULER"];
            lines(columns(&heads, pcpus.iter().map(row).collect()), to)?;
        }
    }
    match overdue.as_deref() {
        None => writeln!(to, "of guests nothing was to be had")?,
        Some([]) => writeln!(to, "no guest watchdog was overdue")?,
        Some(overdue) => {
            let row = |slot: &crate::state::withhold::OverdueSlot| {
                vec![
                    slot.domid.to_string(),
                    slot.slot.to_string(),
                    format!("{} s", slot.timeout_s),
                    format!("{} before", span(slot.last_fed_age_ms)),
                ]
            };
            let heads = ["OVERDUE DOMID", "SLOT", "TIMEOUT", "LAST FED"];
            lines(columns(&heads, overdue.iter().map(row).collect()), to)?;
        }
    }
    for entry in entries {
        let what = plain(&entry.what);
        writeln!(to, "{} before: {what}", span(entry.age_ms))?;
    }
    let Some(console) = &record.console else {
        return writeln!(to, "of Xen's console no log was to be had");
    };
    writeln!(to, "\nTHE END OF {}", plain(&console.path))?;
    lines(console.lines.iter().map(|line| plain(line)).collect(), to)
}

fn owed(ms: u64) -> String {
    match ms {
        0 => "served".to_owned(),
        ms => format!("due since {}", span(ms)),
    }
}

fn lines(lines: Vec<String>, to: &mut impl Write) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(to, "{line}"))
}

/// To the second, as people read it.
fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    let second = text.get(..19).unwrap_or(&text);
    format!("{}Z", second.replace('T', " "))
}

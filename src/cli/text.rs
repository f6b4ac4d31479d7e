// SPDX-License-Identifier: GPL-2.0-only
//! The status as text that an admin reads at a glance.
//!
//! In: a [`Status`]. Out: lines; the decision first, as that is what one looks for. Also the
//! words and columns that the other commands share.

use crate::control::leases::{Lease, LeaseState};
use crate::control::status::{GuestWatchdog, MonitorStatus, Pcpu, Starved, Status};
pub use crate::event::describe::{plain, span};
use crate::event::{Coverage, Uuid};
use crate::state::saver::SaveError;
use std::fmt::{self, Write};

/// Writes `status` for people.
///
/// # Errors
/// Those of the writer.
pub fn render(status: &Status, to: &mut impl Write) -> fmt::Result {
    head(status, to)?;
    leases(&status.leases, to)?;
    let Some(monitor) = &status.monitor else {
        return writeln!(
            to,
            "monitor        DOWN: guests, pcpus and events are not known"
        );
    };
    notes(monitor, to)?;
    if !monitor.pcpus.is_empty() {
        writeln!(to)?;
        let heads = ["PCPU", "STATE", "CANARY", "TIMERS", "SCHEDULER", "WAITING"];
        table(to, &heads, monitor.pcpus.iter().map(pcpu_row).collect())?;
    }
    if status.coverage == Coverage::Full {
        writeln!(to)?;
        guests(&monitor.guest_watchdogs, to)?;
    }
    Ok(())
}

fn head(status: &Status, to: &mut impl Write) -> fmt::Result {
    let watchdog = &status.host_watchdog;
    let decision = match &status.decision.reason {
        None => format!("kick, for {}", span(status.decision.for_ms)),
        Some(reason) => format!("WITHHOLD, for {}: {reason}", span(status.decision.for_ms)),
    };
    writeln!(to, "decision       {decision}")?;
    if watchdog.device.as_os_str().is_empty() {
        return Ok(());
    }
    let latest = match watchdog.resets_within_ms > watchdog.timeout_ms {
        true => format!(" (resets within {})", span(watchdog.resets_within_ms)),
        false => String::new(),
    };
    writeln!(
        to,
        "host watchdog  {} ({}), timeout {}{latest}, {} left",
        watchdog.device.display(),
        plain(&watchdog.identity),
        span(watchdog.timeout_ms),
        span(watchdog.time_left_ms)
    )?;
    writeln!(
        to,
        "kicks          {}, the last {} ago, the longest gap {}, {} withholds, {} refused",
        watchdog.kicks,
        span(watchdog.last_kick_age_ms),
        span(status.kick_path.max_kick_gap_ms),
        status.kick_path.withholds,
        status.kick_path.failed_kicks
    )?;
    if let Some(time) = watchdog.drill_failed {
        writeln!(
            to,
            "DRILL FAILED   {time}: the host watchdog has not reset this host"
        )?;
    }
    if let Some(bound) = watchdog.fence_bound_ms {
        let by = match watchdog.fence_bound_measured {
            Some(time) => format!("measured {time}"),
            None => "assumed: xenwarden drill measures it".to_owned(),
        };
        writeln!(to, "fence bound    {}, {by}", span(bound))?;
    }
    let coverage = match status.coverage {
        Coverage::Full => "full",
        Coverage::Partial => "PARTIAL: dom0's vcpus and probes, nothing of guests",
    };
    let age = span(status.look_age_ms);
    writeln!(to, "evidence       coverage {coverage}, looked {age} ago")?;
    if let Some(inhibited) = &status.inhibited {
        let (left, by) = (span(inhibited.left_ms), plain(&inhibited.by));
        let reason = plain(&inhibited.reason);
        writeln!(to, "INHIBITED      for {left} more, by {by}: {reason}")?;
        if let Some(ignored) = &inhibited.ignored {
            writeln!(to, "IGNORED        {ignored}")?;
        }
    }
    if let Some(excused) = &status.excused {
        writeln!(to, "excused        {excused}: a debug key holds it up")?;
    }
    if let Some(weakness) = &status.weakness {
        writeln!(to, "weakness       {}", plain(weakness))?;
    }
    Ok(())
}

fn leases(all: &[Lease], to: &mut impl Write) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(to)?;
    let heads = ["LEASE", "STATE", "USER", "TIMEOUT", "LEFT", "RENEWALS"];
    table(to, &heads, all.iter().map(lease_row).collect())?;
    writeln!(to)
}

fn lease_row(lease: &Lease) -> Vec<String> {
    let state = match lease.state {
        LeaseState::Lapsed => "LAPSED".to_owned(),
        LeaseState::Unknown => "UNKNOWN".to_owned(),
        state => state.name().to_owned(),
    };
    let required = if lease.required { ", required" } else { "" };
    let strict = if lease.strict { ", strict" } else { "" };
    let left = |ms: i64| match ms {
        0.. => span(ms.unsigned_abs()),
        _ => format!("{} ago", span(ms.unsigned_abs())),
    };
    vec![
        plain(&lease.lease),
        format!("{state}{required}{strict}"),
        lease.uid.to_string(),
        span(lease.timeout_ms),
        lease.left_ms.map_or_else(|| "-".to_owned(), left),
        lease.renewals.to_string(),
    ]
}

fn notes(monitor: &MonitorStatus, to: &mut impl Write) -> fmt::Result {
    if let Some(why) = &monitor.no_table {
        writeln!(to, "table          NOT SEEN: {}; tried again", plain(why))?;
    }
    if let Some(SaveError { error, since }) = &monitor.save_error {
        writeln!(
            to,
            "state          NOT SAVED since {since}: {}",
            plain(error)
        )?;
    }
    if let Some(trouble) = &monitor.names_trouble {
        writeln!(to, "names          {}", plain(trouble))?;
    }
    let dropped = &monitor.dropped;
    if dropped.decisions + dropped.log_lines + dropped.syslog_messages > 0 {
        writeln!(
            to,
            "dropped        {} decisions, {} log lines, {} syslog messages",
            dropped.decisions, dropped.log_lines, dropped.syslog_messages
        )?;
    }
    Ok(())
}

fn guests(all: &[GuestWatchdog], to: &mut impl Write) -> fmt::Result {
    if all.is_empty() {
        return writeln!(to, "no guest has armed its watchdog");
    }
    let heads = ["DOMID", "NAME", "SLOT", "TIMEOUT", "LAST FED", "MARGIN"];
    table(to, &heads, all.iter().map(guest_row).collect())
}

fn pcpu_row(pcpu: &Pcpu) -> Vec<String> {
    let number = pcpu.cpu.to_string();
    if !pcpu.online {
        let unknown = std::iter::repeat_n("-".to_owned(), 4);
        return [number, "offline".into()]
            .into_iter()
            .chain(unknown)
            .collect();
    }
    let waiting = pcpu.starved.as_ref().map(|starved| {
        let Starved {
            waited_ms,
            domid,
            vcpu,
        } = starved;
        let idle = if pcpu.idle { ", pcpu IDLE" } else { "" };
        format!("{waited_ms} ms, {domid}/{vcpu}{idle}")
    });
    let owed = |ms: u64| match ms {
        0 => "served".to_owned(),
        ms => format!("due since {}", span(ms)),
    };
    vec![
        number,
        "online".into(),
        format!("{} ago", span(pcpu.canary_age_ms)),
        owed(pcpu.canary_overdue_ms),
        owed(pcpu.sched_overdue_ms),
        waiting.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn guest_row(guest: &GuestWatchdog) -> Vec<String> {
    vec![
        guest.domid.to_string(),
        called(guest.name.as_deref(), guest.uuid),
        guest.slot.to_string(),
        format!("{} s", guest.timeout_s),
        format!("{} ago", span(guest.last_fed_age_ms)),
        match guest.expired {
            true => "EXPIRED".to_owned(),
            false => span(guest.margin_ms),
        },
    ]
}

/// A guest's name; its UUID where that is not known.
#[must_use]
pub fn called(name: Option<&str>, uuid: Option<Uuid>) -> String {
    let uuid = || uuid.map_or("?".to_owned(), |uuid| uuid.to_string());
    name.map_or_else(uuid, plain)
}

pub(super) fn table(to: &mut impl Write, heads: &[&str], rows: Vec<Vec<String>>) -> fmt::Result {
    for line in columns(heads, rows) {
        writeln!(to, "{line}")?;
    }
    Ok(())
}

/// The lines of a table, the heads first if there are any: columns as wide as their widest cell; the last one
/// is left as it is.
#[must_use]
pub fn columns(heads: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    let heads: Vec<String> = heads.iter().map(|h| (*h).to_owned()).collect();
    let heads = (!heads.is_empty()).then_some(heads);
    let rows: Vec<Vec<String>> = heads.into_iter().chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| {
        let column = rows.iter().filter_map(|row| row.get(n));
        column.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line.trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_pcpu_is_shown_and_whether_it_idled() {
        let waiting = |online, idle, starved| {
            let pcpu = Pcpu {
                cpu: 3,
                online,
                canary_age_ms: 200,
                canary_overdue_ms: 0,
                sched_overdue_ms: 0,
                canary_runs: 1,
                idle,
                starved,
            };
            pcpu_row(&pcpu).join(" ")
        };
        let starved = || {
            Some(Starved {
                waited_ms: 3012,
                domid: 7,
                vcpu: 1,
            })
        };
        let cases = [
            (true, true, None, "3 online 0.2 s ago served served -"),
            (
                true,
                false,
                starved(),
                "3 online 0.2 s ago served served 3012 ms, 7/1",
            ),
            (
                true,
                true,
                starved(),
                "3 online 0.2 s ago served served 3012 ms, 7/1, pcpu IDLE",
            ),
            (false, true, starved(), "3 offline - - - -"),
        ];
        for (online, idle, starved, row) in cases {
            assert_eq!(waiting(online, idle, starved), row);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["1".into(), "a long name".into(), "x".into()]];
        let lines = columns(&["ID", "NAME", "STATE"], rows);
        assert_eq!(lines, ["ID  NAME         STATE", "1   a long name  x"]);
    }

    #[test]
    fn a_name_neither_moves_the_cursor_nor_breaks_the_line() {
        let cases = [
            ("web \u{e9}\u{4e2d}", "web \u{e9}\u{4e2d}"),
            ("a\nb\r\tc", "a?b??c"),
            ("\u{1b}[2J\u{7f}\u{9b}1m", "?[2J??1m"),
            ("a\u{202e}b\u{2066}c\u{2028}d\u{feff}", "a?b?c?d?"),
        ];
        for (text, shown) in cases {
            assert_eq!(plain(text), shown);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden guests`: a table to be read at a glance, alarms first.
//!
//! In: the [`GuestsReport`] of all [`Sources`]. Out: lines, and the code that says the same in one
//! number. An alarm that is open is open however old the evidence is; without one, evidence
//! that is old or does not show a guest means that nobody can tell.

use super::output::{Colour, Output, Reader, Woken, wait};
use super::sources::{Answers, Sources};
use super::{EXIT_NO_TABLE, EXIT_NOT_OK, EXIT_OK, EXIT_UNKNOWN, print_error};
use crate::cli::text::{called, columns, plain, span};
use crate::event::{NO_DOMAIN, Timestamp};
use crate::guests::report::SlotReport;
use crate::guests::report::{AlarmPhase, AlarmReport, DomainState, GuestReport, GuestsReport};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Evidence that is older proves nothing: twice the longest time between two looks, so that a monitor
/// whose ordinary threads are a little late is not called blind.
const OLD_MS: u64 = 4_000;
/// Between two tables.
const ROUND: Duration = Duration::from_secs(1);

/// A line and how to paint it.
type Line = (Option<Colour>, String);

/// Shows the guests, once or each second.
pub fn run(sources: &Sources, json: bool, watch: bool, output: &mut Output) -> Result<u8, String> {
    if watch {
        return watch_on(sources, json, output);
    }
    let (code, text) = look(sources, json, output)?;
    let _ = output.write(text.as_bytes())?;
    Ok(code)
}

/// One look: the code and the text, each line with its end.
fn look(sources: &Sources, json: bool, output: &Output) -> Result<(u8, String), String> {
    let Answers {
        report,
        line,
        silent,
    } = sources.guests()?;
    let code = match code_of(&report) {
        EXIT_NOT_OK => EXIT_NOT_OK,
        _ if !silent.is_empty() => EXIT_UNKNOWN,
        code => code,
    };
    if json {
        silent.iter().for_each(|why| print_error(why));
        return Ok((code, line));
    }
    let silent = silent.iter().map(|why| (Some(Colour::Yellow), plain(why)));
    let lines = silent.chain(render(&report, Timestamp::now()));
    let painted = lines.map(|(colour, text)| output.paint(colour, &text) + "\n");
    Ok((code, painted.collect()))
}

/// Shows them until Ctrl-C, or until stdout's reader goes. The code is that of the last look.
fn watch_on(sources: &Sources, json: bool, output: &mut Output) -> Result<u8, String> {
    let (woken, waker) = UnixStream::pair().map_err(|error| error.to_string())?;
    for signal in [SIGINT, SIGTERM] {
        let waker = waker.try_clone().map_err(|error| error.to_string())?;
        pipe::register(signal, waker).map_err(|error| error.to_string())?;
    }
    let clears = output.terminal && !json;
    // Where no monitor answers to begin with there is nothing to watch.
    let (mut code, mut text) = look(sources, json, output)?;
    let mut next = Instant::now();
    loop {
        let shown = if clears {
            frame(&text, output.rows())
        } else {
            std::mem::take(&mut text)
        };
        if output.write(shown.as_bytes())? == Reader::Gone {
            return Ok(code);
        }
        next = (next + ROUND).max(Instant::now());
        if wait(Some(&woken), Some(next)).map_err(|error| error.to_string())? != Woken::Timeout {
            return Ok(code);
        }
        (code, text) = match look(sources, json, output) {
            Ok((code, text)) if clears || json => (code, text),
            Ok((code, text)) => (code, format!("\n{text}")),
            Err(message) if clears => (EXIT_UNKNOWN, format!("{}\n", plain(&message))),
            Err(message) => {
                print_error(&message);
                (EXIT_UNKNOWN, String::new())
            }
        };
    }
}

/// A whole screen (ECMA-48): the cursor is hidden and lines are not wrapped only while it is
/// drawn, so that there is nothing to restore whenever and however the program ends.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The last row stays free for the cursor.
    let room = rows.saturating_sub(1).max(1);
    let fits = if lines.len() > room { room - 1 } else { room };
    let mut screen = String::from("\u{1b}[?25l\u{1b}[?7l\u{1b}[H");
    for line in lines.iter().take(fits) {
        screen += &format!("{line}\u{1b}[K\n");
    }
    if lines.len() > fits {
        screen += &format!("({} lines more)\u{1b}[K\n", lines.len() - fits);
    }
    screen + "\u{1b}[J\u{1b}[?7h\u{1b}[?25h"
}

/// 0 fine, 1 alarms open (other than of guests that moved) or boots failed, 2 cannot tell,
/// 3 there is no liveness table.
fn code_of(report: &GuestsReport) -> u8 {
    // Of a guest that moved nobody here knows how its boot went.
    let moved = |guest: &GuestReport| guest.alarm.is_some() && !is_open(guest);
    let is_bad = |guest: &GuestReport| is_open(guest) || guest.boot_failed && !moved(guest);
    if report.guests.iter().any(is_bad) {
        return EXIT_NOT_OK;
    }
    if report.no_table.is_some() {
        return EXIT_NO_TABLE;
    }
    let old = report.evidence_age_ms.is_none_or(|age| age > OLD_MS);
    if old || report.guests.iter().any(is_unknown) {
        return EXIT_UNKNOWN;
    }
    EXIT_OK
}

/// It has an alarm to act on here.
fn is_open(guest: &GuestReport) -> bool {
    guest.alarm.as_ref().is_some_and(AlarmReport::is_open)
}

/// Neither the hypervisor nor its feeds show how it does.
fn is_unknown(guest: &GuestReport) -> bool {
    let feeds = guest.slots.iter().any(|slot| !slot.expired);
    guest.state == DomainState::Unknown && !feeds
}

fn render(report: &GuestsReport, now: Timestamp) -> Vec<Line> {
    let mut guests: Vec<&GuestReport> = report.guests.iter().collect();
    guests.sort_by_key(|guest| order(guest));
    let alarms = guests.iter().filter(|guest| is_open(guest)).count();
    let mut lines = Vec::new();
    if let Some(why) = &report.no_table {
        let text = format!("NO LIVENESS TABLE: {}", plain(why));
        lines.push((Some(Colour::Yellow), text));
        if guests.is_empty() {
            return lines;
        }
    }
    lines.push(head(report, alarms));
    if let Some(trouble) = &report.names_trouble {
        lines.push((None, format!("names may be missing: {}", plain(trouble))));
    }
    if guests.is_empty() {
        return lines;
    }
    lines.push((None, String::new()));
    let heads = ["NAME", "DOMID", "STATE", "LAST FED", "MARGIN", "ALARM"];
    let rows = guests.iter().map(|guest| row(guest, now)).collect();
    let colours = std::iter::once(Some(Colour::Bold)).chain(guests.iter().map(|g| colour(g)));
    lines.extend(colours.zip(columns(&heads, rows)));
    lines
}

/// Alarms first: those that nobody has acknowledged, the oldest of them first; then boots
/// that failed; then by name.
fn order(guest: &GuestReport) -> impl Ord {
    let alarm = guest.alarm.as_ref();
    let alarm = alarm.map(|alarm| (alarm.acknowledged, alarm.raised));
    let fine = (!is_open(guest), alarm.is_none(), !guest.boot_failed);
    (fine, alarm, guest.name.clone(), guest.domid)
}

fn head(report: &GuestsReport, alarms: usize) -> Line {
    let guests = match report.guests.len() {
        0 => "no guest has armed its watchdog".to_owned(),
        1 => "1 guest".to_owned(),
        n => format!("{n} guests"),
    };
    let alarms_text = match alarms {
        0 => "no alarm",
        1 => "1 ALARM OPEN",
        n => &format!("{n} ALARMS OPEN"),
    };
    let failed = |guest: &&GuestReport| guest.boot_failed && guest.alarm.is_none();
    let failed = report.guests.iter().filter(failed).count();
    let failed_text = match failed {
        0 => String::new(),
        n => format!(", {n} BOOT FAILED"),
    };
    let (old, evidence) = match report.evidence_age_ms {
        None => (true, "NO EVIDENCE YET".to_owned()),
        Some(age) if age > OLD_MS => (true, format!("EVIDENCE {} OLD", span(age))),
        Some(age) => (false, format!("evidence {} old", span(age))),
    };
    let colour = match (alarms + failed, old) {
        (1.., _) => Some(Colour::Red),
        (0, true) => Some(Colour::Yellow),
        _ => None,
    };
    let text = format!("{alarms_text}{failed_text}, {guests}, {evidence}");
    (colour, text)
}

fn colour(guest: &GuestReport) -> Option<Colour> {
    match &guest.alarm {
        Some(alarm) if alarm.acknowledged => Some(Colour::Yellow),
        Some(AlarmReport {
            phase: AlarmPhase::Recovering | AlarmPhase::Moved,
            ..
        }) => Some(Colour::Yellow),
        Some(_) => Some(Colour::Red),
        None if guest.boot_failed => Some(Colour::Red),
        None if is_unknown(guest) => Some(Colour::Yellow),
        None => None,
    }
}

fn row(guest: &GuestReport, now: Timestamp) -> Vec<String> {
    let unknown = || "-".to_owned();
    let slot = guest
        .slots
        .iter()
        .min_by_key(|slot| (!slot.expired, slot.margin_ms));
    vec![
        called(guest.name.as_deref(), guest.uuid),
        match guest.domid {
            NO_DOMAIN => unknown(),
            domid => domid.to_string(),
        },
        state(guest.state),
        slot.map_or_else(unknown, |s| format!("{} ago", span(s.last_fed_age_ms))),
        slot.map_or_else(unknown, |s| margin(s, guest.slots.len())),
        match &guest.alarm {
            Some(open) if guest.feeds_unseen.is_some() => alarm(open, now) + ", feeds not seen",
            Some(open) => alarm(open, now),
            None if guest.boot_failed => "boot failed".to_owned(),
            None => unknown(),
        },
    ]
}

fn margin(slot: &SlotReport, slots: usize) -> String {
    let of = match slots {
        1 => String::new(),
        _ => format!(" (slot {})", slot.slot),
    };
    if slot.expired {
        return format!("EXPIRED{of}");
    }
    format!("{} of {} s{of}", span(slot.margin_ms), slot.timeout_s)
}

pub(super) fn state(state: DomainState) -> String {
    match state {
        DomainState::Running => "running".to_owned(),
        DomainState::Paused => "paused".to_owned(),
        DomainState::Suspended => "suspended".to_owned(),
        DomainState::ShutDown(cause) => format!("shut down: {cause}"),
        DomainState::Gone(cause) => format!("gone: {cause}"),
        DomainState::Unknown => "unknown".to_owned(),
    }
}

fn alarm(alarm: &AlarmReport, now: Timestamp) -> String {
    let phase = match alarm.phase {
        AlarmPhase::Raised => "RAISED",
        AlarmPhase::Rebooted => "REBOOTED, not fed yet",
        AlarmPhase::BootFailed => "BOOT FAILED",
        AlarmPhase::Recovering => "recovering",
        AlarmPhase::Moved => "moved",
    };
    let since = alarm.raised.to_string().replace('T', " ");
    let since = since.get(..16).unwrap_or(&since);
    let open_us = now.0.saturating_sub(alarm.raised.0);
    let mut text = match u64::try_from(open_us / 1_000) {
        Ok(ms) => format!("{phase}, since {since}Z ({})", span(ms)),
        // The clock was set back since.
        Err(_) => format!("{phase}, since {since}Z"),
    };
    let counts = [
        (alarm.expiries, "expiry", "expiries"),
        (alarm.reboots, "reboot", "reboots"),
    ];
    for (count, one, several) in counts {
        match count {
            0 => {}
            1 => text += &format!(", 1 {one}"),
            n => text += &format!(", {n} {several}"),
        }
    }
    text + if alarm.acknowledged {
        ", acknowledged"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls_and_leaves_the_cursor_visible() {
        let text = "a\nb\nc\nd\n";
        for rows in [0, 1, 2, 3, 4, 5, 6, usize::MAX] {
            let frame = frame(text, rows);
            assert!(
                frame.matches('\n').count() < rows.max(2),
                "{rows}: {frame:?}"
            );
            assert!(frame.ends_with("\u{1b}[?7h\u{1b}[?25h"));
            assert_eq!(frame.contains("lines more"), rows < 5, "{rows}");
        }
    }
}

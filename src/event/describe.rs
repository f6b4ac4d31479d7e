// SPDX-License-Identifier: GPL-2.0-only
//! An event in one line for people.
//!
//! In: an event, with names and reasons from guests and files, which may be anything. Out:
//! a line without control characters, of bounded length.

use super::{Cause, Closing, Event, Gap, Guest, Kind};

/// Longest line, bytes: with syslog's own header it stays within the 1024 bytes of a
/// packet (RFC 3164, 4.1).
const MAX_LINE: usize = 900;
/// Longest name of a guest, characters.
const MAX_NAME: usize = 128;

/// What happened, to describe_guest: `guest web (UUID, domain 3): its watchdog expired, ...`.
#[must_use]
pub fn describe(event: &Event) -> String {
    let what = describe_kind(&event.what);
    let line = match &event.guest {
        Some(guest) => format!("{}: {what}", describe_guest(guest)),
        None => what,
    };
    shorten(plain(&line), MAX_LINE)
}

/// `text` as one line that shows what it is: a guest may be named anything. What would move
/// the cursor, break the line or turn the direction of writing is shown as a question mark.
#[must_use]
pub fn plain(text: &str) -> String {
    text.replace(moves_the_cursor, "?")
}

/// Control characters, line separators, and the marks of Unicode's bidirectional algorithm
/// (UAX #9), with which a name can make its line read as another.
fn moves_the_cursor(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// JSON whose strings do to a terminal no more than [`plain`] text does: what would move the
/// cursor is escaped (RFC 8259, 7), and still means the same.
#[must_use]
pub fn escape_controls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Spaces between tokens are none of a string's: there they are escaped already.
        if moves_the_cursor(c) && !matches!(c, '\n' | '\r' | '\t') {
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn shorten(mut line: String, most: usize) -> String {
    if line.len() > most {
        let mut end = most.saturating_sub(3);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str("...");
    }
    line
}

fn describe_guest(guest: &Guest) -> String {
    let domid = guest.domid;
    let name = guest.name.as_deref().map(|name| {
        let name: String = name.chars().take(MAX_NAME).collect();
        format!("{name} ")
    });
    let name = name.unwrap_or_default();
    match guest.uuid {
        Some(uuid) => format!("guest {name}({uuid}, domain {domid})"),
        None => format!("guest {name}(domain {domid})"),
    }
}

/// What happened, without to describe_guest. Holds whatever text the event holds: print it by [`plain`].
#[must_use]
pub fn describe_kind(what: &Kind) -> String {
    match what.kind().split_once('.') {
        Some(("alarm", _)) => of_alarm(what),
        Some(("guest", _)) => of_guest(what),
        _ => of_host(what),
    }
}

fn of_guest(what: &Kind) -> String {
    match what {
        Kind::GuestArmed {
            slot, timeout_s, ..
        } => {
            format!("armed watchdog {slot}, timeout {timeout_s} s")
        }
        Kind::GuestFirstFed {
            since_seen_ms: Some(ms),
            ..
        } => format!(
            "fed its watchdog for the first time, {} after its start",
            s(*ms)
        ),
        Kind::GuestFirstFed { .. } => "fed its watchdog for the first time".to_owned(),
        Kind::GuestFedAgain { after, gap_ms, .. } => {
            let gap = gap_ms.map(|ms| format!(", after {}", s(ms)));
            format!(
                "feeds its watchdog again: it {}{}",
                of_break(*after),
                gap.unwrap_or_default()
            )
        }
        Kind::GuestLate {
            margin_ms,
            timeout_s,
            count,
            ..
        } => {
            let margin = s(*margin_ms);
            format!("feeds late: {margin} of {timeout_s} s were left; {count} such feeds")
        }
        Kind::GuestExpired {
            unfed_ms, expiries, ..
        } => {
            let again = match expiries {
                0 | 1 => String::new(),
                n => format!(" ({n} times now)"),
            };
            format!("its watchdog expired, unfed for {}{again}", s(*unfed_ms))
        }
        Kind::GuestDisarmed { slot, .. } => format!("disarmed watchdog {slot}"),
        Kind::GuestGone { cause } => format!("is gone: {}", of_cause(*cause)),
        Kind::GuestRebooted {
            previous_domid,
            cause,
        } => format!(
            "is back; it was domain {previous_domid}: {}",
            of_cause(*cause)
        ),
        Kind::GuestBootFailed { waited_ms } => format!(
            "has not fed its watchdog within {} of being back",
            s(*waited_ms)
        ),
        other => other.kind().to_owned(),
    }
}

fn of_alarm(what: &Kind) -> String {
    match what {
        Kind::AlarmRaised { expiries: 0 | 1 } => "ALARM: its watchdog expired".to_owned(),
        Kind::AlarmRaised { expiries } => {
            format!("ALARM: its watchdog expired again, {expiries} times now")
        }
        Kind::AlarmCleared {
            open_ms,
            reboots,
            feeds,
            ..
        } => format!(
            "alarm cleared: it feeds its watchdog again; open for {}, {reboots} reboots, {feeds} feeds",
            s(*open_ms)
        ),
        Kind::AlarmAcknowledged { uid } => format!("alarm acknowledged by user {uid}"),
        Kind::AlarmClosed { cause, open_ms } => format!(
            "alarm closed, {}; open for {}",
            of_closing(*cause),
            s(*open_ms)
        ),
        Kind::AlarmMoved { cause, open_ms } => format!(
            "its alarm is open for {}, but it is not on this host any more: {}",
            s(*open_ms),
            of_cause(*cause)
        ),
        other => other.kind().to_owned(),
    }
}

fn of_host(what: &Kind) -> String {
    match what {
        Kind::HostWithhold {
            reason, left_ms, ..
        } => format!("host: kicks are withheld, {} left: {reason}", s(*left_ms)),
        Kind::HostResumed {
            unkicked_ms,
            left_ms,
        } => format!(
            "host: kicks go on after {}; {} were left",
            s(*unkicked_ms),
            s(*left_ms)
        ),
        Kind::HostArmed {
            device,
            identity,
            timeout_ms,
            ..
        } => format!(
            "host: armed {device} ({identity}), timeout {}",
            s(*timeout_ms)
        ),
        Kind::HostDisarmed {} => "host: the host watchdog is disarmed".to_owned(),
        Kind::HostResetReason {
            reason,
            last_seen,
            watchdog_fired,
        } => format!(
            "host: it went down, last seen {last_seen}: {reason}; {}",
            match watchdog_fired {
                Some(true) => "the host watchdog fired",
                Some(false) => "the host watchdog did not fire",
                None => "whether the host watchdog fired is not known",
            }
        ),
        Kind::HostStateSetAside {
            path,
            kept_as,
            problem,
        } => match kept_as {
            Some(kept) => format!("state {path} is unusable, kept as {kept}: {problem}"),
            None => format!("state {path} is unusable and could not be kept: {problem}"),
        },
        Kind::SinkDropped { sink, count, total } => {
            format!("sink {sink} lost {count} events, {total} since the start")
        }
        other => of_guard(other),
    }
}

fn of_guard(what: &Kind) -> String {
    match what {
        Kind::HostKickRefused { error, count } => {
            format!("host: the host watchdog refuses kicks, {count} so far: {error}")
        }
        Kind::HostKickTaken { refused } => {
            format!("host: the host watchdog takes kicks again; it refused {refused}")
        }
        Kind::HostDisarmFailed { error } => {
            format!("host: the host watchdog cannot be disarmed and will fire: {error}")
        }
        Kind::HostGuardSilent { silent_ms } => format!(
            "host: the guard has told nothing for {}: it hangs or is gone",
            s(*silent_ms)
        ),
        Kind::HostGuardBack { silent_ms } => {
            format!("host: the guard is back, after {}", s(*silent_ms))
        }
        Kind::HostExcused { what } => {
            format!("host: {what} is late, which is excused: a debug key holds it up")
        }
        other => other.kind().to_owned(),
    }
}

fn of_break(why: Gap) -> &'static str {
    match why {
        Gap::Paused => "was paused",
        Gap::Suspended => "was suspended",
        Gap::Expired => "had expired",
        Gap::Disarmed => "had disarmed it",
    }
}

fn of_closing(why: Closing) -> &'static str {
    match why {
        Closing::Destroyed => "as the guest was destroyed",
        Closing::Poweroff => "as the guest powered off",
        Closing::Operator => "by an operator",
        Closing::Moved => "as the guest did not come back to this host",
        Closing::Unidentified => "as the domain is gone and had no UUID",
        Closing::Evicted => "as too many are open",
    }
}

/// Why a domain is no longer there.
#[must_use]
pub fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Destroyed => "destroyed",
        Cause::Poweroff => "powered off",
        Cause::Reboot => "rebooted",
        Cause::Suspend => "suspended",
        Cause::Crash => "crashed",
        Cause::Watchdog => "its watchdog expired",
        Cause::Unknown => "for an unknown reason",
    }
}

/// Seconds with one decimal.
fn s(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms / 100 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_any_name_moves_no_cursor_and_means_the_same() {
        let name: String = (0..0x3000)
            .filter_map(char::from_u32)
            .chain(['\u{feff}'])
            .collect();
        let json = serde_json::to_string(&name).expect("JSON");
        let shown = escape_controls(&json);
        assert!(!shown.contains(moves_the_cursor));
        let read: String = serde_json::from_str(&shown).expect("still JSON");
        assert_eq!(read, name);
    }
}

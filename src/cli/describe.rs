// SPDX-License-Identifier: GPL-2.0-only
//! Events in words, for people who read lines.

use crate::event::{Break, Cause, What};
use crate::hypervisor::Coverage;
use crate::report::span;

/// What happened, without whom it happened to. Holds whatever text the event holds: print it
/// by [`crate::report::plain`].
pub fn describe(what: &What) -> String {
    match what {
        What::HostWithhold { .. }
        | What::HostResumed { .. }
        | What::HostArmed { .. }
        | What::HostDisarmed {}
        | What::HostResetReason { .. }
        | What::HostStateSetAside { .. }
        | What::SinkDropped { .. } => of_host(what),
        What::AlarmRaised { .. }
        | What::AlarmCleared { .. }
        | What::AlarmAcknowledged { .. }
        | What::AlarmClosed { .. } => of_alarm(what),
        _ => of_guest(what),
    }
}

fn of_guest(what: &What) -> String {
    match what {
        What::GuestArmed { slot, timeout_s } => {
            format!("armed its watchdog ({})", watchdog(*slot, *timeout_s))
        }
        What::GuestFirstFed {
            slot,
            timeout_s,
            since_seen_ms,
        } => {
            let since = since_seen_ms.map(|ms| format!(", {} after it appeared", span(ms)));
            let watchdog = watchdog(*slot, *timeout_s);
            format!(
                "fed its watchdog for the first time{} ({watchdog})",
                since.unwrap_or_default()
            )
        }
        What::GuestFedAgain {
            slot,
            timeout_s,
            after,
            gap_ms,
        } => {
            let gap = gap_ms.map(|ms| format!(", {} after the feed before", span(ms)));
            let watchdog = watchdog(*slot, *timeout_s);
            format!(
                "feeds again{}; {} ({watchdog})",
                gap.unwrap_or_default(),
                before(*after)
            )
        }
        What::GuestLate {
            slot,
            timeout_s,
            margin_ms,
            count,
        } => format!(
            "fed late, {count} times since last told: at most {} were left ({})",
            span(*margin_ms),
            watchdog(*slot, *timeout_s)
        ),
        What::GuestExpired {
            slot,
            timeout_s,
            unfed_ms,
            expiries,
            ..
        } => format!(
            "watchdog expired, not fed for {}, expiry {expiries} ({})",
            span(*unfed_ms),
            watchdog(*slot, *timeout_s)
        ),
        What::GuestDisarmed { slot } => format!("disarmed its watchdog (slot {slot})"),
        What::GuestGone { cause } => format!("is gone: {}", word(*cause)),
        What::GuestRebooted {
            previous_domid,
            cause,
        } => format!("is back; domain {previous_domid} is gone: {}", word(*cause)),
        What::GuestBootFailed { waited_ms } => {
            format!(
                "BOOT FAILED: has not fed its watchdog for {} since its start",
                span(*waited_ms)
            )
        }
        other => other.kind().to_owned(),
    }
}

fn of_alarm(what: &What) -> String {
    match what {
        What::AlarmRaised { expiries: 0 | 1 } => "ALARM: its watchdog expired".to_owned(),
        What::AlarmRaised { expiries } => {
            format!("ALARM: its watchdog expired again, {expiries} times by now")
        }
        What::AlarmCleared {
            open_ms,
            expiries,
            reboots,
            feeds,
        } => format!(
            "alarm cleared, the guest feeds: open for {}, expiries {expiries}, reboots {reboots}, \
             feeds {feeds}",
            span(*open_ms)
        ),
        What::AlarmAcknowledged { uid } => {
            format!("alarm acknowledged by uid {uid}; it stays open")
        }
        What::AlarmClosed {
            cause: Cause::Unknown,
            open_ms,
        } => format!(
            "alarm closed by an operator after {}; the guest does not feed",
            span(*open_ms)
        ),
        What::AlarmClosed { cause, open_ms } => {
            format!(
                "alarm closed after {}, the guest is gone: {}",
                span(*open_ms),
                word(*cause)
            )
        }
        other => other.kind().to_owned(),
    }
}

fn of_host(what: &What) -> String {
    match what {
        What::HostWithhold {
            reason, left_ms, ..
        } => format!(
            "WITHHOLD: {reason}; the host goes down in {}",
            span(*left_ms)
        ),
        What::HostResumed {
            unkicked_ms,
            left_ms,
        } => format!(
            "kicks resumed after {}; {} were left",
            span(*unkicked_ms),
            span(*left_ms)
        ),
        What::HostArmed {
            device,
            identity,
            timeout_ms,
            coverage,
        } => {
            let coverage = match coverage {
                Coverage::Full => "full",
                Coverage::Partial => "PARTIAL",
            };
            let timeout = span(*timeout_ms);
            format!("armed {device} ({identity}), timeout {timeout}, coverage {coverage}")
        }
        What::HostDisarmed {} => "host watchdog disarmed".to_owned(),
        What::HostResetReason {
            reason,
            last_seen,
            watchdog_fired,
        } => {
            let fired = match watchdog_fired {
                Some(true) => "its watchdog fired",
                Some(false) => "its watchdog did not fire",
                None => "whether its watchdog fired is not known",
            };
            format!("the host went down: {reason}; {fired}; last seen {last_seen}")
        }
        What::HostStateSetAside {
            path,
            kept_as,
            problem,
        } => {
            let kept = match kept_as {
                Some(path) => format!("kept as {path}"),
                None => "could not be kept".to_owned(),
            };
            format!("state not usable, begun anew: {path}: {problem}; {kept}")
        }
        What::SinkDropped { sink, count, total } => {
            format!("sink {sink} dropped {count} events, {total} since the start")
        }
        other => other.kind().to_owned(),
    }
}

fn watchdog(slot: u8, timeout_s: u32) -> String {
    format!("slot {slot}, timeout {timeout_s} s")
}

fn before(after: Break) -> &'static str {
    match after {
        Break::Paused => "it was paused",
        Break::Suspended => "it was suspended",
        Break::Expired => "its watchdog had expired",
        Break::Disarmed => "its watchdog was disarmed",
    }
}

/// Why a domain is gone, in a word or two.
pub fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Destroyed => "destroyed",
        Cause::Poweroff => "powered off",
        Cause::Reboot => "rebooted",
        Cause::Suspend => "suspended",
        Cause::Crash => "crashed",
        Cause::Watchdog => "watchdog expired",
        Cause::Unknown => "cause unknown",
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The command line's arguments: what is asked for, as words say it.

use crate::event::Timestamp;
use crate::event::kind::{KINDS, is_known};
use crate::event::request::Subscription;
use crate::pool::record::At;
use crate::pool::told;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::str::FromStr;

/// Shows and orders what there is to a host under xenwarden. See xenwarden(1).
#[derive(Debug, Parser)]
#[command(
    name = "xenwarden",
    version,
    subcommand_required = true,
    after_help = "Exit codes: 0 fine; 1 withheld, alarms open, a host gone, a heartbeat lost, weakened, a reset unexplained, or refused; 2 cannot tell, or (check) not guarded; 3 no liveness table, or (check) not all known; 64 wrong usage."
)]
pub struct Arguments {
    /// Read the sockets' paths from this configuration
    /// [default: /etc/xenwarden/xenwarden.conf]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask at this socket instead
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whether the host watchdog is kicked, and all that this depends on
    Status {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Every host of the pool: its guard, its fence bound, and whether it is there
    Hosts {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Each guest's watchdog and alarm
    Guests {
        /// Of all hosts of the pool
        #[arg(long, conflicts_with = "watch")]
        pool: bool,
        /// Anew each second
        #[arg(long)]
        watch: bool,
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// The heartbeats of every xenwarden-pulse on this host (--socket: its socket, or a directory of them)
    Pulses {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// What happened; with --follow, what happens from now on
    Events(Events),
    /// Why the host went down last, and the times before
    Why {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Note that somebody takes care of a guest's alarm (root only)
    Ack {
        /// A UUID, a domain number, or a name
        guest: String,
        /// End the alarm instead, although the guest does not feed
        #[arg(long)]
        close: bool,
        /// On whichever host of the pool it is: by a UUID or a name
        #[arg(long, conflicts_with = "close")]
        pool: bool,
    },
    /// Have the guard kick whatever the evidence says, for maintenance (root only)
    Inhibit {
        /// For so long: 90s, 15m, 2h
        #[arg(long = "for", value_name = "SPAN", value_parser = span)]
        span: Span,
        /// Why, for the events and the status
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// End that before its time (root only)
    Resume,
    /// What is fine on this host, what weakens the guard, and how to mend it; touches nothing
    Check {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Reset this host by its host watchdog, to measure how long that takes (root only)
    Drill {
        /// The name of this host; without it, it is asked for
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// After how many seconds this host is down once it is wedged, hung or dead
    FenceBound,
    /// Completions of this command line for a shell
    #[command(hide = true)]
    Completions {
        /// Which
        shell: Shell,
    },
}

/// Which events, and how to show them.
#[derive(Clone, Debug, Args)]
pub struct Events {
    /// Go on with new events
    #[arg(long)]
    pub follow: bool,
    /// From a sequence number, a time (2026-01-31T23:59:59Z), or a span ago (90s, 15m, 2h, 1d)
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| Since::read(text, Timestamp::now()))]
    pub since: Option<Since>,
    /// Only of this guest: a UUID, a domain number, or a name
    #[arg(long)]
    pub guest: Option<String>,
    /// Only of this kind (see xenwarden-events(7)), or of its first part (alarm); may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    pub kinds: Vec<String>,
    /// Each as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Of all hosts of the pool
    #[arg(long, conflicts_with = "since")]
    pub pool: bool,
    /// After these places, of each host the last that was seen (`position` of an event of the pool)
    #[arg(long, value_name = "HOST/BOOT/SEQ", num_args = 1.., requires = "pool")]
    pub after: Vec<At>,
}

impl Events {
    /// As it is first asked for.
    #[must_use]
    pub fn subscription(&self) -> Subscription {
        let (since_seq, since_time) = match self.since {
            Some(Since::Seq(seq)) => (Some(seq), None),
            Some(Since::Time(time)) => (None, Some(time)),
            None if self.follow => (None, None),
            None => (Some(0), None),
        };
        Subscription {
            since_seq,
            since_time,
            kinds: self.kinds.clone(),
            guest: self.guest.clone(),
            follow: self.follow,
        }
    }
}

impl Events {
    /// As the pool is first asked for it.
    ///
    /// # Errors
    /// What the pool cannot be asked for.
    pub fn pool_subscription(&self) -> Result<crate::pool::protocol::Subscription, String> {
        let guest = self.guest.as_deref().map(|guest| {
            let uuid = guest.parse();
            uuid.map_err(|_| format!("--guest {guest:?}: with --pool it must be a UUID"))
        });
        Ok(crate::pool::protocol::Subscription {
            after: (!self.after.is_empty()).then(|| self.after.clone()),
            follow: self.follow,
            kinds: self.kinds.clone(),
            guest: guest.transpose()?,
        })
    }
}

/// What is wrong with the arguments, in one line.
#[must_use]
pub fn usage_error(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}: see `xenwarden help`")
}

/// A kind, or a group of kinds with its dot. A wrong one would quietly match nothing.
fn kind(text: &str) -> Result<String, String> {
    if KINDS.contains(&text) || told::KINDS.contains(&text) {
        return Ok(text.to_owned());
    }
    let group = format!("{}.", text.trim_end_matches(['.', '*']));
    if is_known(&group) || group == "pool." {
        return Ok(group);
    }
    let kinds = [KINDS, &told::KINDS].concat().join(", ");
    Err(format!("there are {kinds}"))
}

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// At this number.
    Seq(u64),
    /// At this time.
    Time(Timestamp),
}

const US_PER_S: i64 = 1_000_000;

impl Since {
    fn read(text: &str, now: Timestamp) -> Result<Self, String> {
        if let Some(seq) = digits(text) {
            return Ok(Self::Seq(seq));
        }
        let time = span_us(text).map(|us| Timestamp(now.0.saturating_sub(us).max(0)));
        time.or_else(|| text.parse().ok())
            .map(Self::Time)
            .ok_or_else(|| {
                "neither a sequence number, nor a time like \
                 2026-01-31T23:59:59Z, nor a span like 90s, 15m, 2h or 1d"
                    .to_owned()
            })
    }
}

/// A number of digits alone, without the sign that `parse` would take.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok())?
}

/// A time span, nanoseconds.
pub type Span = u64;

fn span(text: &str) -> Result<Span, String> {
    let us = span_us(text).filter(|us| *us > 0);
    let us = us.and_then(|us| u64::try_from(us).ok());
    us.map(|us| us.saturating_mul(1_000))
        .ok_or_else(|| "no span like 90s, 15m or 2h".to_owned())
}

/// A whole number of seconds, minutes, hours or days, in microseconds.
fn span_us(text: &str) -> Option<i64> {
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
    let (number, seconds) = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)))?;
    let number: u32 = digits(number)?;
    Some(i64::from(number).saturating_mul(seconds * US_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("xenwarden").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map_err(|error| usage_error(&error))
    }

    fn subscription(line: &str) -> Subscription {
        match given(line).map(|arguments| arguments.command) {
            Ok(Command::Events(events)) => events.subscription(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn wrong_arguments_are_named_in_one_line() {
        let cases = [
            ("frobnicate", "frobnicate"),
            ("status --watch", "--watch"),
            ("status now", "now"),
            ("status --socket", "--socket"),
            ("status --json=yes", "yes"),
            ("status --socket a --socket b", "--socket"),
            ("ack", "GUEST"),
            ("ack a b", "'b'"),
            ("events --since yesterday", "yesterday"),
            ("events --since 1w", "1w"),
            ("events --kind guest.eaten", "guest.eaten"),
            ("events --kind", "--kind"),
            ("events --kind=", "--kind"),
            ("guests -x", "-x"),
            ("inhibit --for 10m", "--reason"),
            ("inhibit --for 10 --reason x", "90s"),
            ("inhibit --for 0s --reason x", "90s"),
            ("inhibit --reason x", "--for"),
        ];
        for (line, part) in cases {
            let error = given(line).expect_err(line);
            assert!(
                error.contains(part) && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn options_stand_anywhere_and_end_at_a_double_dash() {
        for line in ["--socket /x status --json", "status --json --socket=/x"] {
            let given = given(line).expect(line);
            assert_eq!(given.socket.as_deref(), Some("/x".as_ref()));
            assert!(matches!(given.command, Command::Status { json: true }));
        }
        let given = given("ack --close --config=/c -- --odd").expect("an order");
        assert_eq!(given.config.as_deref(), Some("/c".as_ref()));
        let Command::Ack { guest, close, .. } = given.command else {
            panic!("{given:?}");
        };
        assert_eq!((guest.as_str(), close), ("--odd", true));
    }

    #[test]
    fn all_that_is_kept_is_replayed_unless_only_new_events_are_asked_for() {
        let all = subscription("events");
        assert_eq!((all.since_seq, all.follow), (Some(0), false));
        let new = subscription("events --follow");
        assert_eq!(
            (new.since_seq, new.since_time, new.follow),
            (None, None, true)
        );
        let both = subscription("events --follow --since 17");
        assert_eq!((both.since_seq, both.follow), (Some(17), true));
    }

    #[test]
    fn since_takes_a_number_a_time_or_a_span() {
        let now = Timestamp(1_795_449_066_250_000); // 2026-11-23T15:51:06.25Z
        let at = |us: i64| Since::Time(Timestamp(now.0 - us));
        let cases = [
            ("0", Since::Seq(0)),
            ("18446744073709551615", Since::Seq(u64::MAX)),
            ("90s", at(90_000_000)),
            ("15m", at(900_000_000)),
            ("2h", at(7_200_000_000)),
            ("1d", at(86_400_000_000)),
            ("4294967295d", Since::Time(Timestamp(0))),
            ("2026-11-23T15:51:06.25Z", at(0)),
            ("2026-11-23t15:51:06.25z", at(0)),
            ("2026-11-23 15:51:06.25", at(0)),
            ("2026-11-23T16:51:06.25+01:00", at(0)),
            ("2026-11-23T10:21:06.25-05:30", at(0)),
        ];
        for (text, expected) in cases {
            assert_eq!(Since::read(text, now), Ok(expected), "{text}");
        }
        for text in [
            "",
            "s",
            "+5s",
            "1.5h",
            "2026-11-23",
            "2026-11-23T15:51:06Z+01:00",
            "\u{e9}00:00",
        ] {
            assert!(Since::read(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_are_taken_whole_or_by_their_first_part() {
        let cases = [
            ("alarm.raised", "alarm.raised"),
            ("alarm", "alarm."),
            ("alarm.", "alarm."),
            ("guest.*", "guest."),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text).as_deref(), Ok(expected));
        }
    }
}

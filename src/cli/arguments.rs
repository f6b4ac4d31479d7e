// SPDX-License-Identifier: GPL-2.0-only
//! Arguments: what is to be done.
//!
//! In: words. Out: a [`Command`], or one line that says which word is wrong. Options may
//! stand before or after the command, as `--option value` or `--option=value`; what follows
//! `--` is no option.

use crate::event::Timestamp;
use crate::event::kind::{KINDS, is_known};
use crate::event::request::Subscription;
use std::path::PathBuf;
use std::str::FromStr;

/// The text of `xenwarden help`.
const HELP: &str = "\
usage: xenwarden status [--json] [--socket PATH]
       xenwarden guests [--watch] [--json] [--socket PATH]
       xenwarden events [--follow] [--since WHEN] [--guest GUEST] [--kind KIND]...
                        [--json] [--socket PATH]
       xenwarden ack GUEST [--close] [--socket PATH]
       xenwarden help | --version

status   whether the host watchdog is kicked, and all that this depends on
guests   each guest's watchdog and alarm; --watch shows them anew each second
events   what happened; with --follow, what happens from now on
         WHEN: a sequence number, a time (2026-01-31T23:59:59Z), or a span (90s, 15m, 2h, 1d)
         KIND: as in xenwarden-events(7), or its first part alone (alarm)
ack      notes that somebody takes care of a guest's alarm; --close ends it (root only)
         GUEST: a UUID, a domain number, or a name

exit codes: 0 fine; 1 withheld, alarms open, or refused; 2 cannot tell; 64 wrong usage
";

const CONTROL_SOCKET: &str = "/run/xenwarden/control.sock";
const EVENT_SOCKET: &str = "/run/xenwarden/events.sock";

/// Options that take a value; the others do not.
const VALUED: [&str; 4] = ["--socket", "--since", "--guest", "--kind"];

/// A question to the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The answer as it came.
    pub json: bool,
    /// Where.
    pub socket: PathBuf,
}

/// Which events, and how to show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsRequest {
    /// As it is first asked for.
    pub subscription: Subscription,
    /// The lines as they come.
    pub json: bool,
    /// Where.
    pub socket: PathBuf,
    /// `--since` was given, so that a replay that begins later is worth a word.
    pub since: bool,
}

/// Whose alarm, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckRequest {
    /// A UUID, a domid or a name.
    pub guest: String,
    /// End it.
    pub close: bool,
    /// Where.
    pub socket: PathBuf,
}

/// Kind is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Only this text.
    Say(String),
    /// The host.
    Status(Ask),
    /// The guests.
    Guests {
        /// Kind to ask.
        request: Ask,
        /// Each second.
        watch: bool,
    },
    /// The events.
    Events(EventsRequest),
    /// An alarm.
    Ack(AckRequest),
}

/// Reads the arguments.
///
/// # Errors
/// One line for the user.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut given = Given::read(arguments)?;
    if given.flag("--help") {
        return Ok(Command::Say(HELP.to_owned()));
    }
    if given.flag("--version") {
        let version = concat!("xenwarden ", env!("CARGO_PKG_VERSION"), "\n");
        return Ok(Command::Say(version.to_owned()));
    }
    let name = given.operand("a command").map_err(see_help)?;
    let command = match name.as_str() {
        "help" => Command::Say(HELP.to_owned()),
        "status" => Command::Status(given.ask()?),
        "guests" => Command::Guests {
            watch: given.flag("--watch"),
            request: given.ask()?,
        },
        "events" => Command::Events(given.events()?),
        "ack" => Command::Ack(AckRequest {
            guest: given.operand("a guest's UUID, domain number or name: `xenwarden ack GUEST`")?,
            close: given.flag("--close"),
            socket: given.socket(CONTROL_SOCKET)?,
        }),
        other => return Err(see_help(format!("unknown command {other:?}"))),
    };
    given.nothing_left(&name)?;
    Ok(command)
}

fn see_help(message: String) -> String {
    format!("{message}: see `xenwarden help`")
}

/// The words, sorted; those that a command asks for are taken away.
#[derive(Default)]
struct Given {
    operands: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Given {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut given = Self::default();
        while let Some(word) = words.next() {
            if word == "--" {
                given.operands.extend(words);
                break;
            }
            if !word.starts_with('-') {
                given.operands.push(word);
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let value = match (VALUED.contains(&name.as_str()), value) {
                (true, None) => Some(words.next().ok_or(format!("{name} needs a value"))?),
                (false, Some(_)) => return Err(see_help(format!("{name} takes no value"))),
                (_, value) => value,
            };
            given.options.push((name, value));
        }
        Ok(given)
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|(option, _)| option != name);
        self.options.len() < before
    }

    fn values(&mut self, name: &str) -> Vec<String> {
        let all = std::mem::take(&mut self.options).into_iter();
        let (taken, left): (Vec<_>, Vec<_>) = all.partition(|(option, _)| option == name);
        self.options = left;
        taken.into_iter().filter_map(|(_, value)| value).collect()
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut values = self.values(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(format!("{name} is given more than once")),
        }
    }

    fn operand(&mut self, what: &str) -> Result<String, String> {
        if self.operands.is_empty() {
            return Err(format!("missing: {what}"));
        }
        Ok(self.operands.remove(0))
    }

    fn socket(&mut self, default: &str) -> Result<PathBuf, String> {
        let path = self.value("--socket")?;
        Ok(path.map_or_else(|| PathBuf::from(default), PathBuf::from))
    }

    fn ask(&mut self) -> Result<Ask, String> {
        Ok(Ask {
            json: self.flag("--json"),
            socket: self.socket(CONTROL_SOCKET)?,
        })
    }

    fn events(&mut self) -> Result<EventsRequest, String> {
        let follow = self.flag("--follow");
        let since = self.value("--since")?;
        let mut subscription = Subscription {
            kinds: self
                .values("--kind")
                .iter()
                .map(|k| kind(k))
                .collect::<Result<_, _>>()?,
            guest: self.value("--guest")?,
            follow,
            ..Subscription::default()
        };
        match since
            .as_deref()
            .map(|text| Since::read(text, Timestamp::now()))
        {
            Some(Ok(Since::Seq(seq))) => subscription.since_seq = Some(seq),
            Some(Ok(Since::Time(time))) => subscription.since_time = Some(time),
            Some(Err(error)) => return Err(error),
            None if follow => {}
            None => subscription.since_seq = Some(0),
        }
        Ok(EventsRequest {
            subscription,
            json: self.flag("--json"),
            socket: self.socket(EVENT_SOCKET)?,
            since: since.is_some(),
        })
    }

    fn nothing_left(&self, command: &str) -> Result<(), String> {
        let option = self.options.first().map(|(name, _)| name);
        match option.or(self.operands.first()) {
            None => Ok(()),
            Some(word) => Err(see_help(format!(
                "unknown argument {word:?} of `xenwarden {command}`"
            ))),
        }
    }
}

/// A kind, or a group of kinds with its dot. A wrong one would quietly match nothing.
fn kind(text: &str) -> Result<String, String> {
    if KINDS.contains(&text) {
        return Ok(text.to_owned());
    }
    let group = format!("{}.", text.trim_end_matches(['.', '*']));
    if is_known(&group) {
        return Ok(group);
    }
    let kinds = KINDS.join(", ");
    Err(format!("--kind {text:?}: there are {kinds}"))
}

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Seq(u64),
    Time(Timestamp),
}

const US_PER_S: i64 = 1_000_000;

impl Since {
    fn read(text: &str, now: Timestamp) -> Result<Self, String> {
        if let Some(seq) = digits(text) {
            return Ok(Self::Seq(seq));
        }
        let time = span_us(text).map(|us| Timestamp(now.0.saturating_sub(us).max(0)));
        time.or_else(|| time_with_offset(text))
            .map(Self::Time)
            .ok_or_else(|| {
                format!(
                    "--since {text:?}: neither a sequence number, nor a time like \
                 2026-01-31T23:59:59Z, nor a span like 90s, 15m, 2h or 1d"
                )
            })
    }
}

/// A number of digits alone, without the sign that `parse` would take.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok())?
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

/// RFC 3339's `Z` or `+hh:mm`; without either it is UTC.
fn time_with_offset(text: &str) -> Option<Timestamp> {
    let text = text.to_ascii_uppercase();
    let split = text.len().checked_sub("+hh:mm".len());
    let (local, offset) = match split.and_then(|at| text.split_at_checked(at)) {
        Some((local, offset)) if local.contains(':') && offset.starts_with(['+', '-']) => {
            (local, offset)
        }
        _ => (text.as_str(), "+00:00"),
    };
    let time: Timestamp = local.parse().ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let (hours, minutes): (u8, u8) = (digits(hours)?, digits(minutes)?);
    if hours > 23 || minutes > 59 || local.ends_with('Z') && offset != "+00:00" {
        return None;
    }
    let us = (i64::from(hours) * 60 + i64::from(minutes)) * 60 * US_PER_S;
    let us = if offset.starts_with('-') { us } else { -us };
    Some(Timestamp(time.0.checked_add(us)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn subscription(line: &str) -> Subscription {
        match given(line) {
            Ok(Command::Events(request)) => request.subscription,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn wrong_arguments_are_named_in_one_line() {
        let cases = [
            ("", "a command"),
            ("frobnicate", "frobnicate"),
            ("status --watch", "--watch"),
            ("status now", "now"),
            ("status --socket", "--socket needs"),
            ("status --json=yes", "takes no value"),
            ("status --socket a --socket b", "more than once"),
            ("ack", "a guest"),
            ("ack a b", "\"b\""),
            ("events --since yesterday", "yesterday"),
            ("events --since 1w", "1w"),
            ("events --since -5", "-5"),
            ("events --kind guest.eaten", "guest.eaten"),
            ("events --kind", "--kind needs"),
            ("events --kind=", "--kind \"\""),
            ("guests -x", "-x"),
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
        let ask = |json| Ask {
            json,
            socket: "/x".into(),
        };
        assert_eq!(
            given("--socket /x status --json"),
            Ok(Command::Status(ask(true)))
        );
        assert_eq!(given("status --socket=/x"), Ok(Command::Status(ask(false))));
        let guest = match given("ack --close -- --odd") {
            Ok(Command::Ack(request)) => (request.guest, request.close),
            other => panic!("{other:?}"),
        };
        assert_eq!(guest, ("--odd".to_owned(), true));
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

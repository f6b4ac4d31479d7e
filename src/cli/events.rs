// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden events`: what happened, and what happens.
//!
//! In: the event socket's lines. Out: events on stdout, one line each; everything else (that
//! some are no longer kept, that the monitor went and came back) on stderr. Events that this
//! version does not know are shown as far as they can be. With `--follow` a connection that
//! ends is made anew and goes on after the last event that was seen.

use super::arguments::Events;
use super::connection::{Connection, ConnectionError, TIMEOUT, unreachable_text};
use super::output::{Colour, Output, Reader, Woken, wait};
use super::{EXIT_OK, print_error};
use crate::cli::text::plain;
use crate::event::describe::escape_controls;
use crate::event::request::{Notice, Subscription};
use crate::event::{COMMON, Event, Severity, Timestamp};
use crate::pool::message::message_of;
use serde_json::{Map, Value};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Before the first attempt to connect again, and the longest such wait.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Times in a row that a replay may be dropped before it has sent anything.
const DROPS: u32 = 5;

/// How one connection ended.
enum End {
    /// The monitor closed it.
    Closed,
    /// The monitor dropped us, or the rest was lost on the way.
    Dropped,
    /// Nobody reads stdout any more.
    StdoutGone,
}

/// Shows events until the replay ends, or, with `--follow`, until nobody reads them.
pub fn run(socket: &Path, request: &Events, output: &mut Output) -> Result<u8, String> {
    let mut reader = EventReader {
        socket,
        request,
        next: None,
        began: Timestamp::now(),
        connected: false,
        progress: false,
    };
    let follow = request.follow;
    let mut delay = FIRST_DELAY;
    let mut drops = 0;
    loop {
        match reader.session(output)? {
            End::StdoutGone => return Ok(EXIT_OK),
            End::Closed if !follow => return Ok(EXIT_OK),
            End::Closed | End::Dropped => {}
        }
        if std::mem::take(&mut reader.progress) {
            (delay, drops) = (FIRST_DELAY, 0);
        }
        drops += 1;
        if !follow && drops > DROPS {
            return Err("the monitor drops this reader again and again".to_owned());
        }
        let none: Option<&UnixStream> = None;
        let until = Instant::now() + delay;
        if wait(none, Some(until)).map_err(|error| error.to_string())? == Woken::StdoutGone {
            return Ok(EXIT_OK);
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

struct EventReader<'a> {
    socket: &'a Path,
    request: &'a Events,
    /// Where to go on.
    next: Option<u64>,
    /// When it all began.
    began: Timestamp,
    /// The monitor was there at some time.
    connected: bool,
    /// This connection has sent an event.
    progress: bool,
}

impl EventReader<'_> {
    /// What to ask for, so that nothing is lost and nothing comes twice.
    fn subscription(&self) -> Subscription {
        let mut subscription = self.request.subscription();
        let replays = subscription.since_seq.is_some() || subscription.since_time.is_some();
        match self.next {
            Some(next) => {
                subscription.since_seq = Some(next);
                subscription.since_time = None;
            }
            // Nothing was seen: what happened since the connection was lost must come.
            None if self.connected && !replays => subscription.since_time = Some(self.began),
            None => {}
        }
        subscription
    }

    /// One connection from its beginning to its end.
    fn session(&mut self, output: &mut Output) -> Result<End, String> {
        let (follow, socket) = (self.request.follow, self.socket);
        let request = serde_json::to_string(&self.subscription()).map_err(|e| e.to_string())?;
        let mut connection = match Connection::open(socket, &request, true) {
            Ok(connection) => connection,
            Err(_) if self.connected && follow => return Ok(End::Closed),
            Err(trouble) => return Err(unreachable_text(socket, &trouble)),
        };
        if self.connected && follow {
            print_error("connected again");
        }
        self.connected = true;
        let timeout = (!follow).then_some(TIMEOUT);
        loop {
            let line = match connection.line(timeout) {
                Ok(Some(line)) => line,
                Ok(None) => {
                    if follow {
                        print_error("the monitor closed the connection; trying to connect again");
                    }
                    return Ok(End::Closed);
                }
                Err(ConnectionError::StdoutGone) => return Ok(End::StdoutGone),
                Err(ConnectionError::Cut) if follow => {
                    print_error("the connection broke; trying to connect again");
                    return Ok(End::Closed);
                }
                Err(trouble) => return Err(unreachable_text(socket, &trouble)),
            };
            if let Some(end) = self.take(&line, output)? {
                return Ok(end);
            }
        }
    }

    /// Shows a line, whatever it is.
    fn take(&mut self, line: &[u8], output: &mut Output) -> Result<Option<End>, String> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| format!("the monitor's line is not understood: {error}"))?;
        let Value::Object(fields) = value else {
            return Err("the monitor's line is not understood: no JSON object".to_owned());
        };
        if fields.get("kind").is_none_or(|kind| !kind.is_string()) {
            return self.notice(fields);
        }
        if let Some(seq) = fields.get("seq").and_then(Value::as_u64) {
            self.next = Some(seq.saturating_add(1));
        }
        self.progress = true;
        let shown = if self.request.json {
            (escape_controls(&String::from_utf8_lossy(line)) + "\n").into_bytes()
        } else {
            (event_line(line, &fields, output) + "\n").into_bytes()
        };
        let gone = output.write(&shown)? == Reader::Gone;
        Ok(gone.then_some(End::StdoutGone))
    }

    fn notice(&mut self, fields: Map<String, Value>) -> Result<Option<End>, String> {
        let text = Value::Object(fields.clone()).to_string();
        match serde_json::from_value(Value::Object(fields)) {
            Ok(Notice::Error(error)) => Err(format!("the monitor refuses: {error}")),
            Ok(Notice::DroppedFrom(seq)) => {
                print_error(&format!(
                    "read too slowly and was dropped; going on from event {seq}"
                ));
                self.next = Some(seq);
                Ok(Some(End::Dropped))
            }
            Ok(Notice::ReplayBeginsAt(seq)) => {
                // Who asks for all that is kept knows that there may have been more.
                if self.request.since.is_some() || self.next.is_some() {
                    print_error(&format!("events before {seq} are no longer kept"));
                }
                Ok(None)
            }
            Err(_) => {
                print_error(&format!("the monitor says {text}"));
                Ok(None)
            }
        }
    }
}

/// The event as one line for people.
pub(super) fn event_line(line: &[u8], fields: &Map<String, Value>, output: &Output) -> String {
    let known = serde_json::from_slice::<Event>(line).ok();
    let text = known.map(|event| event.what.describe());
    let text = text.or_else(|| message_of(fields));
    let text = text.unwrap_or_else(|| own_fields(fields));
    let severity = field(fields, "severity");
    let colour = match serde_json::from_value(Value::from(severity)) {
        Ok(Severity::Error) => Some(Colour::Red),
        Ok(Severity::Warning) => Some(Colour::Yellow),
        _ => None,
    };
    let severity = output.paint(colour, &format!("{:<7}", plain(severity)));
    let (time, who) = (when(fields), plain(&who(fields)));
    format!("{time}  {severity}  {who:<12}  {}", plain(&text))
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or("?")
}

/// UTC to the millisecond.
fn when(fields: &Map<String, Value>) -> String {
    let text = field(fields, "time");
    match text.parse::<Timestamp>() {
        Ok(time) => {
            let time = time.to_string().replace('T', " ");
            format!("{}Z", time.get(..23).unwrap_or(&time))
        }
        Err(_) => plain(text),
    }
}

fn who(fields: &Map<String, Value>) -> String {
    let guest = match fields.get("guest") {
        None | Some(Value::Null) => return "host".to_owned(),
        Some(guest) => guest,
    };
    let domid = guest.get("domid").map_or("?".to_owned(), Value::to_string);
    let text = |field| guest.get(field).and_then(Value::as_str);
    match text("name").or(text("uuid")) {
        Some(name) => format!("{name} ({domid})"),
        None => format!("domain {domid}"),
    }
}

/// An event that this version does not know: its kind, and its own fields as they are.
fn own_fields(fields: &Map<String, Value>) -> String {
    let own = fields
        .iter()
        .filter(|(name, _)| *name != "position" && !COMMON.contains(&name.as_str()));
    let own: Map<String, Value> = own
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let kind = field(fields, "kind");
    if own.is_empty() {
        return kind.to_owned();
    }
    format!("{kind} {}", Value::Object(own))
}

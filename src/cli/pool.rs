// SPDX-License-Identifier: GPL-2.0-only
//! What the pool knows: `xenwarden hosts`, and `guests`, `events` and `ack` with `--pool`.
//!
//! In: the socket of this host's xenwarden-pool. Out: tables that are read at a glance, or its lines as they came; and a code.
//! Without quorum what is shown of others may be otherwise by now, which is said, and is never fine.

use super::connection::{Connection, ConnectionError, NoAnswer, TIMEOUT, ask, unreachable_text};
use super::events::event_line;
use super::output::{Colour, Output, Reader, Woken, wait};
use super::{EXIT_NOT_OK, EXIT_OK, EXIT_UNKNOWN, print_error};
use crate::cli::text::{called, columns, plain, span};
use crate::event::describe::escape_controls;
use crate::event::request::Named;
use crate::event::{Timestamp, Uuid};
use crate::fencing::told::Power;
use crate::pool::protocol::{Done, Notice, Request, Subscription};
use crate::pool::record::At;
use crate::pool::told::position_of;
use crate::pool::view::{HostReport, HostsReport, PoolGuest, PoolGuests, is_gone};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A line and how to paint it.
type Line = (Option<Colour>, String);

fn asked<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<(T, String), String> {
    ask(socket, request).map_err(|why| match why {
        NoAnswer::Refused(error) => format!("the pool refuses: {error}"),
        NoAnswer::CannotTell(message) => message,
    })
}

fn show(lines: Vec<Line>, output: &mut Output) -> Result<(), String> {
    let text = lines
        .into_iter()
        .map(|(colour, text)| output.paint(colour, &text) + "\n");
    let text: String = text.collect();
    output.write(text.as_bytes()).map(drop)
}

/// `xenwarden hosts`.
pub fn hosts(socket: &Path, json: bool, output: &mut Output) -> Result<u8, String> {
    let (report, line): (HostsReport, String) = asked(socket, &Request::Hosts)?;
    if json {
        let _ = output.write(line.as_bytes())?;
    } else {
        show(hosts_table(&report), output)?;
    }
    let bad =
        |host: &HostReport| !host.member || host.guard.as_ref().is_some_and(|guard| !guard.kick);
    Ok(match () {
        () if report.hosts.iter().any(bad) => EXIT_NOT_OK,
        () if report.quorate != Some(true) => EXIT_UNKNOWN,
        () if report.hosts.iter().any(|host| host.guard.is_none()) => EXIT_UNKNOWN,
        () => EXIT_OK,
    })
}

fn hosts_table(report: &HostsReport) -> Vec<Line> {
    let here = report.hosts.iter().filter(|host| host.member).count();
    let quorum = match report.quorate {
        Some(true) => "quorum",
        Some(false) => "NO QUORUM: what is told of others may be otherwise by now",
        None => "QUORUM NOT KNOWN",
    };
    let leader = report
        .hosts
        .iter()
        .find(|host| Some(host.id) == report.leader);
    let leader = leader.map_or("nobody leads".to_owned(), |host| {
        format!("{} leads", plain(&host.name))
    });
    let head = format!(
        "{here} of {} hosts here, {quorum}, {leader}",
        report.hosts.len()
    );
    let fine = report.quorate == Some(true) && here == report.hosts.len();
    let mut lines = vec![((!fine).then_some(Colour::Yellow), head)];
    if let Some(why) = &report.trouble {
        let text = format!("NOT ON THE RING: {}", plain(why));
        lines.push((Some(Colour::Red), text));
    }
    lines.push((None, String::new()));
    let heads = [
        "HOST",
        "STATE",
        "HEARD",
        "GUARD",
        "FENCE BOUND",
        "WITHOUT QUORUM",
        "GUESTS",
        "ALARMS",
    ];
    let rows = report.hosts.iter().map(|host| host_row(report, host));
    let colours = report.hosts.iter().map(|host| match &host.guard {
        _ if !host.member => Some(Colour::Red),
        Some(guard) if !guard.kick => Some(Colour::Red),
        _ if host.alarms > 0 => Some(Colour::Yellow),
        Some(_) => None,
        None => Some(Colour::Yellow),
    });
    let colours = std::iter::once(Some(Colour::Bold)).chain(colours);
    let table: Vec<Line> = colours.zip(columns(&heads, rows.collect())).collect();
    lines.extend(table);
    let resets = report.hosts.iter().filter_map(|host| {
        let reset = host.reset.as_ref()?;
        let time = reset.time.map(|time| time.to_string()).unwrap_or_default();
        let time = time.replace('T', " ");
        let time = time.get(..16).map(|time| format!(" {time}Z"));
        let (name, time) = (plain(&host.name), time.unwrap_or_default());
        let text = format!("{name} went down last{time}: {}", plain(&reset.text));
        Some((None, text))
    });
    let mut resets = resets.peekable();
    if resets.peek().is_some() {
        lines.push((None, String::new()));
        lines.extend(resets);
    }
    lines
}

/// What it promises to do without quorum.
fn promise(host: &HostReport) -> String {
    match (&host.promise, host.power) {
        (_, Some(Power::Off)) => "is down: fenced".to_owned(),
        (Some(promise), _) => {
            let (within, held) = (span(promise.down_within_ms), span(promise.held_ms));
            format!("down in {within}, promised for {held}")
        }
        (None, Some(_)) => "promises nothing".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

fn host_row(report: &HostsReport, host: &HostReport) -> Vec<String> {
    let unknown = || "-".to_owned();
    let heard = match host.heard_ms {
        _ if host.id == report.me => "this host".to_owned(),
        Some(ms) => format!("{} ago", span(ms)),
        None => unknown(),
    };
    let guard = match &host.guard {
        None => "not known".to_owned(),
        Some(guard) if guard.device.is_empty() => "nothing armed".to_owned(),
        Some(guard) if !guard.kick => {
            let reason = guard.reason.as_deref().unwrap_or_default();
            format!("WITHHOLDS: {}", plain(reason))
        }
        Some(guard) if guard.inhibited => "kicks, INHIBITED".to_owned(),
        Some(guard) => format!("kicks {}", plain(&guard.device)),
    };
    let bound = host.guard.as_ref().and_then(|guard| guard.fence_bound_ms);
    let state = match (host.member, report.leader == Some(host.id)) {
        (true, true) => "leads".to_owned(),
        (true, false) => "here".to_owned(),
        (false, _) => "GONE".to_owned(),
    };
    vec![
        plain(&host.name),
        state,
        heard,
        guard,
        bound.map_or_else(unknown, span),
        promise(host),
        host.guests.to_string(),
        host.alarms.to_string(),
    ]
}

/// `xenwarden guests --pool`.
pub fn guests(socket: &Path, json: bool, output: &mut Output) -> Result<u8, String> {
    let (report, line): (PoolGuests, String) = asked(socket, &Request::Guests)?;
    if json {
        let _ = output.write(line.as_bytes())?;
    } else {
        show(guests_table(&report, Timestamp::now()), output)?;
    }
    let alarms = report.guests.iter().any(|guest| !guest.alarms.is_empty());
    Ok(match () {
        () if alarms => EXIT_NOT_OK,
        () if report.quorate != Some(true) => EXIT_UNKNOWN,
        () => EXIT_OK,
    })
}

fn guests_table(report: &PoolGuests, now: Timestamp) -> Vec<Line> {
    let open = |guest: &&PoolGuest| !guest.alarms.is_empty();
    let alarms = report.guests.iter().filter(open).count();
    let quorum = match report.quorate {
        Some(true) => "",
        _ => ", NO QUORUM: those elsewhere may be otherwise by now",
    };
    let alarms_text = match alarms {
        0 => "no alarm".to_owned(),
        1 => "1 GUEST WITH AN ALARM".to_owned(),
        n => format!("{n} GUESTS WITH ALARMS"),
    };
    let colour = match (alarms, report.quorate) {
        (1.., _) => Some(Colour::Red),
        (0, Some(true)) => None,
        _ => Some(Colour::Yellow),
    };
    let head = format!("{alarms_text}, {} guests{quorum}", report.guests.len());
    let mut lines = vec![(colour, head)];
    if report.guests.is_empty() {
        return lines;
    }
    lines.push((None, String::new()));
    let mut guests: Vec<&PoolGuest> = report.guests.iter().collect();
    guests.sort_by_key(|guest| (guest.alarms.is_empty(), guest.name.clone(), guest.uuid));
    let heads = ["NAME", "HOST", "DOMID", "STATE", "WATCHDOG", "ALARM"];
    let rows = guests.iter().map(|guest| guest_row(guest, now)).collect();
    let colours = guests.iter().map(|guest| {
        let taken_care_of = guest.alarms.iter().all(|alarm| alarm.acknowledged);
        match guest.alarms.is_empty() {
            true => None,
            false if taken_care_of => Some(Colour::Yellow),
            false => Some(Colour::Red),
        }
    });
    let colours = std::iter::once(Some(Colour::Bold)).chain(colours);
    let table: Vec<Line> = colours.zip(columns(&heads, rows)).collect();
    lines.extend(table);
    lines
}

fn guest_row(guest: &PoolGuest, now: Timestamp) -> Vec<String> {
    let unknown = || "-".to_owned();
    let place = guest.places.first().filter(|place| !is_gone(place.state));
    let alarms = guest.alarms.iter().map(|alarm| {
        let ms = now.since_ms(alarm.since);
        let care = if alarm.acknowledged {
            ", acknowledged"
        } else {
            ""
        };
        format!(
            "RAISED on {}, {} ago{care}",
            plain(&alarm.host_name),
            span(ms)
        )
    });
    let alarms = alarms.collect::<Vec<_>>().join("; ");
    vec![
        called(guest.name.as_deref(), Some(guest.uuid)),
        place.map_or_else(unknown, |place| match place.member {
            true => plain(&place.host_name),
            false => format!("{} (gone)", plain(&place.host_name)),
        }),
        place.map_or_else(unknown, |place| place.domid.to_string()),
        place.map_or("gone".to_owned(), |place| super::guests::state(place.state)),
        place.map_or_else(unknown, |place| match place.fed {
            true => "armed".to_owned(),
            false => unknown(),
        }),
        if alarms.is_empty() { unknown() } else { alarms },
    ]
}

/// `xenwarden ack --pool`.
pub fn acknowledge(socket: &Path, guest: &str, output: &mut Output) -> Result<u8, String> {
    let uuid = match Named::from_word(guest) {
        Named::Uuid(uuid) => uuid,
        Named::Domid(_) => {
            return Err(
                "a domain's number is of one host: give the guest's UUID or name".to_owned(),
            );
        }
        Named::Name(name) => find(socket, name)?,
    };
    match ask::<Done>(socket, &Request::Ack(uuid)) {
        Ok((Done::Acknowledged(of), _)) => {
            let text = format!(
                "the alarms of {} ({of}) are acknowledged; they stay open until the guest feeds\n",
                plain(guest)
            );
            output.write(text.as_bytes()).map(|_| EXIT_OK)
        }
        Err(NoAnswer::Refused(why)) => {
            print_error(&why);
            Ok(EXIT_NOT_OK)
        }
        Err(NoAnswer::CannotTell(message)) => Err(message),
    }
}

fn find(socket: &Path, name: &str) -> Result<Uuid, String> {
    let (report, _): (PoolGuests, String) = asked(socket, &Request::Guests)?;
    let called = |guest: &&PoolGuest| guest.name.as_deref() == Some(name);
    let mut found = report.guests.iter().filter(called);
    match (found.next(), found.next()) {
        (Some(guest), None) => Ok(guest.uuid),
        (None, _) => Err(format!(
            "no guest of the pool is named {name:?}: see `xenwarden guests --pool`"
        )),
        (Some(_), Some(_)) => Err(format!(
            "more than one guest of the pool is named {name:?}: give a UUID"
        )),
    }
}

/// Before the first attempt to connect again, and the longest such wait.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// `xenwarden events --pool`: from `subscription` on. With `follow` a connection that ends is made anew, and goes on after
/// what was seen of each host.
pub fn events(
    socket: &Path,
    mut subscription: Subscription,
    json: bool,
    output: &mut Output,
) -> Result<u8, String> {
    let follow = subscription.follow;
    let mut delay = FIRST_DELAY;
    let mut connected = false;
    loop {
        let seen = subscription.after.clone();
        let ended = session(socket, &mut subscription, json, output);
        match ended {
            Ok(End::StdoutGone) => return Ok(EXIT_OK),
            Ok(End::Closed) if !follow => return Ok(EXIT_OK),
            Ok(End::Closed) => {
                print_error("the connection ended; trying to connect again");
                connected = true;
            }
            Err(why) if !connected || !follow => return Err(why),
            Err(_) => {}
        }
        if subscription.after != seen {
            delay = FIRST_DELAY;
        }
        let none: Option<&UnixStream> = None;
        let until = Instant::now() + delay;
        if wait(none, Some(until)).map_err(|error| error.to_string())? == Woken::StdoutGone {
            return Ok(EXIT_OK);
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

enum End {
    Closed,
    StdoutGone,
}

fn session(
    socket: &Path,
    subscription: &mut Subscription,
    json: bool,
    output: &mut Output,
) -> Result<End, String> {
    let request = Request::Events(subscription.clone()).to_string();
    let wrong = |trouble: ConnectionError| unreachable_text(socket, &trouble);
    let mut connection = Connection::open(socket, &request, true).map_err(wrong)?;
    let timeout = (!subscription.follow).then_some(TIMEOUT);
    loop {
        let line = match connection.line(timeout) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(End::Closed),
            Err(ConnectionError::StdoutGone) => return Ok(End::StdoutGone),
            Err(ConnectionError::Cut) => return Ok(End::Closed),
            Err(trouble) => return Err(wrong(trouble)),
        };
        let fields: Map<String, Value> = serde_json::from_slice(&line)
            .map_err(|error| format!("the pool's line is not understood: {error}"))?;
        let Some(at) = position_of(&fields) else {
            notice(fields, subscription)?;
            continue;
        };
        saw(subscription, at);
        let shown = if json {
            escape_controls(&String::from_utf8_lossy(&line)) + "\n"
        } else {
            let host = fields.get("host").and_then(Value::as_str).unwrap_or("?");
            format!(
                "{:<12}  {}\n",
                plain(host),
                event_line(&line, &fields, output)
            )
        };
        if output.write(shown.as_bytes())? == Reader::Gone {
            return Ok(End::StdoutGone);
        }
    }
}

/// Of each host the last that was seen.
fn saw(subscription: &mut Subscription, at: At) {
    let after = subscription.after.get_or_insert_default();
    match after.iter_mut().find(|seen| seen.host == at.host) {
        Some(seen) => *seen = at,
        None => after.push(at),
    }
}

fn notice(fields: Map<String, Value>, subscription: &mut Subscription) -> Result<(), String> {
    match serde_json::from_value(Value::Object(fields)) {
        Ok(Notice::Error(error)) => Err(format!("the pool refuses: {error}")),
        Ok(Notice::MissedUpto(at)) => {
            print_error(&format!("events up to {at} are no longer kept here"));
            saw(subscription, at);
            Ok(())
        }
        // Of a newer version.
        Err(_) => Ok(()),
    }
}

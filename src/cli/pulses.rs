// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden pulses`: the heartbeats of every xenwarden-pulse on this host, from their own sockets.
//!
//! Each program is waited for by itself and no longer than any answer; one that does not answer is told, and hides
//! no other.

use super::output::Output;
use super::{EXIT_NOT_OK, EXIT_OK, EXIT_UNKNOWN, print_error};
use crate::cli::text::{plain, span, table};
use crate::control::connect;
use crate::control::protocol::line;
use crate::pulse::status::{BeatStatus, PulseStatus};
use std::fmt::Write;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory of the programs' sockets.
pub const DIRECTORY: &str = "/run/xenwarden-pulse";
/// How long each step of one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, bytes: ten thousand heartbeats.
const MAX_ANSWER: u64 = 16 << 20;

/// Shows the heartbeats of the programs whose sockets are in `place`, or of the one whose socket
/// it is; fine while none is lost.
pub fn run(place: &Path, json: bool, output: &mut Output) -> Result<u8, String> {
    let sockets = sockets(place).map_err(|error| {
        let place = place.display();
        format!("{place}: {error}: does xenwarden-pulse run?")
    })?;
    let mut unknown = false;
    let mut programs: Vec<PulseStatus> = Vec::new();
    for socket in sockets {
        match ask(&socket) {
            Ok(status) => programs.push(status),
            Err(error) => {
                unknown = true;
                print_error(&format!("{}: {error}", socket.display()));
            }
        }
    }
    let mut text = String::new();
    if json {
        text = String::from_utf8(line(&programs)).map_err(|error| error.to_string())?;
    } else {
        render(&programs, &mut text).map_err(|error| error.to_string())?;
    }
    let _ = output.write(text.as_bytes())?;
    let beats = || programs.iter().flat_map(|program| &program.heartbeats);
    Ok(match () {
        () if beats().any(|beat| beat.state == "lost") => EXIT_NOT_OK,
        () if unknown => EXIT_UNKNOWN,
        () => EXIT_OK,
    })
}

/// By their names.
fn sockets(place: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(place)?.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn ask(socket: &Path) -> Result<PulseStatus, String> {
    let stream = connect::in_time(socket, TIMEOUT).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("no answer within {} s", TIMEOUT.as_secs()),
        _ => error.to_string(),
    })?;
    serde_json::from_slice(&answer).map_err(|error| format!("not a status: {error}"))
}

fn render(programs: &[PulseStatus], to: &mut String) -> std::fmt::Result {
    let rows = programs.iter().flat_map(|program| {
        let name = &program.program;
        program.heartbeats.iter().map(move |beat| row(name, beat))
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return writeln!(to, "no heartbeat is watched");
    }
    let heads = [
        "HEARTBEAT",
        "PROGRAM",
        "PEER",
        "PROTOCOL",
        "STATE",
        "LAST PULSE",
        "ROUND TRIP",
        "JITTER",
        "LOSSES",
    ];
    table(to, &heads, rows)?;
    let beats = programs.iter().flat_map(|program| &program.heartbeats);
    for beat in beats.filter(|beat| beat.state != "armed") {
        if let Some(trouble) = &beat.trouble {
            let name = plain(&beat.heartbeat);
            writeln!(to, "{name}: {}", plain(trouble))?;
        }
    }
    Ok(())
}

fn row(program: &str, beat: &BeatStatus) -> Vec<String> {
    let unknown = || "-".to_owned();
    let ago = beat.last_pulse_ms.map(|ms| format!("{} ago", span(ms)));
    // What is lost is to be seen at a glance.
    let state = match beat.state.as_str() {
        "lost" => "LOST".to_owned(),
        state => plain(state),
    };
    vec![
        plain(&beat.heartbeat),
        plain(program),
        plain(&beat.peer),
        plain(&beat.protocol),
        state,
        ago.unwrap_or_else(unknown),
        beat.round_trip_us.map_or_else(unknown, milliseconds),
        beat.jitter_us.map_or_else(unknown, milliseconds),
        beat.losses.to_string(),
    ]
}

/// Microseconds as milliseconds.
fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us / 100 % 10)
}

// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden, the command line. xenwarden(1) is its manual.
//!
//! It talks to the daemon's control socket and never opens the watchdog.

use serde::Deserialize;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use xenwarden::report::render;
use xenwarden::status::Status;

const USAGE_TEXT: &str = "usage: xenwarden status [--json] [--socket PATH]";
/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The host is being withheld.
const WITHHELD: u8 = 1;
/// The daemon does not answer, or not sensibly.
const CANNOT_TELL: u8 = 2;

struct Request {
    json: bool,
    socket: PathBuf,
}

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let arguments = arguments.map(|a| a.to_string_lossy().into_owned());
    let request = match parse(arguments) {
        Ok(Some(request)) => request,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xenwarden: {message}");
            return ExitCode::from(xenwarden::exit::USAGE);
        }
    };
    match status(&request) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xenwarden: {message}");
            ExitCode::from(CANNOT_TELL)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Request>, String> {
    let mut request = Request {
        json: false,
        socket: PathBuf::from("/run/xenwarden/control.sock"),
    };
    let mut command = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => request.json = true,
            "--socket" => {
                let path = arguments.next();
                request.socket = path.ok_or("--socket needs a path")?.into();
            }
            "--version" => {
                say(concat!("xenwarden ", env!("CARGO_PKG_VERSION")))?;
                return Ok(None);
            }
            "--help" => {
                say(USAGE_TEXT)?;
                return Ok(None);
            }
            "status" if command.is_none() => command = Some(()),
            other => return Err(format!("unknown argument {other:?}; {USAGE_TEXT}")),
        }
    }
    command.ok_or(USAGE_TEXT.to_owned())?;
    Ok(Some(request))
}

fn say(text: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{text}").map_err(|error| format!("stdout: {error}"))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Status(Box<Status>),
    Refusal { error: String },
}

fn status(request: &Request) -> Result<ExitCode, String> {
    let line = ask(request).map_err(|error| {
        let socket = request.socket.display();
        format!("{socket}: {error}: is xenwardend running, and are you in its group?")
    })?;
    let status = match serde_json::from_str(&line) {
        Ok(Answer::Status(status)) => status,
        Ok(Answer::Refusal { error }) => return Err(format!("the daemon refuses: {error}")),
        Err(error) => return Err(format!("the daemon's answer is not understood: {error}")),
    };
    let mut text = String::new();
    if request.json {
        text = line;
    } else {
        render(&status, &mut text).map_err(|error| error.to_string())?;
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.to_string()),
        _ => {}
    }
    Ok(if status.decision.kick {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(WITHHELD)
    })
}

fn ask(request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(&request.socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"status\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

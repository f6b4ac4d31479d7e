// SPDX-License-Identifier: GPL-2.0-only
//! A connection to the daemon: one request out, lines in.
//!
//! Nothing here waits for longer than it is told to, not even connect(2) to a monitor that
//! does not accept, and a line has a largest length.

use super::output::{Woken, wait};
use crate::control::connect;
use crate::control::protocol::{Refusal, read};
use crate::event::describe::escape_controls;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the monitor may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest line, bytes: a status of every domain that Xen can number is shorter.
const MAX_LINE: usize = 64 << 20;
/// Bytes that one read takes.
const CHUNK: usize = 64 << 10;

/// Why there is no line.
#[derive(Debug)]
pub enum ConnectionError {
    /// The socket cannot be reached, or broke.
    Io(io::Error),
    /// Nothing came in time.
    Late,
    /// The connection ended within a line.
    Cut,
    /// The line has no end.
    TooLong,
    /// Nobody reads stdout any more.
    StdoutGone,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Late => write!(f, "no answer within {} s", TIMEOUT.as_secs()),
            Self::Cut => write!(f, "the answer is cut short"),
            Self::TooLong => write!(f, "the answer has no end"),
            Self::StdoutGone => write!(f, "stdout is closed"),
        }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // SO_SNDTIMEO of a connect(2) or write(2) (socket(7)).
            io::ErrorKind::WouldBlock => Self::Late,
            _ => Self::Io(error),
        }
    }
}

/// A connection whose request has been sent.
pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out, and those that hold no line's end.
    used: usize,
    searched: usize,
    follow: bool,
}

impl Connection {
    /// Connects and sends `request` with its line's end. With `follow` a wait for a line ends
    /// also when stdout's reader goes.
    pub fn open(path: &Path, request: &str, follow: bool) -> Result<Self, ConnectionError> {
        let mut stream = connect::in_time(path, TIMEOUT)?;
        match stream.write_all(format!("{request}\n").as_bytes()) {
            // A monitor that refuses does so at once; its reason can still be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
        Ok(Self {
            stream,
            buffer: Vec::new(),
            used: 0,
            searched: 0,
            follow,
        })
    }

    /// The next line, without its end; none when the monitor has closed. Waits for ever
    /// without `timeout`.
    pub fn line(&mut self, timeout: Option<Duration>) -> Result<Option<Vec<u8>>, ConnectionError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let line = self.buffer.get(self.used..end).unwrap_or_default().to_vec();
                self.used = end + 1;
                self.searched = self.used;
                return Ok(Some(line));
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE {
                return Err(ConnectionError::TooLong);
            }
            if self.more(deadline)? == 0 {
                let cut = !self.buffer.is_empty();
                return if cut {
                    Err(ConnectionError::Cut)
                } else {
                    Ok(None)
                };
            }
        }
    }

    /// Reads on; 0 at the end.
    fn more(&mut self, deadline: Option<Instant>) -> Result<usize, ConnectionError> {
        loop {
            match wait(Some(&self.stream), deadline)? {
                Woken::Timeout => return Err(ConnectionError::Late),
                Woken::StdoutGone if self.follow => return Err(ConnectionError::StdoutGone),
                // An answer is waited for although nobody may read what is said of it.
                Woken::StdoutGone | Woken::Readable => {}
            }
            let mut chunk = vec![0; CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend(chunk.iter().take(count));
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A monitor that closed before it had read all: nothing more will come.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why there is no answer.
pub enum NoAnswer {
    /// The monitor says why not.
    Refused(String),
    /// There is none, or none that is understood.
    CannotTell(String),
}

impl From<NoAnswer> for String {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::Refused(error) => format!("the monitor refuses: {error}"),
            NoAnswer::CannotTell(message) => message,
        }
    }
}

/// Asks a socket of ours one thing: the answer, and its line as it came but harmless to a
/// terminal, with its end.
pub fn ask<T: DeserializeOwned>(
    path: &Path,
    request: &impl fmt::Display,
) -> Result<(T, String), NoAnswer> {
    let line = Connection::open(path, &request.to_string(), false)
        .and_then(|mut connection| connection.line(Some(TIMEOUT)))
        .and_then(|line| line.ok_or(ConnectionError::Cut))
        .map_err(|trouble| NoAnswer::CannotTell(unreachable_text(path, &trouble)))?;
    match read(&line) {
        Ok(Ok(answer)) => Ok((
            answer,
            escape_controls(&String::from_utf8_lossy(&line)) + "\n",
        )),
        Ok(Err(Refusal { error })) => Err(NoAnswer::Refused(error)),
        Err(error) => Err(NoAnswer::CannotTell(format!(
            "the monitor's answer is not understood: {error}"
        ))),
    }
}

/// What to say of a socket that is not as it should be, and what to do.
pub fn unreachable_text(path: &Path, trouble: &ConnectionError) -> String {
    let directory = path.parent().and_then(Path::file_name);
    let program = match directory {
        Some(name) if name == "xenwarden-qemu" => "xenwarden-qemu",
        Some(name) if name == "xenwarden-pool" => "xenwarden-pool",
        _ => "xenwarden-monitor",
    };
    let path = path.display();
    format!("{path}: {trouble}: is {program} running, and are you in its group?")
}

// SPDX-License-Identifier: GPL-2.0-only
//! A connection to one QEMU: commands out, answers and events in.
//!
//! In: the path of a unix socket, commands. Out: answers, matched by id; events, in their order.
//! Promises: connecting, each command and each wait for events end by a time that the caller
//! gives, or as soon as `wake` is readable; a peer that floods is given up once more events wait
//! than [`MOST_WAITING`], and so is one that says what is no QMP. Answers to commands that were
//! given up are dropped when they come. One thread has it.

use super::lines::{Lines, TooLong};
use super::message::{Event, Message, parse};
use crate::control::connect;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Events that may wait while an answer is waited for.
pub const MOST_WAITING: usize = 4_096;
/// Bytes that one read takes.
const CHUNK: usize = 64 << 10;
/// How much of a line that is not understood is shown, characters.
const SHOWN: usize = 60;

/// Why a connection is of no use any more. It is then to be dropped.
#[derive(Debug)]
pub enum Stopped {
    /// The socket broke.
    Io(io::Error),
    /// The peer ended the connection.
    Ended,
    /// It did not take or answer something in time.
    Late(&'static str),
    /// It says what is no QMP.
    Garbage(String),
    /// It floods.
    TooMuch,
    /// The caller was woken while it waited.
    Woken,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Ended => write!(f, "QEMU ended the connection"),
            Self::Late(what) => write!(f, "{what} in time: does another client use this monitor?"),
            Self::Garbage(what) => write!(f, "not QMP: {what}"),
            Self::TooMuch => write!(f, "more events than anybody can follow"),
            Self::Woken => write!(f, "told to stop"),
        }
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Ended,
            _ => Self::Io(error),
        }
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub enum CallError {
    /// QEMU refuses it, in its words; the connection goes on.
    Refused(String),
    /// The connection is of no use any more.
    Stopped(Stopped),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "QEMU refuses: {why}"),
            Self::Stopped(why) => why.fmt(f),
        }
    }
}

impl<E: Into<Stopped>> From<E> for CallError {
    fn from(error: E) -> Self {
        Self::Stopped(error.into())
    }
}

/// A connection on which commands may be given.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<Event>,
    next_id: u64,
    version: Option<String>,
    /// How long each command may take.
    patience: Duration,
    /// Readable when the caller is to stop.
    wake: Option<UnixStream>,
}

impl Client {
    /// Connects, reads the greeting and takes up command mode. Each of it, and each command
    /// later, may take `patience`; any wait ends when `wake` is readable.
    ///
    /// # Errors
    /// [`Stopped`], or that QEMU refuses command mode.
    pub fn connect(path: &Path, patience: Duration, wake: &UnixStream) -> Result<Self, CallError> {
        let stream = connect::in_time(path, patience)?;
        stream.set_nonblocking(true)?;
        let mut client = Self {
            stream,
            lines: Lines::default(),
            events: VecDeque::new(),
            next_id: 0,
            version: None,
            patience,
            wake: Some(wake.try_clone()?),
        };
        let deadline = Instant::now() + patience;
        client.version = match client.message(Some(deadline))? {
            Some(Message::Greeting(version)) => version,
            Some(_) => return Err(Stopped::Garbage("no greeting comes first".into()).into()),
            None => return Err(Stopped::Late("no greeting came").into()),
        };
        client.call("qmp_capabilities", Map::new())?;
        Ok(client)
    }

    /// QEMU's version, as `7.2.22`; none where it says none.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// No wait ends early from now on: for what is to be said last.
    pub fn no_longer_wakes(&mut self) {
        self.wake = None;
    }

    /// The connection, for what the kernel knows of the peer.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Gives a command and waits for its answer. Events that come meanwhile wait for
    /// [`Client::event`].
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &mut self,
        command: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, CallError> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = json!(self.next_id);
        let deadline = Instant::now() + self.patience;
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        self.send(format!("{line}\n").as_bytes(), deadline)?;
        loop {
            match self.message(Some(deadline))? {
                None => return Err(Stopped::Late("a command was not answered").into()),
                Some(Message::Event(event)) => self.keep(event)?,
                Some(Message::Return { id: of, value }) if of == id => return Ok(value),
                Some(Message::Error {
                    id: of,
                    description,
                }) if of == id => {
                    return Err(CallError::Refused(description));
                }
                // QEMU could not read the command, so not its id either.
                Some(Message::Error {
                    id: Value::Null,
                    description,
                }) => {
                    return Err(CallError::Refused(description));
                }
                // Of a command that was given up.
                Some(Message::Return { .. } | Message::Error { .. }) => {}
                Some(Message::Greeting(_)) => {
                    return Err(Stopped::Garbage("a second greeting".into()).into());
                }
            }
            // A peer that never stops talking is not waited for either.
            if Instant::now() >= deadline {
                return Err(Stopped::Late("a command was not answered").into());
            }
        }
    }

    /// Gives a command of the human monitor; its answer is text, empty where all is well.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn human(&mut self, command: &str) -> Result<String, CallError> {
        let line = Map::from_iter([("command-line".to_owned(), json!(command))]);
        let answer = self.call("human-monitor-command", line)?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }

    /// The next event; none by the deadline.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn event(&mut self, deadline: Instant) -> Result<Option<Event>, Stopped> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        loop {
            match self.message(Some(deadline))? {
                None => return Ok(None),
                Some(Message::Event(event)) => return Ok(Some(event)),
                Some(Message::Greeting(_)) => {
                    return Err(Stopped::Garbage("a second greeting".into()));
                }
                // Of a command that was given up.
                Some(Message::Return { .. } | Message::Error { .. }) => {}
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn keep(&mut self, event: Event) -> Result<(), Stopped> {
        if self.events.len() >= MOST_WAITING {
            return Err(Stopped::TooMuch);
        }
        self.events.push_back(event);
        Ok(())
    }

    /// The next message; none by the deadline.
    fn message(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Stopped> {
        loop {
            let line = self.lines.next_line();
            let line = line.map_err(|TooLong| Stopped::Garbage("a line has no end".into()))?;
            if let Some(line) = line {
                let message = parse(&line).map_err(|why| {
                    let shown: String =
                        String::from_utf8_lossy(&line).chars().take(SHOWN).collect();
                    Stopped::Garbage(format!("{why} (in: {shown})"))
                })?;
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Stopped::Ended),
                Ok(count) => self.lines.push(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::POLLIN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::POLLOUT, Some(deadline))? {
                        return Err(Stopped::Late("a command was not taken"));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the stream is ready; false by the deadline.
    fn wait(&self, for_what: PollFlags, deadline: Option<Instant>) -> Result<bool, Stopped> {
        let mut fds = vec![PollFd::new(self.stream.as_fd(), for_what)];
        let wake = self.wake.iter();
        fds.extend(wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout(deadline)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Stopped::Io(errno.into())),
        }
        let ready = |n: usize| fds.get(n).and_then(PollFd::any).unwrap_or(false);
        if ready(1) {
            return Err(Stopped::Woken);
        }
        Ok(ready(0) || deadline.is_none_or(|at| Instant::now() < at))
    }
}

/// Waits until `fd` is readable or the deadline has passed; whether it is readable.
#[must_use]
pub fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let _ = poll(&mut fds, timeout(Some(deadline)));
    fds.iter().any(|fd| fd.any().unwrap_or(false))
}

/// What is left, rounded up, so that the last wait does not spin.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return PollTimeout::ZERO;
    }
    let ms = u16::try_from(left.as_millis().saturating_add(1));
    PollTimeout::from(ms.unwrap_or(u16::MAX))
}

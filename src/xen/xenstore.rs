// SPDX-License-Identifier: GPL-2.0-only
//! A small xenstore client: reads one value at a time, watches, and never waits for long.
//!
//! In: a path. Out: the value, or why there is none; events of watches. xenstored may be
//! dead or restarted, and cannot be trusted to answer: every wait is bounded. One is not
//! ours: the kernel itself waits for xenstored to take a watch, within write(2)
//! ([`Xenstore::watch`]).
//!
//! Source: Xen `xen/include/public/io/xs_wire.h` (struct xsd_sockmsg, message types);
//! Linux `drivers/xen/xenbus/xenbus_dev_frontend.c` (/dev/xen/xenbus takes a message in
//! one write, queues the replies, and can be polled; it answers watch requests itself,
//! with the request's type and without its number).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// `XS_READ` (xs_wire.h).
const XS_READ: u32 = 2;
/// `XS_WATCH` (xs_wire.h).
const XS_WATCH: u32 = 4;
/// `XS_UNWATCH` (xs_wire.h).
const XS_UNWATCH: u32 = 5;
/// `XS_WATCH_EVENT` (xs_wire.h).
const XS_WATCH_EVENT: u32 = 15;
/// `XS_ERROR` (xs_wire.h).
const XS_ERROR: u32 = 16;
/// Bytes of struct xsd_sockmsg: type, req_id, tx_id, len.
const HEADER_LEN: usize = 16;
/// `XENSTORE_PAYLOAD_MAX` (xs_wire.h).
const PAYLOAD_MAX: usize = 4096;

/// Events that are kept until somebody asks for them; further ones are counted only.
const EVENTS_KEPT: usize = 64;

/// Something that is watched has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What: a path, or `@introduceDomain` and `@releaseDomain`.
    pub path: String,
    /// As given with the watch.
    pub token: String,
}

/// Why there is no value.
#[derive(Debug)]
pub enum XenstoreError {
    /// xenstored says no, with its error's name (ENOENT, EACCES).
    Refused(String),
    /// No answer in time.
    Timeout,
    /// The device failed.
    Io(io::Error),
    /// The answer is not of the form that was agreed.
    Malformed,
}

impl fmt::Display for XenstoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(name) => write!(f, "xenstored answers {name}"),
            Self::Timeout => write!(f, "xenstored does not answer"),
            Self::Io(error) => write!(f, "/dev/xen/xenbus: {error}"),
            Self::Malformed => write!(f, "xenstored's answer is malformed"),
        }
    }
}

impl From<io::Error> for XenstoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection to xenstored.
#[derive(Debug)]
pub struct Xenstore {
    bus: File,
    request: u32,
    /// The last request has no answer yet: no other is sent before it has one, as the
    /// kernel keeps each until then.
    outstanding: bool,
    /// Bytes that came and are not yet a whole message.
    pending: Vec<u8>,
    /// Events that came while an answer was waited for.
    events: VecDeque<WatchEvent>,
    /// Events that found no room.
    lost_events: u64,
}

struct Message {
    kind: u32,
    request: u32,
    payload: Vec<u8>,
}

impl Xenstore {
    /// Connects; waits for nothing.
    ///
    /// # Errors
    /// The errno of open(2).
    pub fn connect() -> io::Result<Self> {
        Self::open(Path::new("/dev/xen/xenbus"))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let bus = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        Ok(Self::over(bus.into()))
    }

    /// Over what is open already, and does not block: for tests.
    #[must_use]
    pub fn over(bus: OwnedFd) -> Self {
        Self {
            bus: File::from(bus),
            request: 0,
            outstanding: false,
            pending: Vec::new(),
            events: VecDeque::new(),
            lost_events: 0,
        }
    }

    /// Reads the value at `path`, waiting at most `patience` for the answer. Answers to
    /// earlier requests that came too late are thrown away.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn read(&mut self, path: &str, patience: Duration) -> Result<String, XenstoreError> {
        let deadline = Instant::now() + patience;
        value(XS_READ, self.ask(XS_READ, &[path], deadline)?)
    }

    /// Watches `path`; its events carry `token`. The first one comes at once. Linux waits
    /// for xenstored within the write, without end: only for a thread that nobody waits
    /// for, and when xenstored has just answered.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn watch(
        &mut self,
        path: &str,
        token: &str,
        patience: Duration,
    ) -> Result<(), XenstoreError> {
        self.change_watch(XS_WATCH, path, token, patience)
    }

    /// Ends a watch; see [`Xenstore::watch`].
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn unwatch(
        &mut self,
        path: &str,
        token: &str,
        patience: Duration,
    ) -> Result<(), XenstoreError> {
        self.change_watch(XS_UNWATCH, path, token, patience)
    }

    fn change_watch(
        &mut self,
        kind: u32,
        path: &str,
        token: &str,
        patience: Duration,
    ) -> Result<(), XenstoreError> {
        let deadline = Instant::now() + patience;
        value(kind, self.ask(kind, &[path, token], deadline)?).map(|_| ())
    }

    /// The next event, waiting at most `patience` for it. Events that found no room came
    /// after those that did.
    ///
    /// # Errors
    /// [`XenstoreError`], but no timeout: that is `None`.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<WatchEvent>, XenstoreError> {
        self.next_event_or(patience, None)
    }

    /// The same; waits no longer once `other` is readable.
    ///
    /// # Errors
    /// As there.
    pub fn next_event_or(
        &mut self,
        patience: Duration,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<Option<WatchEvent>, XenstoreError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            // An answer that nobody waits for any more is thrown away.
            if let Some(answer) = self.take_message()? {
                self.outstanding &= answer.request != self.request;
            } else if self.events.is_empty() {
                match self.wait(deadline, other) {
                    Err(XenstoreError::Timeout) => return Ok(None),
                    waited => waited?,
                }
            }
        }
    }

    /// Events that found no room.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    fn ask(
        &mut self,
        kind: u32,
        words: &[&str],
        deadline: Instant,
    ) -> Result<Message, XenstoreError> {
        if self.outstanding {
            self.answer(XS_READ, deadline)?;
        }
        self.request = self.request.wrapping_add(1);
        let message = encode(kind, self.request, words)?;
        self.bus.write_all(&message)?;
        // The kernel has answered a watch by the time that it has taken it.
        self.outstanding = kind == XS_READ;
        self.answer(kind, deadline)
    }

    /// Waits for the answer to the last request, which was of this kind.
    fn answer(&mut self, kind: u32, deadline: Instant) -> Result<Message, XenstoreError> {
        loop {
            match self.take_message()? {
                Some(answer)
                    if answer.request == self.request || kind != XS_READ && answer.kind == kind =>
                {
                    self.outstanding = false;
                    return Ok(answer);
                }
                Some(_) => {}
                None => self.wait(deadline, None)?,
            }
        }
    }

    /// Takes the next whole message that is not an event; events are put aside.
    fn take_message(&mut self) -> Result<Option<Message>, XenstoreError> {
        while let Some(message) = self.split_message()? {
            if message.kind != XS_WATCH_EVENT {
                return Ok(Some(message));
            }
            if self.events.len() < EVENTS_KEPT {
                self.events.push_back(event(&message.payload));
            } else {
                self.lost_events += 1;
            }
        }
        Ok(None)
    }

    fn split_message(&mut self) -> Result<Option<Message>, XenstoreError> {
        let Some((header, rest)) = self.pending.split_at_checked(HEADER_LEN) else {
            return Ok(None);
        };
        let mut words = header
            .chunks_exact(4)
            .filter_map(|c| c.try_into().ok().map(u32::from_ne_bytes));
        let (Some(kind), Some(request), Some(_), Some(len)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(XenstoreError::Malformed);
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > PAYLOAD_MAX {
            return Err(XenstoreError::Malformed);
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let message = Message {
            kind,
            request,
            payload: payload.to_vec(),
        };
        self.pending.drain(..HEADER_LEN + len);
        Ok(Some(message))
    }

    /// Waits for bytes until `deadline` and takes what there is. Where there is nothing but `other` to be read, the time is up.
    fn wait(
        &mut self,
        deadline: Instant,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<(), XenstoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(XenstoreError::Timeout);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let polled = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [self.bus.as_fd(), other.unwrap_or(self.bus.as_fd())].map(polled);
        poll(&mut fds, timeout).map_err(io::Error::from)?;
        let [bus, other] = fds.map(|fd| fd.any().unwrap_or(false));
        if other && !bus {
            return Err(XenstoreError::Timeout);
        }
        let mut bytes = [0; 1024];
        match self.bus.read(&mut bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => self.pending.extend(bytes.iter().take(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn encode(kind: u32, request: u32, words: &[&str]) -> Result<Vec<u8>, XenstoreError> {
    let payload: Vec<u8> = (words.iter())
        .flat_map(|word| word.bytes().chain([0]))
        .collect();
    let len = u32::try_from(payload.len()).map_err(|_| XenstoreError::Malformed)?;
    let mut message = Vec::with_capacity(HEADER_LEN + payload.len());
    for word in [kind, request, 0, len] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(payload);
    Ok(message)
}

fn event(payload: &[u8]) -> WatchEvent {
    let text = String::from_utf8_lossy(payload);
    let mut words = text.split('\0').map(str::to_owned);
    WatchEvent {
        path: words.next().unwrap_or_default(),
        token: words.next().unwrap_or_default(),
    }
}

fn value(kind: u32, answer: Message) -> Result<String, XenstoreError> {
    let text = String::from_utf8_lossy(&answer.payload);
    let text = text.trim_end_matches('\0').to_owned();
    match answer.kind {
        XS_ERROR => Err(XenstoreError::Refused(text)),
        told if told == kind => Ok(text),
        _ => Err(XenstoreError::Malformed),
    }
}

#[cfg(test)]
mod tests;

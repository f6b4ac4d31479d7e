// SPDX-License-Identifier: GPL-2.0-only
//! A small xenstore client: reads one value at a time, and never waits for long.
//!
//! In: a path. Out: the value, or why there is none. xenstored may be dead or restarted,
//! and cannot be trusted to answer: every wait is bounded.
//!
//! Source: Xen `xen/include/public/io/xs_wire.h` (struct xsd_sockmsg, message types);
//! Linux `drivers/xen/xenbus/xenbus_dev_frontend.c` (/dev/xen/xenbus takes a message in
//! one write, queues the replies, and can be polled).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// `XS_READ` (xs_wire.h).
const XS_READ: u32 = 2;
/// `XS_ERROR` (xs_wire.h).
const XS_ERROR: u32 = 16;
/// Bytes of struct xsd_sockmsg: type, req_id, tx_id, len.
const HEADER_LEN: usize = 16;
/// `XENSTORE_PAYLOAD_MAX` (xs_wire.h).
const PAYLOAD_MAX: usize = 4096;

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
        Ok(Self {
            bus,
            request: 0,
            outstanding: false,
            pending: Vec::new(),
        })
    }

    /// Reads the value at `path`, waiting at most `patience` for the answer. Answers to
    /// earlier requests that came too late are thrown away.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn read(&mut self, path: &str, patience: Duration) -> Result<String, XenstoreError> {
        let deadline = Instant::now() + patience;
        if self.outstanding {
            self.answer(deadline)?;
        }
        self.request = self.request.wrapping_add(1);
        let message = encode(XS_READ, self.request, path)?;
        self.bus.write_all(&message)?;
        self.outstanding = true;
        value(self.answer(deadline)?)
    }

    /// Waits for the answer to the last request.
    fn answer(&mut self, deadline: Instant) -> Result<Message, XenstoreError> {
        loop {
            match self.take_message()? {
                Some(answer) if answer.request == self.request => {
                    self.outstanding = false;
                    return Ok(answer);
                }
                Some(_) => {}
                None => self.wait(deadline)?,
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Message>, XenstoreError> {
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

    /// Waits for bytes until `deadline` and takes what there is.
    fn wait(&mut self, deadline: Instant) -> Result<(), XenstoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(XenstoreError::Timeout);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.bus.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).map_err(io::Error::from)?;
        let mut bytes = [0; 1024];
        match self.bus.read(&mut bytes) {
            Ok(n) => self.pending.extend(bytes.iter().take(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn encode(kind: u32, request: u32, path: &str) -> Result<Vec<u8>, XenstoreError> {
    let len = u32::try_from(path.len() + 1).map_err(|_| XenstoreError::Malformed)?;
    let mut message = Vec::with_capacity(HEADER_LEN + path.len() + 1);
    for word in [kind, request, 0, len] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(path.as_bytes());
    message.push(0);
    Ok(message)
}

fn value(answer: Message) -> Result<String, XenstoreError> {
    let text = String::from_utf8_lossy(&answer.payload);
    let text = text.trim_end_matches('\0').to_owned();
    match answer.kind {
        XS_READ => Ok(text),
        XS_ERROR => Err(XenstoreError::Refused(text)),
        _ => Err(XenstoreError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Xenstore, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let xenstore = Xenstore {
            bus: File::from(OwnedFd::from(ours)),
            request: 0,
            outstanding: false,
            pending: Vec::new(),
        };
        (xenstore, theirs)
    }

    fn answer(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("short");
        let mut bytes: Vec<u8> = [kind, request, 0, len]
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect();
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn answers_are_matched_to_their_requests_and_late_ones_thrown_away() {
        let (mut xenstore, mut daemon) = pair();
        let mut bytes = answer(XS_READ, 77, b"late");
        bytes.extend(answer(XS_READ, 1, b"guest one"));
        daemon.write_all(&bytes).expect("write");
        let name = xenstore.read("/local/domain/1/name", Duration::from_secs(5));
        assert_eq!(name.expect("a name"), "guest one");
        let mut request = [0; 37];
        daemon.read_exact(&mut request).expect("the request");
        assert_eq!(&request[16..], b"/local/domain/1/name\0");
    }

    #[test]
    fn refusals_silence_and_nonsense_are_told_apart() {
        let (mut xenstore, mut daemon) = pair();
        daemon
            .write_all(&answer(XS_ERROR, 1, b"ENOENT\0"))
            .expect("write");
        let refused = xenstore.read("/nowhere", Duration::from_secs(5));
        assert!(matches!(refused, Err(XenstoreError::Refused(e)) if e == "ENOENT"));
        for _ in 0..2 {
            let silence = xenstore.read("/nowhere", Duration::from_millis(20));
            assert!(matches!(silence, Err(XenstoreError::Timeout)));
        }
        // The second was not sent: the first is still without an answer.
        assert_eq!(xenstore.request, 2);
        daemon.write_all(&[0xff; 64]).expect("write");
        let nonsense = xenstore.read("/nowhere", Duration::from_secs(5));
        assert!(matches!(nonsense, Err(XenstoreError::Malformed)));
    }
}

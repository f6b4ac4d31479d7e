// SPDX-License-Identifier: GPL-2.0-only
//! journald's native protocol: events with their fields.
//!
//! In: an event. Out: one datagram of `FIELD=value` lines, or, where the value has line
//! breaks, of `FIELD`, the length as 64 bits little-endian, and the value
//! (systemd.io/JOURNAL_NATIVE_PROTOCOL). It never blocks and finds a restarted journald.

use crate::event::Event;
use crate::event::describe::describe;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use syslog::Severity;

/// LOG_DAEMON (RFC 3164, 4.1.1).
const FACILITY: &str = "3";
/// Who speaks.
pub const NAME: &str = "xenwarden-monitor";
/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is delivered.
    Yes,
    /// The receiver's queue is full; later perhaps.
    Stalled,
    /// Nobody receives, or the message can never be sent.
    Failed,
}

/// A non-blocking connection to a datagram socket, made when needed: whoever restarts has
/// a new socket at the old path, and one more attempt over a new connection finds it.
#[derive(Debug)]
pub struct DatagramSender {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl DatagramSender {
    /// To the socket at `path`; connects to nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: None,
        }
    }

    /// Whether there is a socket at the path; somebody need not receive from it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let found = std::fs::metadata(&self.path);
        found.is_ok_and(|found| found.file_type().is_socket())
    }

    /// Sends one datagram or gives up; never blocks.
    pub fn send(&mut self, message: &[u8]) -> Sent {
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect(&self.path).ok();
            }
            let Some(socket) = &self.socket else {
                return Sent::Failed;
            };
            match socket.send(message) {
                Ok(_) => return Sent::Yes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Stalled,
                Err(_) => self.socket = None,
            }
        }
        Sent::Failed
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// The datagram for an event.
#[must_use]
pub fn encode(event: &Event) -> Vec<u8> {
    let mut message = encode_line(event.severity.into(), event.what.kind(), &describe(event));
    put(&mut message, "XENWARDEN_SEQ", &event.seq.to_string());
    if let Some(guest) = &event.guest {
        put(&mut message, "XENWARDEN_DOMID", &guest.domid.to_string());
        if let Some(uuid) = guest.uuid {
            put(&mut message, "XENWARDEN_GUEST_UUID", &uuid.to_string());
        }
        if let Some(name) = &guest.name {
            put(&mut message, "XENWARDEN_GUEST_NAME", name);
        }
    }
    if let Ok(json) = serde_json::to_string(event) {
        put(&mut message, "XENWARDEN_EVENT", &json);
    }
    message
}

/// The datagram for what has become no event yet: it has neither a number nor fields.
#[must_use]
pub fn encode_line(severity: Severity, kind: &str, text: &str) -> Vec<u8> {
    let mut message = Vec::new();
    for (name, value) in [
        ("MESSAGE", text),
        ("PRIORITY", &(severity as u8).to_string()),
        ("SYSLOG_IDENTIFIER", NAME),
        ("SYSLOG_FACILITY", FACILITY),
        ("SYSLOG_PID", &std::process::id().to_string()),
        ("XENWARDEN_KIND", kind),
    ] {
        put(&mut message, name, value);
    }
    message
}

/// Whether stderr goes to the journal by itself: systemd.exec(5), JOURNAL_STREAM.
#[must_use]
pub fn has_stderr() -> bool {
    let Ok(found) = nix::sys::stat::fstat(io::stderr()) else {
        return false;
    };
    let stream = format!("{}:{}", found.st_dev, found.st_ino);
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| named == stream)
}

fn put(message: &mut Vec<u8>, name: &str, value: &str) {
    message.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        message.push(b'\n');
        message.extend_from_slice(&length.to_le_bytes());
    } else {
        message.push(b'=');
    }
    message.extend_from_slice(value.as_bytes());
    message.push(b'\n');
}

// SPDX-License-Identifier: GPL-2.0-only
//! /dev/log: a non-blocking, reconnecting sender of RFC 3164 messages.
//!
//! The `syslog` crate's words are used, its sender and its formatter are not: the one blocks
//! on a stalled /dev/log and never reconnects, the other writes UTC where RFC 3164 (4.1.2)
//! has local time. A message that cannot be sent at once is dropped and counted; the next
//! one that gets through says how many were lost.

use super::journal::{DatagramSender, Sent};
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use syslog::{Facility, LogFormat, Severity};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]");

/// RFC 3164 as local loggers take it: without a host name.
#[derive(Clone, Copy, Debug)]
struct Rfc3164 {
    process: &'static str,
}

impl<T: Display> LogFormat<T> for Rfc3164 {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, text: T) -> syslog::Result<()> {
        let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
        let time = now.format(TIME).unwrap_or_default();
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let (process, pid) = (self.process, std::process::id());
        write!(to, "<{priority}>{time} {process}[{pid}]: {text}").map_err(syslog::Error::Write)
    }
}

/// A connection to /dev/log, made when needed.
#[derive(Debug)]
pub struct DevLog {
    sender: DatagramSender,
    format: Rfc3164,
    lost: u64,
}

impl DevLog {
    /// A sender to the socket at `path` (normally /dev/log); connects to nothing yet.
    #[must_use]
    pub fn new(path: &Path, process: &'static str) -> Self {
        Self {
            sender: DatagramSender::new(path),
            format: Rfc3164 { process },
            lost: 0,
        }
    }

    /// Sends one message or counts it as lost; never blocks. Gives how many are lost and
    /// not yet reported.
    pub fn send(&mut self, severity: Severity, text: &str) -> u64 {
        if self.lost > 0 {
            let notice = format!("{} messages were lost: /dev/log took none", self.lost);
            if self.offer(Severity::LOG_WARNING, &notice) != Sent::Yes {
                self.lost += 1;
                return self.lost;
            }
            self.lost = 0;
        }
        if self.offer(severity, text) != Sent::Yes {
            self.lost += 1;
        }
        self.lost
    }

    /// Tries to send one message; counts nothing, never blocks.
    pub fn offer(&mut self, severity: Severity, text: &str) -> Sent {
        let mut message = Vec::with_capacity(text.len() + 64);
        match self.format.format(&mut message, severity, text) {
            Ok(()) => self.sender.send(&message),
            Err(_) => Sent::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 2048];
        let n = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("xenwarden-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("scratch directory");
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_restarted_logger_is_found_again_and_told_what_it_missed() {
        let scratch = Scratch::new("devlog-restart");
        let path = scratch.0.join("log");
        let mut log = DevLog::new(&path, "test");
        assert_eq!(log.send(Severity::LOG_INFO, "nobody listens"), 1);
        let first = UnixDatagram::bind(&path).expect("bind");
        assert_eq!(log.send(Severity::LOG_INFO, "hello"), 0);
        assert!(receive(&first).contains("1 messages were lost"));
        assert!(receive(&first).contains("hello"));
        drop(first);
        std::fs::remove_file(&path).expect("unlink");
        let second = UnixDatagram::bind(&path).expect("bind again");
        assert_eq!(log.send(Severity::LOG_ERR, "again"), 0);
        let message = receive(&second);
        assert!(
            message.starts_with("<27>") && message.contains("again"),
            "{message}"
        );
    }

    #[test]
    fn a_stalled_logger_costs_messages_never_time() {
        let scratch = Scratch::new("devlog-stall");
        let path = scratch.0.join("log");
        let stalled = UnixDatagram::bind(&path).expect("bind");
        let mut log = DevLog::new(&path, "test");
        // More than net.unix.max_dgram_qlen and any socket buffer: returns all the same.
        let lost = (0..5_000)
            .map(|n| log.send(Severity::LOG_INFO, &format!("{n}")))
            .max();
        assert!(lost > Some(1_000), "{lost:?}");
        drop(stalled);
    }
}

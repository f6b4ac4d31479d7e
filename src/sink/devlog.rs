// SPDX-License-Identifier: GPL-2.0-only
//! /dev/log: a non-blocking, reconnecting sender of RFC 3164 messages.
//!
//! The `syslog` crate formats; its own sender is not used, as it blocks on a stalled
//! /dev/log and never reconnects. A message that cannot be sent at once is dropped and
//! counted; the next one that gets through says how many were lost.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use syslog::{Facility, Formatter3164, LogFormat, Severity};

/// A connection to /dev/log, made when needed.
#[derive(Debug)]
pub struct DevLog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    formatter: Formatter3164,
    lost: u64,
}

impl DevLog {
    /// A sender to the socket at `path` (normally /dev/log); connects to nothing yet.
    #[must_use]
    pub fn new(path: &Path, process: &str) -> Self {
        Self {
            path: path.to_owned(),
            socket: None,
            formatter: Formatter3164 {
                facility: Facility::LOG_DAEMON,
                hostname: None,
                process: process.to_owned(),
                pid: std::process::id(),
            },
            lost: 0,
        }
    }

    /// Sends one message or counts it as lost; never blocks. Gives how many are lost and
    /// not yet reported.
    pub fn send(&mut self, severity: Severity, text: &str) -> u64 {
        if self.lost > 0 {
            let notice = format!("{} messages were lost: /dev/log took none", self.lost);
            if !self.try_send(Severity::LOG_WARNING, &notice) {
                self.lost += 1;
                return self.lost;
            }
            self.lost = 0;
        }
        if !self.try_send(severity, text) {
            self.lost += 1;
        }
        self.lost
    }

    /// A logger that was restarted has a new socket at the old path: one more attempt
    /// over a new connection finds it.
    fn try_send(&mut self, severity: Severity, text: &str) -> bool {
        let mut message = Vec::with_capacity(text.len() + 64);
        let formatted = self.formatter.format(&mut message, severity, text);
        if formatted.is_err() {
            return false;
        }
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect(&self.path);
            }
            let Some(socket) = &self.socket else {
                return false;
            };
            match socket.send(&message) {
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => self.socket = None,
            }
        }
        false
    }
}

fn connect(path: &Path) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

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

// SPDX-License-Identifier: GPL-2.0-only
//! A line that is told at once, by the thread that has it.
//!
//! In: a line of the host's own. Out: one write(2) to stderr or, where that is the journal,
//! one datagram to it, with the kind. It takes no lock and never waits: what finds no room is
//! lost, as the event that follows may still arrive.

use super::journal::{self, DatagramSender, NAME, encode_line};
use crate::event::Severity;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// A way to tell at once.
#[derive(Debug)]
pub struct DirectLog {
    /// None: stderr.
    journal: Option<DatagramSender>,
}

impl DirectLog {
    /// To wherever stderr goes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            journal: journal::has_stderr().then(|| DatagramSender::new(Path::new(journal::SOCKET))),
        }
    }

    /// Whether what is told becomes an entry of the journal, so that its event must not.
    #[must_use]
    pub fn is_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Tells a line.
    pub fn tell(&mut self, severity: Severity, kind: &str, line: &str) {
        if let Some(sender) = &mut self.journal {
            sender.send(&encode_line(severity.into(), kind, line));
            return;
        }
        let stderr = io::stderr();
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let writable = poll(&mut fds, PollTimeout::ZERO) == Ok(1);
        if writable {
            // Not by way of std, which takes a lock.
            let _ = nix::unistd::write(&stderr, format!("{NAME}: {line}\n").as_bytes());
        }
    }
}

impl Default for DirectLog {
    fn default() -> Self {
        Self::new()
    }
}

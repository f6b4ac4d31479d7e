// SPDX-License-Identifier: GPL-2.0-only
//! Stdout: whether it is a terminal, takes colours, and is still there.
//!
//! Colours are for terminals only; NO_COLOR (no-color.org: present and not empty) and
//! TERM=dumb turn them off. A reader that has gone (EPIPE) is no error: `| head` is how one
//! reads a beginning.

use crate::sys::terminal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A colour, as ECMA-48 numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Something is down.
    Red,
    /// Worth a look.
    Yellow,
    /// What is said of no guest.
    Bold,
}

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    There,
    Gone,
}

/// Stdout.
pub struct Output {
    /// Escape codes work: it is a terminal, and not a dumb one.
    pub terminal: bool,
    colours: bool,
}

impl Output {
    /// As the environment says.
    pub fn stdout() -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = io::stdout().is_terminal() && !dumb;
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            terminal,
            colours: terminal && !no_color,
        }
    }

    /// Writes all of it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Reader, String> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(Reader::There),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(error) => Err(format!("stdout: {error}")),
        }
    }

    /// `text` in a colour, where that is wanted.
    pub fn paint(&self, colour: Option<Colour>, text: &str) -> String {
        let code = match colour {
            Some(Colour::Bold) => 1,
            Some(Colour::Red) => 31,
            Some(Colour::Yellow) => 33,
            None => return text.to_owned(),
        };
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Lines that fit on the terminal at once; no limit elsewhere.
    pub fn rows(&self) -> usize {
        let rows = self.terminal.then(|| terminal::rows(io::stdout().as_fd()));
        rows.flatten().unwrap_or(usize::MAX)
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The descriptor can be read.
    Readable,
    /// Nobody reads stdout any more.
    StdoutGone,
    /// The time is over.
    Timeout,
}

/// Waits until `readable` is, stdout's reader goes, or the deadline passes, if there is one.
pub fn wait(readable: Option<impl AsFd>, deadline: Option<Instant>) -> io::Result<Woken> {
    let stdout = io::stdout();
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        // Asked for nothing, poll(2) still tells POLLERR and POLLHUP.
        let mut fds = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        fds.extend(
            readable
                .iter()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, timeout(left)) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        let mut any = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let (stdout_gone, is_readable) = (any.next(), any.next());
        if is_readable == Some(true) {
            return Ok(Woken::Readable);
        }
        if stdout_gone == Some(true) {
            return Ok(Woken::StdoutGone);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Woken::Timeout);
        }
    }
}

/// Rounded up, so that the last round does not spin; capped, as poll(2) takes an int.
fn timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else {
        return PollTimeout::NONE;
    };
    let ms = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
}

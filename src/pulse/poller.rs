// SPDX-License-Identifier: GPL-2.0-only
//! The one place where the program waits: epoll(7).
//!
//! In: descriptors, each with a token. Out: tokens of those that are ready. Never: a
//! decision.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd;

/// Descriptors that one round serves.
const ROUND: usize = 256;

/// What a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The heartbeat's number; [`Token::PROGRAM`] for the program's own.
    pub beat: u32,
    /// Which of its parts.
    pub part: Part,
    /// Which descriptor of that part.
    pub slot: u16,
}

impl Token {
    /// No heartbeat.
    pub const PROGRAM: u32 = u32::MAX;

    fn pack(self) -> u64 {
        let part = match self.part {
            Part::Node => 0,
            Part::Notification => 1,
            Part::Remote => 2,
        };
        u64::from(self.beat) << 32 | part << 16 | u64::from(self.slot)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let part = match (packed >> 16) & 0xffff {
            0 => Part::Node,
            1 => Part::Notification,
            2 => Part::Remote,
            _ => return None,
        };
        Some(Self {
            beat: u32::try_from(packed >> 32).ok()?,
            part,
            slot: u16::try_from(packed & 0xffff).ok()?,
        })
    }
}

/// A heartbeat's parts with descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Where its pulses come from.
    Node,
    /// Where a loss is told to.
    Notification,
    /// A probe of a remote host.
    Remote,
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Whose.
    pub token: Token,
    /// There is something to read, or the end, or an error.
    pub readable: bool,
    /// There is room to write, or an error.
    pub writable: bool,
}

/// What is waited for.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Poller {
    /// With nothing to wait for yet.
    ///
    /// # Errors
    /// The errno of epoll_create1(2).
    pub fn new() -> Result<Self, Errno> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self)
    }

    /// Waits for `fd` as well: for something to read, and with `write` for room to write. Ends
    /// when the descriptor is closed.
    ///
    /// # Errors
    /// The errno of epoll_ctl(2); EPERM: it is no descriptor that can be waited for.
    pub fn add(&self, fd: impl AsFd, token: Token, write: bool) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(flags(write), token.pack()))
    }

    /// Waits for room to write, or no more.
    ///
    /// # Errors
    /// The errno of epoll_ctl(2).
    pub fn change(&self, fd: impl AsFd, token: Token, write: bool) -> Result<(), Errno> {
        let mut event = EpollEvent::new(flags(write), token.pack());
        self.0.modify(fd, &mut event)
    }

    /// Waits no more for `fd`, which stays open.
    ///
    /// # Errors
    /// The errno of epoll_ctl(2).
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        self.0.delete(fd)
    }

    /// Blocks until something is ready, or for `ms` milliseconds.
    ///
    /// # Errors
    /// The errno of epoll_wait(2), but for EINTR.
    pub fn wait(&self, ms: u16, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        ready.clear();
        let mut events = [EpollEvent::empty(); ROUND];
        let count = match self.0.wait(&mut events, EpollTimeout::from(ms)) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        for event in events.iter().take(count) {
            let flags = event.events();
            ready.extend(Token::unpack(event.data()).map(|token| Ready {
                token,
                readable: flags.intersects(EpollFlags::EPOLLIN | broken),
                writable: flags.intersects(EpollFlags::EPOLLOUT | broken),
            }));
        }
        Ok(())
    }
}

fn flags(write: bool) -> EpollFlags {
    match write {
        true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        false => EpollFlags::EPOLLIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        for part in [Part::Node, Part::Notification, Part::Remote] {
            for (beat, slot) in [(0, 0), (7, 9), (Token::PROGRAM, u16::MAX)] {
                let token = Token { beat, part, slot };
                assert_eq!(Token::unpack(token.pack()), Some(token));
            }
        }
    }
}

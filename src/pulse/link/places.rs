// SPDX-License-Identifier: GPL-2.0-only
//! Who gets a place at a link that listens, and who gives way.
//!
//! In: connections to accept. Out: the link's places, taken. Promises: where places or descriptors are
//! short, the connection that has proved nothing for longest gives way. Never: one whose peer
//! proved to live within the timeout.

use super::{Connection, Errno, Link, Listener, NS_PER_MS, NS_PER_S, Net, Opened, io, is_later};

/// Connections that one readiness accepts.
const ACCEPTS: usize = 64;
/// After a failed accept(2), such as for want of descriptors, nobody is accepted for so long.
const PAUSE_NS: u64 = 200 * NS_PER_MS;
/// That is told again after so long.
const TOLD_AGAIN_NS: u64 = 60 * NS_PER_S;

impl<T: Clone> Link<T> {
    pub(super) fn accept(&mut self, now: u64, net: Net<'_>) {
        for _ in 0..ACCEPTS {
            let accepted = match &self.listener {
                Some(listener) => listener.accept(),
                None => return,
            };
            match accepted {
                Ok(opened) => self.admit(opened, now, net),
                Err(error) if is_later(&error) => return,
                // accept(2) asks for a descriptor before it looks whether anybody waits.
                Err(error) if is_shortage(&error) && !self.is_waited_at() => return,
                Err(error) if is_shortage(&error) && self.close_one(now) => {}
                Err(error) => return self.pause(&error, now, net),
            }
        }
    }

    /// Whether somebody waits to be accepted; true where that cannot be told.
    fn is_waited_at(&self) -> bool {
        self.listener.as_ref().is_none_or(Listener::has_waiting)
    }

    fn pause(&mut self, error: &io::Error, now: u64, net: Net<'_>) {
        let told = self.told_at;
        if told.is_none_or(|at| now.saturating_sub(at) >= TOLD_AGAIN_NS) {
            self.told_at = Some(now);
            log::warn!("{}: accepts nobody for now: {error}", self.endpoint.place);
        }
        if let Some(listener) = &self.listener {
            let _ = net.poller.remove(listener.as_fd());
        }
        self.paused_until = Some(now.saturating_add(PAUSE_NS));
    }

    /// Since when a connection has proved nothing, unless it is within the timeout.
    fn unproven_since(&self, connection: &Connection<T>, now: u64) -> Option<u64> {
        match connection.proved {
            None => Some(connection.opened),
            Some(at) if now.saturating_sub(at) >= self.timeout_ns => Some(at),
            Some(_) => None,
        }
    }

    /// Closes the connection that has proved nothing for longest; whether there was one.
    fn close_one(&mut self, now: u64) -> bool {
        let places = self.connections.iter().enumerate();
        let unproven = places.filter_map(|(at, place)| {
            let connection = place.as_ref()?;
            let since = self.unproven_since(connection, now)?;
            Some((since, connection.number, at))
        });
        let Some((_, _, at)) = unproven.min() else {
            return false;
        };
        self.close(at, now, "its place is needed");
        true
    }

    /// Takes a free place, or that of the one that has proved nothing for longest; else the newcomer
    /// is closed.
    fn admit(&mut self, opened: Opened, now: u64, net: Net<'_>) {
        let is_full = self.connections.iter().all(Option::is_some);
        // It is closed first: epoll(7) knows no two of the same number.
        if is_full && !self.close_one(now) {
            return;
        }
        let Some(at) = self.connections.iter().position(Option::is_none) else {
            return;
        };
        let token = self.token(at.saturating_add(1));
        if net.poller.add(&opened.io, token, true).is_ok() {
            self.install(at, opened, now);
        }
    }
}

/// There are no descriptors left, of this process or of the host.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

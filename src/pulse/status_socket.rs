// SPDX-License-Identifier: GPL-2.0-only
//! The socket at which a program tells how its heartbeats are.
//!
//! In: connections. Out: one line of JSON each, then the end. Promises: a client that does not read is kept for a few
//! seconds and delays nobody; at most eight at once. Where there can be no socket the heartbeats are watched
//! all the same, and a line says so.

use super::link::{Link, Net, Outcome};
use super::plan::{Endpoint, Place};
use super::poller::{Part, Ready, Token};
use super::status::PulseStatus;
use crate::control::protocol::line;
use crate::sys::clock::Monotonic;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CLIENTS: usize = 8;

/// The socket.
#[derive(Debug)]
pub struct StatusSocket {
    link: Option<Link<()>>,
    path: PathBuf,
}

impl StatusSocket {
    /// Opens the socket of the program `name` in `directory`. Anybody on this host may ask.
    #[must_use]
    pub fn open(directory: &Path, name: &str, net: Net<'_>) -> Self {
        let path = directory.join(format!("{name}.sock"));
        let endpoint = Endpoint {
            place: Place::Unix(path.clone()),
            listens: true,
            reconnect_ms: None,
        };
        let mut link = Link::new(endpoint, (Token::PROGRAM, Part::Node), CLIENTS, 0, ());
        let opened = link
            .start(Monotonic::now().0, net)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o666)));
        let link = match opened {
            Ok(()) => Some(link),
            Err(error) => {
                let path = path.display();
                log::warn!("`xenwarden pulses` will not show this program: {path}: {error}");
                None
            }
        };
        Self { link, path }
    }

    /// Whether the status is needed now: somebody new asks.
    #[must_use]
    pub fn wants(&self, ready: Ready) -> bool {
        let at = usize::from(ready.token.slot).checked_sub(1);
        let link = self.link.as_ref();
        at.is_some_and(|at| link.is_some_and(|link| !link.open().contains(&at)))
    }

    /// A descriptor is ready.
    pub fn ready(&mut self, ready: Ready, now: u64, net: Net<'_>, status: Option<PulseStatus>) {
        let Some(link) = &mut self.link else {
            return;
        };
        let at = match link.ready(ready, now, net) {
            Outcome::Connected(at) => {
                if let Some(status) = status {
                    link.queue(at, &line(&status), now, net);
                }
                at
            }
            // Nothing is to be said here; what is said all the same, or the end, ends it.
            Outcome::Readable(at) => return link.close(at, now, "it has ended"),
            Outcome::Nothing => match usize::from(ready.token.slot).checked_sub(1) {
                Some(at) => at,
                None => return,
            },
            Outcome::Accepted => return,
        };
        if link.is_flushed(at) {
            link.close(at, now, "it was told");
        }
    }

    /// Removes the socket.
    pub fn close(&mut self) {
        if self.link.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

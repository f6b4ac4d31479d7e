// SPDX-License-Identifier: GPL-2.0-only
//! Names of hosts, looked up in a thread of its own: getaddrinfo(3) blocks for as long as it likes.
//!
//! In: hosts. Out: addresses, later. Promises: an address in figures is never looked up, so that
//! no name server delays it; one name at a time, and each asker has at most one in the queue.

use super::plan::HostPort;
use super::poller::Part;
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::EventFd;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;

/// Who asks.
pub type Asker = (u32, Part);
/// What was found.
pub type Answer = (Asker, Result<Vec<SocketAddr>, String>);

/// The way to the thread.
#[derive(Debug)]
pub struct Resolver {
    questions: Sender<(Asker, HostPort)>,
    /// What it has found.
    pub answers: Receiver<Answer>,
}

impl Resolver {
    /// Starts the thread, which writes to `wake` with each answer.
    ///
    /// # Errors
    /// The errno of starting it.
    pub fn start(wake: Arc<EventFd>) -> io::Result<Self> {
        let (questions, asked) = unbounded::<(Asker, HostPort)>();
        let (answer, answers) = unbounded();
        let look_up = move || {
            for (asker, host) in asked {
                let found = (host.host.as_str(), host.port).to_socket_addrs();
                let found = found
                    .map(Iterator::collect)
                    .map_err(|e| format!("{}: {e}", host.host));
                let _ = answer.send((asker, found));
                // A counter that is full wakes all the same (eventfd(2)).
                let _ = wake.write(1);
            }
        };
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(look_up)?;
        Ok(Self { questions, answers })
    }

    /// The addresses of `host`, if it is one itself; else none, and the answer comes later.
    #[must_use]
    pub fn ask(&self, asker: Asker, host: &HostPort) -> Option<SocketAddr> {
        let literal = literal(host);
        if literal.is_none() {
            let _ = self.questions.send((asker, host.clone()));
        }
        literal
    }
}

/// An address in figures.
#[must_use]
pub fn literal(host: &HostPort) -> Option<SocketAddr> {
    let address = host.host.parse::<IpAddr>().ok();
    address.map(|address| SocketAddr::new(address, host.port))
}

// SPDX-License-Identifier: GPL-2.0-only
//! Leases, served: what their clients say becomes deadlines on the lease page.
//!
//! In: datagrams on the socket of each lease that the guard's page has ([`socket`]), connections on
//! that of watchdog-mux ([`mux`]). Out: deadlines, then the stamp that says that everything was
//! looked at; events. One thread, which never waits for a client: whatever a client does, a turn
//! takes bounded time and memory.
//!
//! A monitor that starts finds deadlines of the one before it, which missed what was said
//! meanwhile. So each lease that had not lapsed when that one looked last is given its whole timeout
//! anew; one that had lapsed stays lapsed until its client renews it. What held a lease by
//! watchdog-mux's socket has lost its connection, and sees that: such a lease is released, and an event says so.

pub mod mux;
pub mod socket;

use crate::config::leases::LeaseName;
use crate::event::Kind;
pub use crate::guard::leases::page;
use crate::guard::leases::page::{Access, Deadline, Page, State, View};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use mux::Mux;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket::{LeaseSocket, Said};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Between two turns while nothing comes in, ns; a deadline that ends sooner is looked at just after it.
const TURN_NS: u64 = 250 * NS_PER_MS;
/// Between two events of datagrams that were refused, for one lease, ns.
const REFUSED_EACH_NS: u64 = 60 * NS_PER_S;

/// Publishes an event; must not block.
pub type Publish<'a> = &'a (dyn Fn(Kind) + Sync);

/// What is remembered of a lease, for its events.
#[derive(Clone, Copy, Debug)]
struct Followed {
    state: State,
    /// Datagrams that were refused and not told, and when they were told last.
    refused: u64,
    told: Option<Monotonic>,
}

/// Serves the leases of a page.
pub struct Server<'a> {
    path: PathBuf,
    mux: Option<PathBuf>,
    publish: Publish<'a>,
    page: Option<Page>,
    sockets: Vec<LeaseSocket>,
    clients: Option<Mux>,
    followed: BTreeMap<LeaseName, Followed>,
}

/// Serves the leases of the page at `path` until `stop` is readable or hung up.
pub fn run(path: &Path, mux: Option<PathBuf>, publish: Publish<'_>, stop: &impl AsFd) {
    let mut server = Server::new(path, mux, publish, Monotonic::now());
    while !server.wait(stop.as_fd()) {
        server.turn(Monotonic::now());
    }
}

impl<'a> Server<'a> {
    /// Over the page at `path`, which need not be there yet, as of `now`.
    #[must_use]
    pub fn new(path: &Path, mux: Option<PathBuf>, publish: Publish<'a>, now: Monotonic) -> Self {
        let mut server = Self {
            path: path.to_owned(),
            mux,
            publish,
            page: None,
            sockets: Vec::new(),
            clients: None,
            followed: BTreeMap::new(),
        };
        server.turn(now);
        server
    }

    /// Waits until something comes in, a deadline has passed, or the time of a turn. Whether it is to stop.
    fn wait(&self, stop: BorrowedFd<'_>) -> bool {
        let now = Monotonic::now();
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
        let sockets = self.sockets.iter();
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.clients.iter().flat_map(Mux::poll_fds));
        let leases = self.page.as_ref().map(Page::leases).unwrap_or_default();
        let ends = leases.iter().filter_map(|lease| match lease.deadline {
            Deadline::At(at) if at >= now => Some(at.since_ns(now)),
            _ => None,
        });
        let next_ns = ends.min().unwrap_or(TURN_NS).min(TURN_NS);
        // Rounded up, so that the deadline has passed by then.
        let ms = u16::try_from(next_ns / NS_PER_MS + 1).unwrap_or(u16::MAX);
        // An interrupted or failed wait only makes the turn come early.
        let _ = poll(&mut fds, PollTimeout::from(ms));
        fds.first().and_then(PollFd::any).unwrap_or(false)
    }

    /// Takes what has come in, and says that everything was looked at as of `now`.
    pub fn turn(&mut self, now: Monotonic) {
        self.follow_page(now);
        let Some(page) = self.page.take() else {
            return;
        };
        let mut refused = Vec::new();
        for socket in &self.sockets {
            let turn = socket.turn();
            hear(&page, &socket.lease, turn.said, now);
            refused.extend(turn.refused.map(|by| (socket.lease.name, by)));
        }
        for (name, (count, uid)) in refused {
            self.refused(name, count, uid, now);
        }
        let clients = self.clients.as_mut().map(Mux::turn);
        for (lease, said) in clients.unwrap_or_default() {
            hear(&page, &lease, Some(said), now);
        }
        page::serve(page.words(), now);
        self.tell(&page, now);
        self.page = Some(page);
    }

    /// Opens the page where it is new, with the sockets of its leases.
    fn follow_page(&mut self, now: Monotonic) {
        let there = fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        let is_same = |page: &Page| there.as_ref().is_ok_and(|there| *there == page.identity);
        if self.page.as_ref().is_some_and(is_same) {
            return;
        }
        let Ok(page) = Page::open(&self.path, Access::Write) else {
            return;
        };
        match &self.page {
            None => take_over(&page, now, self.publish),
            // What was written to the old one while the guard made this one.
            Some(old) => carry(old, &page),
        }
        let (claimed, named): (Vec<View>, Vec<View>) =
            page.leases().into_iter().partition(|lease| lease.claimed);
        self.bind(named);
        match &mut self.clients {
            Some(clients) => clients.renumber(&claimed),
            None if claimed.is_empty() => {}
            None => self.clients = self.mux.as_deref().and_then(|path| open_mux(path, claimed)),
        }
        self.page = Some(page);
    }

    /// Has a socket for each of these leases, and for no other. One that is there already serves on.
    fn bind(&mut self, leases: Vec<View>) {
        let directory = self.path.with_file_name("lease");
        let mut old = std::mem::take(&mut self.sockets);
        for lease in leases {
            let same = |socket: &LeaseSocket| {
                (socket.lease.name, socket.lease.uid) == (lease.name, lease.uid)
            };
            let kept = old.iter().position(same).map(|at| old.swap_remove(at));
            let socket = match kept {
                Some(socket) => Ok(socket.serving(lease)),
                None => LeaseSocket::bind(&directory, lease),
            };
            match socket {
                Ok(socket) => self.sockets.push(socket),
                Err(error) => {
                    let path = page::socket_of(&self.path, &lease.name);
                    log::error!("lease {}: {}: {error}", lease.name, path.display());
                }
            }
        }
        for socket in old {
            let _ = fs::remove_file(page::socket_of(&self.path, &socket.lease.name));
        }
    }

    fn refused(&mut self, name: LeaseName, count: u64, uid: u32, now: Monotonic) {
        let Some(followed) = self.followed.get_mut(&name) else {
            return;
        };
        followed.refused = followed.refused.saturating_add(count);
        let is_due = |told: Monotonic| now.since_ns(told) >= REFUSED_EACH_NS;
        if followed.told.is_none_or(is_due) {
            followed.told = Some(now);
            (self.publish)(Kind::LeaseRefused {
                lease: name.to_string(),
                uid,
                count: std::mem::take(&mut followed.refused),
            });
        }
    }

    /// Tells what has become of each lease since the last turn.
    fn tell(&mut self, page: &Page, now: Monotonic) {
        for lease in page.leases() {
            let state = lease.state(now, now);
            let new = Followed {
                state,
                refused: 0,
                told: None,
            };
            // What a new monitor finds was told by the one before it.
            let followed = self.followed.entry(lease.name).or_insert(new);
            let before = std::mem::replace(&mut followed.state, state);
            if let Some(kind) = event(&lease, before, state, now) {
                (self.publish)(kind);
            }
        }
    }
}

fn open_mux(path: &Path, leases: Vec<View>) -> Option<Mux> {
    let bound = Mux::bind(path, leases);
    let path = path.display();
    bound
        .inspect_err(|error| log::error!("leases.watchdog_mux: {path}: {error}"))
        .ok()
}

/// Writes down what a lease's client said.
fn hear(page: &Page, lease: &View, said: Option<Said>, now: Monotonic) {
    match said {
        Some(Said::Renew) => page.renew(lease.number, now.plus_ns(lease.timeout_ns)),
        Some(Said::Release) => {
            page::set_deadline(page.words(), lease.number, Deadline::Released);
        }
        // Just before now, so that this very turn has looked after it.
        Some(Said::Trigger) => {
            let past = Monotonic(now.0.saturating_sub(1).max(1));
            page::set_deadline(page.words(), lease.number, Deadline::At(past));
        }
        None => {}
    }
}

/// What another monitor left on the page, as of `now`.
fn take_over(page: &Page, now: Monotonic, publish: Publish<'_>) {
    let served = page.served();
    for lease in page.leases() {
        let Deadline::At(at) = lease.deadline else {
            continue;
        };
        let number = lease.number;
        if lease.claimed && lease.state(served, now) != State::Lapsed {
            page::set_deadline(page.words(), number, Deadline::Released);
            publish(Kind::LeaseReleased {
                lease: lease.name.to_string(),
                lost: true,
            });
        } else if served <= at {
            let until = at.max(now.plus_ns(lease.timeout_ns));
            page::set_deadline(page.words(), number, Deadline::At(until));
        }
    }
}

/// What is newer on the `old` page than on the new one.
fn carry(old: &Page, new: &Page) {
    let before = old.leases();
    for lease in new.leases() {
        let same = before.iter().find(|one| one.name == lease.name);
        if let Some(one) = same.filter(|one| one.renewals > 0) {
            page::set_deadline(new.words(), lease.number, one.deadline);
            page::set_renewals(new.words(), lease.number, one.renewals);
        }
    }
}

/// What is told of a lease that was `before` and is `state`.
fn event(lease: &View, before: State, state: State, now: Monotonic) -> Option<Kind> {
    let name = lease.name.to_string();
    let timeout_ms = lease.timeout_ns / NS_PER_MS;
    Some(match (before, state) {
        _ if before == state => return None,
        (_, State::Held) => Kind::LeaseHeld {
            lease: name,
            timeout_ms,
            lapsed: before == State::Lapsed,
        },
        (_, State::Released) => Kind::LeaseReleased {
            lease: name,
            lost: false,
        },
        (_, State::Lapsed) => {
            let Deadline::At(at) = lease.deadline else {
                return None;
            };
            Kind::LeaseLapsed {
                lease: name,
                overdue_ms: now.since_ns(at) / NS_PER_MS,
                never: before == State::Waiting,
            }
        }
        _ => return None,
    })
}

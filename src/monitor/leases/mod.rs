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
//! anew, and less with each further monitor until it is renewed: whoever does not renew it then is
//! not there, however often monitors come and go. One that had lapsed stays lapsed until its client renews it. Connections to watchdog-mux's socket are
//! kept by the service manager, with what was sent meanwhile, and so is their deadline. One that was not kept is one
//! that nobody renews: its client did not stop in order.

mod idle;
pub mod mux;
pub mod socket;

use crate::config::leases::LeaseName;
use crate::event::Kind;
pub use crate::guard::leases::page;
use crate::guard::leases::page::{Access, Connection, Deadline, Page, State, View};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sys::inherited::inherited_by_name;
use idle::Watched;
use mux::{Kept, Mux, Spoke};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket::{LeaseSocket, Said};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Between two turns while nothing comes in, ns; a deadline that ends sooner is looked at just after it.
const TURN_NS: u64 = 250 * NS_PER_MS;
/// Between two events of datagrams that were refused, for one lease, ns.
const REFUSED_EACH_NS: u64 = 60 * NS_PER_S;

/// A renewal over a connection.
const RENEW: Said = Said::Renew { until: None };
/// What events call the socket of watchdog-mux.
const MUX: &str = "watchdog-mux";

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

/// What there is besides the sockets of leases.
#[derive(Debug, Default)]
pub struct Fronts {
    /// The socket of watchdog-mux.
    pub mux: Option<PathBuf>,
    /// Connections to it that the service manager kept.
    pub kept: Kept,
}

/// Serves the leases of a page.
pub struct Server<'a> {
    path: PathBuf,
    mux: Option<PathBuf>,
    publish: Publish<'a>,
    page: Option<Page>,
    sockets: Vec<LeaseSocket>,
    clients: Option<Mux>,
    kept: Kept,
    followed: BTreeMap<LeaseName, Followed>,
    /// Held while this one serves: another monitor would take its sockets.
    lock: Option<Flock<File>>,
    /// Leases that have no socket, of which that was said.
    failing: BTreeSet<LeaseName>,
    /// While there is no lease: told of the next page.
    watched: Option<Watched>,
}

/// Serves the leases of the page at `path` until `stop` is readable or hung up.
pub fn run(path: &Path, mux: Option<PathBuf>, publish: Publish<'_>, stop: &impl AsFd) {
    let kept = inherited_by_name().into_iter();
    let kept = kept.map(|(name, connection)| (name, connection.into()));
    let fronts = Fronts {
        mux,
        kept: kept.collect(),
    };
    let mut server = Server::new(path, fronts, publish, Monotonic::now());
    while !server.wait(stop.as_fd()) {
        server.turn(Monotonic::now());
    }
}

impl<'a> Server<'a> {
    /// Over the page at `path`, which need not be there yet, as of `now`.
    #[must_use]
    pub fn new(path: &Path, fronts: Fronts, publish: Publish<'a>, now: Monotonic) -> Self {
        let mut server = Self {
            path: path.to_owned(),
            mux: fronts.mux,
            kept: fronts.kept,
            publish,
            page: None,
            sockets: Vec::new(),
            clients: None,
            followed: BTreeMap::new(),
            lock: None,
            failing: BTreeSet::new(),
            watched: None,
        };
        server.turn(now);
        server
    }

    /// Waits until something comes in, a deadline has passed, or the time of a turn. Whether it is to stop.
    fn wait(&mut self, stop: BorrowedFd<'_>) -> bool {
        let longest_ns = self.longest_ns();
        let now = Monotonic::now();
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
        let watched = self.watched.iter();
        fds.extend(watched.map(|watched| PollFd::new(watched.as_fd(), PollFlags::POLLIN)));
        let sockets = self.sockets.iter();
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.clients.iter().flat_map(Mux::poll_fds));
        let leases = self.page.as_ref().map(Page::leases).unwrap_or_default();
        let ends = leases.iter().filter_map(|lease| match lease.deadline {
            Deadline::At(at) if at >= now => Some(at.since_ns(now)),
            _ => None,
        });
        let next_ns = ends.min().unwrap_or(longest_ns).min(longest_ns);
        // Rounded up, so that the deadline has passed by then.
        let ms = u16::try_from(next_ns / NS_PER_MS + 1).unwrap_or(u16::MAX);
        // An interrupted or failed wait only makes the turn come early.
        let _ = poll(&mut fds, PollTimeout::from(ms));
        fds.first().and_then(PollFd::any).unwrap_or(false)
    }

    /// How long to wait at most, ns. Where the page that it serves has no lease, the next one is told of, if it can be.
    fn longest_ns(&mut self) -> u64 {
        let is_idle = |page: &Page| page.leases().is_empty();
        if !self.page.as_ref().is_some_and(is_idle) {
            self.watched = None;
            return TURN_NS;
        }
        let watched = self.watched.take().and_then(Watched::quiet);
        let is_new = watched.is_none();
        self.watched = watched.or_else(|| Watched::directory_of(&self.path));
        match self.watched {
            // What came just before is not told: one more turn looks for it.
            Some(_) if !is_new => u64::try_from(idle::LONGEST.as_nanos()).unwrap_or(TURN_NS),
            _ => TURN_NS,
        }
    }

    /// Takes what has come in, and says that everything was looked at as of `now`.
    pub fn turn(&mut self, now: Monotonic) {
        if !self.holds() {
            return;
        }
        self.follow_page(now);
        let Some(page) = self.page.take() else {
            return;
        };
        let is_reached = self.bind(&page);
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
        for (lease, spoke) in clients.unwrap_or_default() {
            let (said, connection) = match spoke {
                Spoke::Renews { is_closing: true } => (Some(RENEW), Connection::Closing),
                Spoke::Renews { .. } => (Some(RENEW), Connection::None),
                Spoke::Releases => (Some(Said::Release), Connection::None),
                Spoke::Gone => (None, Connection::None),
            };
            page::set_connection(page.words(), lease.number, connection);
            hear(&page, &lease, said, now);
        }
        self.refuse_clients(now);
        // Where a client cannot speak, nobody knows what it would have said.
        if is_reached {
            page::serve(page.words(), now);
        }
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
        let page = match Page::open(&self.path, Access::Write) {
            Ok(page) => page,
            // A guard of another version goes by another page: nobody goes by this one any more.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                if self.page.take().is_some() {
                    log::error!("{}: {error}: no lease is served", self.path.display());
                }
                return;
            }
            Err(_) => return,
        };
        match &self.page {
            None => take_over(&page, now),
            // What was written to the old one while the guard made this one.
            Some(old) => carry(old, &page, now),
        }
        let all = page.leases().into_iter();
        let claimed: Vec<View> = all.filter(|lease| lease.claimed).collect();
        match &mut self.clients {
            Some(clients) => clients.renumber(&claimed),
            None if claimed.is_empty() => {}
            None => {
                let kept = std::mem::take(&mut self.kept);
                let path = self.mux.as_deref();
                self.clients = Some(Mux::new(path, claimed, kept));
            }
        }
        self.page = Some(page);
    }

    /// Whether it is this monitor that serves. Another one that was started by hand must not take
    /// the sockets of one that serves.
    fn holds(&mut self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let Ok(file) = options.open(self.path.with_extension("lock")) else {
            // A full /run is no reason to serve nobody.
            return true;
        };
        self.lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
        self.lock.is_some()
    }

    /// Has a socket for each of the page's leases, and for no other. One that is there already serves on. Whether
    /// all of them are where their clients look.
    fn bind(&mut self, page: &Page) -> bool {
        let directory = self.path.with_file_name("lease");
        let mut old = std::mem::take(&mut self.sockets);
        let mut all = true;
        let leases = page.leases().into_iter();
        for lease in leases.filter(|lease| !lease.claimed) {
            let same = |socket: &LeaseSocket| {
                (socket.lease.name, socket.lease.uid) == (lease.name, lease.uid)
                    && socket.is_there(&directory)
            };
            let kept = old.iter().position(same).map(|at| old.swap_remove(at));
            let socket = match kept {
                Some(socket) => Ok(socket.serving(lease)),
                None => LeaseSocket::bind(&directory, lease),
            };
            match socket {
                Ok(socket) => {
                    self.failing.remove(&lease.name);
                    self.sockets.push(socket);
                }
                Err(error) => {
                    all = false;
                    if self.failing.insert(lease.name) {
                        let path = page::socket_of(&self.path, &lease.name);
                        log::error!("lease {}: {}: {error}", lease.name, path.display());
                    }
                }
            }
        }
        for socket in old.iter().filter(|socket| socket.is_there(&directory)) {
            let _ = fs::remove_file(page::socket_of(&self.path, &socket.lease.name));
        }
        all
    }

    /// Connections to watchdog-mux's socket that found no lease: told under its name, which no lease may have.
    fn refuse_clients(&mut self, now: Monotonic) {
        let refused = self.clients.as_mut().and_then(Mux::take_refused);
        let (Some((count, uid)), Some(name)) = (refused, LeaseName::new(MUX)) else {
            return;
        };
        self.followed.entry(name).or_insert(Followed {
            state: State::Waiting,
            refused: 0,
            told: None,
        });
        self.refused(name, count, uid, now);
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

/// Writes down what a lease's client said.
fn hear(page: &Page, lease: &View, said: Option<Said>, now: Monotonic) {
    match said {
        Some(Said::Renew { until }) => {
            let whole = now.plus_ns(lease.timeout_ns);
            page.renew(lease.number, until.map_or(whole, |until| whole.min(until)));
        }
        Some(Said::Release) => {
            page::set_deadline(page.words(), lease.number, Deadline::Released);
        }
        // Just before the last look, so that it has lapsed whatever becomes of this monitor.
        Some(Said::Trigger) => {
            let looked = page.served().0.min(now.0);
            let past = Monotonic(looked.saturating_sub(1).max(1));
            page::set_deadline(page.words(), lease.number, Deadline::At(past));
        }
        None => {}
    }
}

/// What another monitor left on the page, as of `now`.
fn take_over(page: &Page, now: Monotonic) {
    let served = page.served();
    for lease in page.leases() {
        let Deadline::At(at) = lease.deadline else {
            continue;
        };
        let number = lease.number;
        // What comes over a connection waits in it: nothing was missed, or nobody is there.
        // And whoever counts on a strict lease's lapse counts with nobody's restart.
        if served <= at && !lease.claimed && !lease.strict {
            // Granted before: most of what nobody has listened to of that, and less with each monitor
            // that comes and goes.
            let left_ns = match lease.granted {
                true => at.since_ns(served) / 4 * 3,
                false => lease.timeout_ns,
            };
            if lease.granted && left_ns < TURN_NS {
                continue;
            }
            let until = at.max(now.plus_ns(left_ns));
            page::set_granted(page.words(), number, lease.renewals);
            page::set_deadline(page.words(), number, Deadline::At(until));
        }
    }
}

/// What is newer on the `old` page than on the new one.
fn carry(old: &Page, new: &Page, now: Monotonic) {
    let before = old.leases();
    for lease in new.leases() {
        let who = (lease.name, lease.uid);
        let same = before.iter().find(|one| (one.name, one.uid) == who);
        let is_said = |one: &&View| match one.deadline {
            Deadline::Released => true,
            Deadline::At(at) => {
                let is_over = at < old.served() && one.required == lease.required;
                one.renewals > 0 || is_over
            }
            Deadline::None => false,
        };
        if let Some(one) = same.filter(|one| is_said(one)) {
            let deadline = match one.deadline {
                // Its timeout may be shorter by now.
                Deadline::At(at) if one.renewals > 0 => {
                    Deadline::At(at.min(now.plus_ns(lease.timeout_ns)))
                }
                deadline => deadline,
            };
            page::set_deadline(new.words(), lease.number, deadline);
            page::set_renewals(new.words(), lease.number, one.renewals);
            page::set_connection(new.words(), lease.number, one.connection);
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
        (_, State::Released) => Kind::LeaseReleased { lease: name },
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

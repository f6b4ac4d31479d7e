// SPDX-License-Identifier: GPL-2.0-only
//! The names of domains, from xenstore: for people, never for identity.
//!
//! In: the domains that the table shows, and xenstore's answers. Out: [`DomainNames`]. One
//! thread, which sleeps in poll(2) until a watch tells of a domain that was introduced or
//! of a name that was written, or it is told that domains came or went.
//!
//! Promises: a name belongs to a creation number, so that it is never taken for that of
//! another domain with the same domid. A xenstored that is dead or hangs delays nobody:
//! nobody waits for the thread, and names that are known stay known. Linux waits for
//! xenstored without end when it is given a watch (see [`Xenstore::watch`]), so each watch
//! follows an answer, and a question that takes too long is told as trouble.

use crate::guests::DomainNames;
use crate::guests::sorted::SortedMap;
use crate::sys::wake::waking_pair;
use crate::xen::xenstore::{Xenstore, XenstoreError};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks for domains that came, where nobody can be woken to do it; and until it is known which there are.
const ROUND: Duration = Duration::from_secs(1);
/// The same where somebody is.
const LONGEST: Duration = Duration::from_secs(60);
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_millis(800);
/// How long a question may take until it is told as trouble.
const HANGS: Duration = Duration::from_secs(3);
/// Time between two attempts after xenstored did not answer.
const BACK_OFF: Duration = Duration::from_secs(3);
/// Time without an answer after which the connection is given up: a xenstored that was
/// started anew never answers what its predecessor was asked. The kernel keeps each such
/// connection until the answer comes, so not too often.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Bytes of a name that are kept.
const MOST_NAME: usize = 256;
/// The watch that tells of new domains; its token is no domid.
const INTRODUCED: &str = "@introduceDomain";

/// How to reach xenstored.
pub type Connect = Box<dyn Fn() -> io::Result<Xenstore> + Send + Sync>;

/// The names and how they are kept.
pub struct Names {
    table: Mutex<Arc<DomainNames>>,
    present: Mutex<Present>,
    changed: Condvar,
    /// Since when xenstored owes an answer.
    asked: Mutex<Option<Instant>>,
    /// Wakes the thread; and its end, which is readable then.
    wake: Option<(UnixStream, UnixStream)>,
    connect: Connect,
}

/// The domains that are there, and how far xenstored was asked for their names.
#[derive(Default)]
struct Present {
    /// Domid and creation number.
    domains: Arc<SortedMap<u16, u64>>,
    /// Somebody has said which there are.
    known: bool,
    /// Each was asked for, or that failed.
    asked: bool,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Box::new(Xenstore::connect))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Names {
    /// No names, to be asked for over connections that `connect` makes.
    #[must_use]
    pub fn new(connect: Connect) -> Self {
        Self {
            table: Mutex::default(),
            present: Mutex::default(),
            changed: Condvar::new(),
            asked: Mutex::default(),
            wake: waking_pair().ok(),
            connect,
        }
    }

    /// The domains that are there from now on: domid and creation number.
    pub fn follow(&self, domains: Vec<(u16, u64)>) {
        *locked(&self.present) = Present {
            domains: Arc::new(domains.into_iter().collect()),
            known: true,
            asked: false,
        };
        self.changed.notify_all();
        self.wake();
    }

    /// Wakes the thread: there is another set of domains, or it is to end.
    pub fn wake(&self) {
        if let Some((wake, _)) = &self.wake {
            // Full means that it is readable already.
            let _ = (&mut &*wake).write(&[0]);
        }
    }

    /// Waits until xenstored was asked for the names of all domains that are there, or that
    /// failed, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let (present, open) = (locked(&self.present), |p: &mut Present| !p.asked);
        drop(self.changed.wait_timeout_while(present, timeout, open));
    }

    /// The domains that are there, waiting at most [`ROUND`] until it is known which.
    fn present(&self) -> Option<Arc<SortedMap<u16, u64>>> {
        let (present, open) = (locked(&self.present), |p: &mut Present| !p.known);
        let waited = self.changed.wait_timeout_while(present, ROUND, open);
        let present = waited.unwrap_or_else(PoisonError::into_inner).0;
        present.known.then(|| Arc::clone(&present.domains))
    }

    fn set_asked(&self, domains: &Arc<SortedMap<u16, u64>>) {
        let mut present = locked(&self.present);
        present.asked |= Arc::ptr_eq(&present.domains, domains);
        self.changed.notify_all();
    }

    /// The names as of now; the same value as before while nothing changes.
    #[must_use]
    pub fn table(&self) -> Arc<DomainNames> {
        let hangs = locked(&self.asked).is_some_and(|at| at.elapsed() > HANGS);
        let mut table = locked(&self.table);
        if hangs && table.trouble.is_none() {
            let trouble = Some(XenstoreError::Timeout.to_string());
            Arc::make_mut(&mut table).trouble = trouble;
        }
        Arc::clone(&table)
    }

    /// Keeps the names until `stop` is set; then ends within about two seconds, unless
    /// xenstored hangs.
    pub fn run(&self, stop: &AtomicBool) {
        let mut reader = NameReader {
            names: self,
            connection: None,
            watched: SortedMap::default(),
            lost: None,
            silent_since: None,
        };
        while !stop.load(Ordering::Relaxed) {
            let Some(present) = self.present() else {
                continue;
            };
            let outcome = reader.round(&present);
            self.set_asked(&present);
            // Said before the wait, which may be long.
            if !reader.tell(outcome.err()) {
                rest(stop);
                continue;
            }
            if let Err(error) = reader.wait() {
                reader.tell(Some(error));
                rest(stop);
            }
        }
    }
}

/// Waits before the next attempt.
fn rest(stop: &AtomicBool) {
    let began = Instant::now();
    while began.elapsed() < BACK_OFF && !stop.load(Ordering::Relaxed) {
        thread::sleep(ROUND / 4);
    }
}

fn path_of(domid: u16) -> String {
    format!("/local/domain/{domid}/name")
}

/// Reads names over a connection to xenstored.
struct NameReader<'a> {
    names: &'a Names,
    connection: Option<Xenstore>,
    /// Domains that were asked for and whose names are watched.
    watched: SortedMap<u16, u64>,
    /// Events of this connection that found no room, as far as they were made up for; none where what
    /// one told of is still to be asked for.
    lost: Option<u64>,
    silent_since: Option<Instant>,
}

impl NameReader<'_> {
    /// Asks for the names of domains that came, and forgets those that went.
    fn round(&mut self, present: &Arc<SortedMap<u16, u64>>) -> Result<(), XenstoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                self.watched.clear();
                self.lost = Some(0);
                self.connection.insert((self.names.connect)()?)
            }
        };
        let lost = Some(connection.lost_events());
        if lost != self.lost {
            // Which changed is not known. The watches stand: Linux would take each a second time.
            let watched: Vec<_> = self.watched.iter().copied().collect();
            for (domid, created) in watched {
                self.ask(domid, created)?;
            }
            self.lost = lost;
        }
        for (domid, created) in present.iter() {
            if self.watched.get(domid) != Some(created) {
                self.come(*domid, *created)?;
                // A watch fires when it is set: many that are set at once are heard as they come.
                self.hear(Duration::ZERO)?;
            }
        }
        self.names.set_asked(present);
        let watched = self.watched.iter().map(|(domid, _)| *domid);
        let gone = watched.filter(|domid| !present.contains(domid));
        for domid in gone.collect::<Vec<_>>() {
            self.unwatch(domid)?;
        }
        self.forget(present);
        Ok(())
    }

    /// Waits for what the watches tell, or to be woken.
    fn wait(&mut self) -> Result<(), XenstoreError> {
        let lost = self.connection.as_ref().map(Xenstore::lost_events);
        let woken = self.names.wake.as_ref().map(|(_, woken)| woken);
        let longest = match woken {
            // What was lost meanwhile is made up for at once.
            _ if lost != self.lost => Duration::ZERO,
            Some(_) => LONGEST,
            None => ROUND,
        };
        self.hear_or(longest, woken)?;
        let Some(mut woken) = woken else {
            return Ok(());
        };
        // However often it was woken, one look is due.
        let mut bytes = [0; 64];
        while woken.read(&mut bytes).is_ok_and(|n| n != 0) {}
        Ok(())
    }

    /// Waits at most `timeout` for what the watches tell, and asks for each name that they tell of.
    fn hear(&mut self, timeout: Duration) -> Result<(), XenstoreError> {
        self.hear_or(timeout, None)
    }

    /// The same; waits no longer once `woken` is readable.
    fn hear_or(
        &mut self,
        mut timeout: Duration,
        woken: Option<&UnixStream>,
    ) -> Result<(), XenstoreError> {
        while let Some(token) = self.next_event(timeout, woken)? {
            timeout = Duration::ZERO;
            let told = token.parse().ok();
            let watched = told.and_then(|domid| Some((domid, *self.watched.get(&domid)?)));
            if let Some((domid, created)) = watched {
                if let Err(error) = self.ask(domid, created) {
                    self.lost = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn next_event(
        &mut self,
        timeout: Duration,
        woken: Option<&UnixStream>,
    ) -> Result<Option<String>, XenstoreError> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        let woken = woken.map(UnixStream::as_fd);
        let event = connection.next_event_or(timeout, woken)?;
        Ok(event.map(|event| event.token))
    }

    /// A domain came: its name, if it has one yet, and a watch that tells of another.
    fn come(&mut self, domid: u16, created: u64) -> Result<(), XenstoreError> {
        self.ask(domid, created)?;
        if self.watched.is_empty() {
            self.timed(|bus| bus.watch(INTRODUCED, INTRODUCED, TIMEOUT))?;
        }
        if !self.watched.contains(&domid) {
            let path = path_of(domid);
            self.timed(|bus| bus.watch(&path, &domid.to_string(), TIMEOUT))?;
        }
        self.watched.insert(domid, created);
        Ok(())
    }

    fn unwatch(&mut self, domid: u16) -> Result<(), XenstoreError> {
        let path = path_of(domid);
        self.timed(|bus| bus.unwatch(&path, &domid.to_string(), TIMEOUT))?;
        self.watched.remove(&domid);
        Ok(())
    }

    fn ask(&mut self, domid: u16, created: u64) -> Result<(), XenstoreError> {
        let path = path_of(domid);
        let mut name = None;
        self.timed(|bus| {
            name = Some(bus.read(&path, TIMEOUT)?);
            Ok(())
        })?;
        let Some(mut name) = name else {
            return Ok(());
        };
        let fits = (0..=MOST_NAME)
            .rev()
            .find(|end| name.is_char_boundary(*end));
        name.truncate(fits.unwrap_or(0));
        let mut table = locked(&self.names.table);
        if table.by_domain.get(&created).map(AsRef::as_ref) != Some(name.as_str()) {
            let named = &mut Arc::make_mut(&mut table).by_domain;
            named.insert(created, name.into());
        }
        Ok(())
    }

    /// Does something that xenstored has to answer. That it says no is an answer: a domain
    /// is just coming or going.
    fn timed(
        &mut self,
        act: impl FnOnce(&mut Xenstore) -> Result<(), XenstoreError>,
    ) -> Result<(), XenstoreError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        *locked(&self.names.asked) = Some(Instant::now());
        let outcome = act(connection);
        *locked(&self.names.asked) = None;
        match outcome {
            Err(XenstoreError::Refused(_)) => Ok(()),
            other => other,
        }
    }

    /// Forgets the names of domains that are gone.
    fn forget(&self, present: &SortedMap<u16, u64>) {
        let mut table = locked(&self.names.table);
        let there = |created: &u64| present.iter().any(|(_, present)| present == created);
        if table.by_domain.len() > present.len() {
            let named = &mut Arc::make_mut(&mut table).by_domain;
            named.retain(there);
        }
    }

    /// Notes how the round went, and says what changed about it, once. Says whether it went
    /// well.
    fn tell(&mut self, trouble: Option<XenstoreError>) -> bool {
        let mut table = locked(&self.names.table);
        let Some(error) = trouble else {
            if table.trouble.is_some() {
                Arc::make_mut(&mut table).trouble = None;
                log::info!("guests are known by name again");
            }
            self.silent_since = None;
            return true;
        };
        // The answer may come yet, unless it never will.
        let silent_since = *self.silent_since.get_or_insert_with(Instant::now);
        let silent = matches!(error, XenstoreError::Timeout);
        if !silent || silent_since.elapsed() >= GIVE_UP {
            self.connection = None;
            self.silent_since = None;
        }
        if table.trouble.is_none() {
            log::warn!("new guests are known by UUID only: {error}");
            Arc::make_mut(&mut table).trouble = Some(error.to_string());
        }
        false
    }
}

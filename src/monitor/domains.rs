// SPDX-License-Identifier: GPL-2.0-only
//! The table of domains: UUID and name of each, from xenstore.
//!
//! In: the domains that the hypervisor shows, and xenstore's answers. Out: a
//! [`DomainTable`]. The thread reacts to a new domain within one poll, and to
//! `@introduceDomain` and `@releaseDomain` at once; every few seconds it asks for all names
//! again, as domains can be renamed.
//!
//! Promises: a domid that is used again is never mistaken for the domain before: entries
//! belong to the generation of the domain's record. A xenstored that is dead or hangs
//! delays nobody; what is known of domains that are still there stays known.
//!
//! Watches live on a connection and a thread of their own, as Linux waits for xenstored
//! without end when it is given one (see [`Xenstore::watch`]); nobody waits for that thread.

use crate::event::Uuid;
use crate::guard::ledger::Ledger;
use crate::guests::guest::Incarnation;
use crate::guests::owners::Owners;
use crate::sys::clock::Monotonic;
use crate::xen::xenstore::{Xenstore, XenstoreError};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two rounds, unless a watch tells earlier.
const POLL: Duration = Duration::from_millis(100);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_millis(800);
/// Time between two attempts after xenstored did not answer.
const BACK_OFF: Duration = Duration::from_secs(3);
/// Time without an answer after which the connection is given up: a xenstored that was
/// started anew never answers what its predecessor was asked. The kernel keeps each such
/// connection until the answer comes, so not too often.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Time between two rounds that ask for all names.
const RENAMES: Duration = Duration::from_secs(5);
/// Time between two questions for what xenstore did not have.
const RETRY: Duration = Duration::from_millis(250);
/// After so many, only with the names: some domains have no UUID there, dom0 for one.
const RETRIES: u32 = 40;
/// Domains asked for until what came is shown.
const SHOW_EACH: usize = 32;
/// Time between two attempts to watch.
const WATCH_AGAIN: Duration = Duration::from_secs(10);
/// How often the watching thread looks whether it is to end.
const WATCH_POLL: Duration = Duration::from_millis(500);
/// Bytes of a name that are kept.
const MOST_NAME: usize = 256;
/// Bytes of stack of the watching thread.
const STACK: usize = 128 * 1024;

/// Kind xenstore tells of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// Its name.
    pub name: Option<Arc<str>>,
}

/// Kind is known of all domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainTable {
    /// By domid, with the generation of the record that the entry belongs to.
    pub domains: BTreeMap<u16, (u32, DomainInfo)>,
    /// Why something may be missing.
    pub trouble: Option<String>,
}

impl DomainTable {
    /// Kind is known of this domain, and not of another with its domid.
    #[must_use]
    pub fn get(&self, incarnation: Incarnation) -> Option<&DomainInfo> {
        let (generation, info) = self.domains.get(&incarnation.domid)?;
        (*generation == incarnation.generation).then_some(info)
    }
}

/// How to reach xenstored.
pub type Connect = Box<dyn Fn() -> io::Result<Xenstore> + Send + Sync>;

/// Rings when a domain came or went.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
    /// The watching thread is to end.
    ended: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.condition.notify_one();
    }

    /// Waits until it rings, at most `patience`; says whether it did.
    fn wait(&self, patience: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .condition
            .wait_timeout_while(rung, patience, |rung| !*rung);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The table and how it is kept.
pub struct Domains {
    table: Mutex<Arc<DomainTable>>,
    connect: Arc<Connect>,
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domains").finish_non_exhaustive()
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self::new(Box::new(Xenstore::connect))
    }
}

impl Domains {
    /// An empty table, to be filled over connections that `connect` makes.
    #[must_use]
    pub fn new(connect: Connect) -> Self {
        Self {
            table: Mutex::default(),
            connect: Arc::new(connect),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Arc<DomainTable>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as of now.
    #[must_use]
    pub fn table(&self) -> Arc<DomainTable> {
        Arc::clone(&self.shown())
    }

    /// Keeps the table up to date until `ledger.ended`; then ends within about a second.
    pub fn run(&self, ledger: &Ledger) {
        let bell = Arc::new(Bell::default());
        let mut asker = Asker::new(self);
        let mut watching = Watching::default();
        let mut present = Present::default();
        while !ledger.ended.load(Ordering::Relaxed) {
            if bell.wait(POLL) {
                asker.retries.clear();
            }
            present.look(ledger);
            asker.round(&present.domains, ledger);
            if asker.answered {
                watching.keep(&self.connect, &bell);
            }
        }
        bell.ended.store(true, Ordering::Relaxed);
    }
}

/// The domains that own records.
#[derive(Default)]
struct Present {
    owners: Owners,
    taken: Option<Monotonic>,
    /// In order.
    domains: Vec<Incarnation>,
}

impl Present {
    /// Takes over the latest look; as long as there is none, all stays as it was.
    fn look(&mut self, ledger: &Ledger) {
        let latest = ledger.snapshots.latest();
        let Some(snapshot) = latest.filter(|s| self.taken != Some(s.taken)) else {
            return;
        };
        self.taken = Some(snapshot.taken);
        let timers = snapshot.timers.iter().map(|(_, t)| t);
        self.domains = self.owners.sort(timers).into_keys().collect();
    }
}

/// The one who asks xenstored.
struct Asker<'a> {
    domains: &'a Domains,
    table: DomainTable,
    connection: Option<Xenstore>,
    /// It answered the last question.
    answered: bool,
    silent_since: Option<Instant>,
    /// Nothing is asked before.
    not_before: Option<Instant>,
    renames_due: Instant,
    /// How often what xenstore did not have was asked for, and when it is again.
    retries: BTreeMap<u16, (u32, Instant)>,
}

impl<'a> Asker<'a> {
    fn new(domains: &'a Domains) -> Self {
        Self {
            domains,
            table: DomainTable::default(),
            connection: None,
            answered: false,
            silent_since: None,
            not_before: None,
            renames_due: Instant::now() + RENAMES,
            retries: BTreeMap::new(),
        }
    }

    /// Asks for what is missing, forgets who is gone, and shows the table.
    fn round(&mut self, present: &[Incarnation], ledger: &Ledger) {
        let now = Instant::now();
        let there = |domid: &u16, generation: u32| {
            let same = Incarnation {
                domid: *domid,
                generation,
            };
            present.binary_search(&same).is_ok()
        };
        self.table
            .domains
            .retain(|domid, (generation, _)| there(domid, *generation));
        let known = &self.table.domains;
        self.retries.retain(|domid, _| known.contains_key(domid));
        if self.not_before.is_none_or(|at| now >= at) {
            let trouble = self.ask_all(present, now, ledger).err();
            self.tell(trouble);
        }
        self.show();
    }

    fn ask_all(
        &mut self,
        present: &[Incarnation],
        now: Instant,
        ledger: &Ledger,
    ) -> Result<(), XenstoreError> {
        let renames = now >= self.renames_due;
        let mut asked = 0;
        for incarnation in present {
            if ledger.ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.is_due(*incarnation, renames, now) {
                self.ask(*incarnation, now)?;
                asked += 1;
                if asked % SHOW_EACH == 0 {
                    self.show();
                }
            }
        }
        if renames {
            self.renames_due = now + RENAMES;
        }
        Ok(())
    }

    fn is_due(&self, incarnation: Incarnation, renames: bool, now: Instant) -> bool {
        let domid = incarnation.domid;
        match self.table.get(incarnation) {
            None => true,
            Some(info) if info.uuid.is_some() && info.name.is_some() => renames,
            Some(_) => {
                let retry = self.retries.get(&domid);
                renames || retry.is_none_or(|(tries, at)| *tries < RETRIES && now >= *at)
            }
        }
    }

    fn ask(&mut self, incarnation: Incarnation, now: Instant) -> Result<(), XenstoreError> {
        let Incarnation { domid, generation } = incarnation;
        let mut info = self.table.get(incarnation).cloned().unwrap_or_default();
        if info.uuid.is_none() {
            let vm = self.read(&format!("/local/domain/{domid}/vm"))?;
            info.uuid = vm.as_deref().and_then(uuid_of);
        }
        if let Some(mut name) = self.read(&format!("/local/domain/{domid}/name"))? {
            let fits = (0..=MOST_NAME)
                .rev()
                .find(|end| name.is_char_boundary(*end));
            name.truncate(fits.unwrap_or(0).min(name.len()));
            if info.name.as_deref() != Some(&name) {
                info.name = Some(name.into());
            }
        }
        let tries = self.retries.get(&domid).map_or(0, |(tries, _)| *tries);
        let retry = (tries.saturating_add(1), now + RETRY);
        self.retries.insert(domid, retry);
        self.table.domains.insert(domid, (generation, info));
        Ok(())
    }

    /// A value; `None` where xenstore has none: the domain is just coming or going.
    fn read(&mut self, path: &str) -> Result<Option<String>, XenstoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert((self.domains.connect)()?),
        };
        match connection.read(path, PATIENCE) {
            Ok(value) => Ok(Some(value)),
            Err(XenstoreError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes how the round went, and says what changed about it, once.
    fn tell(&mut self, trouble: Option<XenstoreError>) {
        let now = Instant::now();
        self.answered = trouble.is_none() && self.connection.is_some();
        let Some(error) = trouble else {
            if self.table.trouble.take().is_some() {
                log::info!("guests are known by UUID and name again");
            }
            (self.silent_since, self.not_before) = (None, None);
            return;
        };
        self.not_before = Some(now + BACK_OFF);
        let silent_since = *self.silent_since.get_or_insert(now);
        // The answer may come yet, unless it never will.
        let silent = matches!(error, XenstoreError::Timeout);
        if !silent || now.duration_since(silent_since) >= GIVE_UP {
            self.connection = None;
            self.silent_since = None;
        }
        if self.table.trouble.is_none() {
            log::warn!("new guests are known by domid only: {error}");
        }
        self.table.trouble = Some(error.to_string());
    }

    fn show(&self) {
        let mut shown = self.domains.shown();
        if **shown != self.table {
            *shown = Arc::new(self.table.clone());
        }
    }
}

/// The UUID in the value of /local/domain/N/vm: `/vm/<uuid>`.
fn uuid_of(vm: &str) -> Option<Uuid> {
    vm.strip_prefix("/vm/")?.get(..36)?.parse().ok()
}

/// The watching thread, as far as there is one.
#[derive(Default)]
struct Watching {
    thread: Option<JoinHandle<()>>,
    tried: Option<Instant>,
}

impl Watching {
    /// Starts the thread if there is none. To be called when xenstored has just answered.
    fn keep(&mut self, connect: &Arc<Connect>, bell: &Arc<Bell>) {
        let runs = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        if runs || self.tried.is_some_and(|at| at.elapsed() < WATCH_AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        let (connect, bell) = (Arc::clone(connect), Arc::clone(bell));
        let thread = thread::Builder::new()
            .name("domain-watch".to_owned())
            .stack_size(STACK);
        // Without it the rounds alone do the work.
        self.thread = thread
            .spawn(move || {
                if let Err(error) = watch(connect.as_ref(), &bell) {
                    log::debug!("watching domains come and go: {error}");
                }
            })
            .ok();
    }
}

fn watch(connect: &Connect, bell: &Bell) -> Result<(), XenstoreError> {
    let mut connection = connect()?;
    for path in ["@introduceDomain", "@releaseDomain"] {
        connection.watch(path, "xenwarden", PATIENCE)?;
    }
    while !bell.ended.load(Ordering::Relaxed) {
        if connection.next_event(WATCH_POLL)?.is_some() {
            bell.ring();
        }
    }
    Ok(())
}

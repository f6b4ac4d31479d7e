// SPDX-License-Identifier: GPL-2.0-only
//! All VMs behind a lock: for their threads, for requests, and for the disk.
//!
//! In: inputs from the VMs' threads, questions and orders from the control socket. Out: events, in
//! their order, to the teller and the log; the state, on disk. Under one lock a VM takes an input
//! and its events are handed over; what came of it is written after that, by a thread that may wait
//! for the disk as nobody else does: on a host whose disk is sick alarms are told all the same. The
//! disk never knows of anything that was not told. An alarm that a kill catches between the two, a
//! few milliseconds on a sound disk, was told and is forgotten. The lock is held for computing alone.

use super::config::made_up;
use super::pace::Lines;
use super::saved::{Saved, SavedVm};
use super::teller::Teller;
use super::vm::{Input, Outcome, Vm};
use crate::event::describe::plain;
use crate::event::{Guest, Kind, Severity, Uuid};
use crate::guests::alarm::{Boot, Moment, Nanoseconds, Rules};
use crate::guests::report::{AlarmReport, GuestReport, GuestsReport};
use crate::guests::{GuestRequests, RequestError};
use crate::monitor::shared_registry::now;
use crate::state::reset_reason::boot_id;
use crate::state::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a change that is no event may wait for the disk.
const SAVE_WITHIN: Duration = Duration::from_secs(1);

/// How long an order waits for the disk, and a trace before it is switched on.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of the log that the events of a VM may take in a second: a QEMU, or its guest, makes as
/// many as it likes.
const MOST_LINES: u32 = 16;
/// Between two attempts after the disk failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What is to be written.
#[derive(Debug, Default)]
struct Saving {
    /// Saves that were asked for, and up to which all is on disk.
    asked: u64,
    done: u64,
    /// The last attempt failed.
    failed: bool,
}

/// One VM, and what is known of it besides.
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    uuid: Uuid,
    /// That is what QEMU said once, or the configuration says: it stays.
    known: bool,
    vm: Vm,
    tracing: bool,
    /// Lines of the log about its events.
    lines: Lines,
    /// Why nobody can see its feeds.
    feeds_unseen: Option<String>,
    looked: Option<Instant>,
    /// Since when something that no event has told is to be on disk.
    unsaved: Option<Instant>,
}

/// All of them.
#[derive(Debug)]
pub struct Vms {
    entries: Mutex<Vec<Entry>>,
    saving: Mutex<Saving>,
    saved: Condvar,
    store: Store,
    boot_id: String,
    rules: Rules,
    teller: Teller,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn rules(&self, rules: &Rules) -> Rules {
        let mut rules = *rules;
        if self.feeds_unseen.is_some() {
            // That it does not feed cannot be known either.
            rules.boot_deadline_ns = Nanoseconds::MAX;
        }
        rules
    }

    fn guest(&self) -> Guest {
        Guest {
            uuid: Some(self.uuid),
            domid: self.vm.domid,
            name: Some(Arc::clone(&self.name)),
        }
    }

    /// What is to be on disk as soon as it is another.
    fn weighty(&self) -> impl PartialEq + use<> {
        let life = &self.vm.lifecycle;
        let boot = match life.boot {
            Boot::Awaited { .. } => 1,
            Boot::Returning { .. } => 2,
            Boot::Unfed => 3,
            Boot::Failed => 4,
            Boot::Fed => 5,
        };
        let alarm = life
            .alarm
            .map(|a| (a.phase.report(), a.expiries, a.reboots, a.acknowledged));
        let vm = self.vm.fixed();
        (
            life.state,
            boot,
            life.watchdog,
            alarm,
            vm,
            self.tracing,
            self.uuid,
        )
    }

    fn report(&self) -> GuestReport {
        let alarm = self.vm.lifecycle.alarm;
        GuestReport {
            uuid: Some(self.uuid),
            name: Some(self.name.as_ref().to_owned()),
            domid: self.vm.domid,
            state: self.vm.state(),
            slots: Vec::new(),
            alarm: alarm.map(|alarm| AlarmReport {
                phase: alarm.phase.report(),
                raised: alarm.raised,
                expiries: alarm.expiries,
                reboots: alarm.reboots,
                acknowledged: alarm.acknowledged,
            }),
            boot_failed: self.vm.lifecycle.boot_failed(),
            feeds_unseen: self.feeds_unseen.clone(),
        }
    }
}

impl Vms {
    /// The VMs of these names, as they were kept in `store`. Blocks as long as the disk does.
    #[must_use]
    pub fn open(
        names: &[(String, Option<Uuid>)],
        store: Store,
        rules: Rules,
        teller: Teller,
    ) -> Self {
        let (saved, aside) = store.load::<Saved>();
        if let Some(aside) = aside {
            log::warn!("{}", plain(&aside.describe()));
        }
        let (at, boot_id) = (now(), boot_id());
        let mut kept =
            saved.map_or_else(BTreeMap::new, |saved| saved.restore(&boot_id, at, &rules));
        let mut entries = Vec::new();
        let mut said = Vec::new();
        // What the configuration says is nobody else's, whatever a QEMU once said.
        let mut taken: BTreeSet<Uuid> = names.iter().filter_map(|(_, uuid)| *uuid).collect();
        for (name, uuid) in names {
            let (kept, outcomes) = kept.remove(name).unzip();
            let (known, tracing, vm) = kept.map_or((None, false, None), |kept: SavedVm| {
                (Some(kept.uuid), kept.tracing, Some(kept.vm))
            });
            let known = known.filter(|known| *known != made_up(name) && taken.insert(*known));
            let known = uuid.or(known);
            entries.push(Entry {
                name: name.as_str().into(),
                uuid: known.unwrap_or_else(|| made_up(name)),
                known: known.is_some(),
                lines: Lines::new(MOST_LINES),
                vm: vm.unwrap_or_else(|| Vm::new(at.ns)),
                tracing,
                feeds_unseen: None,
                looked: None,
                unsaved: None,
            });
            said.push(outcomes.unwrap_or_default());
        }
        for (name, (lost, _)) in kept
            .iter()
            .filter(|(_, (lost, _))| lost.vm.lifecycle.alarm.is_some())
        {
            log::warn!(
                "{name} ({}) is not configured any more: its alarm is forgotten",
                lost.uuid
            );
        }
        let vms = Self {
            entries: Mutex::new(entries),
            saving: Mutex::default(),
            saved: Condvar::new(),
            store,
            boot_id,
            rules,
            teller,
        };
        for (entry, said) in lock(&vms.entries).iter_mut().zip(said) {
            vms.say(entry, said);
        }
        vms
    }

    fn say(&self, entry: &mut Entry, said: Vec<Outcome>) {
        let now = Instant::now();
        let left_out = entry.lines.left_out(now);
        if left_out > 0 {
            log::warn!("{}: {left_out} more lines like these", entry.name);
        }
        for outcome in said {
            match outcome {
                Outcome::Note(note) => {
                    if entry.lines.may_say(now) {
                        log::warn!("{}: {}", entry.name, note.text());
                    }
                }
                Outcome::Event(what) => {
                    if entry.lines.may_say(now) {
                        log_event(&entry.name, &what);
                    }
                    self.teller.tell(entry.guest(), what);
                }
            }
        }
    }

    /// VM `n` takes inputs, one after the other. The disk is to know at once of what an event told,
    /// else within a second, as a guest may arm and disarm for ever. Does not wait for it.
    pub fn step(&self, n: usize, inputs: &[Input]) {
        let (at, now) = (now(), Instant::now());
        let mut due = false;
        let changed = self.change(n, |entry| {
            let rules = entry.rules(&self.rules);
            let mut said = Vec::new();
            for input in inputs {
                said.extend(entry.vm.step(at, *input, &rules));
            }
            entry.looked = Some(now);
            let waited = entry
                .unsaved
                .is_some_and(|since| now - since >= SAVE_WITHIN);
            due = !said.is_empty() || waited;
            self.say(entry, said);
        });
        let _ = self.change(n, |entry| {
            if due {
                entry.unsaved = None;
            } else if changed {
                entry.unsaved.get_or_insert(now);
            }
        });
        if due {
            self.ask_to_save();
        }
    }

    /// Changes what is known of VM `n`; whether that is to be on disk.
    fn change(&self, n: usize, change: impl FnOnce(&mut Entry)) -> bool {
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(n) else {
            return false;
        };
        let before = entry.weighty();
        change(entry);
        before != entry.weighty()
    }

    /// The QEMU of VM `n` says that its guest is this one. The first that it says stays, and what
    /// another VM is none can become: whoever has a QEMU in hand passes for no other guest.
    ///
    /// # Errors
    /// Why it is not that guest.
    pub fn claim(&self, n: usize, said: Uuid) -> Result<(), String> {
        let mut entries = lock(&self.entries);
        let mut others = entries.iter().enumerate().filter(|(m, _)| *m != n);
        if let Some((_, other)) = others.find(|(_, other)| other.uuid == said) {
            return Err(format!(
                "it says that it is guest {said}, which is {}",
                other.name
            ));
        }
        let Some(entry) = entries.get_mut(n) else {
            return Ok(());
        };
        if entry.known && entry.uuid != said {
            return Err(format!(
                "it says that it is guest {said}, and was {} before: write uuid = \"{said}\" into \
                 its [[vm]] and restart if that is right",
                entry.uuid
            ));
        }
        let changed = !std::mem::replace(&mut entry.known, true);
        entry.uuid = said;
        drop(entries);
        if changed {
            self.ask_to_save();
        }
        Ok(())
    }

    /// Why nobody can see feeds of VM `n`; none where they can be seen.
    pub fn set_feeds_unseen(&self, n: usize, why: Option<String>) {
        let _ = self.change(n, |entry| entry.feeds_unseen = why);
    }

    /// Its domain, where the hypervisor has one.
    pub fn set_domain(&self, n: usize, domid: u16) {
        let _ = self.change(n, |entry| entry.vm.domid = domid);
    }

    /// Its trace is switched on, or off: on disk before it is on, unless that takes too long.
    pub fn set_tracing(&self, n: usize, tracing: bool) {
        if self.change(n, |entry| entry.tracing = tracing) {
            let _ = self.save_within(TIMEOUT);
        }
    }

    /// Whether its trace was left on.
    #[must_use]
    pub fn is_tracing(&self, n: usize) -> bool {
        lock(&self.entries)
            .get(n)
            .is_some_and(|entry| entry.tracing)
    }

    /// Whether somebody needs to know when its guest feeds.
    #[must_use]
    pub fn needs_feeds(&self, n: usize) -> bool {
        lock(&self.entries)
            .get(n)
            .is_some_and(|entry| entry.vm.needs_feeds())
    }

    /// Its guest.
    #[must_use]
    pub fn uuid(&self, n: usize) -> Option<Uuid> {
        lock(&self.entries).get(n).map(|entry| entry.uuid)
    }

    /// Writes the state whenever that is asked for: a thread's life. Blocks as long as the disk does.
    pub fn save_for_ever(&self) {
        loop {
            let mut saving = lock(&self.saving);
            while saving.asked == saving.done {
                saving = self
                    .saved
                    .wait(saving)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let asked = saving.asked;
            drop(saving);
            let written = self.write();
            let failed = written.is_err();
            let mut saving = lock(&self.saving);
            let before = std::mem::replace(&mut saving.failed, failed);
            match written {
                Ok(()) => saving.done = asked,
                Err(error) if !before => {
                    let directory = self.store.directory().display();
                    log::error!("{directory}: the alarms are not saved: {error}");
                }
                Err(_) => {}
            }
            drop(saving);
            self.saved.notify_all();
            if failed {
                thread::sleep(AGAIN);
            }
        }
    }

    /// Writes the state, by the thread that calls.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self) -> std::io::Result<()> {
        let at = now();
        let saved = Saved {
            version: 1,
            boot_id: self.boot_id.clone(),
            monotonic_ns: at.ns,
            time: at.wall,
            vms: self.kept(),
        };
        self.store.save(&saved)
    }

    fn ask_to_save(&self) -> u64 {
        let mut saving = lock(&self.saving);
        saving.asked += 1;
        self.saved.notify_all();
        saving.asked
    }

    /// Has the state written; whether it is on disk. Blocks for no longer than `timeout`.
    #[must_use]
    pub fn save_within(&self, timeout: Duration) -> bool {
        let asked = self.ask_to_save();
        let waiting = |saving: &mut Saving| saving.done < asked && !saving.failed;
        let waited = self
            .saved
            .wait_timeout_while(lock(&self.saving), timeout, waiting);
        let (saving, _) = waited.unwrap_or_else(PoisonError::into_inner);
        saving.done >= asked
    }

    fn kept(&self) -> BTreeMap<String, SavedVm> {
        let entries = lock(&self.entries);
        let seen = entries.iter().filter(|entry| entry.vm.is_seen());
        let kept = seen.map(|entry| {
            let saved = SavedVm {
                uuid: entry.uuid,
                tracing: entry.tracing,
                vm: entry.vm.clone(),
            };
            (entry.name.as_ref().to_owned(), saved)
        });
        kept.collect()
    }

    fn order(&self, uuid: Uuid, input: Input) -> Result<(), RequestError> {
        let at: Moment = now();
        {
            let mut entries = lock(&self.entries);
            let is_it = |entry: &&mut Entry| entry.uuid == uuid && entry.vm.is_seen();
            let entry = entries
                .iter_mut()
                .find(is_it)
                .ok_or(RequestError::NoGuest)?;
            if entry.vm.lifecycle.alarm.is_none() {
                return Err(RequestError::NoAlarm);
            }
            let rules = entry.rules(&self.rules);
            let said = entry.vm.step(at, input, &rules);
            self.say(entry, said);
        }
        let saved = self.save_within(TIMEOUT);
        saved.then_some(()).ok_or(RequestError::NotSaved)
    }
}

fn log_event(name: &str, what: &Kind) {
    let level = match what.severity() {
        Severity::Info => log::Level::Info,
        Severity::Warning => log::Level::Warn,
        Severity::Error => log::Level::Error,
    };
    log::log!(
        level,
        "{name}: {} [{}]",
        plain(&what.describe()),
        what.kind()
    );
}

impl GuestRequests for Vms {
    fn report(&self) -> GuestsReport {
        let entries = lock(&self.entries);
        let seen = entries.iter().filter(|entry| entry.vm.is_seen());
        // The oldest look counts; a VM at which nobody has looked yet makes it unknown.
        let all_looked = entries.iter().all(|entry| entry.looked.is_some());
        let oldest = entries.iter().filter_map(|entry| entry.looked).min();
        let age = oldest
            .filter(|_| all_looked)
            .map(|at| at.elapsed().as_millis());
        GuestsReport {
            version: 1,
            guests: seen.map(Entry::report).collect(),
            evidence_age_ms: age.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            names_trouble: None,
            no_table: None,
        }
    }

    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        self.order(uuid, Input::Acknowledge(uid))
    }

    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        log::info!("user {uid} closes the alarm of guest {uuid}");
        self.order(uuid, Input::Close)
    }

    /// A QEMU that is gone says what it ended by; nobody tells this process of other hosts.
    fn fed_elsewhere(&self, _: Uuid, _: u32) -> Result<(), RequestError> {
        Err(RequestError::MaybeHere)
    }
}

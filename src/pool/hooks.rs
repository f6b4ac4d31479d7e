// SPDX-License-Identifier: GPL-2.0-only
//! Which hook the leader runs next.
//!
//! In: what is known of the pool, and how runs end. Out: jobs, one at a time for each hook, each host's events in
//! their order; and what to write of them. How far a hook has come with a host's events is in the log of whoever ran
//! it ([`HookDone`]), so whoever leads next goes on after the furthest of these. A run that was not written down is run
//! again, with the same key, the event's position: at least once, and whoever must not act twice goes by the key.
//! A hook that nobody ever ran begins with what happens from then on. Pure.

use super::record::{At, HookDone, HostId, Position};
use super::sightings::is_repeated;
use super::store::Store;
use super::told::{self, Filter};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Events that are not for a hook before its progress is written all the same: so that whoever leads next finds
/// where to go on.
const NOTE_EVERY: usize = 200;

/// A hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name, by which its progress is known.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Which events it is for.
    pub filter: Filter,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The hook's place in the configuration.
    pub hook: usize,
    /// The key: the same in each run for the same event.
    pub key: At,
    /// The event.
    pub event: Map<String, Value>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Run a hook.
    Run(Job),
    /// Write that its progress has come so far.
    Note(HookDone),
}

#[derive(Clone, Debug, Default)]
struct Progress {
    /// Looked at up to here.
    looked: BTreeMap<HostId, Position>,
    /// Events that were passed over since the last that was written down, by host.
    passed: BTreeMap<HostId, usize>,
    /// Hosts whose place is to be written down, so that whoever leads next does not begin before it.
    begins: BTreeMap<HostId, Position>,
    running: Option<At>,
}

/// What the leader does about hooks.
#[derive(Clone, Debug, Default)]
pub struct Agenda {
    rules: Vec<Rule>,
    /// None: this host does not lead.
    progress: Option<Vec<Progress>>,
    /// Events that a hook was not run for, as they were no longer kept when somebody led again.
    pub missed: u64,
}

/// The furthest that anybody has come with a hook, by host.
fn written(store: &Store, hook: &str) -> BTreeMap<HostId, Position> {
    let mut furthest: BTreeMap<HostId, Position> = BTreeMap::new();
    for (_, log) in store.hosts() {
        for (host, upto) in log.state().hooks.get(hook).into_iter().flatten() {
            let known = furthest.entry(*host).or_default();
            *known = (*known).max(*upto);
        }
    }
    furthest
}

impl Agenda {
    /// With these hooks.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Whether there is any hook.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// This host leads, or does no longer. A run that has begun ends and is written down whoever leads then.
    pub fn lead(&mut self, leads: bool, store: &Store) {
        if leads == self.progress.is_some() {
            return;
        }
        self.progress = leads.then(|| {
            let begin = |rule: &Rule| {
                let looked = written(store, &rule.name);
                Progress {
                    looked,
                    ..Progress::default()
                }
            };
            self.rules.iter().map(begin).collect()
        });
    }

    /// What is to be done now, if anything.
    pub fn next(&mut self, store: &Store) -> Option<Next> {
        let progress = self.progress.as_mut()?;
        for (number, (rule, progress)) in self.rules.iter().zip(progress).enumerate() {
            if progress.running.is_some() {
                continue;
            }
            let next = look(number, rule, progress, store, &mut self.missed);
            if let Some(next) = next {
                if let Next::Run(job) = &next {
                    progress.running = Some(job.key);
                }
                return Some(next);
            }
        }
        None
    }

    /// A run has ended; gives what is to be written of it.
    pub fn ended(&mut self, job: &Job, result: &Result<(), String>) -> Option<HookDone> {
        let rule = self.rules.get(job.hook)?;
        if let Some(progress) = self.progress.as_mut().and_then(|all| all.get_mut(job.hook)) {
            if progress.running == Some(job.key) {
                progress.running = None;
            }
            let looked = progress.looked.entry(job.key.host).or_default();
            *looked = (*looked).max(job.key.position);
            progress.passed.remove(&job.key.host);
        }
        Some(HookDone {
            hook: rule.name.clone(),
            upto: job.key,
            ran: true,
            error: result.as_ref().err().map(|why| super::record::short(why)),
        })
    }
}

fn look(
    number: usize,
    rule: &Rule,
    progress: &mut Progress,
    store: &Store,
    missed: &mut u64,
) -> Option<Next> {
    let note = |host, position| {
        Next::Note(HookDone {
            hook: rule.name.clone(),
            upto: At { host, position },
            ran: false,
            error: None,
        })
    };
    if progress.looked.is_empty() {
        // Nobody ever ran it: it begins with what happens from now on.
        progress.looked = store.positions();
        progress.begins = store.positions();
    }
    if let Some((host, position)) = progress.begins.pop_first() {
        return Some(note(host, position));
    }
    for (host, log) in store.hosts() {
        // A host that is new is followed from its beginning.
        let base = log.base().position;
        let looked = *progress.looked.entry(host).or_insert(base);
        if looked < base {
            *missed = missed.saturating_add(1);
            progress.looked.insert(host, base);
        }
        for stored in log.after(looked.max(base)).into_iter().flatten() {
            let key = stored.at();
            let event = told::event(store, stored).filter(|e| rule.filter.wants(e));
            let event = event.filter(|e| !is_repeated(store, e, &progress.looked));
            if let Some(event) = event {
                return Some(Next::Run(Job {
                    hook: number,
                    key,
                    event,
                }));
            }
            progress.looked.insert(host, key.position);
            // The hook's own progress would be noted for ever.
            let counts = !matches!(stored.record().what, super::record::What::Hook(_));
            let passed = progress.passed.entry(host).or_default();
            *passed = passed.saturating_add(usize::from(counts));
            if *passed >= NOTE_EVERY {
                *passed = 0;
                return Some(note(host, key.position));
            }
        }
    }
    None
}

// SPDX-License-Identifier: GPL-2.0-only
//! The names of domains, from xenstore.
//!
//! In: the domains that own guest watchdogs. Out: a map from domid to name. A thread of
//! its own asks, so that a xenstored that does not answer delays nobody; domains whose
//! name is not known stay watched by domid.

use crate::ledger::Ledger;
use crate::xenstore::{Xenstore, XenstoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Time between two rounds; a new guest is without a name for as long.
const ROUND: Duration = Duration::from_secs(1);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rounds between two attempts after xenstored did not answer.
const ROUNDS_OFF: u32 = 10;
/// Rounds after which a known name is asked for again: domains can be renamed.
const ROUNDS_KNOWN: u32 = 30;

/// What is known of the names.
#[derive(Debug, Default)]
pub struct Names {
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// domid to (record generation, name).
    names: BTreeMap<u16, (u32, String)>,
    /// Why names may be missing.
    trouble: Option<String>,
}

impl Names {
    /// The names as last read, and why some may be missing.
    #[must_use]
    pub fn get(&self) -> (BTreeMap<u16, String>, Option<String>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let names = known.names.iter();
        let names = names.map(|(domid, (_, name))| (*domid, name.clone()));
        (names.collect(), known.trouble.clone())
    }

    fn set(&self, known: &Known) {
        known.clone_into(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Keeps the names up to date until the kicker has ended.
    pub fn run(&self, ledger: &Ledger) {
        let mut xenstore = None;
        let mut known = Known::default();
        let mut rounds_off = 0;
        let mut age = 0;
        while !ledger.ended.load(Ordering::Relaxed) {
            thread::sleep(ROUND);
            age += 1;
            if rounds_off > 0 {
                rounds_off -= 1;
                continue;
            }
            if age >= ROUNDS_KNOWN {
                known.names.clear();
                age = 0;
            }
            let trouble = round(&mut xenstore, &domains(ledger), &mut known.names);
            match (&known.trouble, &trouble) {
                (None, Some(why)) => {
                    log::warn!("guests are known by domid only: {why}");
                }
                (Some(_), None) => log::info!("guests are known by name again"),
                _ => {}
            }
            if trouble.is_some() {
                rounds_off = ROUNDS_OFF;
            }
            known.trouble = trouble;
            self.set(&known);
        }
    }
}

/// The domains that own records, each with the generation of its record: a reused domid
/// is another domain.
fn domains(ledger: &Ledger) -> BTreeSet<(u16, u32)> {
    let Some(snapshot) = ledger.snapshots.latest() else {
        return BTreeSet::new();
    };
    let timers = snapshot.timers.iter();
    timers.map(|(_, t)| (t.domid, t.generation)).collect()
}

/// Asks for every name that is not known yet and forgets those that are gone. Gives what
/// went wrong.
fn round(
    xenstore: &mut Option<Xenstore>,
    domains: &BTreeSet<(u16, u32)>,
    names: &mut BTreeMap<u16, (u32, String)>,
) -> Option<String> {
    names.retain(|domid, (generation, _)| domains.contains(&(*domid, *generation)));
    for (domid, generation) in domains {
        if names.contains_key(domid) {
            continue;
        }
        match name_of(xenstore, *domid) {
            Ok(name) => {
                names.insert(*domid, (*generation, name));
            }
            // The domain has none, or is just going: that is no trouble.
            Err(XenstoreError::Refused(_)) => {}
            // The connection stays: the answer may come yet, and a new one would have the
            // kernel keep both.
            Err(error @ XenstoreError::Timeout) => return Some(error.to_string()),
            Err(error) => {
                *xenstore = None;
                return Some(error.to_string());
            }
        }
    }
    None
}

fn name_of(xenstore: &mut Option<Xenstore>, domid: u16) -> Result<String, XenstoreError> {
    let connection = match xenstore {
        Some(connection) => connection,
        None => xenstore.insert(Xenstore::connect()?),
    };
    connection.read(&format!("/local/domain/{domid}/name"), PATIENCE)
}

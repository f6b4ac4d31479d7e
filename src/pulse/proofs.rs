// SPDX-License-Identifier: GPL-2.0-only
//! When the peers of heartbeats with a lease were last proved to live: what one run leaves to the next of the same boot.
//!
//! In: these moments, as a run stops in order. Out: the same to the run after it, once, so that this renews a lease for as
//! long as the one before would have, and no longer: a lease that was given back for a restart at the
//! beginning of a cut lapses as if there had been no restart. Never: a moment of another boot, or one that is still to come.

use super::plan::BeatPlan;
use crate::state::reset_reason::boot_id;
use crate::state::store::{Store, Stored};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Moments of CLOCK_MONOTONIC, ns, each by the heartbeat, its peer and its lease.
pub type Moments = BTreeMap<String, u64>;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// The host's boot, as in /proc/sys/kernel/random/boot_id.
    boot_id: String,
    moments: Moments,
}

impl Stored for Saved {
    const FILE: &'static str = "proofs.json";
    const VERSION: u32 = 1;
}

/// Who takes up what is proved, in a run after this one: the same heartbeat with the same peer and lease; none: no lease depends on it.
#[must_use]
pub fn heir(plan: &BeatPlan) -> Option<String> {
    let lease = plan.lease.as_ref()?;
    Some(format!("{} {} {lease}", plan.name, plan.node))
}

/// Where a program keeps them.
#[derive(Debug)]
pub struct Proofs {
    store: Store,
    boot_id: String,
}

impl Proofs {
    /// Those of the program `name`, beside its status socket in `directory`.
    #[must_use]
    pub fn of(directory: &Path, name: &str) -> Self {
        Self {
            store: Store::new(&directory.join(format!("{name}.state"))),
            boot_id: boot_id(),
        }
    }

    /// What the run before has left, as of `now`, ns. It is gone then: a run that crashes leaves nothing.
    #[must_use]
    pub fn take(&self, now: u64) -> Moments {
        let saved = self.store.peek::<Saved>();
        let removed = self.store.remove::<Saved>();
        match (saved, removed) {
            (Ok(saved), Ok(())) => {
                let saved = saved.filter(|saved| saved.boot_id == self.boot_id);
                let moments = saved.map(|saved| saved.moments).unwrap_or_default();
                moments.into_iter().filter(|(_, at)| *at <= now).collect()
            }
            (Err(why), _) => {
                log::warn!("{why}: leases wait for their peers' first pulses");
                Moments::new()
            }
            // It would be taken again by each run.
            (Ok(_), Err(why)) => {
                let place = self.store.directory().display();
                log::warn!("{place}: {why}: leases wait for their peers' first pulses");
                Moments::new()
            }
        }
    }

    /// Leaves `moments` to the next run. Where that cannot be, the next one waits for pulses.
    pub fn leave(&self, moments: Moments) {
        if moments.is_empty() || self.boot_id.is_empty() {
            return;
        }
        let saved = Saved {
            version: Saved::VERSION,
            boot_id: self.boot_id.clone(),
            moments,
        };
        if let Err(why) = self.store.save(&saved) {
            let place = self.store.directory().display();
            log::warn!("{place}: {why}: the next run waits for pulses before it renews a lease");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_is_taken_up_of_another_boot_or_of_a_moment_to_come_or_twice() {
        let directory =
            std::env::temp_dir().join(format!("xenwarden-proofs-{}", std::process::id()));
        let proofs = Proofs::of(&directory, "pair");
        let moments = || Moments::from([("before".to_owned(), 10), ("to come".to_owned(), 30)]);
        let before = Moments::from([("before".to_owned(), 10)]);
        proofs.leave(moments());
        assert_eq!(proofs.take(20), before);
        assert_eq!(proofs.take(20), Moments::new());
        proofs.leave(moments());
        let other = Proofs {
            boot_id: "another".to_owned(),
            ..Proofs::of(&directory, "pair")
        };
        assert_eq!(other.take(20), Moments::new());
        fs::write(directory.join("pair.state/proofs.json"), "{").expect("written");
        assert_eq!(proofs.take(20), Moments::new());
        assert!(!directory.join("pair.state/proofs.json").exists());
        fs::remove_dir_all(directory).expect("removed");
    }
}

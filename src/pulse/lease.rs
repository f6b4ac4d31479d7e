// SPDX-License-Identifier: GPL-2.0-only
//! A lease on the host's life, which a heartbeat renews while it holds: while its peer is proved to live.
//!
//! In: how old the last proof is, where the heartbeat holds; time. Out: `WATCHDOG=1` to the lease's socket once a second, and `STOPPING=1`
//! when the program stops in order (sd_notify(3)), if the last proof is as young as in health. Never: a renewal for a heartbeat that is lost or was not heard yet, or a
//! release of its lease; a release in a cut that is older than two intervals, which the timeout need not have noticed.

use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use crate::sys::notify::Notifier;
use std::path::Path;

/// From one renewal to the next.
const PERIOD_NS: u64 = NS_PER_S;

/// The way to the monitor's socket of one lease.
#[derive(Debug)]
pub struct Lease {
    name: String,
    notifier: Notifier,
    renew_at: u64,
    /// A proof that is younger is as in health, ns.
    young_ns: u64,
}

/// Why a lease is not given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its heartbeat does not hold: that does not change for a stop.
    Lost(String),
    /// It may be at another moment.
    NotYet(String),
}

impl Lease {
    /// The lease `name`, whose socket is in `directory`, of a heartbeat with this interval, ns. The first renewal is due now.
    #[must_use]
    pub fn new(directory: &Path, name: &str, interval_ns: u64, now: u64) -> Self {
        Self {
            name: name.to_owned(),
            notifier: Notifier::to(directory.join(name).as_os_str()),
            renew_at: now,
            young_ns: interval_ns.saturating_mul(2),
        }
    }

    /// When [`Lease::due`] is wanted, ns.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.renew_at
    }

    /// Renews it, if it is due and the heartbeat holds.
    pub fn due(&mut self, now: u64, holds: bool) {
        if now < self.renew_at {
            return;
        }
        if holds {
            // A socket that is not there, or has no room, misses this one; the next is due soon.
            let _ = self.notifier.tell("WATCHDOG=1");
        }
        self.renew_at = now.saturating_add(PERIOD_NS);
    }

    /// It is not renewed any more: the program stops.
    pub fn end_renewals(&mut self) {
        self.renew_at = u64::MAX;
    }

    /// Gives it back, if the peer was proved to live less than two intervals ago: a stop forgives no loss, none that an
    /// earlier run of this program has noticed, and none that nobody has noticed yet. `proof_ns`: how old the last proof is; none: the heartbeat
    /// does not hold.
    ///
    /// # Errors
    /// Why it was not given back.
    pub fn release(&self, proof_ns: Option<u64>) -> Result<(), Kept> {
        let (name, young_ms) = (&self.name, self.young_ns / NS_PER_MS);
        match proof_ns {
            None => Err(Kept::Lost(format!(
                "lease {name}: NOT given back: its peer is not proved to live; where it was renewed it lapses"
            ))),
            Some(age) if age >= self.young_ns => Err(Kept::NotYet(format!(
                "lease {name}: NOT given back: the last proof that its peer lives is {} ms old, and must be younger than two intervals ({young_ms} ms): it lapses",
                age / NS_PER_MS
            ))),
            Some(_) => {
                let delivered = self.notifier.deliver("STOPPING=1");
                delivered.map_err(|error| {
                    Kept::NotYet(format!("lease {name}: NOT given back: {error}: it lapses"))
                })?;
                log::info!("lease {name}: given back");
                Ok(())
            }
        }
    }
}

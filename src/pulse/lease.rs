// SPDX-License-Identifier: GPL-2.0-only
//! A lease on the host's life, which a heartbeat renews while it holds: while its peer is proved to live.
//!
//! In: whether it holds; time. Out: `WATCHDOG=1` to the lease's socket once a second, and `STOPPING=1` when the program stops in
//! order (sd_notify(3)). Never: a renewal for a heartbeat that is lost or was not heard yet, or a release of its lease.

use crate::sys::clock::NS_PER_S;
use crate::sys::notify::Notifier;
use std::io;
use std::path::Path;

/// From one renewal to the next.
const PERIOD_NS: u64 = NS_PER_S;

/// The way to the monitor's socket of one lease.
#[derive(Debug)]
pub struct Lease {
    notifier: Notifier,
    renew_at: u64,
}

impl Lease {
    /// The lease `name`, whose socket is in `directory`. The first renewal is due now.
    #[must_use]
    pub fn new(directory: &Path, name: &str, now: u64) -> Self {
        Self {
            notifier: Notifier::to(directory.join(name).as_os_str()),
            renew_at: now,
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

    /// Gives it back. Only for a heartbeat that holds: a stop forgives no loss, and none that an
    /// earlier run of this program has noticed.
    ///
    /// # Errors
    /// Why the monitor has not taken it: it may at another time.
    pub fn release(&self) -> io::Result<()> {
        self.notifier.deliver("STOPPING=1")
    }
}

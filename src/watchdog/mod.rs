// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: what is kicked, and what the kernel tells of it.
//!
//! In: kicks. Out: a host that is reset when they stop. The guard holds the armed device
//! and nobody else touches it.

pub mod candidates;
pub mod device;
pub mod driver;
pub mod error;
pub mod fast;
pub mod fence;
pub mod holder;
pub mod quirks;
pub mod set;
pub mod sysfs;

use std::io;

/// An armed host watchdog.
pub trait HostWatchdog {
    /// Kicks: puts the reset off by one timeout. Allocates nothing. Blocks for as long as
    /// the driver does.
    ///
    /// # Errors
    /// The device's errno; the reset then draws nearer, which is as it should be.
    fn kick(&mut self) -> io::Result<()>;

    /// Disarms and lets go of it.
    ///
    /// # Errors
    /// When the device cannot be disarmed: it is then armed still and will fire.
    fn disarm(self) -> io::Result<()>;

    /// The end of a guard, at which everything is served: as [`disarm`](Self::disarm), but a
    /// device that may run on does so with a long timeout, so that another guard has the time
    /// to come, or a shutdown that hangs is reset.
    fn let_go(self, _why: Ends) -> LetGo
    where
        Self: Sized,
    {
        self.disarm().into()
    }

    /// Whether it ran before this guard had it, kicked by the guard before.
    fn ran_on(&self) -> bool {
        false
    }
}

/// Why a guard ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Somebody stops it: another one comes, or the host is to live without.
    Stopped,
    /// The host shuts down.
    Shutdown,
}

/// With which timeout a host watchdog runs on once its guard has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunsOn {
    /// Where nobody can disarm it, seconds.
    pub stopped_s: u32,
    /// While the host shuts down, seconds; 0: it is disarmed.
    pub shutdown_s: u32,
}

impl RunsOn {
    fn for_a_shutdown(self) -> impl Iterator<Item = u32> {
        halves(self.shutdown_s).take(3)
    }

    /// What a shutdown in order is to have at least, seconds; none: it is disarmed.
    #[must_use]
    pub fn least_at_a_shutdown(self) -> Option<u32> {
        self.for_a_shutdown().min()
    }

    /// What is tried at a shutdown with a device that does `own_s`, seconds, the longest first: what
    /// is longer, and its own if that is enough.
    pub fn at_a_shutdown(self, own_s: u32) -> impl Iterator<Item = u32> {
        let longer = self.for_a_shutdown().filter(move |s| *s > own_s);
        let is_enough = self.least_at_a_shutdown().is_some_and(|s| own_s >= s);
        longer.chain(is_enough.then_some(own_s))
    }
}

/// A timeout that a device may not do, its half, its quarter and so on, down to 1.
fn halves(timeout_s: u32) -> impl Iterator<Item = u32> {
    let halves = (0..).map_while(move |n| timeout_s.checked_shr(n));
    halves.take_while(|s| *s != 0)
}

/// What has become of a host watchdog that a guard let go of.
#[derive(Debug)]
pub enum LetGo {
    /// It is disarmed.
    Disarmed,
    /// The service manager keeps it open for the next guard, which takes it over as it runs;
    /// where none comes it is disarmed as soon as the manager closes it.
    Kept {
        /// Until then it resets the host after so many seconds at the earliest.
        after_s: u32,
    },
    /// It runs on, so that a shutdown which hangs is reset.
    Shutdown {
        /// Within so many seconds.
        within_s: u32,
    },
    /// It could not be disarmed.
    Runs {
        /// Why.
        error: io::Error,
        /// It resets the host within so many seconds; none: as it did before.
        within_s: Option<u32>,
    },
}

impl From<io::Result<()>> for LetGo {
    /// Of what was to be disarmed.
    fn from(disarmed: io::Result<()>) -> Self {
        match disarmed {
            Ok(()) => Self::Disarmed,
            Err(error) => Self::Runs {
                error,
                within_s: None,
            },
        }
    }
}

impl LetGo {
    /// Of two the one that resets the host, and sooner.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |one: &Self| match one {
            Self::Runs { within_s, .. } => (3, u32::MAX - within_s.unwrap_or(0)),
            Self::Shutdown { within_s } => (2, u32::MAX - within_s),
            Self::Kept { after_s } => (1, u32::MAX - after_s),
            Self::Disarmed => (0, 0),
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

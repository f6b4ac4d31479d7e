// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: what is kicked, and what the kernel tells of it.
//!
//! In: kicks. Out: a host that is reset when they stop. The guard holds the armed device
//! and nobody else touches it.

pub mod candidates;
pub mod device;
pub mod error;
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
}

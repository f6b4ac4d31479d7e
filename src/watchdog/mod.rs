// SPDX-License-Identifier: GPL-2.0-only
//! Barrels: the ways to bring the host down. So far one, the hardware.
//!
//! In: kicks. Out: a host that is reset when they stop. The kicker holds the barrel and
//! nobody else touches it.

pub mod device;
pub mod sysfs;

use std::io;

/// An armed barrel.
pub trait Barrel: Send {
    /// Kicks: puts the reset off by one timeout. Allocates nothing.
    ///
    /// # Errors
    /// The device's errno; the reset then draws nearer, which is as it should be.
    fn kick(&mut self) -> io::Result<()>;

    /// Disarms and lets go of it.
    ///
    /// # Errors
    /// When the device cannot be disarmed: it is then armed still and will fire.
    fn disarm(self: Box<Self>) -> io::Result<()>;
}

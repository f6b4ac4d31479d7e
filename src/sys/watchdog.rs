// SPDX-License-Identifier: GPL-2.0-only
//! The Linux watchdog device.
//!
//! Source: Linux `include/uapi/linux/watchdog.h` and
//! `Documentation/watchdog/watchdog-api.rst`. Opening the device ARMS it; closing it
//! without the magic character leaves it armed (and, in the watchdog core, pings it
//! once more). So nothing here opens a device merely to look at it: see
//! [`crate::watchdog::sysfs`] for that.

use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `WDIOF_SETTIMEOUT`: the timeout can be set.
pub const WDIOF_SETTIMEOUT: u32 = 0x0080;
/// `WDIOF_MAGICCLOSE`: writing 'V' before closing disarms.
pub const WDIOF_MAGICCLOSE: u32 = 0x0100;
/// `WDIOF_KEEPALIVEPING`: WDIOC_KEEPALIVE kicks.
pub const WDIOF_KEEPALIVEPING: u32 = 0x8000;

/// `WDIOS_DISABLECARD`, `WDIOS_ENABLECARD`: what WDIOC_SETOPTIONS does.
const WDIOS_DISABLECARD: libc::c_int = 1;
const WDIOS_ENABLECARD: libc::c_int = 2;

/// `struct watchdog_info` (uapi/linux/watchdog.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchdogInfo {
    /// The WDIOF_ bits.
    pub options: u32,
    /// The firmware's version, driver's choice.
    pub firmware_version: u32,
    /// See [`WatchdogInfo::identity`].
    pub text: [u8; 32],
}

impl WatchdogInfo {
    /// The driver's name for the device.
    #[must_use]
    pub fn identity(&self) -> String {
        let text = self.text.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).trim().to_owned()
    }
}

mod ioctls {
    #![allow(missing_docs, clippy::undocumented_unsafe_blocks)]
    use super::WatchdogInfo;
    nix::ioctl_read!(getsupport, b'W', 0, WatchdogInfo);
    nix::ioctl_read!(setoptions, b'W', 4, libc::c_int);
    nix::ioctl_read!(keepalive, b'W', 5, libc::c_int);
    nix::ioctl_readwrite!(settimeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(gettimeout, b'W', 7, libc::c_int);
}

/// An open, therefore armed, watchdog device.
#[derive(Debug)]
pub struct WatchdogDevice {
    file: File,
}

impl WatchdogDevice {
    /// Opens `path` and so arms it with whatever timeout the driver has set.
    ///
    /// # Errors
    /// The errno of open(2): EBUSY when another process holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self { file })
    }

    /// One that is open already, and runs.
    #[must_use]
    pub fn running(descriptor: OwnedFd) -> Self {
        let file = descriptor.into();
        Self { file }
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Kicks by writing, and takes back a magic character that was written before, so that a
    /// close does not disarm: WDIOC_KEEPALIVE leaves it be (Linux `watchdog_write()` of
    /// drivers/watchdog/watchdog_dev.c; ib700wdt.c and ipmi_watchdog.c do the same).
    ///
    /// # Errors
    /// The errno of write(2).
    pub fn unmark(&self) -> io::Result<()> {
        (&self.file).write_all(b"-")
    }

    /// What the driver says of itself (WDIOC_GETSUPPORT).
    ///
    /// # Errors
    /// ENOTTY when the file is no watchdog.
    pub fn info(&self) -> Result<WatchdogInfo, Errno> {
        let mut info = WatchdogInfo::default();
        // SAFETY: the descriptor is open and the pointer is a live struct watchdog_info.
        unsafe { ioctls::getsupport(self.file.as_raw_fd(), &raw mut info) }?;
        Ok(info)
    }

    /// Sets the timeout, in seconds (WDIOC_SETTIMEOUT); the driver may round it.
    ///
    /// # Errors
    /// EINVAL when the device cannot do it, EOPNOTSUPP when it cannot be set at all.
    pub fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        let mut value = libc::c_int::try_from(timeout_s).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the descriptor is open and the pointer is a live int.
        unsafe { ioctls::settimeout(self.file.as_raw_fd(), &raw mut value) }?;
        Ok(())
    }

    /// Reads the timeout back, in seconds (WDIOC_GETTIMEOUT).
    ///
    /// # Errors
    /// EOPNOTSUPP when the driver does not know it.
    pub fn timeout_s(&self) -> Result<u32, Errno> {
        let mut value: libc::c_int = 0;
        // SAFETY: the descriptor is open and the pointer is a live int.
        unsafe { ioctls::gettimeout(self.file.as_raw_fd(), &raw mut value) }?;
        u32::try_from(value).map_err(|_| Errno::ERANGE)
    }

    /// Kicks (WDIOC_KEEPALIVE). Blocks for as long as the driver does: an ipmi kick may
    /// take tens of milliseconds.
    ///
    /// # Errors
    /// The driver's errno.
    pub fn keepalive(&self) -> Result<(), Errno> {
        let mut unused: libc::c_int = 0;
        // SAFETY: the descriptor is open and the pointer is a live int.
        unsafe { ioctls::keepalive(self.file.as_raw_fd(), &raw mut unused) }?;
        Ok(())
    }

    /// Stops it and starts it again (WDIOC_SETOPTIONS): nothing else starts a device that has
    /// forgotten that it ran, as the watchdog core takes it to run.
    ///
    /// # Errors
    /// EBUSY when it may not be stopped (nowayout), EOPNOTSUPP when the driver cannot do this.
    pub fn start_again(&self) -> Result<(), Errno> {
        let set = |option: libc::c_int| {
            let mut option = option;
            // SAFETY: the descriptor is open and the pointer is a live int.
            unsafe { ioctls::setoptions(self.file.as_raw_fd(), &raw mut option) }
        };
        // By one call: a guard that dies leaves it running.
        let started = set(WDIOS_DISABLECARD | WDIOS_ENABLECARD);
        if started.is_err() {
            // It may have been stopped all the same.
            set(WDIOS_ENABLECARD)?;
        }
        started.map(drop)
    }

    /// Writes the magic character and closes: disarms, unless the kernel was told
    /// nowayout.
    ///
    /// # Errors
    /// The errno of write(2); the device is then closed without the character and stays armed.
    pub fn disarm(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }
}

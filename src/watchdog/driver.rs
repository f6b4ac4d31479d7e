// SPDX-License-Identifier: GPL-2.0-only
//! What is asked of a driver.
//!
//! In: an open device. Out: what the kernel answers, or in tests one that is made up.

use super::quirks::{IPMI, Quirk};
use super::sysfs::Attributes;
use crate::sys::clock::Suspended;
use crate::sys::ipmi;
use crate::sys::notify::Notifier;
use crate::sys::watchdog::{WatchdogDevice, WatchdogInfo};
use nix::errno::Errno;
use std::io;
use std::path::Path;

/// What is done to an open device: by the kernel's, and in tests by one that is made up.
pub trait Driver: Sized {
    /// See [`WatchdogDevice::open`].
    ///
    /// # Errors
    /// As there.
    fn open(path: &Path) -> io::Result<Self>;
    /// See [`WatchdogDevice::info`].
    ///
    /// # Errors
    /// As there.
    fn info(&self) -> Result<WatchdogInfo, Errno>;
    /// See [`WatchdogDevice::set_timeout_s`].
    ///
    /// # Errors
    /// As there.
    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno>;
    /// See [`WatchdogDevice::timeout_s`].
    ///
    /// # Errors
    /// As there.
    fn timeout_s(&self) -> Result<u32, Errno>;
    /// See [`WatchdogDevice::keepalive`].
    ///
    /// # Errors
    /// As there.
    fn keepalive(&self) -> Result<(), Errno>;
    /// See [`WatchdogDevice::unmark`].
    ///
    /// # Errors
    /// As there.
    fn unmark(&self) -> io::Result<()> {
        Ok(self.keepalive()?)
    }
    /// See [`WatchdogDevice::start_again`].
    ///
    /// # Errors
    /// As there.
    fn start_again(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// See [`Suspended::ns`].
    fn suspended_ns(_so_far: &Suspended) -> u64 {
        0
    }
    /// Gives the service manager a copy under this name; whether there is one. See
    /// [`Notifier::keep`].
    ///
    /// # Errors
    /// As there.
    fn keep(&self, _manager: &Notifier, _name: &str) -> Result<bool, Errno> {
        Ok(false)
    }
    /// See [`WatchdogDevice::disarm`].
    ///
    /// # Errors
    /// As there.
    fn disarm(self) -> io::Result<()>;
    /// What the kernel tells of `path` without opening it.
    fn attributes(path: &Path) -> Attributes;
    /// What the hardware of an armed device says, asked past its driver.
    fn ask_hardware(quirk: &Quirk) -> Asked;
    /// Whether the driver's module was told that it must not be disarmed; none where it has no
    /// such parameter.
    fn nowayout(quirk: &Quirk) -> Option<bool>;
}

/// What hardware says that can be asked past its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is no such way.
    NoWay,
    /// It runs and will reset the host.
    Runs,
    /// It takes kicks and will not.
    DoesNot(String),
    /// It could not be asked.
    Silent(String),
}

/// A BMC's own word on its watchdog: the driver tells nobody when the BMC refuses an action.
fn ask_bmc() -> Asked {
    match ipmi::watchdog_timer() {
        Ok(timer) if timer.running && timer.resets() => Asked::Runs,
        Ok(timer) if timer.running => {
            let action = timer.action;
            Asked::DoesNot(format!("the BMC's action is {action}, which is no reset"))
        }
        Ok(_) => Asked::DoesNot("the BMC says that it does not run".to_owned()),
        Err(error) => Asked::Silent(error.to_string()),
    }
}

impl Driver for WatchdogDevice {
    fn open(path: &Path) -> io::Result<Self> {
        Self::open(path)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        self.info()
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        self.set_timeout_s(timeout_s)
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        self.timeout_s()
    }

    fn keepalive(&self) -> Result<(), Errno> {
        self.keepalive()
    }

    fn unmark(&self) -> io::Result<()> {
        self.unmark()
    }

    fn start_again(&self) -> Result<(), Errno> {
        self.start_again()
    }

    fn suspended_ns(so_far: &Suspended) -> u64 {
        so_far.ns()
    }

    fn keep(&self, manager: &Notifier, name: &str) -> Result<bool, Errno> {
        manager.keep(name, self.descriptor())
    }

    fn disarm(self) -> io::Result<()> {
        self.disarm()
    }

    fn attributes(path: &Path) -> Attributes {
        Attributes::read(Path::new("/sys"), path)
    }

    fn ask_hardware(quirk: &Quirk) -> Asked {
        match quirk.identity {
            IPMI => ask_bmc(),
            _ => Asked::NoWay,
        }
    }

    fn nowayout(quirk: &Quirk) -> Option<bool> {
        quirk.nowayout(Path::new("/sys"))
    }
}

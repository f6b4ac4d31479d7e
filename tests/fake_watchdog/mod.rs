// SPDX-License-Identifier: GPL-2.0-only
//! Drivers that are made up after real ones (drivers/watchdog, drivers/char/ipmi).
#![allow(dead_code)] // each program has its part of it

use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use xenwarden::sys::notify::Notifier;
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::device::{Asked, Driver, Hardware};
use xenwarden::watchdog::error::ArmError;
use xenwarden::watchdog::quirks::Quirk;
use xenwarden::watchdog::sysfs::Attributes;

pub const SETTIMEOUT: u32 = 0x80;
pub const MAGICCLOSE: u32 = 0x100;
pub const KEEPALIVE: u32 = 0x8000;
pub const ALL: u32 = SETTIMEOUT | MAGICCLOSE | KEEPALIVE;

/// A driver's ways, and what was done to it.
#[derive(Clone, Default)]
pub struct Ways {
    pub identity: &'static str,
    pub options: u32,
    /// It does this timeout whatever is asked for.
    pub rounds_to: Option<u32>,
    /// The kernel's nowayout, and whether sysfs tells of it.
    pub nowayout: bool,
    pub no_sysfs: bool,
    /// It takes no timeout below this.
    pub least_s: u32,
    /// Its module's nowayout, and what its hardware says.
    pub module_nowayout: Option<bool>,
    pub hardware: Option<Asked>,
    /// What it answers when it is asked what it is.
    pub no_info: Option<Errno>,
    pub timeout_s: u32,
    pub running: bool,
    pub opened: u32,
    pub kicks: u32,
    /// It is open now.
    pub open: bool,
    /// It takes no timeout above this, where it is not 0.
    pub most_s: u32,
    /// There is a service manager, and whether it keeps what it is given.
    pub manager: bool,
    pub keeps: bool,
    /// It has no room for what it is given.
    pub full: bool,
    /// Somebody wrote the magic character last.
    pub marked: bool,
    /// How many were let go of with it.
    pub disarmed: u32,
}

/// No device is there.
pub const MISSING: &str = "/dev/watchdog9";

thread_local! {
    static DEVICE: RefCell<Ways> = RefCell::default();
}

pub fn with<T>(change: impl FnOnce(&mut Ways) -> T) -> T {
    DEVICE.with(|device| change(&mut device.borrow_mut()))
}

pub struct Fake;

impl Driver for Fake {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new(MISSING) {
            return Err(io::ErrorKind::NotFound.into());
        }
        with(|d| {
            d.opened += 1;
            d.open = true;
            // ipmi_watchdog alone does not start at open.
            d.running |= d.options != 0;
        });
        Ok(Self)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        with(|d| {
            if let Some(errno) = d.no_info {
                return Err(errno);
            }
            let mut info = WatchdogInfo {
                options: d.options,
                ..WatchdogInfo::default()
            };
            let bytes = d.identity.bytes();
            info.text
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
            Ok(info)
        })
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        assert_ne!(timeout_s, 0, "some drivers reset at once");
        with(|d| {
            if timeout_s < d.least_s || d.most_s != 0 && timeout_s > d.most_s {
                return Err(Errno::EINVAL);
            }
            d.timeout_s = d.rounds_to.unwrap_or(timeout_s);
            Ok(())
        })
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(with(|d| d.timeout_s))
    }

    fn keepalive(&self) -> Result<(), Errno> {
        with(|d| {
            d.kicks += 1;
            d.running = true;
        });
        Ok(())
    }

    fn unmark(&self) -> io::Result<()> {
        with(|d| d.marked = false);
        Ok(self.keepalive()?)
    }

    fn keep(&self, _: &Notifier, name: &str) -> Result<bool, Errno> {
        assert_eq!(name, "watchdog7");
        with(|d| {
            if d.full {
                Err(Errno::EAGAIN)
            } else {
                Ok(d.manager)
            }
        })
    }

    fn disarm(self) -> io::Result<()> {
        with(|d| {
            d.open = false;
            d.marked = true;
            d.disarmed += 1;
            d.running &= d.nowayout || d.keeps;
        });
        Ok(())
    }

    fn attributes(_: &Path) -> Attributes {
        with(|d| {
            if d.no_sysfs {
                return Attributes::default();
            }
            let state = if d.running { "active" } else { "inactive" };
            Attributes {
                nowayout: Some(d.nowayout),
                state: Some(state.to_owned()),
                ..Attributes::default()
            }
        })
    }

    fn ask_hardware(_: &Quirk) -> Asked {
        with(|d| d.hardware.clone().unwrap_or(Asked::NoWay))
    }

    fn nowayout(_: &Quirk) -> Option<bool> {
        with(|d| d.module_nowayout)
    }
}

pub fn refused(ways: Ways) -> String {
    arm(ways).err().expect("refused").to_string()
}

pub fn arm(ways: Ways) -> Result<Hardware<Fake>, ArmError> {
    with(|d| *d = ways);
    Hardware::arm(Path::new("/dev/watchdog7"), 5)
}

pub fn i6300esb() -> Ways {
    Ways {
        identity: "i6300ESB timer",
        options: ALL,
        ..Ways::default()
    }
}

pub fn ipmi() -> Ways {
    Ways {
        identity: "IPMI",
        options: 0,
        no_sysfs: true,
        ..Ways::default()
    }
}

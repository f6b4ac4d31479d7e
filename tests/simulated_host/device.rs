// SPDX-License-Identifier: GPL-2.0-only
//! Host watchdogs that are made up after real ones, in a host's virtual time.

use super::Host;
use nix::errno::Errno;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use xenwarden::sys::clock::{NS_PER_MS as MS, NS_PER_S as S, Suspended};
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::device::{Asked, Driver};
use xenwarden::watchdog::quirks::Quirk;
use xenwarden::watchdog::sysfs::Attributes;

/// SETTIMEOUT, MAGICCLOSE and KEEPALIVEPING.
const ALL: u32 = 0x8180;

/// A driver's ways and its hardware's.
#[derive(Debug)]
pub struct Ways {
    pub identity: &'static str,
    pub options: u32,
    /// It takes no timeout below this.
    pub least_s: u32,
    /// It does this timeout whatever is asked for.
    pub rounds_to: Option<u32>,
    pub nowayout: bool,
    /// What it runs with when it is asked for 5 s.
    pub runs_s: u32,
    /// It resets at that time, or as much later at most, ns.
    pub later: u64,
}

const PLAIN: Ways = Ways {
    identity: "i6300ESB timer",
    options: ALL,
    least_s: 1,
    rounds_to: None,
    nowayout: false,
    runs_s: 5,
    later: GRANULARITY,
};

/// The coarsest granularity of them all.
pub const GRANULARITY: u64 = S;

/// See `src/watchdog/quirks.rs` for where these ways come from.
pub const DEVICES: &[Ways] = &[
    PLAIN,
    Ways {
        nowayout: true,
        ..PLAIN
    },
    Ways {
        identity: "iTCO_wdt",
        least_s: 3,
        runs_s: 3,
        later: 3 * S,
        ..PLAIN
    },
    Ways {
        identity: "IB700 WDT",
        runs_s: 4,
        ..PLAIN
    },
    Ways {
        identity: "IPMI",
        options: 0,
        later: 10 * MS,
        ..PLAIN
    },
    // It rounds, and cannot be disarmed: it is kicked with what it does.
    Ways {
        identity: "a timer in steps of 10 s",
        rounds_to: Some(10),
        nowayout: true,
        runs_s: 10,
        ..PLAIN
    },
];

thread_local! {
    /// The host that a driver opens its device on.
    static HOST: RefCell<Option<Rc<Host>>> = const { RefCell::new(None) };
}

/// From now on devices of this thread are those of `host`.
pub fn plug_into(host: &Rc<Host>) {
    HOST.set(Some(Rc::clone(host)));
}

/// Their paths.
pub fn paths(count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|n| PathBuf::from(format!("/dev/watchdog{n}")))
        .collect()
}

fn number(path: &Path) -> usize {
    usize::from(
        path.as_os_str()
            .as_encoded_bytes()
            .last()
            .is_some_and(|last| *last == b'1'),
    )
}

fn host() -> Rc<Host> {
    HOST.with_borrow(Option::clone).expect("a host")
}

/// An open device.
pub struct Simulated {
    host: Rc<Host>,
    n: usize,
    /// The magic character was written, or is not to be any more.
    closed: bool,
}

impl Simulated {
    fn ways(&self) -> &'static Ways {
        self.host.plan.devices[self.n]
    }
}

impl Driver for Simulated {
    fn open(path: &Path) -> io::Result<Self> {
        let host = host();
        host.acts();
        host.must_be_served("opens the host watchdog");
        let device = Self {
            n: number(path),
            closed: false,
            host,
        };
        // ipmi_watchdog alone does not start at the opening.
        if device.ways().options != 0 {
            device.host.pinged(device.n);
        }
        Ok(device)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        self.host.acts();
        let mut info = WatchdogInfo {
            options: self.ways().options,
            ..WatchdogInfo::default()
        };
        let bytes = self.ways().identity.bytes();
        info.text
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        Ok(info)
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        self.host.acts();
        if timeout_s < self.ways().least_s {
            return Err(Errno::EINVAL);
        }
        let timeout_s = self.ways().rounds_to.unwrap_or(timeout_s);
        self.host.set_timeout(self.n, timeout_s);
        Ok(())
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(self.host.timeout_s(self.n))
    }

    fn keepalive(&self) -> Result<(), Errno> {
        self.host.acts();
        self.host.must_be_served("kicks");
        self.host.kick_takes();
        let taken = self.host.takes_kick();
        if taken {
            self.host.kicked(self.n);
        }
        self.host.kick_takes();
        if taken { Ok(()) } else { Err(Errno::EIO) }
    }

    fn start_again(&self) -> Result<(), Errno> {
        self.host.acts();
        self.host.must_be_served("starts the host watchdog again");
        match self.host.starts_again(self.n) {
            true => Ok(()),
            false => Err(Errno::EIO),
        }
    }

    fn suspended_ns(_: &Suspended) -> u64 {
        host().slept()
    }

    fn disarm(mut self) -> io::Result<()> {
        self.host.acts();
        self.host.must_be_served("disarms the host watchdog");
        self.closed = true;
        // The kernel of a device that must not be disarmed kicks it instead.
        match self.ways().nowayout {
            true => self.host.pinged(self.n),
            false => self.host.disarmed(self.n),
        }
        Ok(())
    }

    fn attributes(path: &Path) -> Attributes {
        let (host, n) = (host(), number(path));
        let state = if host.runs(n) { "active" } else { "inactive" };
        Attributes {
            nowayout: Some(host.plan.devices[n].nowayout),
            state: Some(state.to_owned()),
            ..Attributes::default()
        }
    }

    fn ask_hardware(_: &Quirk) -> Asked {
        Asked::NoWay
    }

    fn nowayout(_: &Quirk) -> Option<bool> {
        None
    }
}

impl Drop for Simulated {
    /// The process has ended without a word: the kernel kicks once more, if the device runs.
    fn drop(&mut self) {
        if !self.closed && self.host.runs(self.n) {
            self.host.pinged(self.n);
        }
    }
}

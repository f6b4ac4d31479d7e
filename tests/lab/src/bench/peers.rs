// SPDX-License-Identifier: GPL-2.0-only
//! The watchdog daemons that are compared, each as its own documentation has it for a host watchdog of 5 s.

use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use std::time::Duration;

/// How long a daemon that runs is left alone before anything is done to the host.
const SETTLES: Duration = Duration::from_secs(20);
/// Waits until the host watchdog is armed with 5 s.
const ARMED: &str = "n=0; until [ \"$(cat /sys/class/watchdog/watchdog0/state) $(cat /sys/class/watchdog/watchdog0/timeout)\" = 'active 5' ]; do \
                     n=$((n+1)); [ $n -lt 300 ] || { cat /sys/class/watchdog/watchdog0/state /sys/class/watchdog/watchdog0/timeout; tail -n 20 /var/log/messages; exit 1; }; sleep 0.1; done";
/// sbd watches one disk, in memory, and neither Pacemaker nor a cluster.
const SBD: &str = "env SBD_PACEMAKER=no SBD_SYNC_RESOURCE_STARTUP=no sbd -d /dev/ram0 -w /dev/watchdog0 -p /run/sbd.pid watch";
const SBD_DISK: &str = "sbd -d /dev/ram0 -1 5 -4 10 create";
/// watchdog(8), whose settings are in dom0's image.
const WATCHDOG: &str = "/usr/sbin/watchdog -c /etc/watchdog.conf";
/// A kick each second, as all but ours do.
const BUSYBOX: &str = "/usr/bin/watchdog -T 5 -t 1 /dev/watchdog0";
/// The laboratory's hosts write metrics, which nobody's do unless told so.
const NO_METRICS: &str = "sed -i '/^\\[metrics\\]/,$d' /etc/xenwarden/xenwarden.conf";
/// One of dom0's slots in Xen.
const XENWATCHDOGD: &str = "xenwatchdogd 5 1";

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// xenwardend and xenwarden-monitor.
    Xenwarden,
    /// sbd with a disk.
    Sbd,
    /// watchdog(8), Debian's package of that name.
    Watchdog,
    /// busybox's.
    Busybox,
    /// Xen's own, which uses no hardware.
    Xenwatchdogd,
}

impl Peer {
    /// All of them, in the order of tables.
    pub const ALL: [Peer; 5] = [
        Peer::Xenwarden,
        Peer::Sbd,
        Peer::Watchdog,
        Peer::Busybox,
        Peer::Xenwatchdogd,
    ];

    /// Its name, in data and tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Xenwarden => "xenwarden",
            Peer::Sbd => "sbd",
            Peer::Watchdog => "watchdog",
            Peer::Busybox => "busybox",
            Peer::Xenwatchdogd => "xenwatchdogd",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Peer::ALL.into_iter().find(|peer| peer.name() == name);
        found.context(|| {
            let names = Peer::ALL.map(Peer::name).join(", ");
            format!("{name} is none of {names}")
        })
    }

    /// The names of its processes.
    pub fn processes(self) -> &'static [&'static str] {
        match self {
            Peer::Xenwarden => &[GUARD, MONITOR],
            Peer::Sbd => &["sbd"],
            Peer::Watchdog | Peer::Busybox => &["watchdog"],
            Peer::Xenwatchdogd => &["xenwatchdogd"],
        }
    }

    /// The function of dom0's kernel that runs at each of its kicks, and at no other's.
    pub fn kicks_by(self) -> &'static str {
        match self {
            Peer::Xenwatchdogd => "privcmd_ioctl",
            _ => "esb_timer_keepalive",
        }
    }

    /// The command that is it, in dom0's shell; of ours the guard's, which alone has to do with the host watchdog.
    pub fn command(self) -> &'static str {
        match self {
            Peer::Xenwarden => GUARD,
            Peer::Sbd => SBD,
            Peer::Watchdog => WATCHDOG,
            Peer::Busybox => BUSYBOX,
            Peer::Xenwatchdogd => XENWATCHDOGD,
        }
    }

    /// Provides what it has to have before it is started.
    pub fn prepare(self, host: &mut Host) -> Result<()> {
        let command = match self {
            Peer::Xenwarden => NO_METRICS,
            Peer::Sbd => {
                host.load_ram_disk()?;
                SBD_DISK
            }
            Peer::Watchdog => "mkdir -p /var/log/watchdog",
            Peer::Busybox | Peer::Xenwatchdogd => return Ok(()),
        };
        host.dom0_ok(command, PROMPT).map(drop)
    }

    /// Starts it on a host that has none, and waits until it serves.
    pub fn start(self, host: &mut Host) -> Result<()> {
        self.prepare(host)?;
        let command = self.command();
        let start = match self {
            Peer::Xenwarden => {
                host.start_program(GUARD)?;
                host.start_program(MONITOR)?;
                ":".to_owned()
            }
            Peer::Sbd => format!("(setsid {command} < /dev/null > /run/sbd.log 2>&1 &)"),
            Peer::Watchdog => format!("{command} < /dev/null > /run/watchdog.log 2>&1"),
            Peer::Busybox => format!("{command} < /dev/null > /dev/null 2>&1"),
            Peer::Xenwatchdogd => format!(
                "(setsid {command} < /dev/null > /dev/null 2>&1 &); sleep 2; pidof xenwatchdogd"
            ),
        };
        host.dom0_ok(&start, PROMPT)?;
        if self != Peer::Xenwatchdogd {
            let armed = host.dom0_ok(ARMED, PROMPT);
            armed.map_err(|error| Error::new(format!("{}: {error}", self.name())))?;
        }
        host.pass(SETTLES)
    }
}

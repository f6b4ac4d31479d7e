// SPDX-License-Identifier: GPL-2.0-only
//! Guests: small Linux domains that arm a guest watchdog and feed it, and take commands on their console.

use crate::error::{Error, Result};
use crate::host::Host;
use crate::provision::Arch;
use std::time::Duration;

/// How long `xl create` and the guest's own start may take under emulation.
const START: Duration = Duration::from_secs(120);

/// How often a guest is tried to be created, but for the last time.
const ATTEMPTS: u32 = 2;

/// What a guest is like.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Seconds until its watchdog expires; none if it has none.
    pub watchdog_s: Option<u32>,
    /// Whether it feeds its watchdog once it is armed.
    pub feeds: bool,
    /// What the toolstack does when the watchdog expires: `destroy`, `restart`, ...
    pub on_watchdog: &'static str,
    /// Its initramfs, in dom0.
    pub ramdisk: &'static str,
    /// Its UUID; none for a new one at each start.
    pub uuid: Option<&'static str>,
}

/// A guest without an operating system, of which a host can carry many.
#[derive(Debug, Clone)]
pub struct TinyGuest {
    /// Its name.
    pub name: String,
    /// When it arms its watchdog, in Xen's system time, ns; 0 for at once.
    pub arms_at_ns: u64,
    /// Seconds until its watchdog expires.
    pub watchdog_s: u32,
    /// Nanoseconds between two feeds, from `arms_at_ns` on; none if it never feeds.
    pub feeds_each_ns: Option<u64>,
    /// Nanoseconds before it arms, and before it disarms, both its slots, for ever; none if it arms once. The first moment is
    /// `arms_at_ns`; what lies in the past is at once.
    pub toggles_each_ns: Option<u64>,
}

impl TinyGuest {
    fn config(&self) -> String {
        let TinyGuest {
            name,
            arms_at_ns,
            watchdog_s,
            feeds_each_ns,
            toggles_each_ns,
        } = self;
        let [feeds_each_ns, toggles_each_ns] =
            [feeds_each_ns, toggles_each_ns].map(|ns| ns.unwrap_or(0));
        format!(
            "name = \"{name}\"\ntype = \"pv\"\nmemory = 8\nvcpus = 1\nkernel = \"/guest/tiny\"\n\
             cmdline = \"{arms_at_ns} {watchdog_s} {feeds_each_ns} {toggles_each_ns}\"\non_watchdog = \"destroy\"\n"
        )
    }
}

impl Guest {
    /// A guest with a ten-second watchdog that it feeds each second.
    pub fn named(name: &str) -> Self {
        Guest {
            name: name.to_owned(),
            watchdog_s: Some(10),
            feeds: true,
            on_watchdog: "destroy",
            ramdisk: "/guest/initramfs",
            uuid: None,
        }
    }

    fn config(&self, arch: Arch) -> String {
        let (kind, memory) = match arch {
            Arch::Amd64 => ("pv", 96),
            Arch::Arm64 => ("pvh", 128),
        };
        let Guest {
            name,
            watchdog_s,
            feeds,
            on_watchdog,
            ramdisk,
            uuid,
        } = self;
        let uuid = uuid.map_or(String::new(), |uuid| format!("uuid = \"{uuid}\"\n"));
        let (watchdog, feeder) = (watchdog_s.unwrap_or(0), if *feeds { "yes" } else { "no" });
        format!(
            "name = \"{name}\"\ntype = \"{kind}\"\nmemory = {memory}\nvcpus = 1\n\
             kernel = \"/guest/vmlinux\"\nramdisk = \"{ramdisk}\"\n\
             extra = \"console=hvc0 quiet watchdog={watchdog} feeder={feeder}\"\n\
             on_watchdog = \"{on_watchdog}\"\non_crash = \"destroy\"\n{uuid}"
        )
    }
}

impl Host {
    /// Creates a guest and waits until it says that it is up.
    pub fn create(&mut self, guest: &Guest) -> Result<()> {
        self.start(guest)?;
        self.wait_guest_says(&guest.name, "guest: up", START)
    }

    /// Creates a guest and leaves it to itself.
    pub fn start(&mut self, guest: &Guest) -> Result<()> {
        self.create_domain(&guest.name, &guest.config(self.symbols.arch()))
    }

    /// Creates a tiny guest.
    pub fn create_tiny(&mut self, guest: &TinyGuest) -> Result<()> {
        self.create_domain(&guest.name, &guest.config())
    }

    /// Creates a domain from a configuration of xl's.
    pub fn create_domain(&mut self, name: &str, config: &str) -> Result<()> {
        let log = console_log(name);
        // The console's log outlives a guest: only what comes after this counts.
        let create = format!(
            "rm -f {log}; cat > /run/{name}.cfg <<'END'\n{config}END\nxl create -q /run/{name}.cfg"
        );
        // One of the programs that it starts may die at its start (see `dom0`): what is left is cleared away for the next attempt.
        for _ in 0..ATTEMPTS {
            if self.dom0(&create, START)?.code == 0 {
                return Ok(());
            }
            self.dom0(&format!("xl destroy {name}"), START)?;
        }
        self.dom0_ok(&create, START).map(drop)
    }

    /// Waits until a guest's console has said `text`.
    pub fn wait_guest_says(&mut self, name: &str, text: &str, limit: Duration) -> Result<()> {
        let log = console_log(name);
        let wait = format!(
            "n=0; until grep -q '{text}' {log}; do n=$((n+1)); [ $n -lt {} ] || exit 1; sleep 0.5; done",
            limit.as_secs() * 2
        );
        match self.dom0(&wait, limit + START)?.code {
            0 => Ok(()),
            _ => Err(Error::new(format!(
                "guest {name} did not say {text:?} within {limit:?}"
            ))),
        }
    }

    /// Has a guest's shell run a command; nothing is said of how it ends.
    pub fn tell_guest(&mut self, name: &str, command: &str) -> Result<()> {
        let tty = format!("$(xenstore-read /local/domain/$(xl domid {name})/console/tty)");
        self.dom0_ok(&format!("printf '%s\\n' '{command}' > {tty}"), START)
            .map(drop)
    }

    /// Whether the toolstack still knows the guest.
    pub fn has_guest(&mut self, name: &str) -> Result<bool> {
        Ok(self.dom0(&format!("xl domid {name}"), START)?.code == 0)
    }
}

/// Where xenconsoled keeps what a guest says.
fn console_log(name: &str) -> String {
    format!("/var/log/xen/console/guest-{name}.log")
}

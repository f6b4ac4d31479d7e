// SPDX-License-Identifier: GPL-2.0-only
//! Guests: small Linux domains that arm a guest watchdog and feed it, and take commands on their console.

use crate::error::{Error, Result};
use crate::host::Host;
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
}

impl Guest {
    /// A guest with a ten-second watchdog that it feeds each second.
    pub fn named(name: &str) -> Self {
        Guest {
            name: name.to_owned(),
            watchdog_s: Some(10),
            feeds: true,
            on_watchdog: "destroy",
        }
    }

    fn config(&self) -> String {
        let Guest {
            name,
            watchdog_s,
            feeds,
            on_watchdog,
        } = self;
        let (watchdog, feeder) = (watchdog_s.unwrap_or(0), if *feeds { "yes" } else { "no" });
        format!(
            "name = \"{name}\"\ntype = \"pv\"\nmemory = 96\nvcpus = 1\n\
             kernel = \"/guest/vmlinux\"\nramdisk = \"/guest/initramfs\"\n\
             extra = \"console=hvc0 quiet watchdog={watchdog} feeder={feeder}\"\n\
             on_watchdog = \"{on_watchdog}\"\non_crash = \"destroy\"\n"
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
        let Guest { name, .. } = guest;
        let config = guest.config();
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

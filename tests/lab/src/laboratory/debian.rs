// SPDX-License-Identifier: GPL-2.0-only
//! Hosts whose dom0 is a Debian on a disk, with its own systemd, and the package as users install it.
//!
//! dom0 runs on two of four pCPUs. The saved state is such a host with the package installed, booted once more, and two guests.

use super::{BOOT, GUESTS, Laboratory, with_console};
use crate::command::say;
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::host::{Host, PROMPT};
use crate::layout::{CacheLock, cache_key, make_dir, prune};
use crate::machine::{Machine, Parts, SavedState, Shape, definition};
use crate::provision::{deb, debian};
use std::time::{Duration, Instant};

/// How long systemd may take to have started all that it starts, and a package to be installed.
pub const LONG: Duration = Duration::from_secs(300);
/// The package, and a later version of it, in dom0.
pub const PACKAGE: &str = "/run/lab/xenwarden.deb";
/// See [`PACKAGE`].
pub const LATER_PACKAGE: &str = "/run/lab/later.deb";
/// All that is on the disk, but for what systemd, Xen and dpkg write as they go.
pub const LISTING: &str = "find / -xdev \\( -path /run -o -path /tmp -o -path /var/tmp -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/xen -o -path /var/log \\) -prune -o -print | sort";
/// Where it is kept as it was before the package was installed.
pub const LISTED: &str = "/var/tmp/listed";
/// A change of how the saved state comes about; it makes old ones invalid.
const RECIPE: &str = "debian 2";
/// How many states of other versions are kept besides the one in use, of two files each.
const OTHER_STATES: usize = 1;

impl Laboratory {
    fn debian_parts(&self) -> Result<Parts> {
        let (parts, _) = self.made_of(Shape::Apart)?;
        let _lock = CacheLock::take(&self.layout)?;
        let [first, later] = deb::provide(&self.layout)?;
        let debs = [(PACKAGE, first), (LATER_PACKAGE, later)];
        let debs = debs.map(|(path, deb)| (path.trim_start_matches("/run/lab/"), deb));
        let disk = debian::provide(&self.layout, &self.packages)?;
        let initramfs = self
            .images
            .for_debian(&self.layout, &self.packages, &debs)?;
        Ok(Parts {
            initramfs,
            disk: Some(disk),
            ..parts
        })
    }

    /// A Debian that has just booted and knows nothing of xenwarden.
    pub fn debian(&self) -> Result<Host> {
        self.boot_debian(&self.debian_parts()?)
    }

    /// One on which the package was installed and that has booted since, with guests, from the saved state; its time runs.
    pub fn debian_guarded(&self) -> Result<Host> {
        let parts = self.debian_parts()?;
        let state = self.debian_state(&parts)?;
        let mut host = self.restored(&parts, &state)?;
        host.wait_kicking()?;
        Ok(host)
    }

    fn debian_state(&self, parts: &Parts) -> Result<SavedState> {
        let name = |path: &std::path::Path| path.file_name().map(|name| name.to_owned());
        let made_of = [Some(parts.initramfs.as_path()), parts.disk.as_deref()];
        let made_of = made_of.map(|path| path.and_then(name).unwrap_or_default());
        let [initramfs, disk] = made_of.each_ref().map(|name| name.as_encoded_bytes());
        let build = self.build_of(parts.shape)?.key.as_bytes();
        let definition = definition(parts.shape, parts.arch).join(" ");
        let recipe = RECIPE.as_bytes();
        let key = cache_key([recipe, build, initramfs, disk, definition.as_bytes()]);
        let folder = self.layout.made("debian-states");
        let state = SavedState::named(&folder, &key);
        // One is made at a time, and there is none of this name besides.
        let _lock = CacheLock::of_debian(&self.layout)?;
        if !state.exists() {
            make_dir(&folder)?;
            prune(&folder, OTHER_STATES * SavedState::FILES)?;
            self.make_debian_state(parts, &state)?;
        }
        Ok(state)
    }

    fn make_debian_state(&self, parts: &Parts, state: &SavedState) -> Result<()> {
        say("booting a Debian, installing the package, booting again (some minutes)");
        let began = Instant::now();
        let said = |what: &str| say(format!("  {:>4} s  {what}", began.elapsed().as_secs()));
        let mut host = self.boot_debian(parts)?;
        said("it is up");
        host.dom0_ok(&format!("{LISTING} > {LISTED}"), PROMPT)?;
        host.dom0_ok(&format!("dpkg -i {PACKAGE}"), LONG)?;
        host.wait_kicking()?;
        said("the package is installed, and the guard kicks");
        let mut host = self.debian_rebooted(host)?;
        host.wait_kicking()?;
        said("it has booted again, and the guard kicks");
        for name in GUESTS {
            host.create(&Guest::named(name))?;
            said(&format!("guest {name} is up"));
        }
        host.machine.save(parts, state)
    }

    fn boot_debian(&self, parts: &Parts) -> Result<Host> {
        let machine = Machine::boot(parts, &self.run_folder())?;
        self.up(self.host_on(machine)?)
    }

    /// Has systemd reboot it, which must take no host watchdog, and waits until it is up again.
    pub fn debian_rebooted(&self, mut host: Host) -> Result<Host> {
        host.machine.agent.send("systemctl reboot")?;
        let fired = host.machine.wait_down(LONG)?;
        if fired {
            return Err(Error::new("the host watchdog fired in a reboot"));
        }
        self.debian_after_reset(host)
    }

    /// The host that is down, after a reset of the same machine.
    pub fn debian_after_reset(&self, mut host: Host) -> Result<Host> {
        host.machine.reset()?;
        let mut host = self.up(host)?;
        host.machine.stop_at_reset()?;
        Ok(host)
    }

    /// Waits until systemd has started all that it starts.
    fn up(&self, mut host: Host) -> Result<Host> {
        let up = host.machine.agent.wait_ready(BOOT);
        up.map_err(|error| with_console(error, &host.machine))?;
        let waited = host.dom0("systemctl is-system-running --wait", LONG)?;
        match waited.output.trim() {
            "running" => Ok(host),
            other => {
                let failed = host.dom0("systemctl --failed --no-legend --plain", PROMPT)?;
                let failed = failed.output;
                Err(Error::new(format!("systemd is {other}:\n{failed}")))
            }
        }
    }
}

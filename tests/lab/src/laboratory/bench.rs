// SPDX-License-Identifier: GPL-2.0-only
//! Hosts on which watchdog daemons are compared: two guests that feed their watchdogs, and no daemon yet.

use super::{BOOT, GUESTS, Laboratory, with_console};
use crate::command::{output, say};
use crate::error::{Context, Result};
use crate::guest::Guest;
use crate::host::{Host, PROMPT};
use crate::layout::{CacheLock, Layout, cache_key, make_dir, prune};
use crate::machine::{Machine, Parts, SavedState, Shape, definition};
use crate::provision::peers::{self, Peers, version_in};
use std::path::PathBuf;
use std::process::Command;

/// What the programs and the hypervisor are made of.
const SOURCES: [&str; 4] = ["src", "Cargo.toml", "Cargo.lock", "xen-patches"];
/// A change of how the saved state comes about; it makes old ones invalid.
const RECIPE: &str = "bench 2";
/// What sbd loads is large, and dom0's initramfs has it. The last such argument counts.
const MEMORY: &str = " dom0_mem=768M";
/// How many files of other states are kept: one for each of two shapes.
const OTHER_FILES: usize = 2 * SavedState::FILES;

/// What such hosts are made of.
pub struct BenchParts {
    peers: Peers,
    initramfs: PathBuf,
    /// A hash of all that results depend on.
    pub key: String,
}

/// The version of xenwarden, and if this is no tarball the last commit that changed the programs or the
/// hypervisor's patches, and whether their files differ from it.
pub fn own_version(layout: &Layout) -> String {
    // What is tested may be another build than this tree's.
    if let Some(programs) = layout.other_programs() {
        return format!("programs of {}", programs.display());
    }
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(layout.project("")).args(arguments);
        output(git.arg("--").args(SOURCES))
    };
    let commit = git(&["log", "-1", "--format=%H"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain"]);
    let changed = changed.is_ok_and(|files| !files.trim().is_empty());
    format!(
        "{}, commit {}{}",
        env!("CARGO_PKG_VERSION"),
        commit.trim(),
        if changed {
            ", with uncommitted changes"
        } else {
            ""
        }
    )
}

impl Laboratory {
    /// The other daemons and dom0's image with them; what is there already is used again.
    pub fn bench_parts(&self) -> Result<BenchParts> {
        let _lock = CacheLock::take(&self.layout)?;
        let peers = peers::provide(&self.layout, &self.packages)?;
        let images = &self.images;
        let initramfs = images.with_peers(&self.layout, &self.packages, &peers.root)?;
        let name = initramfs.file_name().unwrap_or_default().to_owned();
        let qemu = output(Command::new(self.packages.arch.qemu()).arg("--version"))?;
        let key = cache_key([
            RECIPE.as_bytes(),
            // How each daemon is started, and what dom0 is busy with.
            include_bytes!("../bench/peers.rs"),
            include_bytes!("../bench/kicks.rs"),
            // And how each is looked at.
            include_bytes!("../bench/wedges.rs"),
            include_bytes!("../bench/cost.rs"),
            include_bytes!("../bench/busy.rs"),
            include_bytes!("../bench/false_resets.rs"),
            qemu.as_bytes(),
            self.patched.key.as_bytes(),
            name.as_encoded_bytes(),
        ]);
        Ok(BenchParts {
            peers,
            initramfs,
            key,
        })
    }

    /// A host of this shape from the saved state, its time running.
    pub fn bench_host(&self, of: &BenchParts, shape: Shape) -> Result<Host> {
        let (parts, _) = self.made_of(shape)?;
        let parts = Parts {
            initramfs: of.initramfs.clone(),
            xen_arguments: MEMORY,
            ..parts
        };
        let defined = definition(shape, self.packages.arch).join(" ");
        let key = cache_key([of.key.as_bytes(), defined.as_bytes()]);
        let folder = self.layout.lab("bench/states");
        let state = SavedState::named(&folder, &key);
        if !state.exists() {
            let _lock = CacheLock::of_state(&self.layout, shape)?;
            if !state.exists() {
                make_dir(&folder)?;
                prune(&folder, OTHER_FILES)?;
                self.make_bench_state(&parts, &state)?;
            }
        }
        self.restored(&parts, &state)
    }

    fn make_bench_state(&self, parts: &Parts, state: &SavedState) -> Result<()> {
        let name = parts.shape.name();
        say(format!("booting a host without a guard once, dom0 {name}"));
        let mut host = self.host_on(Machine::boot(parts, &self.run_folder())?)?;
        let up = host.machine.agent.wait_ready(BOOT);
        up.map_err(|error| with_console(error, &host.machine))?;
        for name in GUESTS {
            host.create(&Guest::named(name))?;
        }
        host.machine.save(parts, state)
    }

    /// A folder for what is measured.
    pub fn bench_results(&self) -> Result<PathBuf> {
        let folder = self.layout.lab("bench/results");
        make_dir(&folder)?;
        Ok(folder)
    }

    /// The versions of all parts, by their names.
    pub fn bench_versions(&self, of: &BenchParts) -> Result<Vec<(String, String)>> {
        let debs = self.layout.lab("packages/debs");
        let of_peers = [
            ("sbd", of.peers.version("sbd")?),
            ("watchdog", of.peers.version("watchdog")?),
            ("busybox", version_in(&debs, "busybox-static")?),
            (
                "xenwatchdogd",
                version_in(&debs, &self.xen_tools_package())?,
            ),
        ];
        let of_peers = of_peers.map(|(name, version)| (name.to_owned(), version));
        Ok(self.versions()?.into_iter().chain(of_peers).collect())
    }

    /// The versions of what is tested and of what it runs on.
    pub(super) fn versions(&self) -> Result<Vec<(String, String)>> {
        let mut qemu = Command::new(self.packages.arch.qemu());
        let qemu = output(qemu.arg("--version"))?;
        let qemu = qemu.lines().next().unwrap_or_default().to_owned();
        let xen = self.packages.xen_version();
        let versions = [
            ("xen", format!("{xen} with xen-patches")),
            ("linux", self.packages.kernel_release().to_owned()),
            ("qemu", qemu),
            ("xenwarden", own_version(&self.layout)),
        ];
        Ok(versions
            .map(|(name, version)| (name.to_owned(), version))
            .into())
    }

    /// The package that has Xen's daemons.
    fn xen_tools_package(&self) -> String {
        format!("xen-utils-{}", self.packages.release.series)
    }
}

impl Host {
    /// Loads sbd's disk.
    pub fn load_ram_disk(&mut self) -> Result<()> {
        let folder = crate::image::PEERS_MODULES;
        let load = format!(
            "grep -q '^brd ' /proc/modules || insmod {folder}/*.ko rd_nr=1 rd_size=4096; test -b /dev/ram0"
        );
        let loaded = self.dom0_ok(&load, PROMPT);
        loaded.map(drop).context(|| "dom0 has no disk in memory")
    }
}

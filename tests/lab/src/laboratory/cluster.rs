// SPDX-License-Identifier: GPL-2.0-only
//! The hosts of a cluster: two, each with a link to the other and one to this machine, where the third vote is.

use super::{BOOT, Laboratory, with_console};
use crate::error::Result;
use crate::host::Host;
use crate::layout::{CacheLock, cache_key, make_dir, prune};
use crate::machine::{Machine, Parts, SavedState, Shape, definition};
use crate::provision::cluster;
use std::path::PathBuf;

/// The hosts' names, by which corosync, Pacemaker and the pool know them.
pub const NAMES: [&str; 2] = ["alpha", "beta"];
/// The link between the hosts, and the one to the third vote, as QEMU's monitor knows them.
pub const LINKS: [&str; 2] = ["ring", "third"];
/// The first link needs no privilege on this machine. It is no multicast, which would give a bridge what it sent back to it, so that it looked
/// for its guests elsewhere. The second one is QEMU's own network, in which this machine has the address of
/// `doc/examples/cluster/corosync.conf`. The disk is the one that DRBD has: the end of the machine's own, so that it is kept with it.
const DEVICES: [&str; 2] = [
    "-netdev socket,id=ring,udp=127.0.0.1:4556,localaddr=127.0.0.1:4555 -device virtio-net-pci,netdev=ring,mac=52:54:00:00:00:01 \
     -netdev user,id=third,net=198.51.100.0/24,host=198.51.100.9,dns=198.51.100.3 -device virtio-net-pci,netdev=third,mac=52:54:00:00:01:01 \
     -blockdev driver=raw,node-name=web,offset=16777216,size=8388608,cache.no-flush=on,file.driver=file,file.filename=state.img,file.locking=off \
     -device ide-hd,drive=web,bus=ide.0,unit=1",
    "-netdev socket,id=ring,udp=127.0.0.1:4555,localaddr=127.0.0.1:4556 -device virtio-net-pci,netdev=ring,mac=52:54:00:00:00:02 \
     -netdev user,id=third,net=198.51.100.0/24,host=198.51.100.9,dns=198.51.100.3 -device virtio-net-pci,netdev=third,mac=52:54:00:00:01:02 \
     -blockdev driver=raw,node-name=web,offset=16777216,size=8388608,cache.no-flush=on,file.driver=file,file.filename=state.img,file.locking=off \
     -device ide-hd,drive=web,bus=ide.0,unit=1",
];
/// A change of how the saved state comes about; it makes old ones invalid.
const RECIPE: &str = "cluster 2";
/// How many files of other states are kept: one for each host.
const OTHER_FILES: usize = 2 * SavedState::FILES;

/// What a cluster's hosts are made of, and where their states are.
pub struct ClusterParts {
    /// What each host is made of.
    pub parts: [Parts; 2],
    /// The packages' folder, for what of them runs on this machine.
    pub root: PathBuf,
    /// The state of each host, of one moment.
    pub states: [SavedState; 2],
}

impl ClusterParts {
    /// Whether both hosts' states are there.
    pub fn is_saved(&self) -> bool {
        self.states.iter().all(SavedState::exists)
    }
}

impl Laboratory {
    /// What a cluster is made of; what is there already is used again.
    pub fn cluster_parts(&self) -> Result<ClusterParts> {
        let (parts, _) = self.made_of(Shape::Member)?;
        let _lock = CacheLock::take(&self.layout)?;
        let root = cluster::provide(&self.layout, &self.packages)?;
        let images = &self.images;
        let initramfs = images.with_cluster(&self.layout, &self.packages, &root)?;
        let name = initramfs.file_name().unwrap_or_default().to_owned();
        let parts = DEVICES.map(|devices| Parts {
            initramfs: initramfs.clone(),
            devices,
            ..parts.clone()
        });
        let key = cache_key([
            RECIPE.as_bytes(),
            self.patched.key.as_bytes(),
            name.as_encoded_bytes(),
            definition(Shape::Member, self.packages.arch)
                .join(" ")
                .as_bytes(),
            DEVICES.join(" ").as_bytes(),
        ]);
        let folder = self.layout.lab("cluster/states");
        make_dir(&folder)?;
        let states = NAMES.map(|name| SavedState::named(&folder, &format!("{key}-{name}")));
        if !states.iter().all(SavedState::exists) {
            prune(&folder, OTHER_FILES)?;
        }
        Ok(ClusterParts {
            parts,
            root,
            states,
        })
    }

    /// Both hosts, just booted: nothing of the cluster runs.
    pub fn members_booted(&self, of: &ClusterParts) -> Result<[Host; 2]> {
        let [alpha, beta] = &of.parts;
        let start = |parts| Machine::boot(parts, &self.run_folder());
        let machines = [start(alpha)?, start(beta)?];
        for machine in &machines {
            let up = machine.agent.wait_ready(BOOT);
            up.map_err(|error| with_console(error, machine))?;
        }
        let [alpha, beta] = machines;
        Ok([self.host_on(alpha)?, self.host_on(beta)?])
    }

    /// Both hosts from their states; their time stands still.
    pub fn members_restored(&self, of: &ClusterParts) -> Result<[Host; 2]> {
        let [alpha, beta] = &of.parts;
        let restore = |parts, state| Machine::restore(parts, &self.run_folder(), state);
        let alpha = restore(alpha, &of.states[0])?;
        let beta = restore(beta, &of.states[1])?;
        Ok([self.host_on(alpha)?, self.host_on(beta)?])
    }

    /// A host that is down, booted again with its disk: nothing of the cluster runs there.
    pub fn member_booted_again(&self, of: &ClusterParts, at: usize, host: Host) -> Result<Host> {
        let machine = host.machine.boot_again(&of.parts[at])?;
        let up = machine.agent.wait_ready(BOOT);
        up.map_err(|error| with_console(error, &machine))?;
        self.host_on(machine)
    }

    /// A folder for what else belongs to a cluster.
    pub fn cluster_folder(&self) -> PathBuf {
        self.run_folder()
    }
}

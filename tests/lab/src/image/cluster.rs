// SPDX-License-Identifier: GPL-2.0-only
//! What dom0 of a cluster's host has besides: corosync, Pacemaker, DRBD, and the files of `doc/examples/cluster` as they are.

use super::libraries::Libraries;
use super::tree::Tree;
use super::{GUEST_MODULES, Images, Parts, VIRTIO_MODULES};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::provision::Packages;
use std::path::{Path, PathBuf};

const SCRIPT: &str = include_str!("../../images/cluster.sh");
const GUEST: &str = include_str!("../../images/cluster-guest-init.sh");
const SSH: &str = include_str!("../../images/ssh.sh");

/// Programs of the cluster's packages: where they are installed, below /usr.
const PROGRAMS: &[&str] = &[
    "sbin/corosync",
    "sbin/corosync-cfgtool",
    "sbin/corosync-cmapctl",
    "sbin/corosync-qdevice",
    "sbin/corosync-qdevice-tool",
    "sbin/corosync-quorumtool",
    "sbin/pacemakerd",
    "sbin/cibadmin",
    "sbin/crm_attribute",
    "sbin/crm_mon",
    "sbin/crm_node",
    "sbin/crm_resource",
    "sbin/crm_verify",
    "sbin/crmadmin",
    "sbin/stonith_admin",
    "lib/pacemaker/pacemaker-attrd",
    "lib/pacemaker/pacemaker-based",
    "lib/pacemaker/pacemaker-controld",
    "lib/pacemaker/pacemaker-execd",
    "lib/pacemaker/pacemaker-fenced",
    "lib/pacemaker/pacemaker-schedulerd",
    "sbin/drbdadm",
    "sbin/drbdmeta",
    "sbin/drbdsetup",
    "lib/drbd/drbdadm-84",
    "lib/drbd/drbdsetup-84",
    "bin/bash",
    "bin/gawk",
    "bin/socat",
];
/// Libraries that are loaded at run time.
const LOADED: &[&str] = &[
    "libcpg.so.4",
    "libquorum.so.5",
    "libvotequorum.so.8",
    "libcmap.so.4",
    "libsoftokn3.so",
    "libfreebl3.so",
    "libfreeblpriv3.so",
    "libsqlite3.so.0",
];
/// knet's ciphers, a folder below the libraries'.
const KNET: &str = "kronosnet/crypto_nss.so";
/// Programs of this machine, before busybox's of that name.
const HERE: &[&str] = &["flock", "setpriv"];
/// Our own programs that other images do not have.
const OURS: &[&str] = &["xenwarden-pool", "fence_xenwarden"];
/// Programs of Xen's packages, and their scripts for disks and networks.
const XEN: &[&str] = &["xenstore-list", "xenstore-exists", "xenstore-rm"];
const XEN_SCRIPTS: &str = "/etc/xen/scripts";
/// Whole folders of the cluster's packages.
const FOLDERS: &[&str] = &["/usr/lib/ocf", "/usr/share/pacemaker"];
const USERS: &str = "root:x:0:0::/:/bin/sh\nhacluster:x:189:189::/:/bin/false\nxenwarden-pool:x:970:970::/:/bin/false\n";
const GROUPS: &str =
    "root:x:0:\nhaclient:x:189:\nxenwarden:x:969:xenwarden-pool\nxenwarden-pool:x:970:\n";
/// Where each file of `doc/examples/cluster` belongs.
const EXAMPLES: &[(&str, &str)] = &[
    ("corosync.conf", "/etc/corosync/corosync.conf"),
    ("xenwarden.conf", "/etc/xenwarden/xenwarden.conf"),
    ("pool.conf", "/etc/xenwarden/pool.conf"),
    ("hosts", "/etc/hosts"),
    ("drbd.conf", "/etc/drbd.conf"),
    (
        "drbd.d/global_common.conf",
        "/etc/drbd.d/global_common.conf",
    ),
    ("drbd.d/r0.res", "/etc/drbd.d/r0.res"),
    ("fence-peer", "/usr/local/sbin/fence-peer"),
    ("web.cfg", "/etc/xen/web.cfg"),
    (
        "resource-agents-deps.conf",
        "/etc/systemd/system/resource-agents-deps.target.d/drbd.conf",
    ),
    ("cib.xml", "/etc/cluster/cib.xml"),
];
/// Modules of the network, the guests' devices and DRBD, in order.
const MODULES: &[&str] = &[
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/net/xen-netback/xen-netback",
    "drivers/block/xen-blkback/xen-blkback",
    "lib/lru_cache",
    "lib/libcrc32c",
    "drivers/block/drbd/drbd",
];
/// A guest's own.
const FRONTENDS: &[&str] = &["drivers/net/xen-netfront", "drivers/block/xen-blkfront"];
/// corosync-keygen's file has as many bytes.
const KEY_BYTES: usize = 256;

impl Images {
    /// dom0's initramfs with all of a cluster's host but its name; `cluster` has the packages.
    pub fn with_cluster(
        &self,
        layout: &Layout,
        packages: &Packages,
        cluster: &Path,
    ) -> Result<PathBuf> {
        let tree = Parts { layout, packages }.cluster(cluster)?;
        self.with(layout, "cluster/images", tree)
    }
}

impl Parts<'_> {
    fn cluster(&self, root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut libraries = Libraries::new(self.packages).before(root);
        let series = self.packages.release.series;
        let theirs = PROGRAMS
            .iter()
            .map(|path| Ok((format!("/usr/{path}"), found(root, path)?)));
        let ours = OURS
            .iter()
            .map(|name| Ok((format!("/usr/sbin/{name}"), self.built(name))));
        let here = HERE.iter().map(|name| {
            Ok((
                format!("/usr/sbin/{name}"),
                Path::new("/usr/bin").join(name),
            ))
        });
        let xen = XEN.iter().map(|name| {
            let path = format!("/usr/bin/{name}");
            Ok((path.clone(), self.packages.file(&path)))
        });
        for program in theirs.chain(ours).chain(here).chain(xen) {
            let (path, source) = program?;
            tree.copy(&path, &source)?;
            libraries.add(&source)?;
        }
        for name in LOADED {
            libraries.add_by_name(name)?;
        }
        let folder = format!("usr/lib/{}", self.packages.arch.triplet());
        let knet = root.join(&folder).join(KNET);
        tree.copy(&format!("/{folder}/{KNET}"), &knet)?;
        libraries.add(&knet)?;
        libraries.install(&mut tree)?;
        for folder in FOLDERS {
            tree.copy_folder(folder, &root.join(&folder[1..]))?;
        }
        tree.copy_folder(XEN_SCRIPTS, &self.packages.file(XEN_SCRIPTS))?;
        let drbd = format!("{XEN_SCRIPTS}/block-drbd");
        tree.copy(&drbd, &root.join(&drbd[1..]))?;
        tree.symlink("/usr/sbin/xl", &format!("../lib/xen-{series}/bin/xl"));
        self.modules(
            &mut tree,
            "/cluster/modules",
            &[VIRTIO_MODULES, MODULES].concat(),
        )?;
        tree.file("/usr/sbin/cluster", SCRIPT);
        tree.file("/usr/bin/ssh", SSH);
        tree.file("/etc/passwd", USERS);
        tree.file("/etc/group", GROUPS);
        tree.file(
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        );
        // As systemctl mask sleep.target does: a host that can be suspended promises nothing.
        tree.symlink("/etc/systemd/system/sleep.target", "/dev/null");
        let key: Vec<u8> = (0..KEY_BYTES).map(|at| (at * 89 + 7) as u8).collect();
        tree.file("/etc/corosync/authkey", key);
        let may_speak = self.layout.project("init/corosync/xenwarden-pool");
        tree.copy("/etc/corosync/uidgid.d/xenwarden-pool", &may_speak)?;
        for (name, path) in EXAMPLES {
            let example = format!("doc/examples/cluster/{name}");
            tree.copy(path, &self.layout.project(&example))?;
        }
        let guest = self.base(GUEST, &[FRONTENDS, GUEST_MODULES].concat(), &[])?;
        tree.file("/guest/cluster", guest.into_cpio());
        Ok(tree)
    }
}

/// A program of packages that may still bring /bin, /sbin and /lib.
fn found(root: &Path, path: &str) -> Result<PathBuf> {
    let mut places = [root.join("usr").join(path), root.join(path)].into_iter();
    places
        .find(|place| place.exists())
        .ok_or_else(|| Error::new(format!("the cluster's packages have no {path}")))
}

#[cfg(test)]
mod tests {
    use super::EXAMPLES;
    use crate::layout::Layout;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_of_the_example_is_installed() {
        let folder = Layout::of_this_tree().project("doc/examples/cluster");
        let mut there = BTreeSet::new();
        for (below, prefix) in [("", ""), ("drbd.d", "drbd.d/")] {
            for entry in std::fs::read_dir(folder.join(below)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    there.insert(format!("{prefix}{}", entry.file_name().to_string_lossy()));
                }
            }
        }
        let installed: BTreeSet<String> = EXAMPLES
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert_eq!(there, installed);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What dom0 has besides where other watchdog daemons are compared with ours: their programs, and a disk in memory for sbd.

use super::libraries::Libraries;
use super::tree::Tree;
use super::{Images, Parts};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::provision::Packages;
use std::path::{Path, PathBuf};

/// Their programs, as they are installed.
const PROGRAMS: &[&str] = &["/usr/sbin/sbd", "/usr/sbin/watchdog"];
/// The disk's module, and where it is.
const MODULES: &[&str] = &["drivers/block/brd"];
/// The folder of the kernel modules that the daemons need, in dom0.
pub const MODULES_FOLDER: &str = "/bench/modules";
/// Settings of watchdog(8): Debian's own, and the device, its timeout, and as often a kick as its `interval` is by default.
const WATCHDOG: &str = "watchdog-device = /dev/watchdog0\nwatchdog-timeout = 5\ninterval = 1\nrealtime = yes\npriority = 1\n";

impl Images {
    /// dom0's initramfs with the programs of the unpacked packages.
    pub fn with_peers(
        &self,
        layout: &Layout,
        packages: &Packages,
        peers: &Path,
    ) -> Result<PathBuf> {
        let tree = Parts { layout, packages }.peers(peers)?;
        self.with(layout, "bench/images", tree)
    }
}

impl Parts<'_> {
    fn peers(&self, root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut libraries = Libraries::new(self.packages).before(root);
        for path in PROGRAMS {
            let source = root.join(path.trim_start_matches('/'));
            if !source.exists() {
                return Err(Error::new(format!("the packages have no {path}")));
            }
            tree.copy(path, &source)?;
            libraries.add(&source)?;
        }
        libraries.install(&mut tree)?;
        self.modules(&mut tree, MODULES_FOLDER, MODULES)?;
        tree.file("/etc/watchdog.conf", WATCHDOG);
        Ok(tree)
    }
}

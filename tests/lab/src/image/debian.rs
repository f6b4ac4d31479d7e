// SPDX-License-Identifier: GPL-2.0-only
//! What boots a Debian on a disk: an initramfs that finds the disk, and carries what the laboratory needs there.

use super::tree::Tree;
use super::{DISK_MODULES, Images, OTHER_IMAGES, Parts, tiny};
use crate::error::Result;
use crate::layout::{Layout, cache_key, make_dir, prune, write};
use crate::provision::Packages;
use std::path::{Path, PathBuf};

const INIT: &str = include_str!("../../images/debian-init.sh");
const UNITS: &[(&str, &str)] = &[
    (
        "lab-agent.service",
        include_str!("../../images/lab-agent.service"),
    ),
    (
        "lab-log.service",
        include_str!("../../images/lab-log.service"),
    ),
];
/// The laboratory's own programs that it needs.
const HELPERS: &[&str] = &["dom0-agent", "dom0-tee"];

impl Images {
    /// The initramfs that boots a Debian with these packages in `/run/lab`, each with its name there.
    pub fn for_debian(
        &self,
        layout: &Layout,
        packages: &Packages,
        debs: &[(&str, PathBuf)],
    ) -> Result<PathBuf> {
        let parts = Parts { layout, packages };
        let initramfs = parts.debian(&self.kernel, debs)?.into_cpio();
        let folder = layout.made("debian-images");
        make_dir(&folder)?;
        let path = folder.join(cache_key([initramfs.as_slice()]));
        if !path.exists() {
            prune(&folder, OTHER_IMAGES)?;
            write(&path, initramfs)?;
        }
        Ok(path)
    }
}

impl Parts<'_> {
    fn debian(&self, kernel: &Path, debs: &[(&str, PathBuf)]) -> Result<Tree> {
        let mut tree = self.base(INIT, DISK_MODULES, &[])?;
        for (name, text) in UNITS {
            tree.file(&format!("/lab/units/{name}"), *text);
        }
        for name in HELPERS {
            tree.copy(&format!("/lab/bin/{name}"), &self.built(name))?;
        }
        tree.file("/lab/guest/initramfs", self.guest()?.into_cpio());
        tree.copy("/lab/guest/vmlinux", kernel)?;
        tree.file(
            "/lab/guest/tiny",
            tiny::assemble(self.layout, "tiny-guest")?,
        );
        for (name, deb) in debs {
            tree.copy(&format!("/lab/{name}"), deb)?;
        }
        Ok(tree)
    }
}

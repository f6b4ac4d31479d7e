// SPDX-License-Identifier: GPL-2.0-only
//! A Debian as users install it, on a disk: systemd, Xen's tools with their scripts, and the modules of the laboratory's kernel. It has
//! nothing of xenwarden, and of the laboratory no more than a link; what else that needs comes with each boot (`images/debian-init.sh`).
//!
//! In: Debian's archive, the unpacked kernel package. Out: the image of a disk, cached under the hash of what it is made by. Making it
//! takes root, as the disk is filled from a folder whose files must be root's.

use super::apt::Apt;
use super::host::install_missing_of;
use super::packages::Packages;
use crate::command::{logged, output, say};
use crate::error::{Context, Result};
use crate::layout::{Layout, cache_key, fresh_dir, make_dir, prune, write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What making it takes.
const NEEDED: &[(&str, &str)] = &[("mmdebstrap", "mmdebstrap")];
/// What is installed besides what Debian calls required. `SERIES` is that of Xen.
const INSTALLED: &str =
    "systemd,systemd-sysv,udev,dbus,kmod,xen-utils-SERIES,xen-utils-common,xenstore-utils";
/// The kernel's modules that a host without screen, sound and network may load, below `/lib/modules/RELEASE/kernel`.
const MODULES: &[&str] = &[
    "arch",
    "block",
    "crypto",
    "drivers/ata",
    "drivers/block",
    "drivers/char",
    "drivers/i2c",
    "drivers/scsi",
    "drivers/watchdog",
    "drivers/xen",
    "fs",
    "lib",
];
/// What would work on its own at a moment that nobody knows.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
];
/// Files of its own: a name and a number of the host, which systemd would else ask for, and guests' consoles kept as the laboratory
/// reads them.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "host-a\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/fstab", "/dev/sda / ext4 defaults 0 0\n"),
    ("etc/default/xen", "XENCONSOLED_ARGS=--log=all\n"),
];
/// Where the laboratory's guests are found.
const GUESTS: (&str, &str) = ("guest", "/run/lab/guest");
/// The disk's size.
const SIZE: &str = "1G";
/// A change of how it is made that the above does not show.
const RECIPE: &str = "1";
/// How many of other versions are kept.
const OTHERS: usize = 1;

/// The image of the disk.
pub fn provide(layout: &Layout, packages: &Packages) -> Result<PathBuf> {
    let installed = INSTALLED.replace("SERIES", packages.release.series);
    let files = FILES.iter().flat_map(|(path, text)| [*path, *text]);
    let texts = [RECIPE, SIZE, &installed, packages.kernel_release()];
    let parts = texts.into_iter().chain(files);
    let parts = parts.chain(MODULES.iter().chain(MASKED).copied());
    let folder = layout.lab("debian");
    let image = folder.join(cache_key(parts.map(str::as_bytes)));
    if image.exists() {
        return Ok(image);
    }
    install_missing_of(layout, NEEDED)?;
    make_dir(&folder)?;
    prune(&folder, OTHERS)?;
    let root = layout.lab("debian-root");
    fresh_dir(&root)?;
    bootstrap(layout, packages, &installed, &root)?;
    configure(packages, &root)?;
    let part = layout.lab("debian-part");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&root);
    output(mke2fs.arg(&part).arg(SIZE))?;
    fs::remove_dir_all(&root)
        .and_then(|()| fs::rename(&part, &image))
        .context(|| format!("cannot keep {}", image.display()))?;
    Ok(image)
}

fn bootstrap(layout: &Layout, packages: &Packages, installed: &str, root: &Path) -> Result<()> {
    let release = packages.release;
    let sources = Apt::open(layout, release, packages.arch)?.sources();
    let name = release.codename;
    say(format!("installing {name} with systemd (two minutes)"));
    make_dir(&layout.lab("logs"))?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--variant=minbase", &format!("--include={installed}"), name])
        .args([root, &sources]);
    logged(&mut mmdebstrap, &layout.lab("logs/mmdebstrap.log"))
}

fn configure(packages: &Packages, root: &Path) -> Result<()> {
    for (path, text) in FILES {
        write(&root.join(path), text)?;
    }
    make_dir(&root.join("var/log/xen/console"))?;
    std::os::unix::fs::symlink(GUESTS.1, root.join(GUESTS.0))
        .context(|| "cannot link the guests")?;
    let modules = format!("lib/modules/{}", packages.kernel_release());
    let kernel = root.join(&modules).join("kernel");
    for folder in MODULES {
        let to = kernel.join(folder);
        make_dir(&to)?;
        let from = packages.file(&format!("/{modules}/kernel/{folder}/."));
        output(Command::new("cp").arg("-r").args([&from, &to]))?;
    }
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let from = packages.file(&format!("/{modules}/{list}"));
        fs::copy(&from, root.join(&modules).join(list))
            .context(|| format!("cannot copy {}", from.display()))?;
    }
    let inside = |words: &[&str]| output(Command::new("chroot").arg(root).args(words));
    inside(&["depmod", packages.kernel_release()])?;
    inside(&[&["systemctl", "--quiet", "mask"], MASKED].concat()).map(drop)
}

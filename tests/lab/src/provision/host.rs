// SPDX-License-Identifier: GPL-2.0-only
//! What this machine itself must have installed, by Debian package name.

use super::arch::Arch;
use crate::command::{is_installed, logged, output, say};
use crate::error::{Context, Result};
use crate::layout::{Layout, make_dir};
use std::process::Command;

/// A program that the laboratory runs, and the package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("setpriv", "util-linux"),
    ("mke2fs", "e2fsprogs"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("dpkg-source", "dpkg-dev"),
    ("patch", "patch"),
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("python3", "python3"),
];
/// The same by the emulated host's processors.
fn needed_for(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::Amd64 => &[("qemu-system-x86_64", "qemu-system-x86")],
        Arch::Arm64 => &[
            ("qemu-system-aarch64", "qemu-system-arm"),
            ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ],
    }
}

/// Installs the packages of the programs that are missing, and says so first. Does nothing, and asks for no
/// privilege, when all are there.
pub fn install_missing(layout: &Layout, arch: Arch) -> Result<()> {
    install_missing_of(layout, &[NEEDED, needed_for(arch)].concat())
}

/// The same for these programs, each with its package.
pub fn install_missing_of(layout: &Layout, needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    make_dir(&layout.lab("logs"))?;
    say(format!("installing with apt-get: {}", missing.join(" ")));
    let log = layout.lab("logs/apt-install.log");
    if install(&missing, &log).is_err() {
        say("  that failed; trying again after apt-get update");
        output(Command::new("apt-get").arg("update"))?;
        install(&missing, &log)
            .context(|| "cannot install what the laboratory needs (are you root?)")?;
    }
    Ok(())
}

fn install(packages: &[&str], log: &std::path::Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "--yes",
        "--no-install-recommends",
    ]);
    logged(command.args(packages), log)
}

// SPDX-License-Identifier: GPL-2.0-only
//! What this machine itself must have installed, by Debian package name.

use crate::command::{is_installed, logged, output, say};
use crate::error::{Context, Result};
use crate::layout::{Layout, make_dir};
use std::process::Command;

/// A program that the laboratory runs, and the package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("mke2fs", "e2fsprogs"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("ldd", "libc-bin"),
    ("dpkg-source", "dpkg-dev"),
    ("patch", "patch"),
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("python3", "python3"),
];

/// Installs the packages of the programs that are missing, and says so first. Does nothing, and asks for no
/// privilege, when all are there.
pub fn install_missing(layout: &Layout) -> Result<()> {
    install_missing_of(layout, NEEDED)
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

// SPDX-License-Identifier: GPL-2.0-only
//! The emulated host's disk: what dom0 keeps over a reset of the host.

use crate::command::output;
use crate::error::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Its name in a machine's folder.
pub const NAME: &str = "state.img";
/// Its size: a file system, and behind it a disk of its own for hosts of a cluster (`laboratory/cluster.rs`).
const BYTES: u64 = 24 << 20;
/// The file system's, as mke2fs takes it.
const FILE_SYSTEM: &str = "16M";

/// Makes a machine's disk: a copy of the one that it begins with, or an empty one with a file system.
pub fn provide(begun_with: Option<&Path>, path: &Path) -> Result<()> {
    match begun_with {
        Some(disk) => copy(disk, path),
        None => create(path),
    }
}

fn create(path: &Path) -> Result<()> {
    let file = fs::File::create(path).and_then(|file| file.set_len(BYTES));
    file.context(|| format!("cannot create {}", path.display()))?;
    output(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-F"])
            .arg(path)
            .arg(FILE_SYSTEM),
    )
    .map(drop)
}

/// Copies a disk that no machine writes to; what is empty on it takes no room.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    output(copy.arg("--sparse=always").args([from, to])).map(drop)
}

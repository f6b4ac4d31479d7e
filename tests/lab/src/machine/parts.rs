// SPDX-License-Identifier: GPL-2.0-only
//! What machines are made of, and where their states are kept.

use super::shape::Shape;
use crate::error::{Context, Result};
use crate::provision::Arch;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a machine is made of. Two machines of the same parts can exchange their saved states.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The hypervisor's image.
    pub hypervisor: PathBuf,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's initramfs.
    pub initramfs: PathBuf,
    /// A disk that it begins with; none: an empty one.
    pub disk: Option<PathBuf>,
    /// Where dom0 runs.
    pub shape: Shape,
    /// The host's processors.
    pub arch: Arch,
    /// Where the hypervisor's page tables are, where a debugger needs them.
    pub tables: Option<u64>,
    /// QEMU's options for what only some machines have; it is no part of saved states.
    pub devices: &'static str,
    /// What the hypervisor is told more, likewise.
    pub xen_arguments: &'static str,
}

impl Parts {
    /// Whether the state of such a machine can be saved: QEMU saves no timer of Arm's hypervisors, and none of its IOMMU
    /// (hw/i386/amd_iommu.c).
    pub fn can_be_saved(&self) -> bool {
        self.arch == Arch::Amd64 && self.shape != Shape::Pvh
    }
}

/// A machine's state on disk. Machines that begin with it write to none of its files.
#[derive(Debug, Clone)]
pub struct SavedState {
    /// The memory as it was, byte by byte: machines map it, so what they do not touch is never read.
    pub memory: PathBuf,
    /// All else: processors and devices.
    pub devices: PathBuf,
    /// The disk at that moment.
    pub disk: PathBuf,
}

impl SavedState {
    /// Files of one state.
    pub const FILES: usize = 3;

    /// The state of this name in a folder.
    pub fn named(folder: &Path, name: &str) -> Self {
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        SavedState {
            memory: file("memory"),
            devices: file("devices"),
            disk: file("image"),
        }
    }

    /// Removes what there is of it.
    pub fn remove(&self) -> Result<()> {
        // The devices first: without them it is none.
        for file in [&self.devices, &self.memory, &self.disk] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        [&self.memory, &self.devices, &self.disk]
            .iter()
            .all(|file| file.exists())
    }
}

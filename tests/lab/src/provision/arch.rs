// SPDX-License-Identifier: GPL-2.0-only
//! Which processors the emulated host has.

use crate::error::{Error, Result};

/// Says which, as Debian calls them.
pub const CHOICE: &str = "XENWARDEN_LAB_ARCH";

/// An architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64, that of this machine.
    Amd64,
    /// AArch64: its programs are cross built, and none of them runs here.
    Arm64,
}

impl Arch {
    /// The one that the environment asks for.
    pub fn chosen() -> Result<Self> {
        match std::env::var(CHOICE).unwrap_or_default().as_str() {
            "" | "amd64" => Ok(Arch::Amd64),
            "arm64" => Ok(Arch::Arm64),
            other => Err(Error::new(format!(
                "{CHOICE}: no {other} here, but amd64, arm64"
            ))),
        }
    }

    /// As Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// As libraries' folders are named.
    pub fn triplet(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64-linux-gnu",
            Arch::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// What Xen's build is told.
    pub fn xen_build(self) -> &'static [&'static str] {
        match self {
            Arch::Amd64 => &["XEN_TARGET_ARCH=x86_64"],
            Arch::Arm64 => &["XEN_TARGET_ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"],
        }
    }

    /// QEMU's program.
    pub fn qemu(self) -> &'static str {
        match self {
            Arch::Amd64 => "qemu-system-x86_64",
            Arch::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Where cargo leaves release builds, below its target folder.
    pub fn programs(self) -> &'static str {
        match self {
            Arch::Amd64 => "release",
            Arch::Arm64 => "aarch64-unknown-linux-gnu/release",
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Getting the parts: programs on this machine, packages from Debian's archive, and the hypervisor that we build.

mod apt;
mod arch;
pub mod cluster;
pub mod deb;
pub mod debian;
mod host;
mod hypervisor;
mod packages;
pub mod peers;
mod release;
mod unpacked;

pub use arch::Arch;
pub use host::install_missing;
pub use hypervisor::Hypervisor;
pub use packages::Packages;
pub use release::Release;

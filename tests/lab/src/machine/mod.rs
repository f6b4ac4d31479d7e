// SPDX-License-Identifier: GPL-2.0-only
//! One emulated host and the ways to it: QEMU's monitor, its gdb stub, commands in dom0, the log out of dom0.

pub mod agent;
mod definition;
mod disk;
pub mod gdb;
pub mod log;
mod mailbox;
mod parts;
pub mod pause;
mod qemu;
mod qmp;
mod seen;
mod shape;
mod state;
pub mod symbols;
mod virtio_guest;

pub use definition::{ARM_LOADED, definition};
pub use parts::{Parts, SavedState};
pub use qemu::Machine;
pub use shape::{Shape, Watchdog};
pub use virtio_guest::VirtioGuest;

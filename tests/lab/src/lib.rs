// SPDX-License-Identifier: GPL-2.0-only
//! The nested-Xen laboratory: a real Xen host, emulated, with real guests, in which xenwarden's promises are tested and shown.
//!
//! ```text
//!  provision    Debian's packages by name, the patched hypervisor built
//!      │
//!    image      dom0's and the guests' initramfs, with the programs that users install
//!      │
//!  laboratory   boots a host once and saves its state
//!      │                                        machine: QEMU, its monitor, its gdb stub,
//!    host       restored in an instant     ───▶          commands in dom0, the log out of dom0
//!      │
//!   wedge       faults injected into the running hypervisor
//!      │
//!  scenario     what must come of them: `cargo test --test scenarios`, `lab run`
//!    soak       the same for hours, over phases of the timers, with what can be said of so many: `lab soak`
//!    variant    the programs with a rule taken away, which a scenario must notice: `lab variants`
//!    demo       the same as a story: `lab demo`
//!    cost       what the hypervisor's patches cost guests, by instruction count: `lab cost`
//!    bench      ours and other watchdog daemons compared: `lab bench`
//!    series     the patches for other Xen versions, tried on their trees: `lab series`
//! ```
//!
//! Everything is measured in the emulated host's own time, which does not depend on how busy this machine is.

pub mod bench;
pub mod cluster;
pub mod command;
pub mod cost;
pub mod demo;
pub mod guest;
pub mod host;
pub mod image;
pub mod laboratory;
pub mod layout;
pub mod machine;
pub mod provision;
pub mod scenario;
pub mod series;
pub mod soak;
pub mod variant;
pub mod wedge;

pub use xenwarden_lab_dom0::error;

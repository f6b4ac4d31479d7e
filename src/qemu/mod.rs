// SPDX-License-Identifier: GPL-2.0-only
//! Alarms for the watchdog devices of QEMU's VMs: the process xenwarden-qemu.
//!
//! ```text
//!   QEMU ── QMP ──▶ session ──▶ vm ──▶ vms ──▶ teller ──▶ the monitor, which has the bus
//!     │             a thread    pure    │ ▲
//!     └─ its log ──▶ log_file ──▶ device │ └── control socket ◀── xenwarden guests, ack
//!        trace       bounded      pure   └──▶ saved, on disk
//! ```
//!
//! In: for each VM of a configuration, a QMP socket of its own. Out: events with the guest's UUID,
//! told to the monitor and logged; answers on a control socket. Promises: an alarm has the
//! lifecycle of Xen's guests ([`crate::guests::alarm`]) and outlives this process; a VM is never
//! delayed, whatever becomes of this process; nobody's silence is an answer. Must never order a
//! VM to do anything but to log what its guest writes.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | the file |
//! | [`session`] | one VM's thread: what its QEMU says becomes inputs |
//! | [`feeds`], [`log_file`], [`trace`] | how feeds are seen |
//! | [`device`] | what counts as one; pure |
//! | [`pace`] | how often a peer is let in, and into the log; pure |
//! | [`peer`] | which process a QEMU is |
//! | [`status`], [`vm`] | QEMU's words, and what they mean for the alarm; pure |
//! | [`hypervisor`] | whether Xen has paused the VM, which QEMU does not know |
//! | [`vms`], [`saved`] | all of them behind a lock, and on disk |
//! | [`teller`] | events, to the monitor |
//! | [`service`] | assembly |

pub mod config;
pub mod device;
pub mod feeds;
pub mod hypervisor;
pub mod log_file;
pub mod pace;
pub mod peer;
pub mod saved;
pub mod service;
pub mod session;
pub mod status;
pub mod teller;
pub mod trace;
pub mod vm;
pub mod vms;

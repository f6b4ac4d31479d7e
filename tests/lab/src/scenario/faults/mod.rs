// SPDX-License-Identifier: GPL-2.0-only
//! The fault matrix: what may befall the guard, the monitor, dom0, the hypervisor and the device, and what is promised then.
//!
//! `down/...` ends with a reset within T + G, `survive/...` must not: kicks go on and the kick path has faulted no page. A choice that
//! covers each promise runs with `make test`, all with `make test-all`.

pub mod device;
pub mod dom0;
pub mod processes;
pub mod xen;

/// The rows that run with `make test`; the others show the like.
pub const IN_EVERY_RUN: &[&str] = &[
    "guard-overflows",
    "guard-out-of-memory",
    "monitor-segfaults",
    "second-guard",
    "upgrade-while-expiring",
    "descriptors-used-up",
    "state-frozen",
    "clock-steps",
    "vcpu-unplugged",
    "pcpu-offline",
    "console-slow",
    "kick-refused",
    "slots-cleared",
];

// SPDX-License-Identifier: GPL-2.0-only
//! The laboratory's programs inside the emulated host, and what they share with the laboratory outside.

pub mod agent;
pub mod error;

/// The port of an `isa-debugcon` of QEMU, behind which the laboratory reads dom0's log. The usual one, 0xe9, is the hypervisor's own in
/// a PVH dom0.
pub const LOG_PORT: u16 = 0x403;
/// The port of another one, where dom0's virtual processors show that they run.
pub const PULSE_PORT: u16 = 0x402;
/// How often they do.
pub const PULSE_PERIOD: std::time::Duration = std::time::Duration::from_millis(100);

// SPDX-License-Identifier: GPL-2.0-only
//! The laboratory's programs inside the emulated host, and what they share with the laboratory outside.

pub mod agent;
pub mod error;
pub mod port;

/// How often dom0's virtual processors show that they run.
pub const PULSE_PERIOD: std::time::Duration = std::time::Duration::from_millis(100);

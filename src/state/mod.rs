// SPDX-License-Identifier: GPL-2.0-only
//! What outlives the monitor and the host.

pub mod deduction;
pub mod drill;
pub mod file;
pub mod history;
pub mod reset_reason;
pub mod saver;
pub mod sequence;
pub mod store;
pub mod traces;
pub mod withhold;

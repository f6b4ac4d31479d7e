// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: questions and orders.

pub mod peer;
pub mod server;
pub mod status;

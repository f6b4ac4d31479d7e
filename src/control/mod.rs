// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: questions and orders; and what it shares with the event socket.

pub mod client_pool;
pub mod connect;
pub mod inhibit;
pub mod leases;
pub mod peer;
pub mod protocol;
pub mod server;
pub mod status;
pub mod tell;

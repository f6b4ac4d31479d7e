// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pulse: heartbeats between two VMMs, with a guest, or with a remote server.
//!
//! In: options in QEMU's syntax or a TOML file; what peers send. Out: events, scripts and commands to
//! a monitor, hooks, leases on the host's life. Promises: whatever comes from the network, the
//! other heartbeats are watched on time, and memory stays bounded. Never: a privilege, or a
//! wait for anybody.
//!
//! ```text
//!  options (QEMU's) ─┐
//!  config (TOML) ────┴─▶ plan
//!                          │
//!  peers ─▶ link ─▶ protocol ─▶ heartbeat ─▶ beat ─┬─▶ reporter ─▶ journal, monitor
//!           │       frame, notify, psk             ├─▶ notification (qmp) ─▶ link
//!  remote ──┘                                      ├─▶ hook
//!                                                  └─▶ lease
//!           run: one thread, one epoll, a timer for each beat; status, metrics
//! ```
//!
//! What may block does so in threads of its own: names of hosts (`resolver`), hooks (`hook`), the
//! monitor's socket ([`reporter`]). The loop never waits for them.

mod beat;
pub mod config;
pub mod frame;
pub mod heartbeat;
mod hook;
mod key;
mod lease;
mod link;
pub mod metrics;
mod notification;
pub mod notify;
mod open;
pub mod options;
pub mod plan;
mod poller;
mod proofs;
pub mod protocol;
pub mod psk;
mod qmp;
mod refusals;
mod remote;
pub mod reporter;
mod resolver;
pub mod run;
mod stats;
pub mod status;
mod status_socket;
mod stream;

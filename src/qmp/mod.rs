// SPDX-License-Identifier: GPL-2.0-only
//! QMP, the protocol of QEMU's machine monitor: a client.
//!
//! ```text
//!   socket ──▶ lines ──▶ message ──▶ client ──▶ answers, by their ids
//!              bounded   typed         │        events, in their order
//!                                      └──▶ commands
//! ```
//!
//! In: what a QEMU, or whoever has its socket, sends. Out: answers to commands and events.
//! Promises: every wait has an end, and a peer takes a bounded number of bytes whatever it sends.
//! Must never take a peer's silence, or what it says that is no QMP, for an answer.
//!
//! Source: QEMU's docs/interop/qmp-spec.txt (qmp-spec.rst from 8.1 on).

pub mod client;
pub mod lines;
pub mod message;

pub use client::{CallError, Client, Stopped};
pub use message::{Event, Message};

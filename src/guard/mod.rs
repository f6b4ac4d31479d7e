// SPDX-License-Identifier: GPL-2.0-only
//! The guard: one real-time thread that looks, judges, asks the gate, and kicks or withholds.
//!
//! ```text
//!   liveness table ─▶ sight ─▶ evidence ─▶ gate ─▶ run ─▶ host watchdog
//!   or probing ─▶ probes ┘                          └──▶ page ─▶ whoever maps it
//! ```
//!
//! In: a policy. Out: an armed host watchdog that is kicked, and the guard page. [`start`]
//! may allocate, block and fail, and does so before anything is armed; from then on there is
//! only [`run`], which does none of it.

pub mod arming;
pub mod deadlines;
pub mod devices;
pub mod evidence;
pub mod gate;
pub mod histogram;
pub mod hold;
pub mod host;
pub mod leases;
pub mod page;
pub mod probes;
pub mod probing;
pub mod request;
pub mod run;
pub mod seqlock;
pub mod sight;
pub mod start;
pub mod starving;
pub mod tick;
pub mod work;

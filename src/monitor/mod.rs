// SPDX-License-Identifier: GPL-2.0-only
//! The monitor: everything that the guard can live without, a process of its own.
//!
//! In: the guard page and the liveness table, both mapped read-only; xenstore's names;
//! questions and orders. Out: events, lines, answers, state on disk. It may be killed,
//! stopped, restarted or upgraded at any moment: neither a kick nor a reset comes of it.

pub mod evidence;
pub mod guest_threads;
pub mod host_state;
pub mod leases;
pub mod names;
pub mod open_alarms;
pub mod pcpus;
pub mod privileges;
pub mod recorder;
pub mod reported;
pub mod reporter;
pub mod services;
pub mod shared_registry;
pub mod starving;
pub mod table;
pub mod watcher;

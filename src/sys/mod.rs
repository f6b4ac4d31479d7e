// SPDX-License-Identifier: GPL-2.0-only
//! The operating system's edge: the only room with `unsafe`.
//!
//! In: plain values. Out: plain values or an error with the errno. Each submodule
//! wraps one kernel interface, cites the header or driver that defines it, and
//! offers safe methods; nothing here decides anything.
#![allow(unsafe_code)]

pub mod allocator;
pub mod child;
pub mod clock;
pub mod corosync;
pub mod inherited;
pub mod ipmi;
pub mod mapping;
pub mod notify;
pub mod peer;
pub mod privcmd;
pub mod realtime;
pub mod stopwatch;
pub mod terminal;
pub mod wake;
pub mod watchdog;
pub mod word;

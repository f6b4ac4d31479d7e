// SPDX-License-Identifier: GPL-2.0-only
//! Sinks: where words go. Each has a thread of its own behind a bounded queue, so that
//! none can delay anything else; what a full queue refuses is counted.
//!
//! Events arrive from the [`bus`](crate::event::bus): in [`syslog`] (or the [`journal`]), the event [`socket`],
//! [`hooks`] and [`metrics`]. They sleep until there is an event. Each ends by the deadline that the bus was
//! closed with, however much is queued; what is left is counted. [`log`] has what is no event, [`kmsg`] the one line of
//! a host whose kicks end.

pub mod devlog;
pub mod direct_log;
pub mod hooks;
pub mod journal;
pub mod kmsg;
pub mod log;
pub mod metrics;
pub mod socket;
pub mod syslog;

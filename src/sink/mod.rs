// SPDX-License-Identifier: GPL-2.0-only
//! Sinks: where words go. Each has a thread of its own behind a bounded queue, so that
//! none can delay anything else; what a full queue refuses is counted.

pub mod devlog;
pub mod log;

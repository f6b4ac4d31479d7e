// SPDX-License-Identifier: GPL-2.0-only
//! Guests: so far their names, for people who read status.

pub mod names;
pub mod report;

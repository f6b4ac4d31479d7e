// SPDX-License-Identifier: GPL-2.0-only
//! The monitor: everything that the guard can live without, assembled.

pub mod desk;
pub mod names;
pub mod reporter;
pub mod services;
pub mod watcher;

// SPDX-License-Identifier: GPL-2.0-only
//! The guard: look, judge, ask the gate, kick or withhold.

pub mod assembly;
pub mod board;
pub mod evidence;
pub mod gate;
pub mod kicker;
pub mod ledger;
pub mod sampler;
pub mod startup;
pub mod words;

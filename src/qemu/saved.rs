// SPDX-License-Identifier: GPL-2.0-only
//! What outlives xenwarden-qemu, and the host: its VMs and their alarms.
//!
//! In: the VMs. Out: the same after a restart. Pure; [`crate::state::store`] writes the file.

use super::vm::{Input, Outcome, Vm};
use crate::event::{Timestamp, Uuid};
use crate::guests::alarm::{Moment, Nanoseconds, Rules};
use crate::state::store::Stored;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Of this form: 1.
    pub version: u32,
    /// The host's boot, as in /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// When it was saved: CLOCK_MONOTONIC of that boot, ns.
    pub monotonic_ns: Nanoseconds,
    /// The same as wall time.
    pub time: Timestamp,
    /// By their names in the configuration.
    pub vms: BTreeMap<String, SavedVm>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedVm {
    /// The guest.
    pub uuid: Uuid,
    /// Its trace was on.
    pub tracing: bool,
    /// The rest.
    pub vm: Vm,
}

impl Stored for Saved {
    const FILE: &'static str = "qemu.json";
    const VERSION: u32 = 1;
}

impl Saved {
    /// The VMs as of `at`, in the boot `boot_id`; of an earlier boot all QEMUs are gone.
    #[must_use]
    pub fn restore(
        self,
        boot_id: &str,
        at: Moment,
        rules: &Rules,
    ) -> BTreeMap<String, (SavedVm, Vec<Outcome>)> {
        let same_boot = self.boot_id == boot_id && !boot_id.is_empty();
        // The wall clock tells how far apart the two monotonic clocks are.
        let wall_us = at.wall.0.saturating_sub(self.time.0).max(0);
        let shift = at.ns.saturating_sub(self.monotonic_ns);
        let shift = shift.saturating_sub(wall_us.saturating_mul(1_000));
        let restored = self.vms.into_iter().map(|(name, mut saved)| {
            let mut said = Vec::new();
            if !same_boot {
                saved.vm.outlive_boot(shift);
                saved.tracing = false;
                said = saved.vm.step(at, Input::Gone, rules);
            }
            (name, (saved, said))
        });
        restored.collect()
    }
}

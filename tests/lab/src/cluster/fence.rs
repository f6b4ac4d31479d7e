// SPDX-License-Identifier: GPL-2.0-only
//! The agent by itself, at any moment: it says that a host is down only when QEMU has said so before.

use super::Cluster;
use super::rows::{
    PROMISE, down_at, guard_killed as kill_guard, links_cut as cut_links, power_cut as cut_power,
};
use crate::error::{Error, Result};
use crate::laboratory::cluster::NAMES;
use serde_json::{Value, json};
use std::time::Instant;

/// It is heard, and told to withhold.
pub fn heard(cluster: &mut Cluster) -> Result<Value> {
    fenced(cluster, |_, _| Ok(Instant::now()))
}

/// Its guard has just died.
pub fn guard_killed(cluster: &mut Cluster) -> Result<Value> {
    fenced(cluster, kill_guard)
}

/// It has just been cut off.
pub fn links_cut(cluster: &mut Cluster) -> Result<Value> {
    fenced(cluster, cut_links)
}

/// It has just lost its power.
pub fn power_cut(cluster: &mut Cluster) -> Result<Value> {
    fenced(cluster, cut_power)
}

fn fenced(
    cluster: &mut Cluster,
    inject: fn(&mut Cluster, usize) -> Result<Instant>,
) -> Result<Value> {
    let target = cluster.guest_at()?;
    let asks = 1 - target;
    let fault = inject(cluster, target)?;
    let order = format!(
        "fence_xenwarden -o off -n {} --power-timeout=150",
        NAMES[target]
    );
    let outcome = cluster.hosts[asks].machine.run(&order, PROMISE)?;
    let told = Instant::now();
    if outcome.code != 0 {
        return Err(Error::new(format!(
            "exit code {}: {}",
            outcome.code, outcome.output
        )));
    }
    // It is there already, or else comes too late.
    let down = down_at(cluster, target, fault)?;
    let (told_s, down_s) = (told - fault, down.saturating_duration_since(fault));
    if told < down {
        return Err(Error::new(format!(
            "told after {told_s:?}, down after {down_s:?}"
        )));
    }
    Ok(json!({ "down_s": down_s.as_secs_f64(), "told_s": told_s.as_secs_f64() }))
}

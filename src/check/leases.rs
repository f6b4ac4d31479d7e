// SPDX-License-Identifier: GPL-2.0-only
//! Leases: what of them could bring the host down though all is well.

use super::{Area, Finding, System};
use crate::config::Policy;
use crate::control::leases::{Lease, LeaseState, of_page};
use crate::guard::leases::page::PATH;
use crate::sys::clock::Monotonic;
use std::path::Path;

const AREA: Area = Area::Leases;

/// What is said of them; nothing where there are none.
pub fn look(system: &System, policy: &Option<Policy>) -> Vec<Finding> {
    let there = of_page(&system.at(Path::new(PATH)), Monotonic::now());
    let configured = policy.iter().flat_map(|policy| &policy.leases.leases);
    let names: Vec<String> = configured.map(|lease| lease.name.to_string()).collect();
    let missing = names
        .iter()
        .filter(|name| !there.iter().any(|lease| lease.lease == **name));
    let mut findings: Vec<Finding> = missing
        .map(|name| {
            let text = format!("{name}: the guard does not go by it");
            Finding::weak(
                AREA,
                text,
                "restart xenwardend, and the configuration is read",
            )
        })
        .collect();
    findings.extend(there.iter().filter_map(not_fine));
    if findings.is_empty() && !there.is_empty() {
        let all = there.iter().map(|lease| {
            let state = lease.state.name();
            format!("{} ({state})", lease.lease)
        });
        let all: Vec<String> = all.collect();
        findings.push(Finding::fine(AREA, all.join(", ")));
    }
    findings
}

fn not_fine(lease: &Lease) -> Option<Finding> {
    let name = &lease.lease;
    let seconds = lease.left_ms.unwrap_or(0) / 1_000;
    Some(match lease.state {
        LeaseState::Held | LeaseState::Released => return None,
        LeaseState::Waiting if !lease.required => return None,
        LeaseState::Waiting => Finding::weak(
            AREA,
            format!(
                "{name}: required, and nobody has renewed it: the host goes down in {seconds} s"
            ),
            "start the program that holds it, or leave out required",
        ),
        LeaseState::Lapsed => Finding::wrong(
            AREA,
            format!("{name}: it has lapsed: the host goes down"),
            "start the program that holds it, or xenwarden inhibit",
        ),
        LeaseState::Unknown => Finding::weak(
            AREA,
            format!("{name}: it is overdue, and no monitor looks whether it was renewed"),
            "start xenwarden-monitor: without it the host goes down after leases.unserved_s",
        ),
    })
}

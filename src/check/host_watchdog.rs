// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: which there are, which the policy means, and what it is worth.
//!
//! All of it from sysfs: nothing is opened.

use super::{Area, Finding, System, one_name};
use crate::config::Policy;
use crate::watchdog::candidates::{Selector, candidates, choose};
use crate::watchdog::device::suits;
use crate::watchdog::error::ArmError;
use crate::watchdog::holder::holder_below;
use crate::watchdog::quirks::IPMI;
use crate::watchdog::sysfs::Attributes;
use std::path::{Path, PathBuf};

const AREA: Area = Area::HostWatchdog;

/// What is said of it.
pub fn look(system: &System, policy: &Option<Policy>) -> Vec<Finding> {
    let Some(policy) = policy else {
        return Vec::new();
    };
    let found = candidates(&system.at(Path::new("/sys")), Path::new("/dev"));
    let mut findings = Vec::new();
    let mut meant: Vec<PathBuf> = Vec::new();
    for selector in &policy.devices {
        match choose(selector, &found) {
            Ok(devices) => {
                let (device, said) = first_that_can(system, policy, selector, devices);
                meant.extend(device);
                findings.extend(said);
            }
            Err(none) => findings.push(Finding::wrong(
                AREA,
                none,
                "load the driver of the board's watchdog (modprobe), or name another in \
                 host-watchdog.device",
            )),
        }
    }
    let is_meant = |path: &Path| meant.iter().any(|meant| one_name(meant) == one_name(path));
    let others = found.iter().filter(|other| !is_meant(&other.path));
    findings.extend(others.map(|other| {
        let why = match other.not_hardware() {
            Some(why) => format!("not hardware but {why}; "),
            None => String::new(),
        };
        Finding::fine(AREA, format!("{other}: {why}not used"))
    }));
    findings
}

/// The first of `devices` that can do what is asked, and what is said of it; what is wrong with
/// the first where none can.
fn first_that_can(
    system: &System,
    policy: &Policy,
    selector: &Selector,
    devices: Vec<PathBuf>,
) -> (Option<PathBuf>, Vec<Finding>) {
    let sysfs = system.at(Path::new("/sys"));
    let mut refused = None;
    for device in devices {
        if !system.at(&device).exists() {
            let text = format!("{}: there is no such device", device.display());
            let mend = "load its driver, or name another in host-watchdog.device";
            refused = refused.or(Some(Finding::wrong(AREA, text, mend)));
            continue;
        }
        let attributes = attributes(system, &device);
        match suits(&sysfs, &device, &attributes, policy.hardware_s()) {
            Ok(latest_s) => {
                let said = said_of(system, policy, selector, &device, &attributes, latest_s);
                return (Some(device), said);
            }
            Err(error) => {
                refused = refused.or_else(|| Some(refusal(&error, policy.hardware_key())))
            }
        }
    }
    (None, refused.into_iter().collect())
}

/// By the device's number; where that is not to be had by its name.
fn attributes(system: &System, device: &Path) -> Attributes {
    let sysfs = system.at(Path::new("/sys"));
    let mut attributes = Attributes::read(&sysfs, &system.at(device));
    let name = device.file_name().unwrap_or_default();
    let class = sysfs.join("class/watchdog");
    if attributes == Attributes::default() && class.join(name).exists() {
        attributes = Attributes::read_directory(&class.join(name));
    }
    match name == "watchdog" {
        true => attributes.or_of_legacy(&sysfs),
        false => attributes,
    }
}

/// Why it cannot be used, with what to do apart, which such an error says at its end.
fn refusal(error: &ArmError, key: &str) -> Finding {
    let text = error.to_string();
    match (error, text.rsplit_once(": ")) {
        (ArmError::Unsuitable { .. }, Some((text, mend))) => Finding::wrong(AREA, text, mend),
        _ => Finding::wrong(
            AREA,
            text,
            &format!("set {key} to what it allows, or name another in host-watchdog.device"),
        ),
    }
}

fn said_of(
    system: &System,
    policy: &Policy,
    selector: &Selector,
    device: &Path,
    attributes: &Attributes,
    latest_s: u32,
) -> Vec<Finding> {
    let identity = attributes.identity.as_deref();
    let named = identity.unwrap_or("identity unknown");
    let shown = format!("{} ({named})", device.display());
    let nowayout = match attributes.nowayout {
        Some(true) => {
            "; nowayout: a stop of the guard does not disarm it: unless a guard comes, the host goes \
             down after host-watchdog.stopped_timeout_s"
        }
        Some(false) | None => "",
    };
    let mut findings = vec![match (identity, latest_s > policy.hardware_s()) {
        (None, _) => Finding::unknown(
            AREA,
            format!("{shown}: the kernel does not say what it is{nowayout}"),
            "take a kernel with CONFIG_WATCHDOG_SYSFS, or make sure by its driver's name that \
             it is hardware",
        ),
        (Some(_), true) => Finding::weak(
            AREA,
            format!(
                "{shown}: its reset may take {latest_s} s instead of {} s{nowayout}",
                policy.hardware_s()
            ),
            &format!(
                "count on the longer time, or set a shorter {}",
                policy.hardware_key()
            ),
        ),
        (Some(_), false) => Finding::fine(
            AREA,
            format!("{shown}, by {selector}: resets within {latest_s} s{nowayout}"),
        ),
    }];
    findings.extend(holder(system, device, attributes));
    if let Some(before_s) = attributes.panics_before_s(policy.hardware_s()) {
        findings.push(Finding::weak(
            AREA,
            format!("{shown}: it has dom0 panic {before_s} s before its reset (pretimeout)"),
            "write noop into its pretimeout_governor in /sys/class/watchdog at each boot, unless \
             that panic is wanted for a crash dump",
        ));
    }
    let own_s = policy.hardware_s();
    let mut at_a_shutdown = policy.runs_on().at_a_shutdown(own_s);
    let may_disarm = policy.shutdown_timeout_s != 0 && attributes.nowayout != Some(true);
    if may_disarm && !at_a_shutdown.any(|s| s == own_s || attributes.allows_timeout(s)) {
        findings.push(Finding::weak(
            AREA,
            format!("{shown}: it does not do the timeout for a shutdown, so it is disarmed, and one that hangs stays up"),
            "take a device that does more, or set host-watchdog.shutdown_timeout_s = 0 where that is fine",
        ));
    }
    if identity == Some(IPMI) && !system.exists("/dev/ipmi0") {
        findings.push(Finding::weak(
            AREA,
            format!("{shown}: the BMC cannot be asked whether it would reset: no /dev/ipmi0"),
            "modprobe ipmi_devintf, and have it loaded at each boot",
        ));
    }
    findings
}

/// Who has it open, if it is not the guard.
fn holder(system: &System, device: &Path, attributes: &Attributes) -> Option<Finding> {
    let shown = device.display();
    let runs = attributes.state.as_deref() == Some("active");
    match holder_below(&system.root, device) {
        Some(who) if who.starts_with("xenwardend (") => {
            Some(Finding::fine(AREA, format!("{shown}: held by {who}")))
        }
        Some(who) => Some(Finding::wrong(
            AREA,
            format!("{shown}: held by {who}, so that the guard cannot have it"),
            "stop that and disable it, or give it another device",
        )),
        None if !system.as_root => Some(Finding::unknown(
            AREA,
            format!("{shown}: who holds it only root can see"),
            "run the check as root",
        )),
        None if runs => Some(Finding::weak(
            AREA,
            format!("{shown}: it runs, and nobody is seen to hold it: the host may go down"),
            "start xenwardend; a driver that the firmware has started may be kicked by the kernel",
        )),
        None => None,
    }
}

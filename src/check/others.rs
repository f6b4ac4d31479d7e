// SPDX-License-Identifier: GPL-2.0-only
//! Others who use a watchdog: daemons that may open the device before the guard does, or take
//! one of dom0's slots in Xen; and systemd.

use super::processes::{Process, all_seen};
use super::{Area, Finding, System, one_name};
use crate::config::Policy;
use crate::watchdog::candidates::{Candidate, candidates, choose_all};
use crate::watchdog::holder::holds_below;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const AREA: Area = Area::OtherUsers;

/// Daemons that open a host watchdog, by their names.
const OF_DEVICES: [&str; 5] = [
    "sbd",
    "watchdog",
    "watchdogd",
    "watchdog-mux",
    "wd_keepalive",
];
/// Those that take slots of dom0's watchdog in Xen: how many of the two.
const OF_SLOTS: [(&str, u8); 2] = [("xenwatchdogd", 1), ("xhad", 2)];

/// What is said of them.
pub fn look(system: &System, policy: &Option<Policy>, processes: &[Process]) -> Vec<Finding> {
    let devices = candidates(&system.at(Path::new("/sys")), Path::new("/dev"));
    let meant = meant(&devices, policy.as_ref());
    let of_device = |process| of_device(system, &devices, &meant, process);
    let mut findings: Vec<Finding> = processes.iter().filter_map(of_device).collect();
    let wanted = policy
        .as_ref()
        .and_then(|policy| match policy.crash_dump_s {
            Some(_) => Some("[crash_dump]"),
            None => policy.fence.xen_slot.then_some("fence.xen_slot"),
        });
    findings.extend(processes.iter().filter_map(|p| of_slots(p, wanted)));
    if !all_seen(processes) {
        let text = "not all processes are to be seen in /proc";
        findings.push(Finding::unknown(AREA, text, "run the check as root"));
    } else if findings.is_empty() {
        findings.push(Finding::fine(
            AREA,
            "no other daemon that is known to use a watchdog runs",
        ));
    }
    findings.extend(systemd(system, &meant, processes));
    findings
}

/// The devices that the guard has by this policy.
fn meant(devices: &[Candidate], policy: Option<&Policy>) -> Vec<PathBuf> {
    let chosen = policy.and_then(|policy| choose_all(&policy.devices, devices).ok());
    let chosen = chosen.into_iter().flatten();
    chosen
        .filter_map(|fitting| fitting.into_iter().next())
        .collect()
}

fn is_among(meant: &[PathBuf], device: &Path) -> bool {
    meant.iter().any(|one| one_name(one) == one_name(device))
}

fn of_device(
    system: &System,
    devices: &[Candidate],
    meant: &[PathBuf],
    process: &Process,
) -> Option<Finding> {
    let applet = process.arguments.get(1).map(String::as_str);
    let busybox = process.is("busybox") && applet == Some("watchdog");
    if !busybox && !OF_DEVICES.iter().any(|name| process.is(name)) {
        return None;
    }
    let Process { pid, name, .. } = process;
    let devices = devices.iter().map(|candidate| candidate.path.as_path());
    let held: Vec<&Path> = devices
        .filter(|device| holds_below(&system.root, *pid, device))
        .collect();
    let apart = !meant.is_empty() && held.iter().all(|device| !is_among(meant, device));
    if let Some(device) = held.first().filter(|_| apart) {
        let text = format!(
            "{name} (pid {pid}) has {}, which the guard does not use",
            device.display()
        );
        return Some(Finding::fine(AREA, text));
    }
    Some(Finding::weak(
        AREA,
        format!("{name} (pid {pid}) runs, which uses a host watchdog: it may take the guard's"),
        "stop and disable it, or give it a device of its own",
    ))
}

fn of_slots(process: &Process, wanted: Option<&str>) -> Option<Finding> {
    let (name, takes) = OF_SLOTS.iter().find(|(name, _)| process.is(name))?;
    let text = format!(
        "{name} (pid {}) runs: it takes {takes} of the 2 watchdog slots that Xen has for dom0",
        process.pid
    );
    Some(match (wanted, takes) {
        (Some(wanted), 2) => Finding::weak(
            AREA,
            format!("{text}, and {wanted} wants one"),
            &format!("take {wanted} out of the configuration"),
        ),
        _ => Finding::fine(AREA, text),
    })
}

/// What systemd is told to do with a watchdog, if it is what runs here.
fn systemd(system: &System, meant: &[PathBuf], processes: &[Process]) -> Option<Finding> {
    let first = processes.iter().find(|process| process.pid == 1)?;
    if !first.is("systemd") {
        return None;
    }
    let settings = settings(system);
    let runtime = settings
        .get("RuntimeWatchdogSec")
        .map_or("", String::as_str);
    // systemd-system.conf(5): off by default.
    let zero = runtime.starts_with('0') && !runtime.contains(|c| matches!(c, '1'..='9'));
    if zero || matches!(runtime, "" | "off") {
        let text = "systemd leaves host watchdogs alone (RuntimeWatchdogSec is off)";
        return Some(Finding::fine(AREA, text));
    }
    let device = settings.get("WatchdogDevice").map(String::as_str);
    let device = device.filter(|device| !device.is_empty());
    let device = device.unwrap_or("/dev/watchdog0");
    let text = format!("systemd kicks {device} (RuntimeWatchdogSec={runtime})");
    Some(match is_among(meant, Path::new(device)) {
        true => Finding::wrong(
            AREA,
            format!("{text}, which the guard is to have"),
            "set RuntimeWatchdogSec=off in /etc/systemd/system.conf.d, and systemctl \
             daemon-reexec",
        ),
        false => Finding::fine(AREA, format!("{text}, which the guard does not use")),
    })
}

/// The settings of [Manager] in systemd's own configuration, the last of each (systemd-system.conf(5)):
/// the file, then drop-ins in the order of their names, of which one in /etc hides another in
/// /run, and that one in /usr/lib.
fn settings(system: &System) -> BTreeMap<String, String> {
    let places = ["/usr/lib", "/run", "/etc"].map(|place| format!("{place}/systemd"));
    let mains = places.iter().map(|place| format!("{place}/system.conf"));
    let main = mains.rev().find(|path| system.exists(path));
    let mut drop_ins: BTreeMap<OsString, String> = BTreeMap::new();
    for place in &places {
        let directory = format!("{place}/system.conf.d");
        let entries = fs::read_dir(system.at(Path::new(&directory))).ok();
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(text) = name.to_str().filter(|name| name.ends_with(".conf")) {
                drop_ins.insert(name.clone(), format!("{directory}/{text}"));
            }
        }
    }
    let mut settings = BTreeMap::new();
    for path in main.into_iter().chain(drop_ins.into_values()) {
        let text = system.text(&path).unwrap_or_default();
        let mut of_manager = false;
        for line in text.lines().map(str::trim) {
            match line.split_once('=') {
                _ if line.starts_with(['#', ';']) => {}
                _ if line.starts_with('[') => of_manager = line == "[Manager]",
                Some((key, value)) if of_manager => {
                    settings.insert(key.trim().to_owned(), value.trim().to_owned());
                }
                _ => {}
            }
        }
    }
    settings
}

// SPDX-License-Identifier: GPL-2.0-only
//! The guard and the monitor: whether they run, and what the guard tells; and the fence levels
//! behind the hardware.

use super::processes::{Process, running};
use super::{Area, Finding, System};
use crate::config::Policy;
use crate::control::status::decision;
use crate::event::Coverage;
use crate::guard::page::{PATH, Reader, View};
use crate::sys::clock::Monotonic;
use crate::watchdog::fence::SYSRQ;
use std::io::ErrorKind;
use std::path::Path;

/// What is said of them.
pub fn look(system: &System, policy: &Option<Policy>, processes: &[Process]) -> Vec<Finding> {
    let mut findings = guard(system);
    findings.push(monitor(system, processes));
    findings.extend(policy.as_ref().map(|policy| fence(system, policy)));
    findings
}

fn guard(system: &System) -> Vec<Finding> {
    const AREA: Area = Area::Guard;
    let page = match Reader::open(&system.at(Path::new(PATH))) {
        Ok(page) => page,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return vec![Finding::wrong(
                AREA,
                "the guard (xenwardend) has not run since the boot",
                &format!(
                    "once nothing else here is wrong: {}",
                    system.enabling("xenwardend")
                ),
            )];
        }
        Err(error) => {
            let mend = "run the check as root, or as a member of control.group";
            return vec![Finding::unknown(AREA, format!("{PATH}: {error}"), mend)];
        }
    };
    match page.view() {
        Some(view) => of_view(&view),
        None => vec![Finding::unknown(
            AREA,
            format!("{PATH} does not say what the guard does"),
            "xenwarden status tells more; restart xenwardend if it is of another version",
        )],
    }
}

fn of_view(view: &View) -> Vec<Finding> {
    const AREA: Area = Area::Guard;
    let info = &view.info;
    let now = Monotonic::now();
    let decided = decision(view, now);
    let mut findings = vec![match decided.reason {
        None => Finding::fine(
            AREA,
            format!("it kicks {} ({})", info.device.display(), info.identity),
        ),
        Some(reason) => Finding::wrong(
            AREA,
            format!("the host watchdog is not kicked: {reason}"),
            "xenwarden status tells more; start xenwardend if it is not running",
        ),
    }];
    if !info.weakness.is_empty() {
        let mend = "xenwarden.conf(5), host-watchdog and fence";
        findings.push(Finding::weak(AREA, info.weakness.as_str(), mend));
    }
    if view.status.inhibited.is_some_and(|until| until > now) {
        findings.push(Finding::weak(
            AREA,
            "it is inhibited: it kicks whatever the evidence says, until its time is over",
            "xenwarden resume, when the maintenance is done",
        ));
    }
    if info.coverage == Coverage::Partial {
        findings.push(Finding::weak(
            AREA,
            "its evidence is partial: guest watchdogs are not seen, and wedges only after a while",
            "boot a hypervisor with xen-patches applied, and set evidence.coverage = \"full\"",
        ));
    }
    findings
}

fn monitor(system: &System, processes: &[Process]) -> Finding {
    const AREA: Area = Area::Monitor;
    let found = processes.iter().find(|p| p.is("xenwarden-monitor"));
    running(AREA, found, processes, || {
        Finding::weak(
            AREA,
            "it does not run: nobody tells of guests, alarms and decisions",
            &system.enabling("xenwarden-monitor"),
        )
    })
}

fn fence(system: &System, policy: &Policy) -> Finding {
    const AREA: Area = Area::Fence;
    let levels = match (policy.crash_dump_s, policy.fence.xen_slot) {
        (Some(hardware_s), _) => format!(
            "Xen's watchdog of dom0 ({} s), for a crash dump, the hardware ({hardware_s} s)",
            policy.timeout_s
        ),
        (None, true) => "the hardware, Xen's watchdog of dom0".to_owned(),
        (None, false) => "the hardware".to_owned(),
    };
    let levels = match policy.fast.is_on() {
        true => format!("{levels}, sysrq at once ([fast])"),
        false => levels,
    };
    if !policy.fence.sysrq {
        let text = format!("the levels are {levels}; sysrq is switched off");
        return Finding::weak(AREA, text, "set fence.sysrq = true");
    }
    match system.exists(SYSRQ) {
        true => Finding::fine(AREA, format!("the levels are {levels}, sysrq")),
        false => Finding::weak(
            AREA,
            format!("the levels are {levels}; for sysrq there is no {SYSRQ}"),
            "take a kernel with CONFIG_MAGIC_SYSRQ",
        ),
    }
}

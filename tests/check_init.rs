// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden check` names the command that starts the programs on this host's init.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod check_host;

use check_host::Host;
use xenwarden::check::Area::{Guard, Monitor};

#[test]
fn how_to_start_them_is_said_as_the_init_wants_it() {
    for (name, place, guard, monitor) in [
        (
            "init-systemd",
            Some("/run/systemd/system/x"),
            "systemctl enable --now xenwardend",
            "systemctl enable --now xenwarden-monitor",
        ),
        (
            "init-openrc",
            Some("/run/openrc/x"),
            "rc-update add xenwardend && rc-service xenwardend start",
            "rc-update add xenwarden-monitor && rc-service xenwarden-monitor start",
        ),
        (
            "init-sysv",
            None,
            "service xenwardend start",
            "service xenwarden-monitor start",
        ),
    ] {
        let host = Host::new(name);
        host.remove("/run/xenwarden/guard");
        host.remove("/proc/200");
        if let Some(place) = place {
            host.put(place, "");
        }
        let report = host.check();
        for (area, command) in [(Guard, guard), (Monitor, monitor)] {
            let finding = report.findings.iter().find(|finding| finding.area == area);
            let mend = finding.and_then(|finding| finding.mend.clone());
            let mend = mend.expect("something to mend");
            assert!(mend.contains(command), "{name}: {mend}");
        }
    }
}

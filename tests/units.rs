// SPDX-License-Identifier: GPL-2.0-only
//! What the shipped units must not do.

/// systemd starts what a unit wants again at each restart of that unit.
#[test]
fn a_restart_of_the_monitor_does_not_start_a_guard_that_has_ended() {
    let unit = include_str!("../init/systemd/xenwarden-monitor.service");
    let pulls = ["Wants", "Requires", "Requisite", "BindsTo", "Upholds"];
    let of = |line: &str| pulls.iter().any(|key| line.starts_with(&format!("{key}=")));
    let found: Vec<&str> = unit.lines().filter(|line| of(line)).collect();
    assert!(
        found.iter().all(|line| !line.contains("xenwardend")),
        "{found:?}"
    );
}

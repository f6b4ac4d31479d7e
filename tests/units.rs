// SPDX-License-Identifier: GPL-2.0-only
//! What the shipped units must not do.
#![allow(clippy::expect_used)] // how tests fail

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

/// What starts before a unit is stopped after it (systemd.unit(5)).
#[test]
fn how_the_guard_ended_is_written_down_after_it_has_at_a_shutdown() {
    let unit = include_str!("../init/systemd/xenwarden-shutdown.service");
    let has = |line: &str| unit.lines().any(|l| l == line);
    assert!(has("Before=xenwardend.service") && has("RemainAfterExit=yes"));
    assert!(!unit.contains("After=xenwarden"), "{unit}");
    let monitor = include_str!("../init/systemd/xenwarden-monitor.service");
    assert!(monitor.contains("After=xenwardend.service"), "{monitor}");
}

/// It would go with the unit that has it (systemd.exec(5)), and with it what a guard withheld for.
#[test]
fn no_unit_removes_what_the_guard_tells_its_successor() {
    for unit in [
        include_str!("../init/systemd/xenwardend.service"),
        include_str!("../init/systemd/xenwarden-monitor.service"),
        include_str!("../init/systemd/xenwarden-shutdown.service"),
    ] {
        assert!(!unit.contains("RuntimeDirectory"), "{unit}");
    }
}

/// Of what the guard does: real time, memory, limits, the group of its page, the monitor's files.
#[test]
fn the_guard_has_the_capabilities_that_it_uses_and_waits_for_no_other_units_disk() {
    let unit = include_str!("../init/systemd/xenwardend.service");
    let set = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let set: Vec<&str> = set.unwrap_or_default().split(' ').collect();
    for needed in [
        "SYS_NICE",
        "IPC_LOCK",
        "SYS_RESOURCE",
        "CHOWN",
        "DAC_OVERRIDE",
    ] {
        assert!(set.contains(&format!("CAP_{needed}").as_str()), "{needed}");
    }
    let shutdown = include_str!("../init/systemd/xenwarden-shutdown.service");
    assert!(shutdown.lines().any(|line| line == "RefuseManualStop=yes"));
}

/// Without an answer it would be waited for as long as for a guard that withholds: for ever.
#[test]
fn what_tells_the_guard_of_a_shutdown_holds_up_no_stop() {
    let unit = include_str!("../init/systemd/xenwardend.service");
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStop=-"));
    assert_eq!(stop, Some("/usr/share/xenwarden/stopping"), "{unit}");
    let script = include_str!("../init/systemd/stopping");
    let asks: Vec<&str> = script
        .lines()
        .filter(|line| line.contains("systemctl ") && !line.starts_with('#'))
        .collect();
    assert!(!asks.is_empty());
    assert!(
        asks.iter().all(|line| line.contains("timeout -k 1 10 ")),
        "{asks:?}"
    );
}

/// The reverse of the order of starts (systemd.unit(5)).
#[test]
fn the_host_is_guarded_until_a_shutdown_has_stopped_the_guests() {
    let unit = include_str!("../init/systemd/xenwardend.service");
    let before = unit.lines().find_map(|line| line.strip_prefix("Before="));
    let stopped_first: Vec<&str> = before.unwrap_or_default().split(' ').collect();
    for service in ["xendomains", "xapi-domains", "libvirt-guests", "pacemaker"] {
        let service = format!("{service}.service");
        assert!(stopped_first.contains(&service.as_str()), "{unit}");
    }
    // And the monitor tells until then.
    let monitor = include_str!("../init/systemd/xenwarden-monitor.service");
    let told = monitor
        .lines()
        .find_map(|line| line.strip_prefix("Before="));
    assert_eq!(told, before);
    assert!(unit.contains("\nFileDescriptorStoreMax="), "{unit}");
}

/// Its sockets and what it leaves to its next run are in one directory with those of all others (systemd.exec(5), tmpfiles.d(5)).
#[test]
fn no_instance_of_heartbeats_takes_the_sockets_of_the_others_with_it() {
    let unit = include_str!("../init/systemd/xenwarden-pulse@.service");
    let has = |line: &str| unit.lines().any(|l| l == line);
    assert!(has("RuntimeDirectory=xenwarden-pulse") && has("RuntimeDirectoryPreserve=yes"));
    // systemd 219 would remove it: there it is nobody's.
    let old = include_str!("../init/systemd/219.sed");
    assert!(old.lines().any(|line| line == "/^RuntimeDirectory/d"));
    let directory = include_str!("../init/systemd/xenwarden.tmpfiles");
    let user = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
    let (user, group) = (user("User=").expect("one"), user("Group=").expect("one"));
    let line = format!("d /run/xenwarden-pulse 0755 {user} {group} -");
    assert!(directory.lines().any(|l| l == line), "{directory}");
}

/// `RuntimeDirectory=` alone would be removed with each restart (systemd.exec(5)), and with it whom the pool must not vouch for, and that this
/// host was told to withhold.
#[test]
fn no_restart_of_the_pool_forgets_what_it_kept_and_a_stop_of_corosync_stops_it_before() {
    let unit = include_str!("../init/systemd/xenwarden-pool.service");
    let has = |line: &str| unit.lines().any(|l| l == line);
    assert!(has("RuntimeDirectoryPreserve=yes"), "{unit}");
    let after = unit.lines().find_map(|line| line.strip_prefix("After="));
    assert!(after.is_some_and(|after| after.contains("corosync.service")));
    assert!(after.is_some_and(|after| after.contains("xenwardend.service")));
    assert!(has("PartOf=corosync.service xenwardend.service"), "{unit}");
}

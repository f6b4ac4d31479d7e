// SPDX-License-Identifier: GPL-2.0-only
//! What `make install` gives each init, and what Xen's command line gets.
#![allow(clippy::expect_used)] // how tests fail

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory, by their names below it.
fn files(directory: &Path) -> BTreeSet<String> {
    let (mut found, mut left) = (BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).expect("below it");
            found.insert(name.display().to_string());
        }
    }
    found
}

/// What is installed for an init, with more told to make.
fn installed(name: &str, more: &[&str]) -> Option<PathBuf> {
    let directory = format!("install-{name}-{}", std::process::id());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
    let _ = fs::remove_dir_all(&directory);
    let made = Command::new("make")
        .current_dir(root())
        .args(["-s", "install-init"])
        .arg(format!("DESTDIR={}", directory.display()))
        .args(more)
        .output();
    made.expect("make").status.success().then_some(directory)
}

#[test]
fn each_init_gets_its_files_where_it_looks_and_no_others() {
    let systemd = [
        "etc/corosync/uidgid.d/xenwarden-pool",
        "usr/lib/systemd/system-preset/80-xenwarden.preset",
        "usr/lib/sysusers.d/xenwarden.conf",
        "usr/lib/systemd/system/run-xenwarden_qemu_trace.mount",
        "usr/lib/systemd/system/xenwarden-monitor.service",
        "usr/lib/systemd/system/xenwarden-pool.service",
        "usr/lib/systemd/system/xenwarden-pulse@.service",
        "usr/lib/systemd/system/xenwarden-qemu@.service",
        "usr/lib/systemd/system/xenwarden-shutdown.service",
        "usr/lib/systemd/system/xenwardend.service",
        "usr/share/xenwarden/stop-for-good",
        "usr/share/xenwarden/stopping",
    ];
    let scripts = [
        "etc/init.d/xenwarden-monitor",
        "etc/init.d/xenwarden-pulse",
        "etc/init.d/xenwarden-qemu",
        "etc/init.d/xenwardend",
        "usr/share/xenwarden/functions.sh",
    ];
    let of_219 = [&systemd[..], &["usr/lib/tmpfiles.d/xenwarden.conf"]].concat();
    for (more, expected) in [
        (vec![], &systemd[..]),
        (vec!["INIT=systemd-219"], &of_219),
        (vec!["INIT=sysv"], &scripts),
        (vec!["INIT=openrc"], &scripts),
    ] {
        let name = more.concat().replace('=', "-");
        let directory = installed(&name, &more).expect("installed");
        let expected = expected.iter().map(|file| (*file).to_owned()).collect();
        assert_eq!(files(&directory), expected, "{more:?}");
        for of_instances in ["etc/xenwarden/pulse", "etc/xenwarden/qemu"] {
            let found = fs::metadata(directory.join(of_instances)).ok();
            let mode = found.map(|found| found.permissions().mode() & 0o777);
            assert_eq!(mode, Some(0o755), "{more:?} {of_instances}");
        }
        let run = |file: &&String| file.contains("init.d") || file.contains("xenwarden/stop");
        for script in expected.iter().filter(run) {
            let mode = fs::metadata(directory.join(script)).expect("is there");
            assert_eq!(mode.permissions().mode() & 0o777, 0o755, "{script}");
        }
        fs::remove_dir_all(directory).expect("removed");
    }
    assert_eq!(installed("other", &["INIT=other"]), None);
    // It is a part of `make install`.
    let plan = Command::new("make")
        .current_dir(root())
        .args(["-n", "install"])
        .output();
    let plan = String::from_utf8(plan.expect("make").stdout).expect("text");
    assert!(plan.contains("system-preset/80-xenwarden.preset"), "{plan}");
}

#[test]
fn what_is_installed_names_the_directories_that_were_asked_for() {
    let more = [
        "PREFIX=/opt/x",
        "SYSCONFDIR=/opt/etc",
        "GRUBDIR=/etc/default/grub.d",
    ];
    for init in ["systemd", "systemd-219", "sysv", "openrc"] {
        let name = format!("places-{init}");
        let init = format!("INIT={init}");
        let all = [&more[..], &[&init]].concat();
        let directory = installed(&name, &all).expect("installed");
        assert!(files(&directory).contains("etc/default/grub.d/xenwarden.cfg"));
        let mut named = 0;
        for file in files(&directory)
            .iter()
            .filter(|file| !file.contains("grub.d"))
        {
            let text = fs::read_to_string(directory.join(file)).expect("text");
            for place in ["/usr/sbin/", "/usr/bin/", "/usr/share/", " /etc/"] {
                assert!(!text.contains(place), "{init} {file}: {place}");
            }
            named += text.matches("/opt/x/sbin/xenwarden").count();
        }
        assert!(named >= 2, "{init}: {named}");
        fs::remove_dir_all(directory).expect("removed");
    }
}

/// The settings of the units that systemd 219 has (its systemd.unit(5), systemd.service(5),
/// systemd.exec(5), systemd.kill(5) and systemd.resource-control(5)).
const OF_219: &str = "Description Documentation ConditionPathExists After Before PartOf Wants RefuseManualStop StartLimitInterval Type \
     NotifyAccess ExecStart ExecStop RemainAfterExit Delegate KillMode TimeoutStopSec WatchdogSec Restart \
     RestartSec RestartPreventExitStatus RestartForceExitStatus LimitMEMLOCK LimitNOFILE LimitRTPRIO OOMScoreAdjust \
     NoNewPrivileges CapabilityBoundingSet ProtectSystem ProtectHome PrivateTmp PrivateDevices \
     DevicePolicy DeviceAllow SystemCallArchitectures RestrictAddressFamilies WantedBy Also \
     Wants User Group WatchdogSec";

#[test]
fn the_units_for_systemd_219_have_only_what_it_knows_and_the_same_otherwise() {
    let old = installed("219", &["INIT=systemd-219"]).expect("installed");
    let known: BTreeSet<&str> = OF_219.split_whitespace().collect();
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    let key = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
    for unit in [
        "xenwardend",
        "xenwarden-monitor",
        "xenwarden-shutdown",
        "xenwarden-pulse@",
        "xenwarden-qemu@",
        "xenwarden-pool",
    ] {
        let file = format!("{unit}.service");
        let text = fs::read_to_string(old.join("usr/lib/systemd/system").join(&file));
        let text = text.expect("a unit");
        let today = fs::read_to_string(root().join("init/systemd").join(&file));
        let (old, today) = (settings(&text), settings(&today.expect("a unit")));
        for line in old.iter().filter(|line| !line.starts_with('[')) {
            assert!(known.contains(key(line).as_str()), "{unit}: {line}");
        }
        let changed = ["StartLimitInterval=0", "TimeoutStopSec=0"];
        for line in &old {
            let same = today.contains(line) || changed.contains(&line.as_str());
            assert!(same, "{unit}: {line}");
        }
        for line in today
            .iter()
            .filter(|line| known.contains(key(line).as_str()))
        {
            let kept = old.contains(line) || line == "TimeoutStopSec=infinity";
            assert!(kept, "{unit}: {line} is lost");
        }
        if unit == "xenwardend" {
            assert!(old.contains(&"TimeoutStopSec=0".to_owned()), "{text}");
        }
        let limits = today.iter().any(|line| line == "StartLimitIntervalSec=0");
        assert_eq!(
            limits,
            old.iter().any(|line| line == "StartLimitInterval=0")
        );
    }
    fs::remove_dir_all(old).expect("removed");
}

#[test]
fn a_preset_enables_each_unit_but_those_that_want_a_name_or_a_cluster() {
    let read = |file: &str| fs::read_to_string(root().join("init/systemd").join(file));
    let preset = read("80-xenwarden.preset").expect("a preset");
    let enabled: BTreeSet<&str> = preset
        .lines()
        .filter_map(|line| line.strip_prefix("enable "))
        .collect();
    let units = files(&root().join("init/systemd"));
    // An instance of a template is enabled by whoever names it.
    let of_cluster = "xenwarden-pool.service";
    let whole =
        |file: &&String| file.ends_with(".service") && !file.contains('@') && *file != of_cluster;
    let units = units.iter().filter(whole);
    assert_eq!(enabled, units.map(String::as_str).collect());
}

/// The words of the line that begins with `key`.
fn words<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
    line.unwrap_or_default().split_whitespace().collect()
}

#[test]
fn with_each_init_guests_start_after_the_guard_and_stop_before_it() {
    let read = |file: &str| fs::read_to_string(root().join("init").join(file)).expect("a file");
    let unit = read("systemd/xenwardend.service");
    let guests: Vec<&str> = words(&unit, "Before=")
        .iter()
        .map(|unit| unit.trim_end_matches(".service"))
        .collect();
    assert!(guests.contains(&"xendomains"), "{guests:?}");
    for program in [
        "xenwardend",
        "xenwarden-monitor",
        "xenwarden-pulse",
        "xenwarden-qemu",
    ] {
        let sysv = read(&format!("sysv/{program}"));
        assert_eq!(words(&sysv, "# X-Start-Before:"), guests, "{sysv}");
        assert_eq!(words(&sysv, "# X-Stop-After:"), guests, "{sysv}");
        let openrc = read(&format!("openrc/{program}"));
        assert_eq!(words(&openrc, "before "), guests, "{openrc}");
    }
    // Where the numbers count: Xen's own are 70 and 10 for xencommons, 99 and 0 for xendomains.
    let numbers = |program| {
        let text = read(program);
        let numbers = words(&text, "# chkconfig: 2345");
        let numbers = numbers.iter().map(|n| n.parse::<u32>().expect("a number"));
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(numbers("sysv/xenwardend"), [71, 99]);
    assert_eq!(numbers("sysv/xenwarden-monitor"), [72, 98]);
    // What tells the monitor ends before it, and gives its leases back.
    assert_eq!(numbers("sysv/xenwarden-pulse"), [73, 97]);
    assert_eq!(numbers("sysv/xenwarden-qemu"), [73, 97]);
    // Nothing but SIGTERM, or SIGPWR at a shutdown, is ever sent to the guard.
    let functions = read("functions.sh");
    let kills: Vec<&str> = functions
        .lines()
        .filter(|line| line.contains("kill -"))
        .collect();
    assert_eq!(kills, ["    kill -\"$signal\" \"$pid\""]);
    assert_eq!(functions.matches("signal=").count(), 1);
    assert!(functions.contains("        echo PWR\n    else\n        echo TERM\n    fi\n"));
}

/// What Xen's command line is with these settings, after `times` of reading our file.
fn xen_command_line(machine: &str, settings: &str, times: usize) -> String {
    let file = root().join("init/grub.d/xenwarden.cfg");
    let read = format!(". {}\n", file.display()).repeat(times);
    // As grub-mkconfig does it.
    let script = format!(
        "set -e\nuname() {{ echo {machine}; }}\n{settings}\n{read}printf %s \"$GRUB_CMDLINE_XEN_DEFAULT\""
    );
    let shell = Command::new("sh")
        .args(["-c", &script])
        .env_clear()
        .output();
    let output = shell.expect("a shell");
    assert!(output.status.success(), "{settings}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn grub_gives_xen_its_watchdog_once_and_never_against_the_administrator() {
    for (settings, expected) in [
        ("", "watchdog"),
        (
            "GRUB_CMDLINE_XEN_DEFAULT='dom0_mem=4G'",
            "dom0_mem=4G watchdog",
        ),
        (
            "GRUB_CMDLINE_XEN_DEFAULT='watchdog_timeout=10'",
            "watchdog_timeout=10 watchdog",
        ),
        (
            "GRUB_CMDLINE_XEN_DEFAULT='watchdog ucode=scan'",
            "watchdog ucode=scan",
        ),
        (
            "GRUB_CMDLINE_XEN_DEFAULT='watchdog=force'",
            "watchdog=force",
        ),
        ("GRUB_CMDLINE_XEN_DEFAULT='no-watchdog'", "no-watchdog"),
        ("GRUB_CMDLINE_XEN='loglvl=all watchdog=0'", ""),
        ("GRUB_CMDLINE_XEN='loglvl=all\twatchdog=0'", ""),
        ("GRUB_CMDLINE_XEN='\"watchdog=0\"'", ""),
    ] {
        for times in 1..3 {
            let found = xen_command_line("x86_64", settings, times);
            assert_eq!(found, expected, "{settings}");
        }
    }
    let settings = "GRUB_CMDLINE_XEN_DEFAULT='dom0_mem=4G'";
    assert_eq!(xen_command_line("aarch64", settings, 1), "dom0_mem=4G");
}

/// As the last line of XCP-ng's /etc/sysconfig/kernel-xen does, once it has read the other file.
#[test]
fn the_example_for_xcp_ng_leaves_xen_one_watchdog() {
    let file = root().join("init/xcp-ng/kernel-xen-args");
    let script = format!(
        ". {}\nHYPERVISOR_ARGS=\"$HYPERVISOR_ARGS watchdog\"\necho $HYPERVISOR_ARGS",
        file.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output();
    let text = String::from_utf8(output.expect("a shell").stdout).expect("text");
    assert_eq!(text.matches("watchdog").count(), 1, "{text}");
}

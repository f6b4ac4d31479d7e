// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden check` from outside: a host that is made of files, in which one thing after the
//! other is not as it should be; and the program on the host that runs the tests. The host
//! watchdog and the hypervisor are in check_hardware.rs.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod check_host;

use check_host::{CONFIG, FIFO, Host, RR, each, limits};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;
use xenwarden::check::Area::*;
use xenwarden::check::Level::{Fine, Unknown, Weak, Wrong};
use xenwarden::check::hypervisor::Hypervisor;
use xenwarden::event::Coverage;
use xenwarden::sys::clock::Monotonic;

#[test]
fn a_host_that_is_as_it_should_be_is_fine_in_every_line() {
    let report = Host::new("fine").check();
    let amiss: Vec<_> = report.findings.iter().filter(|f| f.level != Fine).collect();
    assert!(amiss.is_empty(), "{amiss:#?}");
    assert_eq!(report.worst, Fine);
    for area in [
        Configuration,
        HostWatchdog,
        LivenessTable,
        NmiWatchdog,
        OtherUsers,
        RealTime,
        Memory,
        Dom0,
        Guard,
        Monitor,
        Fence,
    ] {
        assert!(report.findings.iter().any(|f| f.area == area), "{area:?}");
    }
}

#[test]
fn of_a_host_of_which_nothing_is_to_be_seen_nothing_is_known() {
    let mut host = Host::new("nothing");
    fs::remove_dir_all(&host.system.root).expect("removed");
    host.system.as_root = false;
    host.system.hypervisor = Hypervisor::NotRoot;
    host.put(CONFIG, "");
    let report = host.check();
    assert_eq!(report.worst, Wrong);
    for finding in &report.findings {
        let fine = finding.area == Configuration;
        assert_eq!(finding.level == Fine, fine, "{finding:?}");
        assert!(fine || finding.mend.is_some(), "{finding:?}");
    }
}

/// All that is below a directory, with when it was changed and how long it is.
fn tree(directory: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let found = entry.metadata().expect("there");
        all.push((entry.path(), found.modified().expect("a time"), found.len()));
        if found.is_dir() {
            all.extend(tree(&entry.path()));
        }
    }
    all.sort();
    all
}

/// poll(2) tells POLLHUP of a fifo only once somebody has opened it for writing.
fn was_opened(fifo: &File) -> bool {
    let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("polls") != 0
}

#[test]
fn no_watchdog_is_opened_and_nothing_is_changed() {
    let host = Host::new("untouched");
    let device = host.at("/dev/watchdog0");
    fs::remove_file(&device).expect("removed");
    mkfifo(&device, Mode::S_IRWXU).expect("a fifo");
    let mut reading = OpenOptions::new();
    reading.read(true).custom_flags(libc::O_NONBLOCK);
    let reader = reading.open(&device).expect("opens");
    let before = tree(&host.system.root);
    let report = host.check();
    let said = report.findings.iter().any(|f| f.text.contains("i6300ESB"));
    assert!(said, "it has looked at the device: {report:#?}");
    assert_eq!(tree(&host.system.root), before);
    assert!(!was_opened(&reader));
    drop(OpenOptions::new().write(true).open(&device).expect("opens"));
    assert!(was_opened(&reader), "or this test sees nothing");
}

#[test]
fn others_who_use_a_watchdog_are_told() {
    each(&[
        (
            "sbd",
            |h| h.process(7, "sbd", 0, 0),
            OtherUsers,
            Weak,
            "sbd (pid 7)",
        ),
        (
            "busybox",
            |h| {
                h.process(7, "busybox", 0, 0);
                h.put("/proc/7/cmdline", "busybox\0watchdog\0/dev/watchdog\0");
            },
            OtherUsers,
            Weak,
            "busybox (pid 7)",
        ),
        (
            "kernel-watchdogd",
            |h| {
                h.process(7, "watchdogd", FIFO, 50);
                h.put("/proc/7/cmdline", "");
            },
            OtherUsers,
            Fine,
            "no other daemon",
        ),
        (
            "xhad",
            |h| h.process(7, "xhad", 0, 0),
            OtherUsers,
            Fine,
            "takes 2 of the 2",
        ),
        (
            "xhad-slot",
            |h| {
                h.put(CONFIG, "[fence]\nxen_slot = true\n");
                h.process(7, "xhad", 0, 0);
            },
            OtherUsers,
            Weak,
            "fence.xen_slot wants one",
        ),
        (
            "systemd",
            |h| {
                h.put(
                    "/etc/systemd/system.conf",
                    "[Manager]\nRuntimeWatchdogSec=30\n",
                )
            },
            OtherUsers,
            Wrong,
            "which the guard is to have",
        ),
        (
            "systemd-elsewhere",
            |h| {
                h.put(
                    "/etc/systemd/system.conf",
                    "[Manager]\nRuntimeWatchdogSec=30\n",
                );
                h.put(
                    "/usr/lib/systemd/system.conf.d/9.conf",
                    "[Manager]\nWatchdogDevice = /dev/watchdog1\n",
                );
            },
            OtherUsers,
            Fine,
            "/dev/watchdog1",
        ),
        (
            "systemd-zero",
            |h| {
                h.put(
                    "/etc/systemd/system.conf",
                    "[Manager]\nRuntimeWatchdogSec=0min\n",
                )
            },
            OtherUsers,
            Fine,
            "is off",
        ),
        (
            "systemd-other-name",
            |h| {
                let text = "[Manager]\nRuntimeWatchdogSec=1min\nWatchdogDevice=/dev/watchdog\n";
                h.put("/etc/systemd/system.conf", text);
            },
            OtherUsers,
            Wrong,
            "which the guard is to have",
        ),
        (
            "systemd-hidden",
            |h| {
                let on = "[Manager]\nRuntimeWatchdogSec=30\n";
                h.put("/usr/lib/systemd/system.conf.d/9.conf", on);
                h.put(
                    "/etc/systemd/system.conf.d/9.conf",
                    "#RuntimeWatchdogSec=30\n",
                );
            },
            OtherUsers,
            Fine,
            "is off",
        ),
    ]);
}

#[test]
fn what_is_hidden_of_proc_is_not_taken_for_absent() {
    each(&[
        (
            "hidden-others",
            |h| h.remove("/proc/1"),
            OtherUsers,
            Unknown,
            "not all processes",
        ),
        (
            "hidden-threads",
            |h| h.remove("/proc/1"),
            RealTime,
            Unknown,
            "not all threads",
        ),
        (
            "hidden-monitor",
            |h| {
                h.remove("/proc/1");
                h.remove("/proc/200");
            },
            Monitor,
            Unknown,
            "not to be seen",
        ),
    ]);
}

#[test]
fn what_is_amiss_with_real_time_and_memory_is_told() {
    const RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";
    each(&[
        (
            "groups-v1",
            |h| h.put("/sys/fs/cgroup/cpu/cpu.rt_runtime_us", "950000\n"),
            RealTime,
            Fine,
            "moves itself",
        ),
        (
            "groups-v2",
            |h| h.put("/boot/config-6.1", "CONFIG_RT_GROUP_SCHED=y\n"),
            RealTime,
            Weak,
            "may refuse",
        ),
        (
            "groups-unknown",
            |h| h.remove("/boot/config-6.1"),
            RealTime,
            Unknown,
            "is not told",
        ),
        (
            "unthrottled",
            |h| h.put(RUNTIME, "-1\n"),
            RealTime,
            Fine,
            "not throttled",
        ),
        (
            "throttled",
            |h| h.put(RUNTIME, "700000\n"),
            RealTime,
            Weak,
            "a sample",
        ),
        (
            "no-realtime",
            |h| h.put(RUNTIME, "0\n"),
            RealTime,
            Wrong,
            "no real-time",
        ),
        (
            "time-sharing",
            |h| h.process(100, "xenwardend", 0, 0),
            RealTime,
            Wrong,
            "SCHED_OTHER 0: it is not real-time",
        ),
        (
            "other-priority",
            |h| h.process(100, "xenwardend", FIFO, 42),
            RealTime,
            Weak,
            "SCHED_FIFO 42; realtime.priority is 99",
        ),
        (
            "above",
            |h| {
                h.put(CONFIG, "[realtime]\npriority = 50\n");
                h.thread(1, 77, "corosync", 0, RR, 99);
            },
            RealTime,
            Weak,
            "corosync (SCHED_RR 99)",
        ),
        (
            "not-above",
            |h| h.thread(1, 77, "corosync", 0, RR, 99),
            RealTime,
            Fine,
            "no thread but the kernel's",
        ),
        (
            "unlocked",
            |h| h.put("/proc/100/status", "VmLck: 0 kB\n"),
            Memory,
            Wrong,
            "has locked no memory",
        ),
        (
            "limited",
            |h| h.put("/proc/100/limits", &limits("65536")),
            Memory,
            Weak,
            "65536 bytes only",
        ),
    ]);
}

#[test]
fn what_is_amiss_with_dom0_and_the_programs_is_told() {
    each(&[
        (
            "one-vcpu",
            |h| h.put("/sys/devices/system/cpu/online", "0\n"),
            Dom0,
            Weak,
            "one vCPU",
        ),
        (
            "clock",
            |h| {
                let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
                h.put(path, "hpet\n");
            },
            Dom0,
            Weak,
            "hpet",
        ),
        (
            "kdump",
            |h| h.put("/sys/kernel/kexec_crash_loaded", "1\n"),
            Dom0,
            Fine,
            "must drive the host watchdog",
        ),
        (
            "no-guard",
            |h| h.remove("/run/xenwarden/guard"),
            Guard,
            Wrong,
            "has not run",
        ),
        (
            "no-page",
            |h| h.put("/run/xenwarden/guard", "what"),
            Guard,
            Unknown,
            "not a guard page",
        ),
        (
            "silent-guard",
            |h| {
                let long_ago = Monotonic::now().0.saturating_sub(300_000_000_000);
                h.remove("/run/xenwarden/guard");
                h.page("", Coverage::Full, Monotonic(long_ago.min(1)));
            },
            Guard,
            Wrong,
            "hangs or is gone",
        ),
        (
            "weak-guard",
            |h| h.page("no fence by sysrq", Coverage::Full, Monotonic::now()),
            Guard,
            Weak,
            "no fence by sysrq",
        ),
        (
            "partial-guard",
            |h| h.page("", Coverage::Partial, Monotonic::now()),
            Guard,
            Weak,
            "partial",
        ),
        (
            "no-monitor",
            |h| h.remove("/proc/200"),
            Monitor,
            Weak,
            "does not run",
        ),
        (
            "no-sysrq",
            |h| h.put(CONFIG, "[fence]\nsysrq = false\nxen_slot = true\n"),
            Fence,
            Weak,
            "Xen's watchdog of dom0; sysrq is switched off",
        ),
        (
            "no-trigger",
            |h| h.remove("/proc/sysrq-trigger"),
            Fence,
            Weak,
            "no /proc/sysrq-trigger",
        ),
    ]);
}

fn xenwarden(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    command.args(arguments).output().expect("runs")
}

#[test]
fn the_exit_code_is_that_of_the_worst_line() {
    let host = Host::new("program");
    let config = host.at(CONFIG);
    let config = config.to_str().expect("a plain path");
    let output = xenwarden(&["check", "--json", "--config", config]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["version"], 1);
    let findings = report["findings"].as_array().expect("a list");
    let levels: Vec<&str> = findings
        .iter()
        .filter_map(|f| f["level"].as_str())
        .collect();
    assert_eq!(levels.len(), findings.len());
    let order = ["fine", "unknown", "weak", "wrong"];
    let worst = order.iter().rev().find(|level| levels.contains(level));
    assert_eq!(report["worst"].as_str(), worst.copied());
    let codes = [("fine", 0), ("weak", 1), ("wrong", 2), ("unknown", 3)];
    let code = codes.iter().find(|(level, _)| Some(level) == worst);
    assert_eq!(output.status.code(), code.map(|(_, code)| *code));
    for finding in findings {
        for key in ["area", "level", "text", "mend"] {
            assert!(finding.get(key).is_some(), "{key}: {finding}");
        }
    }
    let text = xenwarden(&["check", "--config", config]);
    assert_eq!(text.status.code(), output.status.code());
    let text = String::from_utf8(text.stdout).expect("text");
    let (mends, lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("         "));
    assert_eq!(lines.len(), findings.len());
    let to_mend = findings.iter().filter(|f| !f["mend"].is_null());
    assert_eq!(mends.len(), to_mend.count());
    for line in lines {
        let word = line.split_whitespace().next();
        assert!(
            matches!(word, Some("ok" | "unknown" | "WEAK" | "WRONG")),
            "{line}"
        );
    }
}

#[test]
fn nothing_that_is_read_moves_the_cursor() {
    let host = Host::new("cursor");
    host.put(CONFIG, "[evid\u{1b}[2J\u{9b}1m\n");
    let config = host.at(CONFIG);
    let config = config.to_str().expect("a plain path");
    for arguments in [
        &["check", "--config", config][..],
        &["check", "--json", "--config", config],
    ] {
        let output = xenwarden(arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains("2J"), "{text}");
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }
}

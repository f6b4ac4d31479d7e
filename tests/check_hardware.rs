// SPDX-License-Identifier: GPL-2.0-only
//! What `xenwarden check` says of the configuration, the host watchdog and the hypervisor, when
//! one thing after the other is not as it should be.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod check_host;

use check_host::{CONFIG, Host, answers, each};
use nix::errno::Errno;
use xenwarden::check::Area::{
    Configuration, Guard, HostWatchdog, LivenessTable, NmiWatchdog, OtherUsers,
};
use xenwarden::check::Level::{Fine, Unknown, Weak, Wrong};
use xenwarden::check::hypervisor::{Hypervisor, TableSeen};
use xenwarden::event::Coverage;
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::NoTable;
use xenwarden::xen::table::Malformed;

#[test]
fn what_is_amiss_with_the_configuration_is_told() {
    each(&[
        (
            "no-config",
            |h| h.remove(CONFIG),
            Configuration,
            Wrong,
            "cannot read",
        ),
        (
            "malformed",
            |h| h.put(CONFIG, "[evidence\n"),
            Configuration,
            Wrong,
            ":1:",
        ),
        (
            "names",
            |h| h.put(CONFIG, "[state]\ndirectory = \"/proc/sysrq-trigger\"\n"),
            Configuration,
            Wrong,
            "state.directory",
        ),
    ]);
}

#[test]
fn what_is_amiss_with_the_host_watchdog_is_told() {
    let ipmi = |h: &mut Host| {
        h.remove("/sys/class/watchdog/watchdog0");
        h.put("/sys/class/misc/watchdog/dev", "10:130\n");
        h.put("/sys/module/ipmi_watchdog/parameters/nowayout", "N\n");
        h.put("/sys/module/ipmi_watchdog/parameters/action", "reset\n");
        h.link("/dev/watchdog", "/dev/null");
    };
    let toothless = |h: &mut Host| {
        h.remove("/sys/class/watchdog/watchdog0");
        h.put("/sys/class/misc/watchdog/dev", "10:130\n");
        h.put("/sys/module/ipmi_watchdog/parameters/action", "none\n");
        h.link("/dev/watchdog", "/dev/null");
    };
    each(&[
        (
            "no-watchdog",
            |h| h.remove("/sys/class/watchdog"),
            HostWatchdog,
            Wrong,
            "no watchdog at all",
        ),
        (
            "software",
            |h| h.watchdog(0, "Software Watchdog"),
            HostWatchdog,
            Wrong,
            "no hardware watchdog",
        ),
        (
            "software-by-name",
            |h| {
                h.watchdog(0, "Software Watchdog");
                h.put(CONFIG, "[host-watchdog]\ndevice = \"/dev/watchdog0\"\n");
            },
            HostWatchdog,
            Wrong,
            "not hardware but",
        ),
        (
            "software-beside",
            |h| h.watchdog(1, "xen_wdt"),
            HostWatchdog,
            Fine,
            "not used",
        ),
        (
            "no-node",
            |h| h.remove("/dev/watchdog0"),
            HostWatchdog,
            Wrong,
            "no such device",
        ),
        (
            "twice",
            |h| {
                h.watchdog(0, "iTCO_wdt");
                h.put("/sys/class/watchdog/watchdog0/min_timeout", "3\n");
            },
            HostWatchdog,
            Weak,
            "may take 6 s instead of 5 s",
        ),
        (
            "limits",
            |h| h.put("/sys/class/watchdog/watchdog0/min_timeout", "30\n"),
            HostWatchdog,
            Wrong,
            "it allows 30 to",
        ),
        (
            "shutdown",
            |h| h.put("/sys/class/watchdog/watchdog0/max_timeout", "149\n"),
            HostWatchdog,
            Weak,
            "one that hangs stays up",
        ),
        (
            "pretimeout",
            |h| {
                h.put("/sys/class/watchdog/watchdog0/pretimeout", "2\n");
                h.put(
                    "/sys/class/watchdog/watchdog0/pretimeout_governor",
                    "panic\n",
                );
            },
            HostWatchdog,
            Weak,
            "panic 2 s before its reset",
        ),
        (
            "nowayout",
            |h| h.put("/sys/class/watchdog/watchdog0/nowayout", "1\n"),
            HostWatchdog,
            Fine,
            // init/systemd/stop-for-good looks for these words.
            "nowayout: a stop",
        ),
        (
            "no-identity",
            |h| h.remove("/sys/class/watchdog/watchdog0/identity"),
            HostWatchdog,
            Unknown,
            "does not say what it is",
        ),
        ("ipmi", ipmi, HostWatchdog, Weak, "no /dev/ipmi0"),
        ("toothless", toothless, HostWatchdog, Wrong, "never resets"),
        (
            "held",
            |h| {
                h.process(7, "sbd", 0, 0);
                h.remove("/proc/100/fd");
                h.link("/proc/7/fd/9", "/dev/null");
            },
            HostWatchdog,
            Wrong,
            "held by sbd (pid 7)",
        ),
        (
            "kept",
            |h| h.link("/proc/1/fd/42", "/dev/null"),
            HostWatchdog,
            Fine,
            "held by xenwardend (pid 100)",
        ),
        (
            "unheld",
            |h| h.remove("/proc/100/fd"),
            HostWatchdog,
            Weak,
            "nobody is seen to hold it",
        ),
        (
            "unheld-user",
            |h| {
                h.remove("/proc/100/fd");
                h.system.as_root = false;
            },
            HostWatchdog,
            Unknown,
            "only root can see",
        ),
    ]);
}

#[test]
fn a_device_that_stays_short_at_a_shutdown_is_told_only_where_that_matters() {
    let short = "/sys/class/watchdog/watchdog0/max_timeout";
    let told = |name: &str, change: &dyn Fn(&Host)| {
        let host = Host::new(name);
        host.put(short, "149\n");
        change(&host);
        let report = host.check();
        let mut findings = report.findings.iter();
        findings.any(|found| found.text.contains("one that hangs stays up"))
    };
    assert!(told("short", &|_| {}));
    assert!(!told("half", &|h| h.put(short, "300\n")));
    assert!(!told("quarter", &|h| h.put(short, "150\n")));
    assert!(!told("never-left", &|h| {
        h.put(CONFIG, "[host-watchdog]\nshutdown_timeout_s = 0\n");
    }));
    assert!(!told("runs-anyhow", &|h| {
        h.put("/sys/class/watchdog/watchdog0/nowayout", "1\n");
    }));
}

#[test]
fn what_the_hypervisor_says_against_it_is_told() {
    each(&[
        (
            "not-root",
            |h| h.system.hypervisor = Hypervisor::NotRoot,
            LivenessTable,
            Unknown,
            "only root",
        ),
        (
            "no-xen",
            |h| h.system.hypervisor = Hypervisor::None("no Xen".to_owned()),
            NmiWatchdog,
            Unknown,
            "no Xen",
        ),
        (
            "silent",
            |h| h.system.hypervisor = Hypervisor::Silent,
            LivenessTable,
            Wrong,
            "does not answer",
        ),
        (
            "stock",
            |h| h.system.hypervisor = answers(Err(NoTable::Errno(Errno::ESRCH)), ""),
            LivenessTable,
            Wrong,
            "keeps no liveness table",
        ),
        (
            "stock-partial",
            |h| {
                h.put(CONFIG, "[evidence]\ncoverage = \"partial\"\n");
                h.system.hypervisor = answers(Err(NoTable::Errno(Errno::ESRCH)), "");
            },
            LivenessTable,
            Weak,
            "not seen",
        ),
        (
            "abi",
            |h| h.system.hypervisor = answers(Err(NoTable::Malformed(Malformed::Abi(7))), ""),
            LivenessTable,
            Wrong,
            "its ABI is 7",
        ),
        (
            "domu",
            |h| h.system.hypervisor = answers(Err(NoTable::Errno(Errno::EPERM)), ""),
            LivenessTable,
            Wrong,
            "mapping the liveness table fails",
        ),
        (
            "no-canaries",
            |h| {
                let seen = TableSeen {
                    canary_period_ms: 0,
                    pcpus: 2,
                    online: 2,
                };
                h.system.hypervisor = answers(Ok(seen), "");
            },
            LivenessTable,
            Wrong,
            "switched off",
        ),
        (
            "table",
            |_| {},
            LivenessTable,
            Fine,
            "a canary each 1000 ms, 4 of 8 pCPUs",
        ),
        ("nmi", |_| {}, NmiWatchdog, Fine, "on by Xen's command line"),
        (
            "denied",
            |h| h.system.hypervisor = answers(Err(NoTable::Errno(Errno::EPERM)), "<denied>"),
            NmiWatchdog,
            Unknown,
            "denies",
        ),
        (
            "cut",
            |h| h.system.hypervisor = answers(Err(NoTable::Errno(Errno::EPERM)), &"x".repeat(1023)),
            NmiWatchdog,
            Unknown,
            "longer",
        ),
    ]);
}

#[test]
fn a_guard_that_is_inhibited_is_told() {
    each(&[(
        "inhibited",
        |h| {
            let now = Monotonic::now();
            let until = now.plus_ns(600_000_000_000);
            h.page_until("", Coverage::Full, now, Some(until));
        },
        Guard,
        Weak,
        "it is inhibited",
    )]);
}

#[test]
fn a_daemon_with_a_watchdog_of_its_own_is_no_weakness() {
    let second = |host: &mut Host| {
        host.watchdog(1, "IT87 WDT");
        host.link("/dev/watchdog1", "/dev/zero");
        host.process(7, "sbd", 0, 0);
        host.link("/proc/7/fd/9", "/dev/zero");
    };
    let own = "sbd (pid 7) has /dev/watchdog1, which the guard does not use";
    let takes = "sbd (pid 7) runs, which uses a host watchdog";
    let cases: [(_, fn(&mut Host), _, _); 3] = [
        ("sbd-own", |_| {}, Fine, own),
        (
            "sbd-both",
            |host| host.link("/proc/7/fd/10", "/dev/null"),
            Weak,
            takes,
        ),
        (
            "sbd-guards",
            |host| {
                let text = "[host-watchdog]\ndevice = [\"/dev/watchdog0\", \"/dev/watchdog1\"]\n";
                host.put(CONFIG, text);
            },
            Weak,
            takes,
        ),
    ];
    for (name, change, level, text) in cases {
        let mut host = Host::new(name);
        second(&mut host);
        change(&mut host);
        let report = host.check();
        let found = report.findings.iter().find(|f| f.text.contains(text));
        let found = found.unwrap_or_else(|| panic!("{name}: {:#?}", report.findings));
        assert_eq!((found.area, found.level), (OtherUsers, level), "{name}");
    }
}

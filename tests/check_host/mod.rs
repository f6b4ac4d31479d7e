// SPDX-License-Identifier: GPL-2.0-only
//! A host that is made of files, as it should be, for tests that change one thing of it.
#![allow(dead_code)] // each test uses a part

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use xenwarden::check::Level::Fine;
use xenwarden::check::hypervisor::{Hypervisor, TableSeen};
use xenwarden::check::{Area, Level, Report, System, examine};
use xenwarden::event::Coverage;
use xenwarden::guard::gate::Decision;
use xenwarden::guard::page::{Counters, Info, Phase, Status, Writer};
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::NoTable;

pub const CONFIG: &str = "/etc/xenwarden/xenwarden.conf";
pub const FIFO: u32 = 1;
pub const RR: u32 = 2;
const KERNEL: u32 = 0x0020_0000;

/// A host of files, as it should be.
pub struct Host {
    pub system: System,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("check")
            .join(name);
        let _ = fs::remove_dir_all(&root);
        let host = Self {
            system: System {
                root,
                as_root: true,
                hypervisor: answers(
                    Ok(TableSeen {
                        canary_period_ms: 1_000,
                        pcpus: 8,
                        online: 4,
                    }),
                    "placeholder watchdog",
                ),
            },
        };
        host.put(CONFIG, "");
        host.watchdog(0, "i6300ESB timer");
        host.link("/dev/watchdog0", "/dev/null");
        for (path, text) in [
            ("/boot/config-6.1", "# CONFIG_RT_GROUP_SCHED is not set\n"),
            ("/proc/sys/kernel/osrelease", "6.1\n"),
            ("/proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
            ("/proc/sys/kernel/sched_rt_period_us", "1000000\n"),
            ("/proc/sysrq-trigger", ""),
            ("/sys/devices/system/cpu/online", "0-3\n"),
            (
                "/sys/devices/system/clocksource/clocksource0/current_clocksource",
                "xen\n",
            ),
            ("/sys/kernel/kexec_crash_loaded", "0\n"),
        ] {
            host.put(path, text);
        }
        host.process(1, "systemd", 0, 0);
        host.process(2, "migration/0", FIFO, 99);
        host.put("/proc/2/cmdline", "");
        host.thread(2, 2, "migration/0", KERNEL, FIFO, 99);
        host.process(100, "xenwardend", FIFO, 99);
        host.link("/proc/100/fd/3", "/dev/null");
        host.put("/proc/100/status", "VmSize: 9 kB\nVmLck:\t  4711 kB\n");
        host.put("/proc/100/limits", &limits("unlimited"));
        host.process(200, "xenwarden-monit", 0, 0);
        host.page("", Coverage::Full, Monotonic::now());
        host
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.system.root.join(&path[1..])
    }

    pub fn put(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    pub fn link(&self, path: &str, to: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        symlink(to, path).expect("linked");
    }

    pub fn remove(&self, path: &str) {
        let path = self.at(path);
        match fs::symlink_metadata(&path).expect("there").is_dir() {
            true => fs::remove_dir_all(path).expect("removed"),
            false => fs::remove_file(path).expect("removed"),
        }
    }

    pub fn watchdog(&self, number: u32, identity: &str) {
        let class = format!("/sys/class/watchdog/watchdog{number}");
        self.put(&format!("{class}/identity"), identity);
        self.put(&format!("{class}/state"), "active\n");
        self.put(&format!("{class}/nowayout"), "0\n");
    }

    pub fn process(&self, pid: u32, name: &str, policy: u32, priority: u32) {
        self.put(&format!("/proc/{pid}/comm"), &format!("{name}\n"));
        self.put(&format!("/proc/{pid}/cmdline"), &format!("{name}\0-x\0"));
        let stat = stat(pid, name, 0, policy, priority);
        self.put(&format!("/proc/{pid}/stat"), &stat);
        self.thread(pid, pid, name, 0, policy, priority);
    }

    pub fn thread(&self, pid: u32, tid: u32, name: &str, flags: u32, policy: u32, priority: u32) {
        let stat = stat(tid, name, flags, policy, priority);
        self.put(&format!("/proc/{pid}/task/{tid}/stat"), &stat);
    }

    pub fn page(&self, weakness: &str, coverage: Coverage, at: Monotonic) {
        self.page_until(weakness, coverage, at, None);
    }

    /// The same of a guard that is inhibited until then.
    pub fn page_until(
        &self,
        weakness: &str,
        coverage: Coverage,
        at: Monotonic,
        inhibited: Option<Monotonic>,
    ) {
        fs::create_dir_all(self.at("/run/xenwarden")).expect("made");
        let page = Writer::create(&self.at("/run/xenwarden/guard"), None).expect("a page");
        page.info(&Info {
            pid: 100,
            started: at,
            device: "/dev/watchdog0".into(),
            identity: "i6300ESB timer".to_owned(),
            timeout_ns: 5_000_000_000,
            latest_ns: 5_000_000_000,
            // Kicks of a guard that looks but once a minute are never late in a test.
            period_ns: 60_000_000_000,
            coverage,
            xen_slot: false,
            weakness: weakness.to_owned(),
        });
        page.status(&Status {
            phase: Phase::Armed,
            looked: at,
            decision: Decision::Kick,
            since: at,
            last_kick: at,
            served: at,
            answered: at,
            excused: None,
            inhibited,
            ignored: None,
            entries: 0,
            counters: Counters::default(),
        });
    }

    pub fn check(&self) -> Report {
        examine(&self.system, Path::new(CONFIG))
    }
}

pub fn answers(table: Result<TableSeen, NoTable>, command_line: &str) -> Hypervisor {
    Hypervisor::Answers {
        table,
        command_line: Ok(command_line.to_owned()),
        crash_kernel: Ok(false),
    }
}

pub fn limits(most: &str) -> String {
    format!("Limit  Soft Limit  Hard Limit  Units\nMax locked memory  {most}  {most}  bytes\n")
}

/// As proc(5) has it: the flags are the 9th field, the priority the 40th, the policy the 41st.
pub fn stat(tid: u32, name: &str, flags: u32, policy: u32, priority: u32) -> String {
    let between = ["0"; 30].join(" ");
    format!("{tid} ({name}) S 1 1 1 0 -1 {flags} {between} {priority} {policy} 0 0\n")
}

/// A name, what is done to the host, and the finding that must be there for it.
pub type Case = (&'static str, fn(&mut Host), Area, Level, &'static str);

/// Each change alone gives its finding, at its level, with what to do where it is not fine.
pub fn each(cases: &[Case]) {
    for (name, change, area, level, part) in cases {
        let mut host = Host::new(name);
        change(&mut host);
        let report = host.check();
        let found = report
            .findings
            .iter()
            .find(|f| f.area == *area && f.text.contains(part));
        let Some(found) = found else {
            panic!("{name}: {part:?} is in none of {:#?}", report.findings);
        };
        assert_eq!(found.level, *level, "{name}: {found:?}");
        assert_eq!(found.mend.is_some(), *level != Fine, "{name}: {found:?}");
        assert!(report.worst >= *level, "{name}");
    }
}

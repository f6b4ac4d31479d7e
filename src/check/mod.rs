// SPDX-License-Identifier: GPL-2.0-only
//! Whether a host is fit to be guarded: what is fine, what weakens the guard, and how to mend it.
//!
//! In: files of a system ([`System`]), what its hypervisor was seen to say ([`Hypervisor`]), the
//! configuration. Out: a [`Report`] of [`Finding`]s. It opens no watchdog, which would arm it,
//! and changes nothing. What cannot be seen is unknown, which is never fine.

mod cib;
mod configuration;
mod corosync_conf;
mod dom0;
mod guard;
mod host_watchdog;
pub mod hypervisor;
mod leases;
mod others;
mod pool;
mod processes;
mod realtime;

pub use hypervisor::Hypervisor;

use processes::Process;
use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The file, and what it names.
    Configuration,
    /// The hardware.
    HostWatchdog,
    /// The hypervisor's liveness table.
    LivenessTable,
    /// Xen's own NMI watchdog.
    NmiWatchdog,
    /// Others who use a watchdog.
    OtherUsers,
    /// Real-time scheduling.
    RealTime,
    /// Locked memory.
    Memory,
    /// The control domain: its vCPUs, clock and crash kernel.
    Dom0,
    /// xenwardend.
    Guard,
    /// xenwarden-monitor.
    Monitor,
    /// What resets the host where the hardware does not.
    Fence,
    /// Other programs that are conditions of the host's life.
    Leases,
    /// The pool of hosts, and fencing.
    Pool,
}

impl Area {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::HostWatchdog => "host watchdog",
            Self::LivenessTable => "liveness table",
            Self::NmiWatchdog => "NMI watchdog",
            Self::OtherUsers => "other users",
            Self::RealTime => "real time",
            Self::Memory => "memory",
            Self::Dom0 => "dom0",
            Self::Guard => "guard",
            Self::Monitor => "monitor",
            Self::Fence => "fence",
            Self::Leases => "leases",
            Self::Pool => "pool",
        }
    }
}

/// How it is, the better before the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// It could not be seen.
    Unknown,
    /// The guard guards, but less well than it could.
    Weak,
    /// The host is not guarded, or would not be.
    Wrong,
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do; none where nothing is to be done.
    pub mend: Option<String>,
}

impl Finding {
    fn fine(area: Area, text: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Fine,
            text: text.into(),
            mend: None,
        }
    }

    fn not_fine(area: Area, level: Level, text: impl Into<String>, mend: &str) -> Self {
        Self {
            area,
            level,
            text: text.into(),
            mend: (!mend.is_empty()).then(|| mend.to_owned()),
        }
    }

    fn unknown(area: Area, text: impl Into<String>, mend: &str) -> Self {
        Self::not_fine(area, Level::Unknown, text, mend)
    }

    fn weak(area: Area, text: impl Into<String>, mend: &str) -> Self {
        Self::not_fine(area, Level::Weak, text, mend)
    }

    fn wrong(area: Area, text: impl Into<String>, mend: &str) -> Self {
        Self::not_fine(area, Level::Wrong, text, mend)
    }
}

/// All that was found. Fields are only ever added within a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of this form: 1.
    pub version: u32,
    /// The worst of the findings.
    pub worst: Level,
    /// In the order in which one sets up a host.
    pub findings: Vec<Finding>,
}

/// The system that is looked at.
#[derive(Clone, Debug)]
pub struct System {
    /// Its root: / but in tests.
    pub root: PathBuf,
    /// Whether all of it can be seen.
    pub as_root: bool,
    /// What its hypervisor says.
    pub hypervisor: Hypervisor,
}

/// Largest file that is read, bytes.
const MAX_SIZE: u64 = 1 << 20;

impl System {
    /// This one. Asks the hypervisor.
    #[must_use]
    pub fn here() -> Self {
        let as_root = nix::unistd::geteuid().is_root();
        let root = PathBuf::from("/");
        Self {
            hypervisor: Hypervisor::look(&root, as_root),
            as_root,
            root,
        }
    }

    /// Where `path` is. A relative one is one of the working directory.
    fn at(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(below) => self.root.join(below),
            Err(_) => path.to_owned(),
        }
    }

    /// A plain file's text: a fifo or a device may have no end.
    fn text(&self, path: &str) -> Option<String> {
        let path = self.at(Path::new(path));
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = File::open(path).ok()?;
        file.take(MAX_SIZE).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(Path::new(path))).is_ok()
    }

    /// How its init starts a service, now and at each boot (sd_booted(3); OpenRC's rc(8)).
    fn enabling(&self, service: &str) -> String {
        if self.exists("/run/systemd/system") {
            format!("systemctl enable --now {service}")
        } else if self.exists("/run/openrc") {
            format!("rc-update add {service} && rc-service {service} start")
        } else {
            format!("service {service} start, and enable it in the host's init")
        }
    }
}

/// Looks at all of `system`, with the configuration at `config`.
#[must_use]
pub fn examine(system: &System, config: &Path) -> Report {
    let processes = processes::all(system);
    let (policy, mut findings) = configuration::look(system, config);
    findings.extend(host_watchdog::look(system, &policy));
    findings.extend(system.hypervisor.findings(&policy));
    findings.extend(others::look(system, &policy, &processes));
    findings.extend(realtime::look(system, &policy, &processes));
    findings.extend(dom0::look(system, &policy));
    findings.extend(guard::look(system, &policy, &processes));
    findings.extend(leases::look(system, &policy));
    findings.extend(pool::look(system, &policy, &processes));
    let worst = findings.iter().map(|finding| finding.level).max();
    Report {
        version: 1,
        worst: worst.unwrap_or(Level::Unknown),
        findings,
    }
}

/// A device by one of its names: /dev/watchdog is another one of the first watchdog.
fn one_name(device: &Path) -> &Path {
    match device.to_str() {
        Some("/dev/watchdog") => Path::new("/dev/watchdog0"),
        _ => device,
    }
}

/// The guard among `processes`.
fn guard_of(processes: &[Process]) -> Option<&Process> {
    processes.iter().find(|process| process.is("xenwardend"))
}

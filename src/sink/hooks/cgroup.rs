// SPDX-License-Identifier: GPL-2.0-only
//! A control group for each execution, where the monitor may make some.
//!
//! In: the pid of a program that was started. Out: at its end, everything that it started is
//! killed, whatever process group or session it is in (cgroup.kill, Linux 5.14;
//! Documentation/admin-guide/cgroup-v2.rst). What the program forks before it is moved,
//! a moment after its start, is not in it. Without cgroup v2, or where its directory is
//! not writable, the process group has to do.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroup v2 is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The monitor's own group, under which others are made.
#[derive(Debug)]
pub struct Groups {
    own: Option<PathBuf>,
    /// Groups that could not be removed yet: their processes are dying.
    leftover: Vec<PathBuf>,
}

impl Groups {
    /// Under the directory `own`, if that takes directories.
    #[must_use]
    pub fn new(own: Option<PathBuf>) -> Self {
        let own = own.filter(|own| {
            let trial = own.join("xenwarden-hook-trial");
            let made = fs::create_dir(&trial).is_ok();
            made && fs::remove_dir(&trial).is_ok()
        });
        if own.is_none() {
            log::debug!("hooks run without cgroups of their own: no writable cgroup v2");
        }
        Self {
            own,
            leftover: Vec::new(),
        }
    }

    /// Makes a group for the process; None where that does not work.
    pub fn enclose(&self, pid: u32) -> Option<PathBuf> {
        let group = self.own.as_ref()?.join(format!("xenwarden-hook-{pid}"));
        fs::create_dir(&group).ok()?;
        if fs::write(group.join("cgroup.procs"), pid.to_string()).is_err() {
            let _ = fs::remove_dir(&group);
            return None;
        }
        Some(group)
    }

    /// Kills what is left in a group, and removes it as soon as that has gone. Whether
    /// anything was left; the program itself is a zombie and not counted.
    pub fn end(&mut self, group: PathBuf, pid: u32) -> bool {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let own = pid.to_string();
        let left = members.lines().any(|member| member != own);
        let _ = fs::write(group.join("cgroup.kill"), "1");
        self.leftover.push(group);
        self.sweep();
        left
    }

    /// Removes the groups that have become empty.
    pub fn sweep(&mut self) {
        self.leftover
            .retain(|group| fs::remove_dir(group).is_err() && group.exists());
    }
}

/// The directory of the cgroup v2 that this process is in, unless that is the root, which
/// nobody delegates.
#[must_use]
pub fn own_directory() -> Option<PathBuf> {
    let all = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = all.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.is_empty() {
        return None;
    }
    let directories = MOUNTS.iter().map(|mount| Path::new(mount).join(path));
    directories
        .into_iter()
        .find(|directory| directory.join("cgroup.procs").exists())
}

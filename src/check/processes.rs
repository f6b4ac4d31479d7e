// SPDX-License-Identifier: GPL-2.0-only
//! What /proc tells of processes and threads.
//!
//! Source: proc(5).

use super::{Area, Finding, System};
use std::fs;
use std::path::{Path, PathBuf};

/// Threads that are looked at, at most.
pub const MOST_THREADS: usize = 100_000;
/// `TASK_COMM_LEN` (Linux `include/linux/sched.h`) without the zero byte.
const NAME: usize = 15;
/// `PF_KTHREAD` (Linux `include/linux/sched.h`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process of user space.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.as_bytes() == name.as_bytes().get(..NAME).unwrap_or(name.as_bytes())
    }
}

/// The processes of user space that can be seen. Threads of the kernel, of which one is named
/// watchdogd, have no arguments.
pub fn all(system: &System) -> Vec<Process> {
    let process = |pid: u32| {
        let name = system.text(&format!("/proc/{pid}/comm"))?;
        let arguments = system.text(&format!("/proc/{pid}/cmdline"))?;
        let arguments: Vec<String> = arguments.split('\0').map(str::to_owned).collect();
        let user_space = arguments.first().is_some_and(|first| !first.is_empty());
        user_space.then_some(Process {
            pid,
            name,
            arguments,
        })
    };
    numbered(&system.at(Path::new("/proc")))
        .filter_map(|(pid, _)| process(pid))
        .collect()
}

/// Whether all of them were to be seen: without a right to see others' (hidepid, proc(5)) the
/// first is not.
pub fn all_seen(processes: &[Process]) -> bool {
    processes.iter().any(|process| process.pid == 1)
}

/// What is to be said of a program that is to run: that it does, that nobody can see whether it does, or `weak`.
pub fn running(
    area: Area,
    process: Option<&Process>,
    processes: &[Process],
    weak: impl FnOnce() -> Finding,
) -> Finding {
    match (process, all_seen(processes)) {
        (Some(process), _) => Finding::fine(area, format!("it runs (pid {})", process.pid)),
        (None, false) => Finding::unknown(
            area,
            "whether it runs is not to be seen in /proc",
            "run the check as root",
        ),
        (None, true) => weak(),
    }
}

/// How a thread is scheduled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// Its name.
    pub name: String,
    /// Whether it is one of the kernel's.
    pub kernel: bool,
    /// As sched(7) numbers them.
    pub policy: i32,
    /// 0 without a real-time policy.
    pub priority: u32,
}

impl Scheduling {
    /// From /proc/PID/stat. The name may hold anything, brackets and spaces too.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // From the third field on.
        let mut fields = after.split_whitespace();
        let flags: u64 = fields.nth(9 - 3)?.parse().ok()?;
        let priority = fields.nth(40 - 9 - 1)?.parse().ok()?;
        let policy = fields.next()?.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            kernel: flags & KERNEL_THREAD != 0,
            policy,
            priority,
        })
    }

    /// Of a process' first thread.
    pub fn of(system: &System, pid: u32) -> Option<Self> {
        Self::parse(&system.text(&format!("/proc/{pid}/stat"))?)
    }
}

/// All threads, up to [`MOST_THREADS`], each with the pid of its process.
pub fn threads(system: &System) -> impl Iterator<Item = (u32, Scheduling)> + '_ {
    numbered(&system.at(Path::new("/proc")))
        .flat_map(|(pid, process)| numbered(&process.join("task")).map(move |(tid, _)| (pid, tid)))
        .take(MOST_THREADS)
        .filter_map(|(pid, tid)| {
            let stat = system.text(&format!("/proc/{pid}/task/{tid}/stat"))?;
            Some((pid, Scheduling::parse(&stat)?))
        })
}

/// The entries of a directory whose names are numbers.
fn numbered(directory: &Path) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let entries = fs::read_dir(directory).ok();
    entries.into_iter().flatten().flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let zeroes = |n| vec!["0"; n].join(" ");
        let text = format!(
            "7 (a) b (1 2) S 1 1 1 0 -1 2097216 {} 98 1 {}",
            zeroes(30),
            zeroes(11)
        );
        let expected = Scheduling {
            name: "a) b (1 2".to_owned(),
            kernel: true,
            policy: 1,
            priority: 98,
        };
        assert_eq!(Scheduling::parse(&text), Some(expected));
        for text in ["", "7", "7 (a) S", ")(", "7 (a) S 1 1 1 0 -1 x"] {
            assert_eq!(Scheduling::parse(text), None, "{text}");
        }
    }
}

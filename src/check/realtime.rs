// SPDX-License-Identifier: GPL-2.0-only
//! Real-time scheduling and locked memory: what the kernel allows, and what the running guard
//! has.
//!
//! Sources: sched(7), proc(5), Linux `Documentation/scheduler/sched-rt-group.rst`.

use super::processes::{MOST_THREADS, Process, Scheduling, all_seen, threads};
use super::{Area, Finding, System, guard_of};
use crate::config::Policy;

const AREA: Area = Area::RealTime;
/// Where the kernel says how much real-time threads may run, and of what.
const RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";
const PERIOD: &str = "/proc/sys/kernel/sched_rt_period_us";
/// The period where it is not told, microseconds.
const DEFAULT_PERIOD_US: i64 = 1_000_000;
/// What mends a guard that runs with less than it asked for.
const RESTART: &str = "restart xenwardend (without systemd the host is unguarded meanwhile)";

/// What is said of both.
pub fn look(system: &System, policy: &Option<Policy>, processes: &[Process]) -> Vec<Finding> {
    let Some(policy) = policy else {
        return Vec::new();
    };
    let mut findings = vec![groups(system), throttling(system, policy)];
    let guard = guard_of(processes);
    findings.push(match guard {
        Some(guard) => scheduled(system, policy, guard),
        None => Finding::unknown(
            AREA,
            "how the guard is scheduled is told once it runs",
            "start xenwardend, and check again",
        ),
    });
    findings.push(above(system, policy, processes));
    findings.push(match guard {
        Some(guard) => locked(system, guard),
        None => Finding::unknown(
            Area::Memory,
            "whether the guard's memory is locked is told once it runs",
            "start xenwardend, and check again",
        ),
    });
    findings
}

/// `RT_GROUP_SCHED`: the guard must be in the root group. With cgroup v1 it moves itself there.
fn groups(system: &System) -> Finding {
    if system.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us") {
        let text = "the kernel has RT_GROUP_SCHED: the guard moves itself to the root group";
        return Finding::fine(AREA, text);
    }
    let release = system
        .text("/proc/sys/kernel/osrelease")
        .unwrap_or_default();
    let Some(config) = system.text(&format!("/boot/config-{release}")) else {
        return Finding::unknown(
            AREA,
            "whether the kernel has RT_GROUP_SCHED is not told",
            "that the guard starts shows that it is not in its way",
        );
    };
    match config.lines().any(|line| line == "CONFIG_RT_GROUP_SCHED=y") {
        false => Finding::fine(AREA, "the kernel has no RT_GROUP_SCHED"),
        true => Finding::weak(
            AREA,
            "the kernel has RT_GROUP_SCHED, and no cgroup v1 of cpu: it may refuse the guard",
            "boot with rt_group_sched=0, or another kernel",
        ),
    }
}

/// Real-time threads that use up their share of each period are kept off the CPU for the rest
/// of it. That must not make a look late by more than a sample.
fn throttling(system: &System, policy: &Policy) -> Finding {
    let number = |path: &str| system.text(path)?.parse::<i64>().ok();
    let Some(runtime_us) = number(RUNTIME) else {
        let text = format!("{RUNTIME} cannot be read");
        return Finding::unknown(AREA, text, "mount /proc");
    };
    let period_us = number(PERIOD).unwrap_or(DEFAULT_PERIOD_US);
    let text = format!("sched_rt_runtime_us is {runtime_us} of {period_us}");
    let off_us = period_us.saturating_sub(runtime_us);
    let sample_us = i64::try_from(policy.sample_ns / 1_000).unwrap_or(i64::MAX);
    let mend = "sysctl kernel.sched_rt_runtime_us=950000";
    match runtime_us {
        ..0 => Finding::fine(AREA, format!("{text}: real-time threads are not throttled")),
        0 => Finding::wrong(AREA, format!("{text}: no real-time thread runs"), mend),
        _ if off_us > sample_us => Finding::weak(
            AREA,
            format!(
                "{text}: a busy real-time thread may keep the guard off for longer than a sample"
            ),
            mend,
        ),
        _ => Finding::fine(AREA, text),
    }
}

fn policy_name(policy: i32) -> &'static str {
    match policy {
        libc::SCHED_OTHER => "SCHED_OTHER",
        libc::SCHED_FIFO => "SCHED_FIFO",
        libc::SCHED_RR => "SCHED_RR",
        libc::SCHED_BATCH => "SCHED_BATCH",
        libc::SCHED_IDLE => "SCHED_IDLE",
        libc::SCHED_DEADLINE => "SCHED_DEADLINE",
        _ => "an unknown policy",
    }
}

/// How the running guard is scheduled, as the kernel has it.
fn scheduled(system: &System, policy: &Policy, guard: &Process) -> Finding {
    let pid = guard.pid;
    let Some(now) = Scheduling::of(system, pid) else {
        let text = format!("/proc/{pid}/stat cannot be read");
        return Finding::unknown(AREA, text, "run the check as root");
    };
    let text = format!(
        "the guard (pid {pid}) has {} {}",
        policy_name(now.policy),
        now.priority
    );
    if now.policy != libc::SCHED_FIFO {
        return Finding::wrong(AREA, format!("{text}: it is not real-time"), RESTART);
    }
    match now.priority == u32::from(policy.priority) {
        true => Finding::fine(AREA, text),
        false => {
            let text = format!("{text}; realtime.priority is {}", policy.priority);
            Finding::weak(AREA, text, RESTART)
        }
    }
}

/// Threads of user space that run before the guard does.
fn above(system: &System, policy: &Policy, processes: &[Process]) -> Finding {
    let guard = guard_of(processes);
    let mut seen = 0;
    let mut names: Vec<String> = Vec::new();
    for (pid, thread) in threads(system) {
        seen += 1;
        let before = match thread.policy {
            libc::SCHED_DEADLINE => true,
            libc::SCHED_FIFO | libc::SCHED_RR => thread.priority > u32::from(policy.priority),
            _ => false,
        };
        if before && !thread.kernel && guard.is_none_or(|guard| guard.pid != pid) {
            let policy = policy_name(thread.policy);
            names.push(format!("{} ({policy} {})", thread.name, thread.priority));
        }
    }
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    if !names.is_empty() {
        return Finding::weak(
            AREA,
            format!("these run before the guard: {}", names.join(", ")),
            "raise realtime.priority above them, or lower theirs",
        );
    }
    match seen {
        _ if !all_seen(processes) => Finding::unknown(
            AREA,
            "not all threads are to be seen in /proc",
            "run the check as root",
        ),
        MOST_THREADS.. => Finding::unknown(
            AREA,
            format!("of more than {MOST_THREADS} threads not all were looked at"),
            "",
        ),
        _ => Finding::fine(
            AREA,
            format!(
                "no thread but the kernel's runs before priority {}",
                policy.priority
            ),
        ),
    }
}

/// Whether the running guard's memory is locked.
fn locked(system: &System, guard: &Process) -> Finding {
    const AREA: Area = Area::Memory;
    let pid = guard.pid;
    let status = system.text(&format!("/proc/{pid}/status"));
    let limits = system.text(&format!("/proc/{pid}/limits"));
    let field = |name: &str| {
        let line = status.as_deref()?.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let limit = || {
        let limits = limits.as_deref()?;
        let line = limits
            .lines()
            .find(|l| l.starts_with("Max locked memory"))?;
        line.split_whitespace().nth(3)
    };
    match (field("VmLck:"), limit()) {
        (None, _) | (_, None) => Finding::unknown(
            AREA,
            format!("/proc/{pid} does not tell whether the guard's memory is locked"),
            "run the check as root",
        ),
        (Some(0), _) => Finding::wrong(
            AREA,
            format!("the guard (pid {pid}) has locked no memory: it may wait for a disk"),
            RESTART,
        ),
        (Some(kib), Some("unlimited")) => Finding::fine(
            AREA,
            format!("the guard has locked {kib} KiB, without limit"),
        ),
        (Some(kib), Some(limit)) => Finding::weak(
            AREA,
            format!("the guard has locked {kib} KiB, and may lock {limit} bytes only"),
            "set LimitMEMLOCK=infinity in xenwardend's unit",
        ),
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Faults of dom0: what its programs, its files and its processors may lack. A healthy host lives through all of them.
//!
//! dom0's root here is memory, which cannot hang; what hangs is the file system of /var/lib/xenwarden, by fsfreeze.

use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::GUESTS;
use crate::scenario::Row;
use crate::scenario::lives::{WATCHED, stop_feeding, survive};
use std::time::Duration;

/// How long something may take that makes dom0 slow.
const SLOW: Duration = Duration::from_secs(600);
/// For how long a fault lasts.
const LASTS: Duration = Duration::from_secs(20);
const YEAR_S: u32 = 365 * 24 * 60 * 60;

/// All rows.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "oom", what: "dom0 has no memory left, and its kernel kills who wants it", run: |lab, phase| survive(lab, phase, out_of_memory) },
    Row { name: "fork-bomb", what: "another user's fork bomb", run: |lab, phase| survive(lab, phase, fork_bomb) },
    Row { name: "descriptors-used-up", what: "nobody gets a file descriptor any more", run: |lab, phase| survive(lab, phase, no_descriptors) },
    Row { name: "run-full", what: "/run is full, and the guard is restarted", run: |lab, phase| survive(lab, phase, fill_run) },
    Row { name: "run-read-only", what: "/run is read-only", run: |lab, phase| survive(lab, phase, |host| read_only(host, "/run")) },
    Row { name: "var-read-only", what: "/var is read-only, and a guest expires", run: |lab, phase| survive(lab, phase, |host| expires_while(host, "mount -o bind /var/lib/xenwarden /var/lib/xenwarden && mount -o remount,bind,ro /var/lib/xenwarden", "umount /var/lib/xenwarden")) },
    Row { name: "state-frozen", what: "the file system of /var/lib/xenwarden hangs, and a guest expires", run: |lab, phase| survive(lab, phase, |host| expires_while(host, "fsfreeze --freeze /var/lib/xenwarden", "fsfreeze --unfreeze /var/lib/xenwarden")) },
    Row { name: "clock-steps", what: "the wall clock goes back a year, and forth two", run: |lab, phase| survive(lab, phase, step_clock) },
    Row { name: "vcpu-unplugged", what: "a vCPU of dom0 is unplugged and plugged again", run: |lab, phase| survive(lab, phase, unplug_vcpu) },
];

fn answers(host: &mut Host) -> Result<()> {
    let monitor = host.status()?.monitor;
    monitor
        .map(drop)
        .context(|| "the monitor does not answer any more")
}

/// Starts the monitor where it is gone.
fn answers_again(host: &mut Host) -> Result<()> {
    match host.dom0(&format!("pidof {MONITOR}"), PROMPT)?.code {
        0 => answers(host),
        _ => host.start_program(MONITOR),
    }
}

fn out_of_memory(host: &mut Host) -> Result<()> {
    host.dom0_ok(
        "for n in 1 2 3; do tail /dev/zero > /dev/null 2>&1; done; true",
        SLOW,
    )?;
    let killed = host.dom0_ok(
        "dmesg | grep -c 'Out of memory: Killed process' || true",
        PROMPT,
    )?;
    match killed.trim() {
        "0" => Err(Error::new("dom0 had memory enough")),
        _ => answers(host),
    }
}

/// Each process starts others as fast as it can, and goes on where it may not. They are in a namespace of their own, whose first process
/// takes them along when it ends. Memory may run out meanwhile, which spares the guard; the monitor is started again as by its unit.
fn fork_bomb(host: &mut Host) -> Result<()> {
    const BOMB: &str = r#"exec awk 'BEGIN { while (1) system("/run/bomb 2> /dev/null &") }'"#;
    let lasts = LASTS.as_secs();
    let command = format!(
        "cat > /run/bomb <<'END'\n#!/bin/sh\n{BOMB}\nEND\nchmod 755 /run/bomb; echo nobody:x:65534:65534::/:/bin/sh >> /etc/passwd; \
         unshare -p -f sh -c 'ulimit -u 300; start-stop-daemon -S -b -p /run/none -c 65534:65534 -x /usr/bin/sh -- /run/bomb; sleep {lasts}; ps | grep -c /run/bomb'"
    );
    let said = host.dom0_ok(&command, SLOW)?;
    let bombs: Option<u32> = said
        .lines()
        .last()
        .and_then(|count| count.trim().parse().ok());
    match bombs {
        Some(100..) => answers_again(host),
        _ => Err(Error::new(format!("no fork bomb: {said}"))),
    }
}

/// Neither of the system's, which root alone gets then, nor of their own.
fn no_descriptors(host: &mut Host) -> Result<()> {
    let most = host.dom0_ok("cat /proc/sys/fs/file-max", PROMPT)?;
    host.dom0_ok("echo 1 > /proc/sys/fs/file-max", PROMPT)?;
    let limit = |soft: &str| {
        format!(
            "for p in {GUARD} {MONITOR}; do prlimit --pid $(pidof $p) --nofile={soft}:1024; done"
        )
    };
    host.dom0_ok(&limit("0"), PROMPT)?;
    host.pass(LASTS)?;
    let status = host.status()?;
    host.dom0_ok(&limit("1024"), PROMPT)?;
    host.dom0_ok(
        &format!("echo {} > /proc/sys/fs/file-max", most.trim()),
        PROMPT,
    )?;
    if !status.decision.kick {
        return Err(Error::new("kicks are withheld"));
    }
    answers(host)
}

/// A guard that finds no room for a page guards all the same, and goes on with the old one.
fn fill_run(host: &mut Host) -> Result<()> {
    host.dom0_ok("mount -o remount,size=8m /run; dd if=/dev/zero of=/run/fill bs=64k 2> /dev/null; ! echo x > /run/one-more", SLOW)?;
    host.end_program(GUARD, "-TERM")?;
    host.start_program(GUARD)?;
    host.lives_on(WATCHED)?;
    host.dom0_ok("rm -f /run/fill /run/one-more", PROMPT)
        .map(drop)
}

fn read_only(host: &mut Host, path: &str) -> Result<()> {
    host.dom0_ok(
        &format!(
            "mount -o bind {path} {path} && mount -o remount,bind,ro {path} && ! touch {path}/x"
        ),
        PROMPT,
    )?;
    // What is asked for here writes nothing below it.
    host.pass(LASTS)?;
    host.dom0_ok(&format!("umount {path}"), PROMPT)?;
    answers(host)
}

/// What happens to a guest meanwhile is told at once, whether it can be saved or not.
fn expires_while(host: &mut Host, begin: &str, end: &str) -> Result<()> {
    host.follow_events()?;
    host.dom0_ok(begin, PROMPT)?;
    stop_feeding(host, GUESTS[0])?;
    host.wait_events("\"kind\":\"alarm.raised\"", 1, Duration::from_secs(30))?;
    host.lives_on(LASTS)?;
    host.dom0_ok(end, PROMPT)?;
    answers(host)
}

fn step_clock(host: &mut Host) -> Result<()> {
    for by in [
        format!("- {YEAR_S}"),
        format!("+ 2 * {YEAR_S}"),
        format!("- {YEAR_S}"),
    ] {
        host.dom0_ok(&format!("date -s @$(($(date +%s) {by}))"), PROMPT)?;
        host.lives_on(LASTS / 2)?;
    }
    answers(host)
}

fn unplug_vcpu(host: &mut Host) -> Result<()> {
    const CPUS: &str = "/sys/devices/system/cpu";
    // One that comes is put online by udev, which this dom0 has not.
    let put = format!("echo 1 2> /dev/null > {CPUS}/cpu1/online");
    for (count, online, put) in [(1, "0", "true"), (2, "0-1", put.as_str())] {
        let wait = format!(
            "xl vcpu-set Domain-0 {count}; n=0; until [ \"$(cat {CPUS}/online)\" = {online} ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; {put}; done"
        );
        host.dom0_ok(&wait, SLOW)?;
        host.lives_on(LASTS / 2)?;
    }
    answers(host)
}

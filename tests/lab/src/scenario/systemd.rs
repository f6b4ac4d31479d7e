// SPDX-License-Identifier: GPL-2.0-only
//! What is promised of the package for Debian and of the units for systemd, on a Debian that boots from its disk. All are left to
//! `make test-all`, which makes the package; `make deb` and the row's name do it, too.

use super::Row;
use super::dies::fires;
use super::figures::Figures;
use super::lives::WATCHED;
use super::wedges::Wedge;
use super::why::{HEARTBEAT, holds, only, told};
use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use crate::laboratory::debian::{LATER_PACKAGE, LISTED, LISTING, LONG, PACKAGE};
use crate::laboratory::{GUESTS, Laboratory};
use crate::provision::deb::LATER;
use std::time::Duration;
use xenwarden::event::{Confidence, ResetCause};
use xenwarden::state::deduction::Reset;

/// All of them.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "installed", what: "the package is installed: the host is guarded at once and after the next boot, and a killed guard's host goes down", run: |lab, _| installed(lab) },
    Row { name: "wedge", what: "a wedge that leaves dom0 alive: the host goes down, and the next boot says why", run: |lab, phase| shown(wedge(lab, phase)) },
    Row { name: "upgrade", what: "the package is upgraded under load: the host watchdog runs on", run: |lab, phase| lives(lab, phase, upgrade) },
    Row { name: "purged", what: "the package is purged: the host watchdog is disarmed, nothing is left, and the host lives", run: |lab, phase| lives(lab, phase, purged) },
    Row { name: "reboot", what: "a reboot: guests are saved before the guard ends, and guarded again when they are back; it is told as no reset", run: |lab, _| shown(reboot(lab)) },
    Row { name: "shutdown-hangs", what: "a reboot with a service whose stop never ends, once the guard has ended: the host goes down, and the next boot says why", run: |lab, _| shown(shutdown_hangs(lab)) },
    Row { name: "shutdown-hangs-late", what: "a reboot that hangs when all services have ended: the host goes down by its watchdog, which is systemd's then", run: |lab, _| shutdown_hangs_late(lab) },
    Row { name: "wedge-at-shutdown", what: "a wedge while a shutdown stops the guests: the host goes down", run: |lab, _| wedge_at_shutdown(lab) },
];

/// A guard that was killed has the host down so soon.
const BOUND: Duration = Duration::from_secs(6);
/// A wedge has, from when it begins.
const WEDGE_BOUND: Duration = Duration::from_secs(8);
/// How long the host watchdog is given for the rest of a shutdown, and less than systemd waits for what hangs in one (JobTimeoutSec of
/// reboot.target: half an hour).
const HANGS: Duration = Duration::from_secs(600);
/// For the guests' stop and that of all services.
const STOPPING: Duration = Duration::from_secs(180);
/// RebootWatchdogSec, where the end of a reboot hangs, in place of 10 minutes.
const LATE: Duration = Duration::from_secs(30);
/// The units, and what is asked of them.
const UNITS: [&str; 3] = [
    "xenwardend.service",
    "xenwarden-monitor.service",
    "xenwarden-shutdown.service",
];
/// What the monitor says of a guard that took over a host watchdog which ran on.
const RAN_ON: &str = "it ran on, unkicked for";
const DEVICE: &str = "/sys/class/watchdog/watchdog0/state";

fn shown(outcome: Result<(Host, Vec<String>)>) -> Result<Figures> {
    let (host, notes) = outcome?;
    Ok(Figures::of(Ok(notes), host.machine.log.lines_from(0)))
}

impl Host {
    fn units_are(&mut self, verb: &str, expected: &str) -> Result<()> {
        let mut units = UNITS.iter();
        units.try_for_each(|unit| self.says(&format!("systemctl {verb} {unit}"), expected))
    }
}

fn installed(laboratory: &Laboratory) -> Result<Figures> {
    let mut host = laboratory.debian()?;
    host.says(&format!("cat {DEVICE}"), "inactive")?;
    host.dom0_ok(&format!("dpkg -i {PACKAGE}"), LONG)?;
    let guarded = |host: &mut Host| {
        host.units_are("is-active", "active")?;
        host.units_are("is-enabled", "enabled")?;
        host.says(&format!("cat {DEVICE}"), "active")?;
        host.lives_on(WATCHED)?;
        let monitor = host.status()?.monitor;
        monitor.map(drop).context(|| "no monitor answers")
    };
    guarded(&mut host)?;
    let mut host = laboratory.debian_rebooted(host)?;
    guarded(&mut host)?;
    let booted = host.dom0_ok("systemd-analyze time | head -n 1", PROMPT)?;
    let said = host.machine.log.length();
    host.dom0_ok(&format!("systemctl kill -s KILL {GUARD}"), PROMPT)?;
    let killed = host.machine.clock()?;
    let figures = fires(&mut host, killed, BOUND, said)?;
    Ok(Figures {
        notes: vec![booted.trim().to_owned()],
        ..figures
    })
}

/// A restored host at this phase of its timers.
fn ready(laboratory: &Laboratory, phase: Duration) -> Result<Host> {
    let mut host = laboratory.debian_guarded()?;
    host.come_to(phase)?;
    Ok(host)
}

fn resets(host: &mut Host) -> Result<Vec<Reset>> {
    let said = host.dom0("xenwarden why --json", PROMPT)?.output;
    told(&said)
}

fn wedge(laboratory: &Laboratory, phase: Duration) -> Result<(Host, Vec<String>)> {
    let mut host = ready(laboratory, phase)?;
    host.dom0_ok(HEARTBEAT, PROMPT)?;
    let figures = wedged(&mut host)?;
    let (host, fired, reason) = back(
        laboratory,
        host,
        figures,
        ResetCause::Withheld,
        Confidence::Known,
    )?;
    holds(reason.contains("timers of pcpu 2"), "the pCPU")?;
    Ok((host, vec![format!("fired after {fired:.1} s: {reason}")]))
}

/// The host that has gone down by its watchdog, up again: after how many seconds it fired, and the reason of the one reset that it tells of,
/// which must have this cause.
fn back(
    laboratory: &Laboratory,
    down: Host,
    figures: Figures,
    cause: ResetCause,
    confidence: Confidence,
) -> Result<(Host, f64, String)> {
    if let Some(failure) = figures.failure {
        return Err(Error::new(failure));
    }
    let mut host = laboratory.debian_after_reset(down)?;
    host.wait_kicking()?;
    let resets = resets(&mut host)?;
    let reset = only(&resets)?;
    let said = (reset.cause, reset.confidence, reset.watchdog_fired);
    let expected = (cause, confidence, Some(true));
    if said != expected {
        return Err(Error::new(format!("it says {said:?}, not {expected:?}")));
    }
    let fired = figures.fired_s.unwrap_or_default();
    Ok((host, fired, reset.reason.clone()))
}

/// Wedges a pCPU without dom0; the host watchdog must fire.
fn wedged(host: &mut Host) -> Result<Figures> {
    let wedge = Wedge::named("timer-lost-2").context(|| "no such wedge")?;
    let said = host.machine.log.length();
    let began = host.inject(wedge.fault)?;
    fires(host, began, WEDGE_BOUND, said)
}

/// Does something to a restored host, which must live.
fn lives(
    laboratory: &Laboratory,
    phase: Duration,
    act: fn(&mut Host) -> Result<Vec<String>>,
) -> Result<Figures> {
    let mut host = ready(laboratory, phase)?;
    let outcome = act(&mut host);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn upgrade(host: &mut Host) -> Result<Vec<String>> {
    let said = host.machine.log.length();
    let pid = format!("systemctl show --property=MainPID --value {GUARD}");
    let before = host.dom0_ok(&pid, PROMPT)?;
    let busy = "for n in 1 2 3 4; do (setsid sh -c 'while :; do :; done' < /dev/null > /dev/null 2>&1 &); done";
    host.dom0_ok(busy, PROMPT)?;
    let watch = format!("while :; do cat {DEVICE}; sleep 0.05; done > /run/states");
    host.dom0_ok(
        &format!("(setsid sh -c '{watch}' < /dev/null > /dev/null 2>&1 &)"),
        PROMPT,
    )?;
    host.dom0_ok(&format!("dpkg -i {LATER_PACKAGE}"), LONG)?;
    host.says("dpkg-query -W -f '${Version}' xenwarden", LATER)?;
    host.lives_on(WATCHED)?;
    host.says("sort -u /run/states", "active")?;
    host.units_are("is-active", "active")?;
    if host.dom0_ok(&pid, PROMPT)? == before {
        return Err(Error::new("the guard is still the one before"));
    }
    let kept = format!("systemctl show --property=NFileDescriptorStore --value {GUARD}");
    host.says(&kept, "1")?;
    let withholds = host.status()?.kick_path.withholds;
    let gap = line(host, said, RAN_ON)?;
    stays_stopped(host)?;
    let (_, gap) = gap.split_once(RAN_ON).unwrap_or_default();
    Ok(vec![format!(
        "unkicked for{gap}, withheld {withholds} times since"
    )])
}

/// A guard that somebody has stopped is not started by the next upgrade.
fn stays_stopped(host: &mut Host) -> Result<()> {
    host.dom0_ok(&format!("systemctl stop {GUARD}"), LONG)?;
    host.dom0_ok(&format!("dpkg -i {LATER_PACKAGE}"), LONG)?;
    host.says(&format!("systemctl is-active {GUARD} || true"), "inactive")?;
    host.says(&format!("cat {DEVICE}"), "inactive")
}

fn purged(host: &mut Host) -> Result<Vec<String>> {
    host.dom0_ok("dpkg --purge xenwarden", LONG)?;
    host.says(&format!("cat {DEVICE}"), "inactive")?;
    host.says(
        &format!("{LISTING} | diff {LISTED} - | grep '^[<>]' || true"),
        "",
    )?;
    host.says("ls -d /run/xenwarden* 2> /dev/null || true", "")?;
    host.says("systemctl list-units --all --no-legend 'xenwarden*'", "")?;
    host.says("systemctl is-system-running", "running")?;
    host.pass(WATCHED)?;
    for name in GUESTS {
        host.dom0_ok(&format!("xl domid {name}"), PROMPT)?;
    }
    Ok(Vec::new())
}

/// The line of the log after the `first` one that has these words.
fn line(host: &Host, first: usize, words: &str) -> Result<String> {
    let found = host.machine.log.wait_line(first, PROMPT, words);
    found.context(|| format!("nobody said: {words}"))
}

fn reboot(laboratory: &Laboratory) -> Result<(Host, Vec<String>)> {
    let host = laboratory.debian_guarded()?;
    let said = host.machine.log.length();
    let mut host = laboratory.debian_rebooted(host)?;
    let lines = host.machine.log.lines_from(said);
    let mut stops = lines.iter().filter(|line| {
        let stops = ["Stopped xendomains.service", "Stopping xenwardend.service"];
        stops.iter().any(|words| line.contains(words))
    });
    let first = stops.next().context(|| "nobody tells of the stops")?;
    if !first.contains("xendomains") || stops.next().is_none() {
        return Err(Error::new("the guard was stopped before the guests"));
    }
    host.lives_on(WATCHED)?;
    for name in GUESTS {
        host.dom0_ok(&format!("xl domid {name}"), PROMPT)?;
    }
    match resets(&mut host)?.len() {
        0 => Ok((host, Vec::new())),
        _ => Err(Error::new("a reboot in order is told as a reset")),
    }
}

fn wedge_at_shutdown(laboratory: &Laboratory) -> Result<Figures> {
    let mut host = laboratory.debian_guarded()?;
    let said = host.machine.log.length();
    host.machine.agent.send("systemctl reboot")?;
    let stopping = "Stopping xendomains.service";
    let stops = host.machine.log.wait_line(said, LONG, stopping);
    stops.context(|| format!("nobody said: {stopping}"))?;
    wedged(&mut host)
}

/// What stops after the guard waits for ever: the host watchdog has been left to it.
fn shutdown_hangs(laboratory: &Laboratory) -> Result<(Host, Vec<String>)> {
    const UNIT: &str = "[Unit]\nBefore=xenwardend.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStopSec=infinity\n\
                        ExecStart=/bin/true\nExecStop=/bin/sleep infinity\n";
    let mut host = laboratory.debian_guarded()?;
    let start = format!(
        "printf '{UNIT}' > /run/systemd/system/hangs.service; systemctl daemon-reload; systemctl start hangs"
    );
    host.dom0_ok(&start, PROMPT)?;
    let figures = hangs_in_reboot(&mut host, HANGS)?;
    let (host, fired, _) = back(
        laboratory,
        host,
        figures,
        ResetCause::ShutdownHung,
        Confidence::Likely,
    )?;
    holds(fired >= HANGS.as_secs_f64(), "time for a shutdown")?;
    Ok((host, vec![format!("fired after {fired:.0} s")]))
}

/// A reboot that hangs once the services have stopped: the host watchdog must fire within this.
fn hangs_in_reboot(host: &mut Host, within: Duration) -> Result<Figures> {
    let said = host.machine.log.length();
    let began = host.machine.clock()?;
    host.machine.agent.send("systemctl reboot")?;
    fires(host, began, STOPPING + within, said)
}

/// What systemd runs when all services have ended does not end: the host watchdog is systemd's by then.
fn shutdown_hangs_late(laboratory: &Laboratory) -> Result<Figures> {
    const PATH: &str = "/lib/systemd/system-shutdown/hangs";
    const SCRIPT: &str = "#!/bin/sh\nsleep 1000\n";
    let config = format!("[Manager]\\nRebootWatchdogSec={}\\n", LATE.as_secs());
    let mut host = laboratory.debian_guarded()?;
    host.dom0_ok(
        &format!(
            "printf '{SCRIPT}' > {PATH}; chmod 755 {PATH}; mkdir -p /etc/systemd/system.conf.d; \
             printf '{config}' > /etc/systemd/system.conf.d/reboot.conf; systemctl daemon-reexec"
        ),
        LONG,
    )?;
    hangs_in_reboot(&mut host, LATE)
}

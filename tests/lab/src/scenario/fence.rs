// SPDX-License-Identifier: GPL-2.0-only
//! The fence levels behind the hardware, each by making the earlier ones fail; and devices that are not to be trusted.

use super::figures::Figures;
use super::lives::WATCHED;
use super::wedges::{FROM_INJECTION, Wedge};
use super::why::SERVED;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use serde_json::json;
use std::ops::Range;
use std::time::Duration;

/// What the hardware should have done within 5 s and does not, the next levels do: so long after the last time that all was served.
const SLOT: Duration = Duration::from_secs(7);
const SYSRQ: Duration = Duration::from_secs(9);
/// How often the slower level looks, and what the hypervisor takes to reboot.
const LATE: Duration = Duration::from_millis(3_500);

/// What the fast fence is told to wait, its look each 100 ms included; and what the hypervisor takes to reboot.
const WITHHELD: Duration = Duration::from_millis(1_200);
const REBOOT: Duration = Duration::from_millis(1_500);
/// What has been told already.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Rows that also `make test` runs.
pub const IN_EVERY_RUN: &[&str] = &[
    "fence-slot",
    "fence-sysrq",
    "fast-killed",
    "fast-withheld",
    "fence-released",
    "drill-without-reset",
    "not-hardware",
    "bmc-toothless",
];

/// Rows in which the host goes down.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "fence-slot", what: "the hardware does nothing: Xen's slot of dom0 resets the host", run: |lab, phase| falls(lab, phase, "xen_slot = true\nsysrq = false", SLOT) },
    Row { name: "fast-killed", what: "the guard is killed: the fast fence resets the host at once", run: |lab, phase| falls_fast(lab, phase, "guard_death = true", GuardGoes::Killed) },
    Row { name: "fast-stopped", what: "the guard is stopped: the fast fence resets the host a second later", run: |lab, phase| falls_fast(lab, phase, "withheld_ms = 1000", GuardGoes::Stopped) },
    Row { name: "fast-withheld", what: "kicks are withheld for a second: the fast fence resets the host", run: |lab, phase| falls_fast(lab, phase, "withheld_ms = 1000", GuardGoes::Withholding) },
    Row { name: "fence-sysrq", what: "neither the hardware nor Xen's slot does anything: sysrq resets the host", run: |lab, phase| falls(lab, phase, "xen_slot = false", SYSRQ) },
];

/// Rows in which it lives.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "fence-released", what: "a guard that is stopped gives Xen's slot back; one that was cleared is taken anew", run: released },
    Row { name: "fast-restarted", what: "a guard with a fast fence is stopped and started: nothing resets the host", run: fast_restarted },
    Row { name: "drill-without-reset", what: "a drill on a host watchdog that does nothing says so, and the guard goes on", run: drill_without_reset },
    Row { name: "not-hardware", what: "softdog and xen_wdt are refused, and left as they were", run: not_hardware },
    Row { name: "bmc-toothless", what: "a BMC that takes kicks and would never reset is refused", run: toothless },
];

impl Host {
    /// Adds to the guard's configuration and starts it anew.
    pub(super) fn reconfigure(&mut self, lines: &str) -> Result<()> {
        self.end_program(GUARD, "-TERM")?;
        let add = format!("printf '%s\\n' '{lines}' >> /etc/xenwarden/xenwarden.conf");
        self.dom0_ok(&add, PROMPT)?;
        self.start_program(GUARD)
    }

    /// Sends a signal to the guard alone, and says when. The host may be gone before it has answered.
    fn signal_guard(&mut self, signal: &str) -> Result<Duration> {
        let at = self.machine.clock()?;
        let kill = format!("kill {signal} $(cat /run/xenwarden/guard.lock)");
        self.machine.agent.send(&kill)?;
        Ok(at)
    }

    /// As a drill has shown that nothing would bring the host down.
    fn has_no_fence_bound(&mut self) -> Result<()> {
        let outcome = self.dom0("xenwarden fence-bound 2>&1", PROMPT)?;
        match outcome.code == 2 && outcome.output.contains("a drill has shown") {
            true => Ok(()),
            false => Err(Error::new(format!("a bound: {}", outcome.output))),
        }
    }

    /// A guard with this device, which must refuse it and say why.
    fn refuses(&mut self, device: &str, why: &str) -> Result<()> {
        let config =
            format!("printf '[host-watchdog]\\ndevice = \"{device}\"\\n' > /run/refused.conf");
        self.dom0_ok(&config, PROMPT)?;
        let outcome = self.dom0("xenwardend --config /run/refused.conf 2>&1", PROMPT)?;
        match outcome.code != 0 && outcome.output.contains(why) {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{device}: exit code {}, no {why:?} in: {}",
                outcome.code, outcome.output
            ))),
        }
    }
}

/// A wedge that leaves dom0 alone, on a host whose hardware does nothing.
fn falls(
    laboratory: &Laboratory,
    phase: Duration,
    fence: &str,
    after: Duration,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Apart, phase)?;
    host.reconfigure(&format!("[fence]\n{fence}"))?;
    host.lives_on(WATCHED)?;
    let idle = json!({ "watchdog": "none" });
    host.machine.qmp.execute("set-action", idle)?;
    let wedge = Wedge::named("timer-lost-2").context(|| "no such wedge")?;
    let said = host.machine.log.length();
    let injected = host.inject(wedge.fault)?;
    // Not before its time: the levels before it are given theirs.
    let within = after..FROM_INJECTION + after + LATE;
    wait_reset(&mut host, injected, within, said)
}

/// The host must be reset so long after it was acted on.
fn wait_reset(
    host: &mut Host,
    acted: Duration,
    within: Range<Duration>,
    said: usize,
) -> Result<Figures> {
    let bound = within.end;
    let reset = host.machine.wait_reset(acted + bound)?;
    let reset_s = reset.map(|at| at.as_secs_f64() - acted.as_secs_f64());
    let failure = match reset {
        None => Some(format!("no reset within {bound:?}")),
        Some(at) if at < acted + within.start => Some(format!("reset too early, at {reset_s:?} s")),
        Some(_) => None,
    };
    Ok(Figures {
        fired_s: reset_s,
        bound_s: Some(bound.as_secs_f64()),
        failure,
        said: host.machine.log.lines_from(said),
        ..Figures::default()
    })
}

/// How the guard serves no more.
#[derive(Clone, Copy)]
enum GuardGoes {
    Killed,
    Stopped,
    Withholding,
}

/// The hardware is not waited for: it would fire after five seconds.
fn falls_fast(
    laboratory: &Laboratory,
    phase: Duration,
    fast: &str,
    goes: GuardGoes,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Apart, phase)?;
    host.reconfigure(&format!("[fast]\n{fast}"))?;
    host.lives_on(WATCHED)?;
    let said = host.machine.log.length();
    let (acted, bound) = match goes {
        GuardGoes::Withholding => {
            let wedge = Wedge::named("timer-lost-2").context(|| "no such wedge")?;
            (host.inject(wedge.fault)?, FROM_INJECTION + WITHHELD)
        }
        GuardGoes::Stopped => (host.signal_guard("-STOP")?, WITHHELD),
        GuardGoes::Killed => (host.signal_guard("-9")?, Duration::ZERO),
    };
    wait_reset(&mut host, acted, Duration::ZERO..bound + REBOOT, said)
}

fn fast_restarted(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let mut lives = || {
        host.reconfigure("[fast]\nguard_death = true\nwithheld_ms = 1000")?;
        for _ in 0..3 {
            host.end_program(GUARD, "-TERM")?;
            host.pass(Duration::from_secs(2))?;
            host.start_program(GUARD)?;
        }
        host.lives_on(WATCHED)
    };
    let outcome = lives();
    let said = host.machine.log.lines_from(0);
    Ok(Figures::of(outcome.map(|()| Vec::new()), said))
}

fn released(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let mut lives = || {
        host.reconfigure("[fence]\nxen_slot = true")?;
        host.lives_on(WATCHED)?;
        host.end_program(GUARD, "-TERM")?;
        // Nobody feeds it any more.
        host.pass(WATCHED)?;
        host.start_program(GUARD)?;
        host.lives_on(WATCHED)
    };
    let outcome = lives().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn drill_without_reset(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.machine
        .qmp
        .execute("set-action", json!({ "watchdog": "none" }))?;
    host.pass(SERVED)?;
    let drill = host.dom0("xenwarden drill --host \"$(hostname)\" 2>&1", PROMPT)?;
    // It fired, for all that came of it, and is not to be taken for a later one.
    let mut fired = 0;
    while host.machine.qmp.wait_event("WATCHDOG", AT_ONCE).is_some() {
        fired += 1;
    }
    let says = drill.code == 1 && drill.output.contains("DOES NOT WORK");
    let lives = match fired > 0 && says {
        true => host
            .lives_on(WATCHED)
            .and_then(|()| host.has_no_fence_bound()),
        false => Err(Error::new(format!(
            "it fired {fired} times, and the drill ends with {}: {}",
            drill.code, drill.output
        ))),
    };
    let said = host.machine.log.lines_from(0);
    Ok(Figures::of(lives.map(|()| vec![drill.output]), said))
}

fn not_hardware(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let mut refused = || {
        host.end_program(GUARD, "-TERM")?;
        host.dom0_ok(
            "insmod /watchdog/softdog/*.ko && insmod /watchdog/xen/*.ko",
            PROMPT,
        )?;
        for number in [1, 2] {
            host.refuses(&format!("/dev/watchdog{number}"), "not hardware")?;
        }
        host.refuses("identity:Software Watchdog", "not hardware")?;
        let inactive = "grep -q inactive /sys/class/watchdog/watchdog1/state && grep -q inactive /sys/class/watchdog/watchdog2/state";
        host.dom0_ok(inactive, PROMPT)?;
        host.start_program(GUARD)?;
        host.lives_on(WATCHED)
    };
    let outcome = refused().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn toothless(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let action =
        |action: &str| format!("echo {action} > /sys/module/ipmi_watchdog/parameters/action");
    let mut host = ready(laboratory, Shape::Ipmi, phase)?;
    let mut refused = || {
        host.end_program(GUARD, "-TERM")?;
        host.dom0_ok(&action("none"), PROMPT)?;
        host.refuses("auto", "takes kicks and never resets")?;
        host.dom0_ok(&action("reset"), PROMPT)?;
        host.start_program(GUARD)?;
        host.lives_on(WATCHED)
    };
    let outcome = refused().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

// SPDX-License-Identifier: GPL-2.0-only
//! Why the host went down: a row brings it down in one way, has it boot again with its disk, and compares what `xenwarden why`
//! says with what was done. Each takes a second boot; those not in [`IN_EVERY_RUN`] are left to `make test-all`.

use super::faults::device::refuse_all;
use super::figures::Figures;
use super::wedges::Wedge;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use crate::wedge::Fault;
use std::time::Duration;
use xenwarden::event::{Confidence, ResetCause};
use xenwarden::state::deduction::Reset;
use xenwarden::state::history::Resets;
use xenwarden::state::traces::RecordOf;

/// Rows that also `make test` runs.
pub const IN_EVERY_RUN: &[&str] = &["wedge", "power-cut"];

/// All ways to go down.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "wedge", what: "after a wedge that leaves dom0 alive the next boot has the reason and its evidence", run: |lab, phase| shown(wedge(lab, phase)) },
    Row { name: "guard-killed", what: "after a kill of the guard it says that the guard was gone", run: |lab, phase| shown(guard_killed(lab, phase)) },
    Row { name: "kick-refused", what: "after a reset because the device refused kicks it says so", run: |lab, phase| shown(kick_refused(lab, phase)) },
    Row { name: "disarm-failed", what: "a guard is stopped whose device cannot be disarmed, and which then fires: it says so", run: |lab, phase| shown(disarm_failed(lab, phase)) },
    Row { name: "power-cut", what: "after a power cut it says that there is no record", run: |lab, phase| shown(power_cut(lab, phase)) },
    Row { name: "xen-panic", what: "after a panic of Xen it claims no more than that kicks ended", run: |lab, phase| shown(xen_panic(lab, phase)) },
    Row { name: "dom0-panic", what: "after a panic of dom0 it finds what the kernel kept of it", run: |lab, _| shown(dom0_panic(lab)) },
    Row { name: "drill", what: "a drill resets the host, and the next boot has measured the fence bound", run: |lab, phase| shown(drill(lab, phase)) },
    Row { name: "clean-reboot", what: "a reboot in order is no reset", run: |lab, phase| shown(clean_reboot(lab, phase)) },
];

/// What the service manager runs at a shutdown, after the guard has ended.
const SHUTDOWN_UNIT: &str = include_str!("../../../../init/systemd/xenwarden-shutdown.service");
/// A record store as server boards have, which outlives resets (QEMU: docs/specs/acpi_erst.rst).
const RECORD_STORE: &str =
    "-object memory-backend-ram,id=erst,size=128K -device acpi-erst,memdev=erst";
/// Waits until the monitor, which has just started, has written down that the host is kicked.
pub(super) const HEARTBEAT: &str =
    "until grep -q '\"armed\"' /var/lib/xenwarden/last.json; do sleep 0.2; done";
/// How long a host may take to go down, of this machine's time.
pub(super) const DOWN: Duration = Duration::from_secs(300);
/// For how long a host must have been served before a drill.
pub const SERVED: Duration = Duration::from_secs(4);
/// A debug key, and what handles it (Xen: arch/x86/nmi.c). `C` does nothing without memory for a crash kernel.
const DEBUG_KEY: (&str, &str) = ("n", "do_nmi_stats");

pub(super) fn shown(outcome: Result<Outcome>) -> Result<Figures> {
    let Outcome { notes, said } = outcome?;
    Ok(Figures::of(Ok(notes), said))
}

/// A row that held.
pub(super) struct Outcome {
    /// What it was, in words.
    pub(super) notes: Vec<String>,
    said: Vec<String>,
}

/// Asks the host that has booted again, and has `judge` look at what it says; `code` is the exit code that must go with it.
pub(super) fn judged(
    mut host: Host,
    code: i32,
    judge: impl FnOnce(&[Reset]) -> Result<()>,
) -> Result<Outcome> {
    let answer = host.dom0("xenwarden why --json", PROMPT)?;
    let text = host.dom0("xenwarden why", PROMPT)?.output;
    let resets = told(&answer.output)?;
    let said = host.machine.log.lines_from(0);
    judge(&resets).map_err(|error| Error::new(format!("{error}; it says:\n{text}")))?;
    if answer.code != code {
        let text = format!("exit code {}, not {code}:\n{text}", answer.code);
        return Err(Error::new(text));
    }
    // Without the monitor the files say the same.
    host.end_program(MONITOR, "-KILL")?;
    let files = host.dom0("xenwarden why --json 2> /dev/null", PROMPT)?;
    if (files.code, &files.output) != (code, &answer.output) {
        let text = format!(
            "without the monitor it says {}: {}",
            files.code, files.output
        );
        return Err(Error::new(text));
    }
    let told = resets.first().map(|reset| {
        let Reset {
            cause,
            confidence,
            reason,
            ..
        } = reset;
        format!("{cause:?} ({confidence}): {reason}")
    });
    Ok(Outcome {
        notes: vec![told.unwrap_or_else(|| "no reset".to_owned())],
        said,
    })
}

/// The resets that `xenwarden why --json` tells of.
pub(super) fn told(answer: &str) -> Result<Vec<Reset>> {
    let Resets { resets, .. } =
        serde_json::from_str(answer).context(|| format!("cannot read why: {answer}"))?;
    Ok(resets)
}

/// The one reset that there is must be this.
pub(super) fn only(resets: &[Reset]) -> Result<&Reset> {
    match resets {
        [reset] => Ok(reset),
        _ => Err(Error::new(format!(
            "{} resets are told, not 1",
            resets.len()
        ))),
    }
}

fn expect(
    reset: &Reset,
    cause: ResetCause,
    confidence: Confidence,
    fired: Option<bool>,
) -> Result<()> {
    let is = (reset.cause, reset.confidence, reset.watchdog_fired);
    if is != (cause, confidence, fired) {
        let expected = (cause, confidence, fired);
        return Err(Error::new(format!("it says {is:?}, not {expected:?}")));
    }
    holds(reset.uptime_ms.is_some(), "its uptime")?;
    holds(reset.last_kick.is_some(), "the last kick")?;
    holds(
        reset.last_kick <= Some(reset.last_seen),
        "a kick before the last sign of life",
    )?;
    holds(reset.booted >= Some(reset.last_seen), "a boot after it")?;
    let watchdog = reset.watchdog.as_ref();
    let device = watchdog.is_some_and(|w| w.device == "/dev/watchdog0" && w.timeout_ms == 5_000);
    holds(device, "the host watchdog")
}

pub(super) fn holds(holds: bool, what: &str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::new(format!("it does not tell {what}"))),
    }
}

fn wedge(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let wedge = Wedge::named("timer-lost-2").context(|| "no such wedge")?;
    let mut host = ready(laboratory, wedge.shape, phase)?;
    let figures = super::wedged::strike(&mut host, wedge, GUESTS[0])?;
    if let Some(failure) = figures.failure {
        return Err(Error::new(failure));
    }
    let host = laboratory.host_after_reset(host)?;
    judged(host, 0, |resets| {
        let reset = only(resets)?;
        expect(reset, ResetCause::Withheld, Confidence::Known, Some(true))?;
        holds(reset.reason.contains("timers of pcpu 2"), "the pCPU")?;
        let record = reset.withhold.as_ref().context(|| "no evidence")?;
        let pcpus = record.evidence.pcpus.as_deref().unwrap_or_default();
        let latest = pcpus.iter().max_by_key(|pcpu| pcpu.canary_overdue_ms);
        let latest = latest.filter(|pcpu| pcpu.canary_overdue_ms > 0);
        holds(
            latest.map(|pcpu| pcpu.cpu) == Some(2),
            "which pCPU was late",
        )?;
        holds(
            record.evidence.overdue.is_some(),
            "whether guests were late",
        )?;
        holds(record.evidence.load.is_some(), "the load")?;
        let entries = &record.evidence.entries;
        let withheld = entries
            .iter()
            .any(|e| e.what.contains("kicks are withheld"));
        holds(withheld, "what the guard did")?;
        let console = record.console.as_ref();
        holds(
            console.is_some_and(|c| !c.lines.is_empty()),
            "Xen's console",
        )
    })
}

fn guard_killed(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.dom0_ok(&format!("killall -9 {GUARD}"), PROMPT)?;
    known(laboratory, host, ResetCause::GuardSilent, "")
}

/// The host goes down, and the next boot knows of what; its reason has these words.
fn known(
    laboratory: &Laboratory,
    mut host: Host,
    cause: ResetCause,
    words: &str,
) -> Result<Outcome> {
    host.machine.wait_down(DOWN)?;
    let host = laboratory.host_after_reset(host)?;
    judged(host, 0, |resets| {
        let reset = only(resets)?;
        expect(reset, cause, Confidence::Known, Some(true))?;
        holds(reset.reason.contains(words), &format!("{words:?}"))
    })
}

fn kick_refused(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    refuse_all(&mut host)?;
    known(laboratory, host, ResetCause::KickRefused, "refused kicks")
}

fn disarm_failed(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.cannot_be_disarmed()?;
    host.start_program(GUARD)?;
    host.end_program(GUARD, "-TERM")?;
    let words = "could not be disarmed";
    known(laboratory, host, ResetCause::DisarmFailed, words)
}

fn power_cut(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.machine.cut_power()?;
    let host = laboratory.host_again(host)?;
    judged(host, 1, |resets| {
        let reset = only(resets)?;
        expect(reset, ResetCause::Unrecorded, Confidence::Unknown, None)?;
        holds(reset.withhold.is_none(), "that kicks went on")
    })
}

/// Xen's restart five seconds after its panic and the host watchdog, five seconds after the last kick, race.
fn xen_panic(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let (key, handler) = DEBUG_KEY;
    host.inject(Fault::Traps(handler))?;
    let press = format!("xl debug-keys {key}");
    host.machine.agent.send(&press)?;
    let fired = host.machine.wait_down(DOWN)?;
    let panicked = host.machine.console().contains("Panic on CPU");
    holds(panicked, "that Xen panicked")?;
    let host = laboratory.host_after_reset(host)?;
    let code = if fired { 0 } else { 1 };
    judged(host, code, |resets| match fired {
        true => expect(
            only(resets)?,
            ResetCause::Watchdog,
            Confidence::Known,
            Some(true),
        ),
        false => expect(
            only(resets)?,
            ResetCause::Unrecorded,
            Confidence::Unknown,
            None,
        ),
    })
}

/// Whichever resets the host, the host watchdog or Xen: the kernel's own last words tell.
fn dom0_panic(laboratory: &Laboratory) -> Result<Outcome> {
    let mut host = laboratory.host_with(RECORD_STORE)?;
    host.dom0_ok(HEARTBEAT, PROMPT)?;
    host.machine.agent.send("echo c > /proc/sysrq-trigger")?;
    let fired = host.machine.wait_down(DOWN)?;
    let host = laboratory.host_after_reset(host)?;
    judged(host, 0, |resets| {
        let reset = only(resets)?;
        let fired = fired.then_some(true);
        expect(reset, ResetCause::Dom0Panic, Confidence::Known, fired)?;
        let kept = reset.records.first().map(|record| record.of);
        holds(kept == Some(RecordOf::Panic), "the kernel's record")
    })
}

/// What is measured must hold what the host watchdog is known to take.
fn drill(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.dom0_ok(HEARTBEAT, PROMPT)?;
    host.pass(SERVED)?;
    let takes_ms = host.machine.shape().watchdog().fires_after.as_millis() as u64;
    let assumed = host.dom0_ok("xenwarden fence-bound", PROMPT)?;
    holds(assumed.trim() == "12", "the bound that is assumed")?;
    let other = host.dom0("xenwarden drill --host another 2>&1", PROMPT)?;
    holds(other.code == 1, "that this is another host")?;
    host.machine
        .agent
        .send("xenwarden drill --host \"$(hostname)\"")?;
    let fired = host.machine.wait_down(DOWN)?;
    holds(fired, "that the host watchdog fired")?;
    let mut host = laboratory.host_after_reset(host)?;
    let bound = host.dom0_ok("xenwarden fence-bound", PROMPT)?;
    let status = host.status()?.host_watchdog;
    let bound_ms = status.fence_bound_ms.unwrap_or_default();
    holds(
        bound.trim() == bound_ms.div_ceil(1_000).to_string(),
        "one bound",
    )?;
    holds(
        status.fence_bound_measured.is_some(),
        "when it was measured",
    )?;
    // The canary's period, the slack, two looks, and the second that devices count in.
    let down_ms = bound_ms.saturating_sub(3_000);
    let within = takes_ms..takes_ms + 1_000;
    holds(
        within.contains(&down_ms),
        &format!("{takes_ms} ms but {down_ms}"),
    )?;
    judged(host, 0, |resets| {
        let reset = only(resets)?;
        expect(reset, ResetCause::Drill, Confidence::Known, Some(true))
    })
}

/// As the service manager does it: the monitor, the guard, and what is left to do after that.
fn clean_reboot(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.end_program(MONITOR, "-TERM")?;
    host.end_program(GUARD, "-TERM")?;
    let mut lines = SHUTDOWN_UNIT.lines();
    let command = lines.find_map(|line| line.strip_prefix("ExecStop="));
    host.dom0_ok(command.context(|| "the unit does nothing")?, PROMPT)?;
    host.machine.agent.send("reboot -f")?;
    let fired = host.machine.wait_down(DOWN)?;
    holds(!fired, "that the host watchdog was disarmed")?;
    let host = laboratory.host_after_reset(host)?;
    judged(host, 0, |resets| match resets {
        [] => Ok(()),
        _ => Err(Error::new("a reboot in order is told as a reset")),
    })
}

// SPDX-License-Identifier: GPL-2.0-only
//! The guard restarted, upgraded and downgraded, where something keeps the host watchdog meanwhile (`dom0-keeper`) and where it
//! cannot be disarmed: the host must live, and the gap be told.

use super::dies::fires;
use super::figures::Figures;
use super::lives::WATCHED;
use super::wedges::Wedge;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use std::time::Duration;
use xenwarden::event::{Event, Kind};

/// Where the keeper finds the guard: a link, so that an upgrade takes nothing but another one.
const LINK: &str = "/run/guard";
/// A copy that stands for another version.
const OTHER: &str = "/run/xenwardend-other";
/// What the kernel says of the device.
const DEVICE: &str = "/sys/class/watchdog/watchdog0";
/// Restarts in a row.
const RESTARTS: usize = 10;
/// A killed guard's host goes down so soon.
const BOUND: Duration = Duration::from_secs(6);
/// How long after the bound a reset is still waited for.
const GRACE: Duration = Duration::from_secs(15);

/// Rows that also `make test` runs.
pub const IN_EVERY_RUN: &[&str] = &["upgrade", "inhibited", "inhibit-ends", "taken-over-killed"];

/// Rows that a host must live through.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "restart-ten", what: "the guard is restarted ten times under load; something keeps the host watchdog", run: |lab, phase| lives(lab, phase, ten) },
    Row { name: "upgrade", what: "the guard is replaced by another version, and that by the first one again", run: |lab, phase| lives(lab, phase, upgrade) },
    Row { name: "restart-ib700", what: "the same a few times with an ib700, of which sysfs says nothing", run: |lab, phase| lives_on(lab, Shape::Ib700, phase, few) },
    Row { name: "restart-ipmi", what: "the same with a BMC's watchdog", run: |lab, phase| lives_on(lab, Shape::Ipmi, phase, few) },
    Row { name: "inhibited", what: "a wedge while the guard is inhibited, which is restarted meanwhile: the host lives", run: inhibited },
    Row { name: "nowayout-restarted", what: "a guard whose watchdog cannot be disarmed is stopped, and started half a minute later", run: |lab, phase| lives(lab, phase, nowayout) },
];

/// Rows in which the host goes down.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "inhibit-ends", what: "a host that is not served while the guard is inhibited goes down when that is over", run: inhibit_ends },
    Row { name: "taken-over-killed", what: "a guard that took the host watchdog over is killed: no mark of the one before disarms it", run: |lab, phase| taken_over_killed(lab, Shape::Everywhere, phase) },
    Row { name: "taken-over-killed-ib700", what: "the same with an ib700", run: |lab, phase| taken_over_killed(lab, Shape::Ib700, phase) },
    Row { name: "taken-over-killed-ipmi", what: "the same with a BMC's watchdog", run: |lab, phase| taken_over_killed(lab, Shape::Ipmi, phase) },
];

fn lives(
    laboratory: &Laboratory,
    phase: Duration,
    act: fn(&mut Host) -> Result<Vec<String>>,
) -> Result<Figures> {
    lives_on(laboratory, Shape::Everywhere, phase, act)
}

fn lives_on(
    laboratory: &Laboratory,
    shape: Shape,
    phase: Duration,
    act: fn(&mut Host) -> Result<Vec<String>>,
) -> Result<Figures> {
    let mut host = ready(laboratory, shape, phase)?;
    let outcome = act(&mut host);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

impl Host {
    /// The guard is stopped; from now on its device cannot be disarmed.
    pub(super) fn cannot_be_disarmed(&mut self) -> Result<()> {
        self.end_program(GUARD, "-TERM")?;
        self.dom0_ok(&format!("echo 1 > {DEVICE}/nowayout"), PROMPT)
            .map(drop)
    }

    /// From now on the guard is one that the keeper runs.
    fn keep_guard(&mut self) -> Result<()> {
        self.end_program(GUARD, "-TERM")?;
        self.dom0_ok(&format!("ln -sf /usr/sbin/{GUARD} {LINK}"), PROMPT)?;
        self.start_program(&format!("dom0-keeper run {LINK}"))
    }

    fn guard_pid(&mut self) -> Result<u32> {
        let text = self.dom0_ok("cat /run/xenwarden/guard.lock", PROMPT)?;
        let pid = text.trim().parse();
        pid.context(|| format!("no pid: {text}"))
    }

    /// Restarts it; gives for how long the host watchdog was not kicked, which must have run on.
    fn restart_kept(&mut self) -> Result<u64> {
        let before = self.guard_pid()?;
        self.dom0_ok("dom0-keeper restart", PROMPT)?;
        let deadline = self.machine.clock()? + PROMPT;
        while self.guard_pid()? == before {
            self.device("state", "active")?;
            if self.machine.clock()? > deadline {
                return Err(Error::new("no other guard has come"));
            }
        }
        self.wait_kicking()?;
        self.device("timeout", "5")?;
        match self.last_armed()? {
            (None, Some(unkicked_ms)) => Ok(unkicked_ms),
            other => Err(Error::new(format!("the host was unguarded: {other:?}"))),
        }
    }

    /// What the last host.armed says: for how long it was unguarded, and unkicked.
    fn last_armed(&mut self) -> Result<(Option<u64>, Option<u64>)> {
        let text = self.dom0_ok("xenwarden events --json --kind host.armed", PROMPT)?;
        let line = text.lines().next_back().context(|| "no host.armed")?;
        let event: Event = serde_json::from_str(line).context(|| format!("cannot read: {line}"))?;
        match event.what {
            Kind::HostArmed {
                unguarded_ms,
                ran_on_ms,
                ..
            } => Ok((unguarded_ms, ran_on_ms)),
            other => Err(Error::new(format!("no host.armed: {other:?}"))),
        }
    }

    /// The kernel must say this of the device, where it says anything.
    fn device(&mut self, attribute: &str, expected: &str) -> Result<()> {
        if matches!(self.machine.shape(), Shape::Ib700 | Shape::Ipmi) {
            return Ok(());
        }
        let text = self.dom0_ok(&format!("cat {DEVICE}/{attribute}"), PROMPT)?;
        match text.trim() == expected {
            true => Ok(()),
            false => Err(Error::new(format!("{attribute} is {text}, not {expected}"))),
        }
    }
}

fn gaps(gaps: &[u64]) -> String {
    let longest = gaps.iter().max().copied().unwrap_or(0);
    let shortest = gaps.iter().min().copied().unwrap_or(0);
    let count = gaps.len();
    format!("{count} restarts, unkicked for {shortest} to {longest} ms")
}

fn ten(host: &mut Host) -> Result<Vec<String>> {
    host.keep_guard()?;
    host.dom0_ok(
        "for n in 1 2 3 4; do (setsid timeout 600 sh -c 'while :; do :; done' < /dev/null > /dev/null 2>&1 &); done",
        PROMPT,
    )?;
    restarted(host, RESTARTS)
}

fn few(host: &mut Host) -> Result<Vec<String>> {
    host.keep_guard()?;
    restarted(host, 3)
}

/// And at last stopped for good: then it is disarmed.
fn restarted(host: &mut Host, times: usize) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for _ in 0..times {
        seen.push(host.restart_kept()?);
    }
    host.lives_on(WATCHED)?;
    host.dom0_ok("dom0-keeper stop", PROMPT)?;
    host.pass(Duration::from_secs(5))?;
    host.device("state", "inactive")?;
    host.pass(WATCHED)?;
    Ok(vec![gaps(&seen)])
}

/// The other version's guard page has another layout, of which the next guard knows the latch alone.
fn upgrade(host: &mut Host) -> Result<Vec<String>> {
    host.keep_guard()?;
    host.dom0_ok(&format!("cp /usr/sbin/{GUARD} {OTHER}"), PROMPT)?;
    let mut seen = Vec::new();
    for program in [OTHER, "/usr/sbin/xenwardend", OTHER] {
        host.dom0_ok(&format!("ln -sf {program} {LINK}"), PROMPT)?;
        seen.push(host.restart_kept()?);
    }
    let older = "printf '\\001' | dd of=/run/xenwarden/guard bs=1 seek=4 conv=notrunc 2> /dev/null";
    host.dom0_ok(older, PROMPT)?;
    host.dom0_ok("dom0-keeper restart", PROMPT)?;
    host.pass(Duration::from_secs(5))?;
    host.lives_on(WATCHED)?;
    Ok(vec![gaps(&seen)])
}

fn nowayout(host: &mut Host) -> Result<Vec<String>> {
    /// sysexits(3): the host goes down unless somebody comes.
    const OSERR: i32 = 71;
    host.cannot_be_disarmed()?;
    let run = format!(
        "(setsid sh -c '{GUARD} 2> /run/said; echo $? > /run/code' < /dev/null > /dev/null 2>&1 &)"
    );
    host.dom0_ok(&run, PROMPT)?;
    host.wait_kicking()?;
    host.end_program(GUARD, "-TERM")?;
    let said = host.dom0_ok("sleep 1; cat /run/code /run/said", PROMPT)?;
    if !said.starts_with(&OSERR.to_string()) || !said.contains("within 60 s") {
        return Err(Error::new(format!("the guard says: {said}")));
    }
    host.device("timeout", "60")?;
    host.pass(Duration::from_secs(30))?;
    host.start_program(GUARD)?;
    host.device("timeout", "5")?;
    let told = host.last_armed()?;
    host.lives_on(WATCHED)?;
    match told {
        (None, Some(ms)) if ms > 25_000 => Ok(vec![format!("unkicked for {ms} ms")]),
        other => Err(Error::new(format!("the gap is told as {other:?}"))),
    }
}

fn taken_over_killed(laboratory: &Laboratory, shape: Shape, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, shape, phase)?;
    let bound = shape.watchdog().at_most;
    host.keep_guard()?;
    host.restart_kept()?;
    let said = host.machine.log.length();
    host.dom0_ok(&format!("killall -9 {GUARD}"), PROMPT)?;
    let acted = host.machine.clock()?;
    fires(&mut host, acted, bound, said)
}

/// A wedge that leaves dom0 alone.
const WEDGE: &str = "timer-lost-2";

fn inhibited(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let wedge = Wedge::named(WEDGE).context(|| "no such wedge")?;
    let mut host = ready(laboratory, wedge.shape, phase)?;
    let mut lives = || {
        host.dom0_ok("xenwarden inhibit --for 30m --reason 'a wedge'", PROMPT)?;
        host.inject(wedge.fault)?;
        host.lives_on(WATCHED)?;
        let ignored = host.status()?.inhibited.and_then(|one| one.ignored);
        if !ignored
            .as_deref()
            .is_some_and(|what| what.contains("pcpu 2"))
        {
            return Err(Error::new(format!("what is ignored: {ignored:?}")));
        }
        host.end_program(GUARD, "-TERM")?;
        host.start_program(GUARD)?;
        host.lives_on(WATCHED)
    };
    let outcome = lives().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn inhibit_ends(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const FOR: Duration = Duration::from_secs(30);
    let wedge = Wedge::named(WEDGE).context(|| "no such wedge")?;
    let mut host = ready(laboratory, wedge.shape, phase)?;
    let said = host.machine.log.length();
    let ordered = host.machine.clock()?;
    host.dom0_ok("xenwarden inhibit --for 30s --reason 'a wedge'", PROMPT)?;
    let answered = host.machine.clock()?;
    host.inject(wedge.fault)?;
    let fired = host.machine.wait_fired(answered + FOR + BOUND + GRACE)?;
    let fired_s = fired.map(|at| at.as_secs_f64() - answered.as_secs_f64());
    let said = host.machine.log.lines_from(said);
    let told = |what: &str| said.iter().any(|line| line.contains(what));
    let failure = match fired {
        None => Some("the host watchdog has not fired".to_owned()),
        Some(at) if at < ordered + FOR => Some(format!("fired while inhibited: {fired_s:?} s")),
        Some(at) if at > answered + FOR + BOUND => Some(format!("fired late: {fired_s:?} s")),
        Some(_) if !told("withhold: timers of pcpu 2") => Some("no reason was said".to_owned()),
        Some(_) => None,
    };
    Ok(Figures {
        fired_s,
        bound_s: Some((FOR + BOUND).as_secs_f64()),
        failure,
        said,
        ..Figures::default()
    })
}

// SPDX-License-Identifier: GPL-2.0-only
//! Leases: a program in dom0 is a condition of the host's life. Whatever befalls it, the host goes down when its lease has lapsed, and
//! for no other reason.

use super::dies::fires;
use super::figures::Figures;
use super::lease_pulse::{self, Cut, Terms};
use super::lives::{WATCHED, survive};
use super::{Row, ready};
use crate::error::{Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use std::time::Duration;
use xenwarden::control::leases::LeaseState;

/// The lease's timeout.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What a required one has until its first renewal, and how long the monitor may be away.
const BEGIN: Duration = Duration::from_secs(20);
const UNSERVED: Duration = Duration::from_secs(20);
const TERMS: Terms = Terms {
    lease: TIMEOUT,
    unserved: UNSERVED,
};
/// The monitor's look after a deadline, and the guard's.
const LOOKS: Duration = Duration::from_millis(500);
/// A user who is not the lease's.
const NOBODY: u32 = 65_534;
const SOCKET: &str = "/run/xenwarden/lease/quorum";

/// Rows that also `make test` runs.
pub const IN_EVERY_RUN: &[&str] = &[
    "lease-killed",
    "lease-flooded",
    "lease-monitor-away",
    "lease-pulse",
];

/// Rows in which the host goes down.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "lease-killed", what: "a lease's client is killed", run: |lab, phase| lapses(lab, phase, "killall -9 dom0-lease") },
    Row { name: "lease-stopped", what: "a lease's client is stopped", run: |lab, phase| lapses(lab, phase, "killall -STOP dom0-lease") },
    Row { name: "lease-disconnected", what: "a lease's client does not reach its socket any more", run: disconnected },
    Row { name: "lease-flooded-killed", what: "a lease's client is killed while another user floods its socket", run: |lab, phase| lapses(lab, phase, &format!("client=$(pidof dom0-lease); {} kill -9 $client", flood_within())) },
    Row { name: "lease-never", what: "nobody ever renews a required lease", run: never },
    Row { name: "lease-unserved", what: "the monitor is gone for good, and with it who serves leases", run: unserved },
    Row { name: "lease-pulse", what: "nothing that xenwarden-pulse, which holds a lease, sends reaches its peer any more", run: |lab, phase| lease_pulse::run(lab, phase, Cut::ToPeer, &TERMS) },
    Row { name: "lease-pulse-deaf", what: "nothing that its peer sends reaches xenwarden-pulse, which holds a lease, any more", run: |lab, phase| lease_pulse::run(lab, phase, Cut::ToHost, &TERMS) },
];

/// Rows in which it lives.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "lease-flooded", what: "another user floods the socket of a lease that is held", run: |lab, phase| survive(lab, phase, |host| held_while(host, &flood())) },
    Row { name: "lease-released", what: "a lease's client gives it back and ends", run: |lab, phase| survive(lab, phase, released) },
    Row { name: "lease-hundred", what: "100 leases are held; what the kick path then costs", run: a_hundred },
    Row { name: "lease-monitor-away", what: "the monitor is killed and started again after the lease's timeout", run: |lab, phase| survive(lab, phase, monitor_away) },
];

/// Its mode keeps that user out, as often as it tries.
fn flood() -> String {
    format!("dom0-lease 0 {NOBODY} {SOCKET} < /dev/null > /dev/null 2>&1 &")
}

/// The same where somebody has opened the socket to everybody: who it is from counts all the same, but the room in it, for which
/// the client then competes, is nobody's.
fn flood_within() -> String {
    format!("chmod 666 {SOCKET}; {}", flood())
}

impl Host {
    /// Has the guard go by a required lease, with nobody who holds it.
    pub(super) fn require_lease(&mut self, user: u32) -> Result<()> {
        let lines = format!(
            "[[lease]]\nname = \"quorum\"\nuser = \"{user}\"\ntimeout_s = {}\nrequired = true\n[leases]\nbegin_s = {}\nunserved_s = {}",
            TIMEOUT.as_secs(),
            BEGIN.as_secs(),
            UNSERVED.as_secs()
        );
        self.reconfigure(&lines)
    }

    /// The same, with a client that renews it twice a second.
    fn hold_lease(&mut self) -> Result<()> {
        self.hold_lease_as(0)
    }

    fn hold_lease_as(&mut self, user: u32) -> Result<()> {
        self.require_lease(user)?;
        let client =
            format!("(setsid dom0-lease 500 {user} {SOCKET} < /dev/null > /dev/null 2>&1 &)");
        self.dom0_ok(&client, PROMPT)?;
        self.wait_lease(LeaseState::Held)
    }

    pub(super) fn wait_lease(&mut self, wanted: LeaseState) -> Result<()> {
        let deadline = self.machine.clock()? + PROMPT;
        loop {
            let leases = self.status()?.leases;
            if leases.iter().any(|lease| lease.state == wanted) {
                return Ok(());
            }
            if self.machine.clock()? > deadline {
                return Err(Error::new(format!("not {wanted:?}: {leases:?}")));
            }
        }
    }
}

/// The lease lapses by this command, and the host goes down for it.
fn lapses(laboratory: &Laboratory, phase: Duration, command: &str) -> Result<Figures> {
    lapses_for(laboratory, phase, 0, command)
}

/// A client that is not root is kept from its socket.
fn disconnected(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    lapses_for(laboratory, phase, NOBODY, "chmod 700 /run/xenwarden/lease")
}

fn lapses_for(
    laboratory: &Laboratory,
    phase: Duration,
    user: u32,
    command: &str,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.hold_lease_as(user)?;
    let said = host.machine.log.length();
    host.dom0_ok(command, PROMPT)?;
    falls(host, TIMEOUT, said, "withhold: lease quorum lapsed")
}

/// The host goes down within its bound, so long from now, and says this.
fn falls(mut host: Host, within: Duration, said: usize, says: &str) -> Result<Figures> {
    let acted = host.machine.clock()?;
    let at_most = within + LOOKS + host.machine.shape().watchdog().at_most;
    let figures = fires(&mut host, acted, at_most, said)?;
    let is_said = figures.said.iter().any(|line| line.contains(says));
    Ok(Figures {
        failure: figures
            .failure
            .or_else(|| (!is_said).then(|| format!("nobody said: {says}"))),
        ..figures
    })
}

fn never(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let said = host.machine.log.length();
    host.require_lease(0)?;
    falls(host, BEGIN, said, "withhold: lease quorum lapsed")
}

fn unserved(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.hold_lease()?;
    let said = host.machine.log.length();
    host.end_program(MONITOR, "-KILL")?;
    let acted = host.machine.clock()?;
    // Nobody is there to say why: the next boot reads it from the guard's last decisions.
    let at_most = UNSERVED + LOOKS + host.machine.shape().watchdog().at_most;
    fires(&mut host, acted, at_most, said)
}

fn held_while(host: &mut Host, command: &str) -> Result<()> {
    host.hold_lease()?;
    host.dom0_ok(command, PROMPT)?;
    host.lives_on(WATCHED)?;
    host.wait_lease(LeaseState::Held)
}

fn released(host: &mut Host) -> Result<()> {
    host.hold_lease()?;
    host.dom0_ok("killall -9 dom0-lease", PROMPT)?;
    host.dom0_ok(&format!("dom0-lease stop 0 {SOCKET}"), PROMPT)?;
    host.wait_lease(LeaseState::Released)
}

/// What they cost the kick path is printed.
fn a_hundred(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let before = host.wait_kicking()?.kick_path.max_look_us;
    let lines = "$(for n in $(seq 100); do echo \"[[lease]]\"; echo \"name = \\\"lease-$n\\\"\"; echo \"required = true\"; done)";
    host.end_program(GUARD, "-TERM")?;
    let add = format!("echo \"{lines}\" >> /etc/xenwarden/xenwarden.conf");
    host.dom0_ok(&add, PROMPT)?;
    host.start_program(GUARD)?;
    let client =
        "(cd /run/xenwarden/lease && setsid dom0-lease 500 0 * < /dev/null > /dev/null 2>&1 &)";
    host.dom0_ok(client, PROMPT)?;
    let outcome = host.lives_on(WATCHED).and_then(|()| host.status());
    let outcome = outcome.and_then(|status| {
        let held = status.leases.iter();
        let held = held.filter(|lease| lease.state == LeaseState::Held).count();
        let after = status.kick_path.max_look_us;
        match held {
            100 => Ok(vec![format!(
                "the longest look: {before} us without leases, {after} us with 100"
            )]),
            held => Err(Error::new(format!("{held} leases are held"))),
        }
    });
    let said = host.machine.log.lines_from(0);
    Ok(Figures::of(outcome, said))
}

fn monitor_away(host: &mut Host) -> Result<()> {
    host.hold_lease()?;
    host.end_program(MONITOR, "-KILL")?;
    // Longer than a lapse would let the host live.
    host.pass(4 * TIMEOUT)?;
    host.wait_lease(LeaseState::Unknown)?;
    host.start_program(MONITOR)?;
    host.wait_lease(LeaseState::Held)
}

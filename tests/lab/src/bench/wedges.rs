// SPDX-License-Identifier: GPL-2.0-only
//! How long each daemon leaves a wedged host up.
//!
//! Every wedge of the table that a host should not survive, on the host that it is for, and the two that concern neither timers nor the
//! scheduler, which it should; then what may happen to the daemon itself. A host of its own for each, from the same saved state.

use super::data::WedgeRun;
use super::peers::Peer;
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::bench::BenchParts;
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use crate::scenario::faults::device::refuse_all;
use crate::scenario::wedges::{Expected, WEDGES, Wedge};
use std::time::Duration;

/// For how long a host is watched.
pub const WATCHED: Duration = Duration::from_secs(30);

/// What is done to a host.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// A row of the table of wedges.
    Wedge(&'static Wedge),
    /// The process of the daemon that kicks gets a signal, or all of them where it has several.
    Signal(&'static str),
    /// The host watchdog refuses every kick from now on.
    Refuse,
}

/// Something that is done, and what it is called.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, in data and tables.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// On which host.
    pub shape: Shape,
    /// What is done.
    pub act: Act,
    /// Whether the host should go down.
    pub should_go_down: bool,
}

const fn to_daemon(name: &'static str, what: &'static str, act: Act, down: bool) -> Case {
    Case {
        name,
        what,
        shape: Shape::Everywhere,
        act,
        should_go_down: down,
    }
}

/// What may happen to the daemon or its device.
const TO_DAEMON: [Case; 4] = [
    to_daemon(
        "daemon-killed",
        "the daemon gets SIGKILL",
        Act::Signal("-KILL"),
        true,
    ),
    to_daemon(
        "daemon-stopped",
        "the daemon gets SIGSTOP",
        Act::Signal("-STOP"),
        true,
    ),
    to_daemon(
        "device-refuses",
        "the host watchdog's driver refuses every kick",
        Act::Refuse,
        true,
    ),
    to_daemon(
        "daemon-ended",
        "the daemon gets SIGTERM, as at a stop of its service",
        Act::Signal("-TERM"),
        false,
    ),
];

/// All cases: wedges of both hosts by turns, so that a bench that is not through says something of both.
pub fn cases() -> Vec<Case> {
    let of = |wanted: bool| {
        let rows = WEDGES
            .iter()
            .filter(move |wedge| (wedge.shape == Shape::Apart) == wanted);
        rows.filter(|wedge| wedge.expected.is_down() || wedge.expected == Expected::Lives)
            .map(|wedge| Case {
                name: wedge.name,
                what: wedge.what,
                shape: wedge.shape,
                act: Act::Wedge(wedge),
                should_go_down: wedge.expected.is_down(),
            })
    };
    let (mut apart, mut everywhere) = (of(true), of(false));
    let mut cases = Vec::new();
    loop {
        let turn: Vec<Case> = apart
            .next()
            .into_iter()
            .chain(everywhere.by_ref().take(2))
            .collect();
        if turn.is_empty() {
            break;
        }
        cases.extend(turn);
    }
    cases.extend(TO_DAEMON);
    cases
}

/// Runs one case on a host of its own.
pub fn run(
    laboratory: &Laboratory,
    parts: &BenchParts,
    case: &Case,
    peer: Peer,
    run: u32,
    phase: Duration,
) -> Result<WedgeRun> {
    let mut host = laboratory.bench_host(parts, case.shape)?;
    peer.start(&mut host)?;
    host.come_to(phase)?;
    let from = match case.act {
        Act::Wedge(wedge) => host.wedge(wedge, peer)?,
        Act::Signal(signal) => host.signal(peer, signal)?,
        Act::Refuse => {
            refuse_all(&mut host)?;
            host.machine.clock()?
        }
    };
    let reset = host.machine.wait_reset_if_any(from + WATCHED)?;
    Ok(WedgeRun {
        wedge: case.name.to_owned(),
        peer: peer.name().to_owned(),
        run,
        phase_ms: Some(phase.as_millis() as u64),
        reset_s: reset.map(|at| at.saturating_sub(from).as_secs_f64()),
        by_host_watchdog: host.machine.qmp.has_event("WATCHDOG").is_some(),
    })
}

impl Host {
    /// Injects a wedge, and returns the moment from which time is taken.
    fn wedge(&mut self, wedge: &Wedge, peer: Peer) -> Result<Duration> {
        let guest = GUESTS[0];
        match wedge.expected {
            Expected::DownFromInjection | Expected::Lives => self.inject(wedge.fault),
            Expected::DownFromDeadline => self.pass_a_deadline(wedge, guest),
            Expected::DownFromStarving(cpu) => {
                if peer == Peer::Xenwarden {
                    self.judge_starved()?;
                }
                self.occupy(guest)?;
                self.bind_guest(guest, cpu)?;
                self.inject(wedge.fault)
            }
            other => Err(Error::new(format!("{other:?} is not compared"))),
        }
    }

    fn signal(&mut self, peer: Peer, signal: &str) -> Result<Duration> {
        let name = peer.processes().first().context(|| "no process")?;
        let from = self.machine.clock()?;
        self.dom0_ok(&format!("killall {signal} {name}"), PROMPT)?;
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use super::cases;
    use std::collections::BTreeSet;

    #[test]
    fn no_case_is_there_twice() {
        let names: BTreeSet<&str> = cases().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases().len());
    }
}

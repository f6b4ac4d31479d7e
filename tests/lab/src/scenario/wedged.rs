// SPDX-License-Identifier: GPL-2.0-only
//! Runs a row of the table of wedges and judges what came of it.

use super::figures::Figures;
use super::lives::WATCHED;
use super::ready;
use super::wedges::{
    Expected, FROM_DEADLINE, FROM_INJECTION, FROM_INJECTION_HELD_ON_STOCK, FROM_INJECTION_ON_STOCK,
    FROM_STARVING, Wedge,
};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use crate::wedge::{Cpus, Fault, Instead, Softirq};
use std::time::Duration;

/// A guard that runs says so at the next sample that it withholds; a thread of no priority has to run for it.
const SAYS_WITHIN_S: f64 = 1.5;
/// How long after a bound a reset is still waited for, so that a late one can be told from none.
const GRACE: Duration = Duration::from_secs(15);

/// Restores a host, injects the wedge at `phase`, and returns what was measured and whether the row holds.
pub fn run(
    laboratory: &Laboratory,
    wedge: &Wedge,
    shape: Shape,
    phase: Duration,
) -> Result<Figures> {
    let mut host = ready(laboratory, shape, phase)?;
    let stock = wedge.on_stock().filter(|_| shape.is_stock());
    strike(&mut host, stock.as_ref().unwrap_or(wedge), GUESTS[0])
}

/// Injects the wedge into a host and judges what comes of it; `guest` is the one that stops feeding if the wedge needs one.
pub fn strike(host: &mut Host, wedge: &Wedge, guest: &str) -> Result<Figures> {
    let mut figures = Figures::default();
    let said = host.machine.log.length();
    let outcome = match wedge.expected {
        Expected::DownFromInjection => {
            let injected = host.inject(wedge.fault)?;
            down(host, &mut figures, wedge, injected, FROM_INJECTION)
        }
        Expected::DownOnStock => {
            let injected = host.inject(wedge.fault)?;
            let bound = match wedge.fault {
                // A pCPU of dom0's.
                Fault::Handler(Softirq::Schedule, Cpus::One(0 | 1), Instead::Returns) => {
                    FROM_INJECTION_HELD_ON_STOCK
                }
                _ => FROM_INJECTION_ON_STOCK,
            };
            down(host, &mut figures, wedge, injected, bound)
        }
        Expected::DownFromDeadline => {
            let deadline = host.pass_a_deadline(wedge, guest)?;
            down(host, &mut figures, wedge, deadline, FROM_DEADLINE)
        }
        Expected::DownFromDeadlineOnStock => {
            let deadline = host.pass_a_deadline(wedge, guest)?;
            let bound = FROM_INJECTION_ON_STOCK;
            down(host, &mut figures, wedge, deadline, bound)
        }
        Expected::LivesUnseen => {
            host.pass_a_deadline(wedge, guest)?;
            host.lives_on(WATCHED)
        }
        Expected::Lives => {
            host.inject(wedge.fault)?;
            host.lives_on(WATCHED)
        }
        Expected::DownFromStarving(cpu) => {
            host.judge_starved()?;
            host.keep_busy(guest)?;
            host.bind_guest(guest, cpu)?;
            let injected = host.inject(wedge.fault)?;
            down(host, &mut figures, wedge, injected, FROM_STARVING)
        }
        Expected::LivesStarving(cpu) => {
            host.follow_events()?;
            host.keep_busy(guest)?;
            host.bind_guest(guest, cpu)?;
            host.inject(wedge.fault)?;
            host.lives_starving(Some(cpu))
        }
        Expected::LivesElsewhere => {
            host.judge_starved()?;
            host.follow_events()?;
            host.keep_busy(guest)?;
            host.inject(wedge.fault)?;
            host.lives_starving(None)
        }
    };
    figures.said = host.machine.log.lines_from(said);
    figures.failure = outcome.err().map(|error| error.to_string());
    Ok(figures)
}

/// The host must go down within `bound` of `from`, and the guard's word, if it came out, must be right.
fn down(
    host: &mut Host,
    figures: &mut Figures,
    wedge: &Wedge,
    from: Duration,
    software: Duration,
) -> Result<()> {
    let watchdog = host.machine.shape().watchdog();
    let bound = software + watchdog.at_most;
    figures.bound_s = Some(bound.as_secs_f64());
    let said = host.machine.log.length();
    let ran_before = host.machine.dom0_ran();
    let fired = host.machine.wait_fired(from + bound + GRACE)?;
    let fired =
        fired.context(|| format!("the host watchdog has not fired within {:?}", bound + GRACE))?;
    let fired_s = (fired - from).as_secs_f64();
    let last_kick_s = fired_s - watchdog.fires_after.as_secs_f64();
    figures.fired_s = Some(fired_s);
    figures.last_kick_s = Some(last_kick_s);
    let ran = host.machine.dom0_ran();
    let ran_s = [0, 1].map(|cpu| (ran[cpu] - ran_before[cpu]).as_secs_f64());
    figures.dom0_ran_s = Some(ran_s);
    if let Some(withhold) = Withhold::first_in(&host.machine.log.lines_from(said)) {
        figures.withheld_s = Some(last_kick_s + withhold.last_kick_age.as_secs_f64());
        figures.reason = Some(withhold.reason);
    }
    if fired - from > bound {
        return Err(Error::new(format!(
            "fired after {fired_s:.3} s, later than {bound:?}"
        )));
    }
    match &figures.reason {
        Some(reason)
            if !wedge
                .reasons
                .iter()
                .any(|expected| reason.contains(expected)) =>
        {
            Err(Error::new(format!("withheld for a wrong reason: {reason}")))
        }
        None if wedge.leaves_dom0 => Err(Error::new(
            "dom0 lived on, and nobody said why kicks are withheld",
        )),
        None if ran_s
            .iter()
            .all(|ran_s| *ran_s > last_kick_s + SAYS_WITHIN_S) =>
        {
            Err(Error::new(
                "dom0 ran on, kicks stopped, and the guard did not say why",
            ))
        }
        _ => Ok(()),
    }
}

/// The guard's word that it withholds.
struct Withhold {
    reason: String,
    last_kick_age: Duration,
}

impl Withhold {
    /// The first one that no kick came after.
    fn first_in(lines: &[String]) -> Option<Withhold> {
        let resumed = lines
            .iter()
            .rposition(|line| line.contains("resume: "))
            .map_or(0, |last| last + 1);
        lines
            .iter()
            .skip(resumed)
            .find_map(|line| Withhold::parse(line))
    }

    fn parse(line: &str) -> Option<Withhold> {
        let (reason, rest) = line
            .split_once("withhold: ")?
            .1
            .split_once(" (last kick ")?;
        let age_ms = rest.split_once(" ms ago")?.0.parse().ok()?;
        Some(Withhold {
            reason: reason.to_owned(),
            last_kick_age: Duration::from_millis(age_ms),
        })
    }
}

impl Host {
    /// A guest stops feeding, and the fault is there when its deadline has passed, which is returned.
    pub fn pass_a_deadline(&mut self, wedge: &Wedge, guest: &str) -> Result<Duration> {
        self.tell_guest(guest, "killall -9 watchdog")?;
        self.inject_at_deadline(wedge.fault)
    }

    /// Lets some of the host's own time pass.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let until = self.machine.clock()? + time;
        match self.machine.wait_fired(until)? {
            None => Ok(()),
            Some(at) => Err(Error::new(format!("the host watchdog has fired at {at:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Withhold;
    use std::time::Duration;

    #[test]
    fn a_withhold_that_ended_is_not_the_one_that_brought_the_host_down() {
        let line = |reason: &str| {
            format!("xenwardend: withhold: {reason} (last kick 249 ms ago; the host goes down)")
        };
        let lines = [
            line("early"),
            "xenwardend: resume: served".into(),
            line("first"),
            line("second"),
        ];
        let found = Withhold::first_in(&lines).unwrap();
        assert_eq!(
            (found.reason.as_str(), found.last_kick_age),
            ("first", Duration::from_millis(249))
        );
        assert!(Withhold::first_in(&lines[..2]).is_none());
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The demonstration: a short story with the host's own times, and a last line for programs.
//!
//! A host with guests; a guest that stops feeding, which costs the guest and not the host; then a wedge, which costs the host.

use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::scenario::figures::Figures;
use crate::scenario::wedged::strike;
use crate::scenario::wedges::{Expected, Wedge};
use std::time::Duration;
use xenwarden::cli::text::called;
use xenwarden::control::status::Status;

/// How often the host is asked for what it does not know yet.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Much longer than a guest's timeout, in the guard's looks.
const PATIENCE: u32 = 600;

/// Tells the story of one wedge.
pub fn run(wedge: &Wedge) -> Result<()> {
    let laboratory = Laboratory::provide()?;
    let mut story = Story::begin(laboratory.host_of(wedge.shape)?)?;
    story.a_host_with_guests()?;
    story.a_dead_guest()?;
    let figures = story.a_wedge(wedge)?;
    println!("{}", last_line(wedge, &figures));
    match figures.failure {
        None => Ok(()),
        Some(failure) => Err(Error::new(failure)),
    }
}

struct Story {
    host: Host,
    began: Duration,
}

impl Story {
    fn begin(mut host: Host) -> Result<Self> {
        let began = host.machine.clock()?;
        Ok(Story { host, began })
    }

    fn tell(&mut self, text: &str) -> Result<()> {
        let now = self.host.machine.clock()?.saturating_sub(self.began);
        println!("{:>6.1} s  {text}", now.as_secs_f64());
        Ok(())
    }

    fn a_host_with_guests(&mut self) -> Result<()> {
        let mut status = self.host.wait_kicking()?;
        // A monitor that has just started knows the guests before the pCPUs.
        let knows = |status: &Status| status.monitor.iter().any(|known| !known.pcpus.is_empty());
        for _ in 0..PATIENCE {
            if knows(&status) {
                break;
            }
            self.host.pass(LOOK_EVERY)?;
            status = self.host.status()?;
        }
        let xen = self.host.dom0_ok(
            "cat /sys/hypervisor/version/major /sys/hypervisor/version/minor",
            PROMPT,
        )?;
        let xen = xen.split_whitespace().collect::<Vec<_>>().join(".");
        let known = status.monitor.unwrap_or_default();
        self.tell(&format!(
            "a host runs Xen {xen} on {} pCPUs; every figure here is in its own time",
            known.pcpus.len()
        ))?;
        for guest in &known.guest_watchdogs {
            let name = called(guest.name.as_deref(), guest.uuid);
            let fed = guest.last_fed_age_ms;
            self.tell(&format!(
                "guest {name}: watchdog of {} s, fed {fed} ms ago",
                guest.timeout_s
            ))?;
        }
        let watchdog = &status.host_watchdog;
        self.tell(&format!(
            "xenwardend: {} armed at {} s, {} kicks, the last {} ms ago",
            watchdog.identity,
            watchdog.timeout_ms / 1000,
            watchdog.kicks,
            watchdog.last_kick_age_ms
        ))
    }

    fn a_dead_guest(&mut self) -> Result<()> {
        let guest = GUESTS[0];
        self.host.tell_guest(guest, "killall -9 watchdog")?;
        self.tell(&format!("guest {guest} stops feeding its watchdog"))?;
        for _ in 0..PATIENCE {
            if !self.host.has_guest(guest)? {
                let status = self.host.wait_kicking()?;
                self.tell(&format!(
                    "guest {guest} has expired and was destroyed; a dead guest is not a wedge"
                ))?;
                let kicks = status.host_watchdog.kicks;
                return self.tell(&format!("the host lives: {kicks} kicks, none withheld"));
            }
            self.host.pass(Duration::from_millis(250))?;
        }
        Err(Error::new(format!("guest {guest} does not expire")))
    }

    fn a_wedge(&mut self, wedge: &Wedge) -> Result<Figures> {
        self.tell(&format!("now the wedge {}: {}", wedge.name, wedge.what))?;
        let figures = strike(&mut self.host, wedge, GUESTS[1])?;
        let from = match wedge.expected {
            Expected::DownFromDeadline => "after the missed deadline",
            _ => "after the wedge",
        };
        match (figures.withheld_s, &figures.reason) {
            (Some(seconds), Some(reason)) => {
                println!("{seconds:>+8.2} s  {from}: kicks withheld: {reason}")
            }
            _ if figures.fired_s.is_some() => println!(
                "          no word from dom0 any more: the wedge stopped the kicks as well"
            ),
            _ => {}
        }
        match figures.fired_s {
            Some(seconds) => {
                println!("{seconds:>+8.2} s  {from}: the hardware watchdog resets the host")
            }
            None => self.tell("the host lives, as it should: timers and scheduler are served")?,
        }
        Ok(figures)
    }
}

/// `demo: wedge=KIND withheld_s=X|none fired_s=Y|none reason="..." ok|FAILED`
fn last_line(wedge: &Wedge, figures: &Figures) -> String {
    let seconds =
        |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.2}"));
    format!(
        "demo: wedge={} withheld_s={} fired_s={} reason=\"{}\" {}",
        wedge.name,
        seconds(figures.withheld_s),
        seconds(figures.fired_s),
        figures.reason.as_deref().unwrap_or_default(),
        if figures.failure.is_none() {
            "ok"
        } else {
            "FAILED"
        },
    )
}

/// The wedge of this name.
pub fn known(name: &str) -> Result<&'static Wedge> {
    Wedge::named(name).context(|| format!("no wedge is called {name}; see: make demo WEDGE=list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_same_for_every_outcome() {
        let figures = Figures {
            fired_s: Some(5.031),
            ..Figures::default()
        };
        let wedge = known("timer-lock-0").unwrap();
        let line = last_line(wedge, &figures);
        assert_eq!(
            line,
            "demo: wedge=timer-lock-0 withheld_s=none fired_s=5.03 reason=\"\" ok"
        );
        let figures = Figures {
            withheld_s: Some(1.2),
            reason: Some("pcpu".into()),
            failure: Some("late".into()),
            ..figures
        };
        let line = last_line(wedge, &figures);
        assert_eq!(
            line,
            "demo: wedge=timer-lock-0 withheld_s=1.20 fired_s=5.03 reason=\"pcpu\" FAILED"
        );
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! A scheduler that runs, decides, and always picks idle on one pCPU: what a row does before and after it is injected.
//!
//! A vCPU that may run elsewhere is taken there within milliseconds, and nobody notices. One that is bound to the pCPU starves: so a
//! guest is, and is kept busy. Its own watchdog is disarmed first, or the guest would expire and be destroyed meanwhile.

use super::lives::WATCHED;
use crate::error::{Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use std::time::Duration;
use xenwarden::event::Kind;

/// What `evidence.starved_s` is set to.
pub const STARVED: Duration = Duration::from_secs(3);
/// Where dom0 has the configuration.
const CONFIG: &str = "/etc/xenwarden/xenwarden.conf";
/// How long the monitor may take to tell: the hypervisor's first look, two seconds, one more, and its own turn.
const TOLD: Duration = Duration::from_secs(5);
/// A guest's shell takes its commands, and the guest disarms.
const SETTLES: Duration = Duration::from_secs(3);

impl Host {
    /// Starts the guard anew, with starved vCPUs as evidence.
    pub fn judge_starved(&mut self) -> Result<()> {
        let line = format!("starved_s = {}", STARVED.as_secs());
        self.dom0_ok(
            &format!("sed -i '/^coverage/a {line}' {CONFIG} && grep '{line}' {CONFIG}"),
            PROMPT,
        )?;
        self.end_program(GUARD, "-TERM")?;
        self.start_program(GUARD)
    }

    /// Has a guest disarm its watchdog and be busy.
    pub fn occupy(&mut self, guest: &str) -> Result<()> {
        self.tell_guest(guest, "killall watchdog; sleep 1; while :; do :; done")?;
        self.pass(SETTLES)
    }

    /// The same, and sees that it has.
    pub fn keep_busy(&mut self, guest: &str) -> Result<()> {
        self.occupy(guest)?;
        let status = self.wait_kicking()?;
        let armed = status.monitor.unwrap_or_default().guest_watchdogs;
        match armed
            .iter()
            .any(|watchdog| watchdog.name.as_deref() == Some(guest))
        {
            false => Ok(()),
            true => Err(Error::new(format!("{guest} does not disarm its watchdog"))),
        }
    }

    /// Binds a guest's vCPU to a pCPU.
    pub fn bind_guest(&mut self, guest: &str, cpu: u8) -> Result<()> {
        let bind = format!("xl vcpu-pin {guest} 0 {cpu}");
        self.dom0_ok(&bind, PROMPT).map(drop)
    }

    /// The host must live on, and what is told and shown of its pCPUs must be that `starving` starves, if it does.
    pub fn lives_starving(&mut self, starving: Option<u8>) -> Result<()> {
        if starving.is_some() {
            self.wait_events("host.starving", 1, TOLD)?;
        }
        self.lives_on(WATCHED)?;
        let mut told = Vec::new();
        for event in self.events()? {
            match event.what {
                Kind::HostStarving { cpu, .. } => told.push(cpu),
                Kind::HostStarvingEnded { cpu, .. } => {
                    return Err(Error::new(format!("pCPU {cpu} is said to serve again")));
                }
                _ => {}
            }
        }
        let expected: Vec<u32> = starving.into_iter().map(u32::from).collect();
        if told != expected {
            return Err(Error::new(format!("pCPUs {told:?} are said to starve")));
        }
        let shown: Vec<u32> = {
            let pcpus = self.status()?.monitor.unwrap_or_default().pcpus;
            let long = |waited_ms: u32| waited_ms > 2_000;
            let starves = pcpus.into_iter().filter(|pcpu| {
                pcpu.idle && pcpu.starved.as_ref().is_some_and(|s| long(s.waited_ms))
            });
            starves.map(|pcpu| pcpu.cpu).collect()
        };
        match shown == expected {
            true => Ok(()),
            false => Err(Error::new(format!("status shows {shown:?} to starve"))),
        }
    }
}

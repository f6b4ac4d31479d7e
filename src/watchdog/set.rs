// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdogs that are armed, as one: all are kicked, and any may fire.
//!
//! In: devices. Out: an armed [`Set`], or an error with nothing armed.

use super::device::{Driver, Hardware};
use super::error::ArmError;
use super::{Ends, HostWatchdog, LetGo, RunsOn};
use crate::sys::notify::Notifier;
use crate::sys::watchdog::WatchdogDevice;
use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

/// Armed host watchdogs: one at least.
#[derive(Debug)]
pub struct Set<D = WatchdogDevice> {
    armed: Vec<Hardware<D>>,
    /// A device that could not be armed when another was already and could not be disarmed.
    missing: Option<String>,
}

impl<D: Driver> Set<D> {
    /// Arms each of `devices`. Where one fails the others are disarmed again; those that
    /// cannot be (nowayout, or taken over) are kept, so that they go on being kicked, with the
    /// failure as their weakness.
    ///
    /// # Errors
    /// [`ArmError`], with nothing armed but for [`ArmError::StillArmed`].
    pub fn arm(devices: &[PathBuf], timeout_s: u32) -> Result<Self, ArmError> {
        Self::arm_or_take_over(devices, Vec::new(), timeout_s)
    }

    /// The same, but those that run already are taken over, also such as nobody asks for: they
    /// would fire.
    ///
    /// # Errors
    /// As [`Set::arm`].
    pub fn arm_or_take_over(
        devices: &[PathBuf],
        running: Vec<(PathBuf, D)>,
        timeout_s: u32,
    ) -> Result<Self, ArmError> {
        let mut armed: Vec<Hardware<D>> = Vec::new();
        for (path, device) in running {
            // Of a device that was taken away, and may be back: what was kept is of the old one.
            if matches!(device.info(), Err(Errno::ENODEV)) {
                continue;
            }
            let mut hardware = Hardware::take_over(&path, device, timeout_s);
            if !devices.contains(&path) {
                hardware.weaken(
                    "it is not in the configuration, but runs until the guard is stopped for good",
                );
            }
            armed.push(hardware);
        }
        for device in devices {
            if armed.iter().any(|one| one.path() == device) {
                continue;
            }
            match Hardware::arm(device, timeout_s) {
                Ok(hardware) => armed.push(hardware),
                Err(error) => return Self::without(armed, error),
            }
        }
        Ok(Self {
            armed,
            missing: None,
        })
    }

    fn without(armed: Vec<Hardware<D>>, error: ArmError) -> Result<Self, ArmError> {
        let (kept, free): (Vec<_>, Vec<_>) = armed.into_iter().partition(Hardware::must_be_kicked);
        let mut still = None;
        for hardware in free {
            still = hardware.disarm().err().or(still);
        }
        match still {
            _ if !kept.is_empty() => Ok(Self {
                armed: kept,
                missing: Some(error.to_string()),
            }),
            Some(still) => Err(ArmError::StillArmed {
                first: Box::new(error),
                still,
            }),
            None => Err(error),
        }
    }

    /// See [`Hardware::keep`].
    pub fn keep(&mut self, manager: &Notifier, runs_on: RunsOn) {
        let armed = self.armed.iter_mut();
        armed.for_each(|one| one.keep(manager, runs_on));
    }

    /// Their devices, for people.
    #[must_use]
    pub fn devices(&self) -> String {
        join(
            self.armed
                .iter()
                .map(|one| one.path().display().to_string()),
        )
    }

    /// What their drivers call them.
    #[must_use]
    pub fn identities(&self) -> String {
        join(self.armed.iter().map(|one| one.identity.clone()))
    }

    /// The first of them resets no earlier than so many seconds after a kick.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        let all = self.armed.iter().map(|one| one.timeout_s);
        all.min().unwrap_or(0)
    }

    /// And no later than so many.
    #[must_use]
    pub fn latest_s(&self) -> u32 {
        let all = self.armed.iter().map(|one| one.latest_s);
        all.min().unwrap_or(0)
    }

    /// There is none: all that ran were taken away.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    /// What is not as it was asked for.
    #[must_use]
    pub fn weakness(&self) -> Option<String> {
        let weak = self.armed.iter().filter_map(|one| {
            let why = one.weakness.as_ref()?;
            Some(format!("{}: {why}", one.path().display()))
        });
        let all: Vec<String> = self.missing.iter().cloned().chain(weak).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

fn join(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

impl<D: Driver> HostWatchdog for Set<D> {
    /// Kicks all, whatever becomes of the first; gives the last error.
    fn kick(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for one in &mut self.armed {
            outcome = one.kick().and(outcome);
        }
        outcome
    }

    fn disarm(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for one in self.armed {
            outcome = one.disarm().and(outcome);
        }
        outcome
    }

    /// Lets go of all; gives what endangers the host soonest.
    fn let_go(self, why: Ends) -> LetGo {
        let mut all = self.armed.into_iter().map(|one| one.let_go(why));
        let first = all.next().unwrap_or(LetGo::Disarmed);
        all.fold(first, LetGo::worse)
    }

    fn ran_on(&self) -> bool {
        self.armed.iter().any(HostWatchdog::ran_on)
    }
}

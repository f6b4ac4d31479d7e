// SPDX-License-Identifier: GPL-2.0-only
//! Which devices the guard arms, of those that the policy means. None is opened here.
//!
//! In: a policy, sysfs. Out: paths, or a failure for people.

use crate::config::Policy;
use crate::exit::{CONFIG, Failure, NOPERM, OSERR, UNAVAILABLE};
use crate::sys::watchdog::WatchdogDevice;
use crate::watchdog::candidates::{candidates, choose, choose_all};
use crate::watchdog::device::inspect;
use crate::watchdog::error::ArmError;
use crate::watchdog::sysfs::{Attributes, one_number};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the kernel shows devices: /sys and /dev.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What is known of them.
    pub sysfs: PathBuf,
    /// Their nodes.
    pub dev: PathBuf,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}

/// A device that is to be armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its node.
    pub device: PathBuf,
    /// What is known of it.
    pub attributes: Attributes,
}

/// The devices that the policy means, each the first that can do what is asked. None of them is
/// opened.
///
/// # Errors
/// A [`Failure`] with nothing armed.
pub fn choose_watchdogs(policy: &Policy, shown: &Shown) -> Result<Vec<Chosen>, Failure> {
    let found = candidates(&shown.sysfs, &shown.dev);
    let fitting =
        choose_all(&policy.devices, &found).map_err(|text| Failure::new(UNAVAILABLE, text))?;
    let fitting = fitting.into_iter();
    fitting
        .map(|devices| {
            first_that_can(&shown.sysfs, devices, policy.hardware_s()).map_err(arm_failure)
        })
        .collect()
}

/// Why the first cannot, where none can.
fn first_that_can(sysfs: &Path, devices: Vec<PathBuf>, timeout_s: u32) -> Result<Chosen, ArmError> {
    let mut refused = None;
    for device in devices {
        match inspect(sysfs, &device, timeout_s) {
            Ok(attributes) => return Ok(Chosen { device, attributes }),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(ArmError::Open {
        device: PathBuf::new(),
        error: ErrorKind::NotFound.into(),
        holder: None,
    }))
}

/// Of descriptors that the service manager kept, those that are watchdogs: an earlier guard
/// left them running. Each by the path under which it is `chosen`, or by another of its own.
#[must_use]
pub fn running(
    descriptors: Vec<OwnedFd>,
    chosen: &[PathBuf],
    shown: &Shown,
) -> Vec<(PathBuf, WatchdogDevice)> {
    let number_of = |metadata: &fs::Metadata| {
        let is_device = metadata.file_type().is_char_device();
        is_device.then(|| one_number(&shown.sysfs, metadata.rdev()))
    };
    let found = candidates(&shown.sysfs, &shown.dev).into_iter();
    let nodes: Vec<(u64, PathBuf)> = chosen
        .iter()
        .cloned()
        .chain(found.map(|candidate| candidate.path))
        .filter_map(|path| Some((number_of(&fs::metadata(&path).ok()?)?, path)))
        .collect();
    let mut running: Vec<(PathBuf, WatchdogDevice)> = Vec::new();
    for descriptor in descriptors {
        let file = File::from(descriptor);
        let number = file.metadata().ok().and_then(|found| number_of(&found));
        let path = number.and_then(|number| nodes.iter().find(|node| node.0 == number));
        // What is no watchdog is closed, which harms nobody; so is a second copy.
        if let Some((_, path)) = path.filter(|node| running.iter().all(|one| one.0 != node.1)) {
            running.push((path.clone(), WatchdogDevice::running(file.into())));
        }
    }
    running
}

/// Their names, for people.
#[must_use]
pub fn paths<'a>(devices: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let all: Vec<_> = devices
        .into_iter()
        .map(|d| d.display().to_string())
        .collect();
    all.join(", ")
}

/// The failure for an arming error.
#[must_use]
pub fn arm_failure(error: ArmError) -> Failure {
    Failure::new(arm_code(&error), error)
}

fn arm_code(error: &ArmError) -> u8 {
    match error {
        ArmError::Timeout { .. } | ArmError::NotAWatchdog { .. } => CONFIG,
        // Never one after which the service manager starts another: the device runs, and an
        // open would feed it.
        ArmError::StillArmed { .. } => OSERR,
        ArmError::Open { error, .. } if error.kind() == ErrorKind::PermissionDenied => NOPERM,
        _ => UNAVAILABLE,
    }
}

/// For `--check-config`: what the watchdogs that the configuration means are, a line for each,
/// where they can do what it asks. A device that is missing is no fault of the configuration.
///
/// # Errors
/// [`CONFIG`].
pub fn check_devices(policy: &Policy, shown: &Shown) -> Result<String, Failure> {
    let found = candidates(&shown.sysfs, &shown.dev);
    let mut lines = Vec::new();
    for selector in &policy.devices {
        let fitting = match choose(selector, &found) {
            Ok(fitting) => fitting,
            Err(none) => {
                lines.push(none);
                continue;
            }
        };
        lines.push(
            match first_that_can(&shown.sysfs, fitting, policy.hardware_s()) {
                Ok(Chosen { device, attributes }) => {
                    let identity = attributes.identity.as_deref();
                    let identity = identity.unwrap_or("identity unknown");
                    let nowayout = match attributes.nowayout {
                        Some(true) => ", nowayout: cannot be disarmed",
                        _ => "",
                    };
                    format!("{}: {identity}{nowayout}", device.display())
                }
                Err(ArmError::Open { device, .. }) => format!("{}: not here", device.display()),
                Err(error @ ArmError::Timeout { .. }) => return Err(Failure::new(CONFIG, error)),
                Err(error) => {
                    let text = format!("host-watchdog.device: {error}");
                    return Err(Failure::new(CONFIG, text));
                }
            },
        );
    }
    Ok(lines.join("\n"))
}

// SPDX-License-Identifier: GPL-2.0-only
//! Which devices the guard arms, of those that the policy means. None is opened here.
//!
//! In: a policy, sysfs. Out: paths, or a failure for people.

use crate::config::Policy;
use crate::exit::{CONFIG, Failure, NOPERM, OSERR, UNAVAILABLE};
use crate::sys::watchdog::WatchdogDevice;
use crate::watchdog::candidates::{Selector, candidates, choose, choose_all};
use crate::watchdog::device::inspect;
use crate::watchdog::error::ArmError;
use crate::watchdog::sysfs::one_number;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The devices that the policy means, each the first that can do what is asked. None of them is
/// opened.
///
/// # Errors
/// A [`Failure`] with nothing armed.
pub fn choose_watchdogs(policy: &Policy) -> Result<Vec<PathBuf>, Failure> {
    let found = candidates(Path::new("/sys"), Path::new("/dev"));
    let fitting =
        choose_all(&policy.devices, &found).map_err(|text| Failure::new(UNAVAILABLE, text))?;
    let fitting = fitting.into_iter();
    fitting
        .map(|devices| first_that_can(devices, policy.timeout_s).map_err(arm_failure))
        .collect()
}

fn first_that_can(devices: Vec<PathBuf>, timeout_s: u32) -> Result<PathBuf, ArmError> {
    let mut refused = None;
    for device in devices {
        match inspect(&device, timeout_s) {
            Ok(attributes) => {
                if attributes.nowayout == Some(true) {
                    let device = device.display();
                    let _ = writeln!(
                        io::stderr(),
                        "xenwardend: {device}: nowayout is set: stopping the guard will not disarm it"
                    );
                }
                return Ok(device);
            }
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
pub fn running(descriptors: Vec<OwnedFd>, chosen: &[PathBuf]) -> Vec<(PathBuf, WatchdogDevice)> {
    let sysfs = Path::new("/sys");
    let found = candidates(sysfs, Path::new("/dev")).into_iter();
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

fn number_of(metadata: &fs::Metadata) -> Option<u64> {
    let is_device = metadata.file_type().is_char_device();
    is_device.then(|| one_number(Path::new("/sys"), metadata.rdev()))
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
pub fn check_device(policy: &Policy) -> Result<String, Failure> {
    let found = candidates(Path::new("/sys"), Path::new("/dev"));
    let mut lines = Vec::new();
    for selector in &policy.devices {
        let line = match choose(selector, &found) {
            Ok(fitting) => check_first(selector, fitting, policy.timeout_s)?,
            Err(none) => none,
        };
        lines.push(line);
    }
    Ok(lines.join("\n"))
}

fn check_first(
    selector: &Selector,
    devices: Vec<PathBuf>,
    timeout_s: u32,
) -> Result<String, Failure> {
    let mut refused = None;
    for device in devices {
        match inspect(&device, timeout_s) {
            Err(ArmError::Open { .. }) => return Ok(format!("{}: not here", device.display())),
            Err(error) => refused = refused.or(Some(error)),
            Ok(found) => {
                let identity = found.identity.as_deref().unwrap_or("identity unknown");
                let nowayout = match found.nowayout {
                    Some(true) => ", nowayout: cannot be disarmed",
                    _ => "",
                };
                return Ok(format!("{}: {identity}{nowayout}", device.display()));
            }
        }
    }
    match refused {
        None => Ok(format!("{selector}: not here")),
        Some(error @ ArmError::Timeout { .. }) => Err(Failure::new(CONFIG, error)),
        Some(error) => Err(Failure::new(
            CONFIG,
            format!("host-watchdog.device: {error}"),
        )),
    }
}

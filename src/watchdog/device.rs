// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: the hardware behind /dev/watchdogN.
//!
//! In: a device and a timeout. Out: an armed [`Barrel`], or an error with the device
//! disarmed again. It promises that the timeout that runs is the one that was asked
//! for, and that it stops only by [`Barrel::disarm`], not because the process ends.

use crate::sys::watchdog::{
    WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT, WatchdogDevice,
};
use crate::watchdog::Barrel;
use crate::watchdog::sysfs::{Attributes, not_hardware};
use nix::errno::Errno;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why the host watchdog is not armed.
#[derive(Debug)]
pub enum ArmError {
    /// The device cannot be opened.
    Open {
        /// The device.
        device: PathBuf,
        /// open(2)'s error.
        error: io::Error,
        /// Who holds it, when it is busy and that can be seen.
        holder: Option<String>,
    },
    /// The file is no watchdog.
    NotAWatchdog {
        /// The device.
        device: PathBuf,
        /// Kind the kernel said.
        errno: Errno,
    },
    /// The watchdog lacks what the promises need.
    Unsuitable {
        /// The device.
        device: PathBuf,
        /// The driver's name for it.
        identity: String,
        /// Kind is wrong with it.
        why: String,
    },
    /// An error, and the device that was opened before it could not be disarmed again.
    StillArmed {
        /// Why the device is not to be used.
        first: Box<ArmError>,
        /// Why it is armed still.
        still: io::Error,
    },
    /// The device cannot do the configured timeout.
    Timeout {
        /// The device.
        device: PathBuf,
        /// Kind was asked for, seconds.
        asked_s: u32,
        /// Kind the device does instead.
        instead: String,
    },
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open {
                device,
                error,
                holder,
            } => {
                write!(
                    f,
                    "{}: cannot open the host watchdog: {error}",
                    device.display()
                )?;
                match holder {
                    Some(who) => write!(f, "; it is held by {who}: stop that first"),
                    None => Ok(()),
                }
            }
            Self::NotAWatchdog { device, errno } => {
                write!(
                    f,
                    "{}: not a watchdog device: {}",
                    device.display(),
                    errno.desc()
                )
            }
            Self::Unsuitable {
                device,
                identity,
                why,
            } => write!(f, "{} ({identity}): {why}", device.display()),
            Self::StillArmed { first, still } => {
                write!(
                    f,
                    "{first}; it CANNOT be disarmed ({still}): the host will go down"
                )
            }
            Self::Timeout {
                device,
                asked_s,
                instead,
            } => write!(
                f,
                "host-watchdog.timeout_s = {asked_s}: {} cannot do it: {instead}",
                device.display()
            ),
        }
    }
}

/// The armed host watchdog.
#[derive(Debug)]
pub struct HostWatchdog {
    device: WatchdogDevice,
    identity: String,
    path: PathBuf,
}

impl HostWatchdog {
    /// Opens `path`, sets the timeout, reads it back, and kicks once. On any error after
    /// the opening the device is disarmed before the error is returned.
    ///
    /// # Errors
    /// [`ArmError`].
    pub fn arm(path: &Path, timeout_s: u32) -> Result<Self, ArmError> {
        let device = WatchdogDevice::open(path).map_err(|error| ArmError::Open {
            holder: (error.raw_os_error() == Some(libc::EBUSY))
                .then(|| holder_of(path))
                .flatten(),
            device: path.to_owned(),
            error,
        })?;
        match prepare(path, &device, timeout_s) {
            Ok(identity) => Ok(Self {
                device,
                identity,
                path: path.to_owned(),
            }),
            // Kind is no watchdog has not been armed, and the magic character would be
            // written into it.
            Err(error @ ArmError::NotAWatchdog { .. }) => Err(error),
            Err(error) => match disarm(device, path) {
                Ok(()) => Err(error),
                Err(still) => Err(ArmError::StillArmed {
                    first: Box::new(error),
                    still,
                }),
            },
        }
    }

    /// The driver's name for the device.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl Barrel for HostWatchdog {
    fn kick(&mut self) -> io::Result<()> {
        Ok(self.device.keepalive()?)
    }

    fn disarm(self: Box<Self>) -> io::Result<()> {
        disarm(self.device, &self.path)
    }
}

/// Disarms and makes sure: a kernel with nowayout takes the magic character and keeps the
/// device running all the same.
fn disarm(device: WatchdogDevice, path: &Path) -> io::Result<()> {
    device.disarm()?;
    match Attributes::read(Path::new("/sys"), path).state.as_deref() {
        Some("active") => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        _ => Ok(()),
    }
}

/// Whether `device` may become the host watchdog, as far as sysfs tells: opens nothing.
///
/// # Errors
/// [`ArmError`].
pub fn inspect(device: &Path, timeout_s: u32) -> Result<Attributes, ArmError> {
    let metadata = fs::metadata(device).map_err(|error| ArmError::Open {
        device: device.to_owned(),
        error,
        holder: None,
    })?;
    if !metadata.file_type().is_char_device() {
        return Err(ArmError::NotAWatchdog {
            device: device.to_owned(),
            errno: Errno::ENOTTY,
        });
    }
    let attributes = Attributes::read(Path::new("/sys"), device);
    if let Some(identity) = &attributes.identity {
        refuse_what_is_not_hardware(device, identity)?;
    }
    if !attributes.allows_timeout(timeout_s) {
        let limit = |s: Option<u32>| s.map_or_else(|| "?".to_owned(), |s| s.to_string());
        return Err(ArmError::Timeout {
            device: device.to_owned(),
            asked_s: timeout_s,
            instead: format!(
                "it allows {} to {} s",
                limit(attributes.min_timeout_s),
                limit(attributes.max_timeout_s)
            ),
        });
    }
    Ok(attributes)
}

fn refuse_what_is_not_hardware(device: &Path, identity: &str) -> Result<(), ArmError> {
    match not_hardware(identity) {
        None => Ok(()),
        Some(what) => Err(ArmError::Unsuitable {
            device: device.to_owned(),
            identity: identity.to_owned(),
            why: format!(
                "not hardware but {what}: name a hardware watchdog in host-watchdog.device"
            ),
        }),
    }
}

/// Checks the open device and sets its timeout; gives its identity.
fn prepare(path: &Path, device: &WatchdogDevice, timeout_s: u32) -> Result<String, ArmError> {
    let info = device.info().map_err(|errno| ArmError::NotAWatchdog {
        device: path.to_owned(),
        errno,
    })?;
    let identity = info.identity();
    refuse_what_is_not_hardware(path, &identity)?;
    let unsuitable = |why: &str| ArmError::Unsuitable {
        device: path.to_owned(),
        identity: identity.clone(),
        why: why.to_owned(),
    };
    if info.options & WDIOF_KEEPALIVEPING == 0 {
        return Err(unsuitable("its driver cannot be kicked by ioctl"));
    }
    if info.options & WDIOF_MAGICCLOSE == 0 {
        return Err(unsuitable(
            "its driver disarms at any close, so a killed daemon would leave the host unguarded",
        ));
    }
    let timeout = |instead: String| ArmError::Timeout {
        device: path.to_owned(),
        asked_s: timeout_s,
        instead,
    };
    if info.options & WDIOF_SETTIMEOUT != 0 {
        device
            .set_timeout_s(timeout_s)
            .map_err(|errno| timeout(format!("setting it fails: {}", errno.desc())))?;
    }
    let actual_s = device
        .timeout_s()
        .map_err(|errno| timeout(format!("reading it back fails: {}", errno.desc())))?;
    if actual_s != timeout_s {
        return Err(timeout(format!("it does {actual_s} s")));
    }
    device
        .keepalive()
        .map_err(|errno| unsuitable(&format!("the first kick failed: {}", errno.desc())))?;
    Ok(identity)
}

/// The process that has a watchdog device open, by its name and pid, if /proc shows one.
fn holder_of(device: &Path) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .map(|entry| entry.path())
        .find(|process| has_open(process, device))
        .map(|process| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            format!("{} (pid {pid})", name.trim())
        })
}

/// By the device's number, whatever the node is called; /dev/watchdog is another name of
/// the first watchdog.
fn has_open(process: &Path, device: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let number = |path: &Path| fs::metadata(path).map(|m| m.rdev()).ok();
    let wanted = number(device);
    let legacy = (device == Path::new("/dev/watchdog0"))
        .then(|| number(Path::new("/dev/watchdog")))
        .flatten();
    descriptors.flatten().any(|fd| {
        let found = number(&fd.path()).filter(|n| *n != 0);
        found.is_some() && (found == wanted || found == legacy)
    })
}

// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: the hardware behind /dev/watchdogN.
//!
//! In: a device and a timeout. Out: armed [`Hardware`], or an error with the device disarmed
//! again. It promises that the timeout that runs is the one that was asked for, unless it
//! says otherwise, that it stops only by [`HostWatchdog::disarm`], not because the process
//! ends, and that a device which runs is never left unkicked for a mere error.

use super::HostWatchdog;
use crate::sys::watchdog::{
    WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT, WatchdogDevice, WatchdogInfo,
};
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
        /// What the kernel said.
        errno: Errno,
    },
    /// The watchdog lacks what the promises need.
    Unsuitable {
        /// The device.
        device: PathBuf,
        /// The driver's name for it.
        identity: String,
        /// What is wrong with it.
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
        /// What was asked for, seconds.
        asked_s: u32,
        /// What the device does instead.
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

/// What is done to an open device: by the kernel's, and in tests by one that is made up.
pub trait Driver: Sized {
    /// See [`WatchdogDevice::open`].
    ///
    /// # Errors
    /// As there.
    fn open(path: &Path) -> io::Result<Self>;
    /// See [`WatchdogDevice::info`].
    ///
    /// # Errors
    /// As there.
    fn info(&self) -> Result<WatchdogInfo, Errno>;
    /// See [`WatchdogDevice::set_timeout_s`].
    ///
    /// # Errors
    /// As there.
    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno>;
    /// See [`WatchdogDevice::timeout_s`].
    ///
    /// # Errors
    /// As there.
    fn timeout_s(&self) -> Result<u32, Errno>;
    /// See [`WatchdogDevice::keepalive`].
    ///
    /// # Errors
    /// As there.
    fn keepalive(&self) -> Result<(), Errno>;
    /// See [`WatchdogDevice::disarm`].
    ///
    /// # Errors
    /// As there.
    fn disarm(self) -> io::Result<()>;
    /// What the kernel tells of `path` without opening it.
    fn attributes(path: &Path) -> Attributes;
}

impl Driver for WatchdogDevice {
    fn open(path: &Path) -> io::Result<Self> {
        Self::open(path)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        self.info()
    }

    fn set_timeout_s(&self, timeout_s: u32) -> Result<(), Errno> {
        self.set_timeout_s(timeout_s)
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        self.timeout_s()
    }

    fn keepalive(&self) -> Result<(), Errno> {
        self.keepalive()
    }

    fn disarm(self) -> io::Result<()> {
        self.disarm()
    }

    fn attributes(path: &Path) -> Attributes {
        Attributes::read(Path::new("/sys"), path)
    }
}

/// The armed host watchdog.
#[derive(Debug)]
pub struct Hardware<D = WatchdogDevice> {
    device: D,
    path: PathBuf,
    /// The driver's name for it.
    pub identity: String,
    /// The timeout that runs, seconds.
    pub timeout_s: u32,
    /// Why it is not what was asked for; it runs and cannot be disarmed, so it is kicked.
    pub weakness: Option<String>,
}

impl<D: Driver> Hardware<D> {
    /// Opens `path`, sets the timeout, reads it back, and kicks once. On an error after the
    /// opening the device is disarmed before the error is returned; one that cannot be
    /// disarmed (nowayout) is kept, so that it goes on being kicked, with the error as its
    /// weakness.
    ///
    /// # Errors
    /// [`ArmError`], with nothing armed but for [`ArmError::StillArmed`].
    pub fn arm(path: &Path, timeout_s: u32) -> Result<Self, ArmError> {
        let device = open::<D>(path)?;
        let (identity, wrong) = match prepare(path, &device, timeout_s) {
            Ok(identity) => (identity, None),
            // What is no watchdog has not been armed, and the magic character would be
            // written into it.
            Err(error @ ArmError::NotAWatchdog { .. }) => return Err(error),
            Err(error) => {
                let identity = device.info().map(|info| info.identity());
                (identity.unwrap_or_default(), Some(error))
            }
        };
        let Some(error) = wrong else {
            return Ok(Self::running(device, path, identity, timeout_s, None));
        };
        let device = if nowayout::<D>(path, &identity) {
            device
        } else {
            let Err(still) = disarm(device, path) else {
                return Err(error);
            };
            match open::<D>(path) {
                Ok(device) => device,
                Err(_) => {
                    let first = Box::new(error);
                    return Err(ArmError::StillArmed { first, still });
                }
            }
        };
        let runs_s = device.timeout_s().unwrap_or(timeout_s);
        let weakness = Some(format!("{error}; it cannot be disarmed, so it is kicked"));
        Ok(Self::running(device, path, identity, runs_s, weakness))
    }

    fn running(
        device: D,
        path: &Path,
        identity: String,
        timeout_s: u32,
        weakness: Option<String>,
    ) -> Self {
        Self {
            device,
            path: path.to_owned(),
            identity,
            timeout_s,
            weakness,
        }
    }
}

fn open<D: Driver>(path: &Path) -> Result<D, ArmError> {
    D::open(path).map_err(|error| ArmError::Open {
        holder: (error.raw_os_error() == Some(libc::EBUSY))
            .then(|| holder_of(path))
            .flatten(),
        device: path.to_owned(),
        error,
    })
}

impl<D: Driver> HostWatchdog for Hardware<D> {
    fn kick(&mut self) -> io::Result<()> {
        Ok(self.device.keepalive()?)
    }

    fn disarm(self) -> io::Result<()> {
        disarm(self.device, &self.path)
    }
}

/// Whether the device can not be disarmed, as far as anybody tells. ipmi_watchdog has no
/// entry in the watchdogs' class, only its module's parameter (Linux
/// `drivers/char/ipmi/ipmi_watchdog.c`).
fn nowayout<D: Driver>(path: &Path, identity: &str) -> bool {
    let of_module = || {
        let parameter = "/sys/module/ipmi_watchdog/parameters/nowayout";
        (identity == IPMI).then(|| fs::read_to_string(parameter).ok())?
    };
    let told = D::attributes(path).nowayout;
    told.unwrap_or_else(|| of_module().is_some_and(|text| matches!(text.trim(), "Y" | "1")))
}

/// What ipmi_watchdog calls itself.
const IPMI: &str = "IPMI";

/// Disarms and makes sure: a kernel with nowayout takes the magic character and keeps the
/// device running all the same.
fn disarm<D: Driver>(device: D, path: &Path) -> io::Result<()> {
    device.disarm()?;
    match D::attributes(path).state.as_deref() {
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
///
/// A driver that announces options can do those alone. One that announces none at all
/// (ipmi_watchdog) may do each of them: they are tried.
fn prepare<D: Driver>(path: &Path, device: &D, timeout_s: u32) -> Result<String, ArmError> {
    let device_path = path.to_owned();
    let info = device.info().map_err(|errno| match errno {
        // Any other error may come from a watchdog, which the opening has armed.
        Errno::ENOTTY | Errno::EINVAL => ArmError::NotAWatchdog {
            device: device_path,
            errno,
        },
        _ => ArmError::Unsuitable {
            device: device_path,
            identity: "unknown".to_owned(),
            why: format!("it does not say what it is: {}", errno.desc()),
        },
    })?;
    let identity = info.identity();
    refuse_what_is_not_hardware(path, &identity)?;
    let unsuitable = |why: &str| ArmError::Unsuitable {
        device: path.to_owned(),
        identity: identity.clone(),
        why: why.to_owned(),
    };
    let can = |option: u32| info.options == 0 || info.options & option != 0;
    if !can(WDIOF_KEEPALIVEPING) {
        return Err(unsuitable("its driver cannot be kicked by ioctl"));
    }
    if !can(WDIOF_MAGICCLOSE) {
        return Err(unsuitable(
            "its driver disarms at any close, so a killed daemon would leave the host unguarded",
        ));
    }
    let timeout = |instead: String| ArmError::Timeout {
        device: path.to_owned(),
        asked_s: timeout_s,
        instead,
    };
    if can(WDIOF_SETTIMEOUT) {
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

// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: the hardware behind /dev/watchdogN.
//!
//! In: a device and a timeout. Out: armed [`Hardware`], or an error with the device disarmed
//! again. It promises that the timeout that runs is the one that was asked for, unless it
//! says otherwise, that it stops only by [`HostWatchdog::disarm`], not because the process
//! ends, and that a device which runs is never left unkicked for a mere error.

use super::HostWatchdog;
use crate::sys::ipmi;
use crate::sys::watchdog::{
    WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT, WatchdogDevice, WatchdogInfo,
};
use crate::watchdog::error::ArmError;
use crate::watchdog::holder::holder_of;
use crate::watchdog::quirks::{IPMI, Quirk};
use crate::watchdog::sysfs::{Attributes, is_misc_device};
use nix::errno::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

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
    /// What the hardware of an armed device says, asked past its driver.
    fn ask_hardware(quirk: &Quirk) -> Asked;
    /// Whether the driver's module was told that it must not be disarmed; none where it has no
    /// such parameter.
    fn nowayout(quirk: &Quirk) -> Option<bool>;
}

/// What hardware says that can be asked past its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is no such way.
    NoWay,
    /// It runs and will reset the host.
    Runs,
    /// It takes kicks and will not.
    DoesNot(String),
    /// It could not be asked.
    Silent(String),
}

/// A BMC's own word on its watchdog: the driver tells nobody when the BMC refuses an action.
fn ask_bmc() -> Asked {
    match ipmi::watchdog_timer() {
        Ok(timer) if timer.running && timer.resets() => Asked::Runs,
        Ok(timer) if timer.running => {
            let action = timer.action;
            Asked::DoesNot(format!("the BMC's action is {action}, which is no reset"))
        }
        Ok(_) => Asked::DoesNot("the BMC says that it does not run".to_owned()),
        Err(error) => Asked::Silent(error.to_string()),
    }
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

    fn ask_hardware(quirk: &Quirk) -> Asked {
        match quirk.identity {
            IPMI => ask_bmc(),
            _ => Asked::NoWay,
        }
    }

    fn nowayout(quirk: &Quirk) -> Option<bool> {
        quirk.nowayout(Path::new("/sys"))
    }
}

/// The armed host watchdog.
#[derive(Debug)]
pub struct Hardware<D = WatchdogDevice> {
    device: D,
    path: PathBuf,
    /// The driver's name for it.
    pub identity: String,
    /// The timeout that runs, seconds: it resets no earlier than that after a kick.
    pub timeout_s: u32,
    /// And no later than that, seconds.
    pub latest_s: u32,
    /// What is not as it was asked for.
    pub weakness: Option<String>,
}

/// What [`prepare`] found out.
struct Prepared {
    identity: String,
    timeout_s: u32,
    weakness: Option<String>,
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
        let error = match prepare(path, &device, timeout_s) {
            Ok(prepared) => return Ok(Self::running(device, path, prepared)),
            // What is no watchdog has not been armed, and the magic character would be
            // written into it.
            Err(error @ ArmError::NotAWatchdog { .. }) => return Err(error),
            Err(error) => error,
        };
        let identity = device.info().map(|info| info.identity());
        let identity = identity.unwrap_or_default();
        let device = if nowayout::<D>(path, Quirk::of(&identity)) {
            device
        } else {
            let Err(still) = disarm(device, path, Quirk::of(&identity)) else {
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
        let prepared = Prepared {
            identity,
            timeout_s: runs_s,
            weakness: Some(format!("{error}; it cannot be disarmed, so it is kicked")),
        };
        Ok(Self::running(device, path, prepared))
    }

    fn running(device: D, path: &Path, prepared: Prepared) -> Self {
        let Prepared {
            identity,
            timeout_s,
            weakness,
        } = prepared;
        Self {
            device,
            path: path.to_owned(),
            latest_s: Quirk::of(&identity).latest_s(timeout_s),
            identity,
            timeout_s,
            weakness,
        }
    }

    /// Whether it cannot be disarmed, as far as anybody tells.
    #[must_use]
    pub fn nowayout(&self) -> bool {
        nowayout::<D>(&self.path, Quirk::of(&self.identity))
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
        disarm(self.device, &self.path, Quirk::of(&self.identity))
    }
}

/// Whether the device can not be disarmed, as far as anybody tells: a driver without an entry
/// in the watchdogs' class has its module's parameter alone.
fn nowayout<D: Driver>(path: &Path, quirk: &Quirk) -> bool {
    let told = D::attributes(path).nowayout.or_else(|| D::nowayout(quirk));
    told.unwrap_or(false)
}

/// Disarms and makes sure: a kernel with nowayout takes the magic character and keeps the
/// device running all the same.
fn disarm<D: Driver>(device: D, path: &Path, quirk: &Quirk) -> io::Result<()> {
    device.disarm()?;
    let still = match D::attributes(path).state.as_deref() {
        Some(state) => state == "active",
        None => nowayout::<D>(path, quirk),
    };
    match still {
        true => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        false => Ok(()),
    }
}

/// Whether `device` may become the host watchdog, as far as sysfs, normally /sys, tells: opens
/// nothing.
///
/// # Errors
/// [`ArmError`].
pub fn inspect(sysfs: &Path, device: &Path, timeout_s: u32) -> Result<Attributes, ArmError> {
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
    let mut attributes = Attributes::read(sysfs, device);
    if is_misc_device(&metadata) {
        attributes = attributes.or_of_legacy(sysfs);
    }
    suits(sysfs, device, &attributes, timeout_s)?;
    Ok(attributes)
}

/// Whether a device with these attributes may become the host watchdog, as far as they and the
/// parameters of modules below `sysfs` tell. Says when it resets at the latest, seconds.
///
/// # Errors
/// [`ArmError`].
pub fn suits(
    sysfs: &Path,
    device: &Path,
    attributes: &Attributes,
    timeout_s: u32,
) -> Result<u32, ArmError> {
    let quirk = attributes.identity.as_deref().map(Quirk::of);
    if let Some(identity) = &attributes.identity {
        refuse_what_is_not_hardware(device, identity)?;
    }
    if let Some(quirk) = quirk {
        refuse_what_never_resets(sysfs, device, quirk)?;
    }
    let tries = quirk.map_or(vec![timeout_s], |quirk| quirk.tries(timeout_s).collect());
    let can = |timeout_s: &u32| attributes.allows_timeout(*timeout_s);
    if let Some(set_s) = tries.into_iter().find(can) {
        return Ok(quirk.map_or(set_s, |quirk| quirk.latest_s(set_s)));
    }
    let limit = |s: Option<u32>| s.map_or_else(|| "?".to_owned(), |s| s.to_string());
    Err(ArmError::Timeout {
        device: device.to_owned(),
        asked_s: timeout_s,
        instead: format!(
            "it allows {} to {} s",
            limit(attributes.min_timeout_s),
            limit(attributes.max_timeout_s)
        ),
    })
}

fn refuse_what_is_not_hardware(device: &Path, identity: &str) -> Result<(), ArmError> {
    match Quirk::of(identity).not_hardware {
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

fn refuse_what_never_resets(sysfs: &Path, device: &Path, quirk: &Quirk) -> Result<(), ArmError> {
    let Some((name, toothless)) = quirk.toothless else {
        return Ok(());
    };
    if quirk.parameter(sysfs, name).as_deref() != Some(toothless) {
        return Ok(());
    }
    let module = quirk.module;
    Err(ArmError::Unsuitable {
        device: device.to_owned(),
        identity: quirk.identity.to_owned(),
        why: format!(
            "it takes kicks and never resets, as {module}'s parameter {name} is {toothless}: \
             write reset into /sys/module/{module}/parameters/{name}"
        ),
    })
}

/// Checks the open device, sets its timeout and kicks it once.
///
/// A driver that announces options can do those alone. One that announces none at all
/// (ipmi_watchdog) may do each of them: they are tried.
fn prepare<D: Driver>(path: &Path, device: &D, promised_s: u32) -> Result<Prepared, ArmError> {
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
    let quirk = Quirk::of(&identity);
    let set = if can(WDIOF_SETTIMEOUT) {
        set_timeout(device, quirk, promised_s)
    } else {
        read_timeout(device, promised_s)
    };
    let timeout_s = set.map_err(|instead| ArmError::Timeout {
        device: path.to_owned(),
        asked_s: promised_s,
        instead,
    })?;
    device
        .keepalive()
        .map_err(|errno| unsuitable(&format!("the first kick failed: {}", errno.desc())))?;
    let mut weak = Vec::new();
    match D::ask_hardware(quirk) {
        Asked::NoWay | Asked::Runs => {}
        Asked::DoesNot(why) => return Err(unsuitable(&format!("it takes kicks, but {why}"))),
        Asked::Silent(why) => weak.push(format!("nobody can say whether it would reset: {why}")),
    }
    let latest_s = quirk.latest_s(timeout_s);
    if latest_s > promised_s {
        weak.push(format!(
            "its reset may take {latest_s} s instead of {promised_s} s"
        ));
    }
    Ok(Prepared {
        identity,
        timeout_s,
        weakness: (!weak.is_empty()).then(|| weak.join("; ")),
    })
}

/// Sets the first timeout that the device takes of those that keep what is promised, and gives
/// it. Says what the device does instead, where it takes none.
fn set_timeout<D: Driver>(device: &D, quirk: &Quirk, promised_s: u32) -> Result<u32, String> {
    let mut refused = String::new();
    for timeout_s in quirk.tries(promised_s) {
        match device.set_timeout_s(timeout_s) {
            Ok(()) => return read_timeout(device, timeout_s),
            Err(errno) => refused = format!("setting it fails: {}", errno.desc()),
        }
    }
    Err(refused)
}

fn read_timeout<D: Driver>(device: &D, expected_s: u32) -> Result<u32, String> {
    match device.timeout_s() {
        Ok(actual_s) if actual_s == expected_s => Ok(actual_s),
        Ok(actual_s) => Err(format!("it does {actual_s} s")),
        Err(errno) => Err(format!("reading it back fails: {}", errno.desc())),
    }
}

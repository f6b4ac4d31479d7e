// SPDX-License-Identifier: GPL-2.0-only
//! The host watchdog: the hardware behind /dev/watchdogN.
//!
//! In: a device and a timeout. Out: armed [`Hardware`], or an error with the device disarmed
//! again. It promises that the timeout that runs is the one that was asked for, unless it
//! says otherwise, that it stops only by [`HostWatchdog::disarm`], not because the process
//! ends, and that a device which runs is never left unkicked for a mere error.

pub use super::driver::{Asked, Driver};
use super::{Ends, HostWatchdog, LetGo, RunsOn, halves};
use crate::sys::clock::{NS_PER_MS, Suspended};
use crate::sys::notify::Notifier;
use crate::sys::watchdog::{
    WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT, WatchdogDevice,
};
use crate::watchdog::error::ArmError;
use crate::watchdog::holder::holder_of;
use crate::watchdog::quirks::Quirk;
use crate::watchdog::sysfs::{Attributes, is_misc_device};
use nix::errno::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// No sleep is so short, and two clocks are read within less, ns.
const SLEEP_NS: u64 = 500 * NS_PER_MS;
/// Time enough for a restart, seconds.
const RESTART_S: u32 = 60;

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
    /// The service manager has a copy of its descriptor: it stays open, and so armed, until the
    /// manager closes that.
    kept: bool,
    ran_on: bool,
    runs_on: RunsOn,
    /// For how long the host had been asleep when it was last started, ns.
    suspended_ns: u64,
    suspended: Suspended,
    /// Why it was not started again after a sleep; EAGAIN before the first try.
    not_started: Option<Errno>,
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
        let identity = identity_of(&device);
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

    /// Takes over a device that runs, from a guard that has ended: kicks it and sets its
    /// timeout, without opening it. As it cannot be let go of, being kept open by the service
    /// manager as well, it is kicked from now on whatever is wrong with it, which is its weakness.
    pub fn take_over(path: &Path, device: D, timeout_s: u32) -> Self {
        let unmarked = device
            .unmark()
            .err()
            .map(|error| format!("the guard before may have marked it as one to disarm ({error})"));
        let prepared = prepare(path, &device, timeout_s).unwrap_or_else(|error| Prepared {
            identity: identity_of(&device),
            timeout_s: device.timeout_s().unwrap_or(timeout_s),
            weakness: Some(format!("{error}; it runs, so it is kicked")),
        });
        let mut hardware = Self::running(device, path, prepared);
        (hardware.kept, hardware.ran_on) = (true, true);
        // Nobody knows when the host slept last: perhaps between the two guards.
        hardware.suspended_ns = 0;
        if let Some(weak) = unmarked {
            hardware.weaken(&weak);
        }
        hardware
    }

    /// Adds what is not as it should be.
    pub fn weaken(&mut self, why: &str) {
        let before = self.weakness.take().map(|before| before + "; ");
        self.weakness = Some(before.unwrap_or_default() + why);
    }

    fn running(device: D, path: &Path, prepared: Prepared) -> Self {
        let Prepared {
            identity,
            timeout_s,
            weakness,
        } = prepared;
        let suspended = Suspended::default();
        Self {
            device,
            path: path.to_owned(),
            latest_s: Quirk::of(&identity).latest_s(timeout_s),
            identity,
            timeout_s,
            weakness,
            kept: false,
            ran_on: false,
            runs_on: RunsOn {
                stopped_s: timeout_s,
                shutdown_s: 0,
            },
            suspended_ns: D::suspended_ns(&suspended),
            suspended,
            not_started: None,
        }
    }

    /// Has the service manager keep it open for the next guard, where there is one that can; and
    /// says with which timeout it runs on without a guard.
    pub fn keep(&mut self, manager: &Notifier, runs_on: RunsOn) {
        self.runs_on = runs_on;
        if self.kept {
            return;
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        match self.device.keep(manager, &name) {
            Ok(kept) => self.kept = kept,
            Err(errno) => {
                let why = errno.desc();
                self.weaken(&format!(
                    "the service manager does not keep it ({why}): a restart leaves a gap"
                ));
            }
        }
    }

    /// Whether it must go on being kicked, as nobody here can disarm it.
    #[must_use]
    pub fn must_be_kicked(&self) -> bool {
        self.kept || self.nowayout()
    }

    /// Gives it the first of these timeouts, the longest first, with which it does `least_s` at least.
    /// What then runs, seconds.
    fn lengthen(&self, timeouts: impl Iterator<Item = u32>, least_s: u32) -> Option<u32> {
        let mut runs = timeouts.take_while(|s| *s >= least_s).filter_map(|set_s| {
            self.device.set_timeout_s(set_s).ok()?;
            Some(self.device.timeout_s().unwrap_or(set_s))
        });
        runs.find(|s| *s >= least_s)
    }

    /// Gives it the time for a shutdown in order, if it can do that. What then runs, seconds.
    fn outlast_shutdown(&self) -> Option<u32> {
        let timeouts = self.runs_on.at_a_shutdown(self.timeout_s);
        self.lengthen(timeouts, self.runs_on.least_at_a_shutdown()?)
    }

    /// A host that slept (S3) may have reset its device, whose driver need not start it again
    /// (i6300esb does not): kicks would succeed, and nothing would ever fire. Tried with each kick
    /// until it is done, but where the answer would be the same; no kick counts before.
    fn start_after_sleep(&mut self) -> Result<(), Errno> {
        let suspended_ns = D::suspended_ns(&self.suspended);
        if suspended_ns.saturating_sub(self.suspended_ns) >= SLEEP_NS {
            self.suspended_ns = suspended_ns;
            self.not_started = Some(Errno::EAGAIN);
        }
        let Some(why) = self.not_started else {
            return Ok(());
        };
        // Not to be stopped (nowayout, and the kernel logs each try), or not a thing that the driver does.
        if matches!(why, Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENOTTY) {
            return Err(why);
        }
        let started = self.device.start_again();
        let started = started.and_then(|()| self.device.set_timeout_s(self.timeout_s));
        self.not_started = started.err();
        started
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

/// What the driver calls it; empty where it does not say.
fn identity_of<D: Driver>(device: &D) -> String {
    let identity = device.info().map(|info| info.identity());
    identity.unwrap_or_default()
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
        let started = self.start_after_sleep();
        self.device.keepalive()?;
        Ok(started?)
    }

    fn disarm(self) -> io::Result<()> {
        disarm(self.device, &self.path, Quirk::of(&self.identity))
    }

    fn let_go(self, why: Ends) -> LetGo {
        let quirk = Quirk::of(&self.identity);
        if why == Ends::Shutdown {
            // Closed without the magic character, here and by the service manager, it runs on.
            if let Some(within_s) = self.outlast_shutdown().map(|s| quirk.latest_s(s)) {
                return LetGo::Shutdown { within_s };
            }
        }
        let (kept, nowayout) = (self.kept, self.nowayout());
        let longer_s = match (kept, nowayout) {
            (_, true) => Some(self.runs_on.stopped_s),
            // A restart takes seconds. A host that dies just then is not to be waited for longer
            // than for one whose watchdog nobody has measured.
            (true, false) => Some(self.timeout_s.saturating_mul(2).min(RESTART_S)),
            (false, false) => None,
        };
        let longer_s = longer_s.and_then(|s| self.lengthen(halves(s), self.timeout_s + 1));
        let runs_s = longer_s.unwrap_or(self.timeout_s);
        let within_s = longer_s.map(|s| quirk.latest_s(s));
        if let Err(error) = self.device.disarm() {
            return LetGo::Runs { error, within_s };
        }
        match runs_still::<D>(&self.path, quirk) {
            Some(false) => LetGo::Disarmed,
            Some(true) if nowayout || !kept => {
                let error = io::Error::from_raw_os_error(libc::EBUSY);
                LetGo::Runs { error, within_s }
            }
            None if !kept => LetGo::Disarmed,
            _ => LetGo::Kept { after_s: runs_s },
        }
    }

    fn ran_on(&self) -> bool {
        self.ran_on
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
    match runs_still::<D>(path, quirk) {
        Some(true) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        Some(false) | None => Ok(()),
    }
}

/// Whether a device that was closed to be disarmed runs on; none where nobody tells.
fn runs_still<D: Driver>(path: &Path, quirk: &Quirk) -> Option<bool> {
    let state = D::attributes(path).state;
    let told = state.map(|state| state == "active");
    told.or_else(|| nowayout::<D>(path, quirk).then_some(true))
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

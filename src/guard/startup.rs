// SPDX-License-Identifier: GPL-2.0-only
//! Startup: everything that must hold before the host watchdog is touched.
//!
//! In: a policy. Out: a hypervisor whose evidence is served, or a failure with nothing
//! armed. Opening the device both arms and kicks it, so a host that is not served is
//! never opened: a daemon that is restarted on a host that is going down must not help
//! it live on.

use crate::config::Policy;
use crate::exit::{CONFIG, Failure, NOPERM, UNAVAILABLE};
use crate::guard::gate::{Decision, decide};
use crate::guard::ledger::Ledger;
use crate::sys::clock::{Monotonic, NS_PER_S, sleep_until};
use crate::sys::hypercall::Privcmd;
use crate::watchdog::device::{ArmError, inspect};
use crate::xen::hypfs::Hypfs;
use crate::xen::patched::Patched;
use crate::xen::stock::Stock;
use crate::xen::{Coverage, Hypervisor, Page, PageReader, ReadError};
use nix::errno::Errno;
use std::fs;
use std::io;

/// How long startup waits for served evidence: dom0 may be busy with booting.
const PATIENCE_NS: u64 = 10 * NS_PER_S;

/// Opens the hypervisor's evidence as far as the policy's coverage demands.
///
/// # Errors
/// [`UNAVAILABLE`] without Xen or without evidence; [`NOPERM`] without the privilege.
pub fn open_hypervisor(policy: &Policy) -> Result<Box<dyn Hypervisor>, Failure> {
    let privcmd = Privcmd::open().map_err(no_xen)?;
    let (major, minor) = privcmd.version().map_err(|errno| {
        Failure::new(
            UNAVAILABLE,
            format!("Xen does not answer: {}", errno.desc()),
        )
    })?;
    let mut hypfs = Hypfs::new(Privcmd::open().map_err(no_xen)?).map_err(no_xen)?;
    match (hypfs.read(Page::State).map(|_| ()), policy.coverage) {
        (Ok(()), _) => Ok(Box::new(Patched::new(hypfs))),
        (Err(ReadError::Errno(Errno::EPERM)), _) => Err(Failure::new(
            NOPERM,
            "the hypervisor refuses hypfs: this is not the control domain (dom0)",
        )),
        (Err(_), Coverage::Partial) => Ok(Box::new(Stock::new(privcmd, policy.max_age_ns()))),
        (Err(error), Coverage::Full) => Err(Failure::new(
            UNAVAILABLE,
            format!(
                "Xen {major}.{minor} shows no liveness evidence (hypfs /liveness: {}): boot a \
                 hypervisor with xen-patches applied, or set evidence.coverage = \"partial\"",
                describe(error)
            ),
        )),
    }
}

fn describe(error: ReadError) -> &'static str {
    match error {
        ReadError::Errno(errno) => errno.desc(),
        ReadError::Framing => "malformed reply",
    }
}

fn no_xen(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Failure::new(
            NOPERM,
            format!("/dev/xen/privcmd: {error}: xenwardend must run as root"),
        ),
        _ if fs::metadata("/proc/xen/capabilities").is_ok() => Failure::new(
            UNAVAILABLE,
            format!(
                "/dev/xen: {error}: load the kernel's xen-privcmd module (Linux 4.18 or later)"
            ),
        ),
        _ => Failure::new(
            UNAVAILABLE,
            format!("this machine does not run on Xen (/dev/xen: {error}): nothing to guard"),
        ),
    }
}

/// Looks at the host watchdog without opening it.
///
/// # Errors
/// [`CONFIG`] for what the configuration can mend, [`UNAVAILABLE`] without a device.
pub fn inspect_watchdog(policy: &Policy) -> Result<(), Failure> {
    let attributes = inspect(&policy.device, policy.timeout_s).map_err(arm_failure)?;
    if attributes.nowayout == Some(true) {
        log::warn!(
            "{}: nowayout is set: stopping the daemon will not disarm it",
            policy.device.display()
        );
    }
    Ok(())
}

/// The failure for an arming error.
#[must_use]
pub fn arm_failure(error: ArmError) -> Failure {
    Failure::new(arm_code(&error), error)
}

fn arm_code(error: &ArmError) -> u8 {
    match error {
        ArmError::Timeout { .. } | ArmError::NotAWatchdog { .. } => CONFIG,
        ArmError::StillArmed { first, .. } => arm_code(first),
        ArmError::Open { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => NOPERM,
        _ => UNAVAILABLE,
    }
}

/// Looks until everything is served, for a while; leaves the evidence on the ledger.
///
/// # Errors
/// [`UNAVAILABLE`] with the last reason.
pub fn await_served(
    hypervisor: &mut dyn Hypervisor,
    ledger: &Ledger,
    policy: &Policy,
) -> Result<(), Failure> {
    let deadline = Monotonic::now().plus_ns(PATIENCE_NS);
    loop {
        let evidence = hypervisor.look(Some(&ledger.snapshots));
        ledger.put_evidence(evidence);
        let now = Monotonic::now();
        match decide(now, Some(evidence), policy.max_age_ns()) {
            Decision::Kick => return Ok(()),
            Decision::Withhold(reason) if now >= deadline => {
                return Err(Failure::new(
                    UNAVAILABLE,
                    format!("not arming, as this host is not served: {reason}"),
                ));
            }
            Decision::Withhold(_) => sleep_until(now.plus_ns(policy.sample_ns)),
        }
    }
}

/// For `--check-config`: whether the device, if this machine has it, can do what the
/// configuration asks, and what it is. A device that is missing is no fault of the
/// configuration.
///
/// # Errors
/// [`CONFIG`].
pub fn check_device(policy: &Policy) -> Result<String, Failure> {
    match inspect(&policy.device, policy.timeout_s) {
        Err(ArmError::Open { .. }) => Ok(format!("{}: not here", policy.device.display())),
        Err(error) => Err(Failure::new(CONFIG, error)),
        Ok(found) => Ok(format!(
            "{}: {}{}",
            policy.device.display(),
            found.identity.as_deref().unwrap_or("identity unknown"),
            match found.nowayout {
                Some(true) => ", nowayout: cannot be disarmed",
                _ => "",
            }
        )),
    }
}

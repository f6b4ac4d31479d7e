// SPDX-License-Identifier: GPL-2.0-only
//! Why a host watchdog is not armed, in words that say what to do.

use nix::errno::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;

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
                    None if error.raw_os_error() == Some(libc::EBUSY) => {
                        write!(f, "; xenwarden check says who holds it")
                    }
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
                "a timeout of {asked_s} s (host-watchdog.timeout_s, or crash_dump.hardware_s where \
                 that is set): {} cannot do it: {instead}",
                device.display()
            ),
        }
    }
}

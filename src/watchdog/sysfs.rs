// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel tells of a watchdog without opening it: opening would arm it.
//!
//! Source: Linux `Documentation/ABI/testing/sysfs-class-watchdog`. Kernels without
//! CONFIG_WATCHDOG_SYSFS tell nothing, older ones less; what is absent is `None`.

use super::quirks::Quirk;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The attributes of a watchdog in sysfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The driver's name for it.
    pub identity: Option<String>,
    /// Least timeout it can do, seconds.
    pub min_timeout_s: Option<u32>,
    /// Greatest timeout it can do, seconds; 0 where the driver sets no limit.
    pub max_timeout_s: Option<u32>,
    /// Its present timeout, seconds.
    pub timeout_s: Option<u32>,
    /// It cannot be disarmed once armed.
    pub nowayout: Option<bool>,
    /// `active` or `inactive`.
    pub state: Option<String>,
    /// The last reset was its doing.
    pub card_reset: Option<bool>,
    /// It raises an interrupt or NMI so long before its reset, seconds; 0: it does not.
    pub pretimeout_s: Option<u32>,
    /// What the kernel does then: `panic`, or `noop`, which tells its log.
    pub pretimeout_governor: Option<String>,
}

/// `WDIOF_CARDRESET` (uapi/linux/watchdog.h).
const WDIOF_CARDRESET: u32 = 0x20;

/// A device that says nothing of a reset says that it was not its doing only if it can tell
/// at all, which its options show (in hexadecimal, with 0x; kernels before 5.20 do not).
fn card_reset(bootstatus: Option<u32>, options: Option<&str>) -> Option<bool> {
    let digits = options.and_then(|text| text.strip_prefix("0x"));
    let options = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match bootstatus? & WDIOF_CARDRESET != 0 {
        true => Some(true),
        false => (options? & WDIOF_CARDRESET != 0).then_some(false),
    }
}

impl Attributes {
    /// Reads the attributes of `device` below `sysfs` (normally /sys). Never opens the
    /// device itself; what cannot be read is absent.
    #[must_use]
    pub fn read(sysfs: &Path, device: &Path) -> Self {
        directory(sysfs, device).map_or_else(Self::default, |dir| Self::read_directory(&dir))
    }

    /// Reads those of a directory of the watchdogs' class.
    #[must_use]
    pub fn read_directory(dir: &Path) -> Self {
        let text = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let number = |name: &str| text(name)?.parse::<u32>().ok();
        Self {
            identity: text("identity"),
            min_timeout_s: number("min_timeout"),
            max_timeout_s: number("max_timeout"),
            timeout_s: number("timeout"),
            nowayout: number("nowayout").map(|n| n != 0),
            state: text("state"),
            card_reset: card_reset(number("bootstatus"), text("options").as_deref()),
            pretimeout_s: number("pretimeout"),
            pretimeout_governor: text("pretimeout_governor"),
        }
    }

    /// The same of a device that is /dev/watchdog and no other name of the class's first: of a
    /// driver without an entry there, what its module tells.
    #[must_use]
    pub fn or_of_legacy(self, sysfs: &Path) -> Self {
        if self.identity.is_some() || sysfs.join("class/watchdog/watchdog0").exists() {
            return self;
        }
        let legacy = Quirk::of_legacy(sysfs);
        Self {
            identity: legacy.map(|quirk| quirk.identity.to_owned()),
            nowayout: legacy.and_then(|quirk| quirk.nowayout(sysfs)),
            ..self
        }
    }

    /// Whether it runs with a timeout as a guard that promises `promised_s` sets it, though it
    /// could have been disarmed.
    #[must_use]
    pub fn was_left_running(&self, promised_s: u32) -> bool {
        self.state.as_deref() == Some("active")
            && self.nowayout == Some(false)
            && self.timeout_s.is_some_and(|s| s <= promised_s)
    }

    /// How long before its reset the device has dom0 panic, seconds, with a timeout of
    /// `timeout_s`: the kernel forgets a pretimeout that is no shorter (Linux
    /// `drivers/watchdog/watchdog_dev.c`).
    #[must_use]
    pub fn panics_before_s(&self, timeout_s: u32) -> Option<u32> {
        let panics = self.pretimeout_governor.as_deref() == Some("panic");
        let before_s = self.pretimeout_s.filter(|_| panics)?;
        (1..timeout_s).contains(&before_s).then_some(before_s)
    }

    /// Whether the device says that it can do `timeout_s`; true where it says nothing.
    #[must_use]
    pub fn allows_timeout(&self, timeout_s: u32) -> bool {
        let above = self.min_timeout_s.is_none_or(|min| timeout_s >= min);
        let below = self
            .max_timeout_s
            .is_none_or(|max| max == 0 || timeout_s <= max);
        above && below
    }
}

/// Whether this is /dev/watchdog, the misc device 130: WATCHDOG_MINOR (Linux
/// `include/linux/miscdevice.h`). It is the first watchdog's, or a driver's without a class.
#[must_use]
pub fn is_misc_device(device: &fs::Metadata) -> bool {
    (libc::major(device.rdev()), libc::minor(device.rdev())) == (10, 130)
}

/// The number by which a watchdog goes, whichever of its nodes has this one: /dev/watchdog is
/// watchdog0 as well, where that is there.
#[must_use]
pub fn one_number(sysfs: &Path, number: u64) -> u64 {
    if (libc::major(number), libc::minor(number)) != (10, 130) {
        return number;
    }
    let text = fs::read_to_string(sysfs.join("class/watchdog/watchdog0/dev"));
    let first = text.ok().and_then(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    });
    first.unwrap_or(number)
}

/// The class directory whose `dev` is the device's number: /dev/watchdog is a misc device
/// of its own and names the same watchdog as watchdog0.
fn directory(sysfs: &Path, device: &Path) -> Option<PathBuf> {
    let class = sysfs.join("class/watchdog");
    let metadata = fs::metadata(device).ok()?;
    if !metadata.file_type().is_char_device() {
        return None;
    }
    if is_misc_device(&metadata) {
        return Some(class.join("watchdog0"));
    }
    let number = metadata.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let wanted = format!("{major}:{minor}");
    let entries = fs::read_dir(class).ok()?.flatten();
    entries
        .map(|e| e.path())
        .find(|dir| fs::read_to_string(dir.join("dev")).is_ok_and(|text| text.trim() == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_the_driver_does_not_tell_do_not_bind() {
        let silent = Attributes::default();
        assert!(silent.allows_timeout(1) && silent.allows_timeout(u32::MAX));
        let unlimited = Attributes {
            min_timeout_s: Some(2),
            max_timeout_s: Some(0),
            ..Attributes::default()
        };
        assert!(unlimited.allows_timeout(2) && unlimited.allows_timeout(99_999));
        assert!(!unlimited.allows_timeout(1));
    }

    #[test]
    fn the_misc_device_is_the_first_watchdog_where_there_is_one() {
        let (misc, other) = (libc::makedev(10, 130), libc::makedev(248, 1));
        let sysfs = std::env::temp_dir().join(format!("xenwarden-one-{}", std::process::id()));
        assert_eq!(one_number(&sysfs, misc), misc, "a driver without a class");
        let first = sysfs.join("class/watchdog/watchdog0");
        let put = fs::create_dir_all(&first).and_then(|()| fs::write(first.join("dev"), "248:0\n"));
        assert!(put.is_ok());
        assert_eq!(one_number(&sysfs, misc), libc::makedev(248, 0));
        assert_eq!(one_number(&sysfs, other), other);
        assert!(fs::remove_dir_all(&sysfs).is_ok());
    }

    #[test]
    fn a_device_that_could_be_disarmed_and_runs_with_our_timeout_was_left_by_a_guard_that_died() {
        let left = Attributes {
            state: Some("active".to_owned()),
            nowayout: Some(false),
            timeout_s: Some(5),
            ..Attributes::default()
        };
        assert!(left.was_left_running(5));
        let others = [
            Attributes {
                state: Some("inactive".to_owned()),
                ..left.clone()
            },
            Attributes {
                nowayout: Some(true),
                ..left.clone()
            },
            Attributes {
                timeout_s: Some(60),
                ..left.clone()
            },
            Attributes {
                state: None,
                ..left
            },
        ];
        assert!(others.iter().all(|other| !other.was_left_running(5)));
    }

    #[test]
    fn a_device_that_cannot_tell_of_a_reset_denies_none() {
        let cases = [
            (None, Some("0x8180"), None),
            (Some(0x20), None, Some(true)),
            (Some(0), None, None),
            (Some(0), Some("0x8180"), None),
            (Some(0), Some("0x81a0"), Some(false)),
            (Some(0), Some("nonsense"), None),
        ];
        for (bootstatus, options, expected) in cases {
            assert_eq!(card_reset(bootstatus, options), expected);
        }
    }

    #[test]
    fn a_pretimeout_counts_where_it_fits_and_its_governor_panics() {
        let cases = [
            (Some(2), Some("panic"), Some(2)),
            (Some(4), Some("panic"), Some(4)),
            // The kernel forgets these.
            (Some(5), Some("panic"), None),
            (Some(0), Some("panic"), None),
            (Some(2), Some("noop"), None),
            (Some(2), None, None),
            (None, Some("panic"), None),
        ];
        for (pretimeout_s, governor, expected) in cases {
            let attributes = Attributes {
                pretimeout_s,
                pretimeout_governor: governor.map(str::to_owned),
                ..Attributes::default()
            };
            let panics = attributes.panics_before_s(5);
            assert_eq!(panics, expected, "{pretimeout_s:?} {governor:?}");
        }
    }
}

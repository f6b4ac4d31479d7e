// SPDX-License-Identifier: GPL-2.0-only
//! Which watchdogs a host has, and which of them the configuration means. Nothing is opened:
//! that would arm them.
//!
//! In: sysfs, and what `host-watchdog.device` says. Out: paths of devices.

use super::quirks::Quirk;
use super::sysfs::Attributes;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// How a configuration names a host watchdog. The numbers of devices follow the order in which
/// drivers were loaded, so that a path says least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The first one that is hardware and can do what is asked.
    Auto,
    /// By its device.
    Path(PathBuf),
    /// By what the driver calls it.
    Identity(String),
    /// By the driver's name.
    Driver(String),
}

impl Selector {
    /// From the configuration's words.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = |name: &str| {
            let plain = !name.is_empty() && !name.chars().any(char::is_control);
            plain.then(|| name.to_owned())
        };
        let found = match text.split_once(':') {
            _ if text == "auto" => Some(Self::Auto),
            _ if text.starts_with('/') => named(text).map(|path| Self::Path(path.into())),
            Some(("identity", name)) => named(name).map(Self::Identity),
            Some(("driver", name)) => named(name).map(Self::Driver),
            _ => None,
        };
        found.ok_or_else(|| {
            "must be \"auto\", an absolute path without control characters, \"identity:TEXT\" \
             or \"driver:NAME\""
                .to_owned()
        })
    }

    fn means(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Auto => candidate.not_hardware().is_none(),
            Self::Path(path) => *path == candidate.path,
            Self::Identity(text) => candidate.identity.as_ref() == Some(text),
            Self::Driver(name) => candidate.driver.as_ref() == Some(name),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Identity(text) => write!(f, "identity:{text}"),
            Self::Driver(name) => write!(f, "driver:{name}"),
        }
    }
}

/// A watchdog that this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its device.
    pub path: PathBuf,
    /// What its driver calls it, if the kernel tells.
    pub identity: Option<String>,
    /// Its driver, if the kernel tells.
    pub driver: Option<String>,
}

impl Candidate {
    /// Why it is not hardware, if that is known.
    #[must_use]
    pub fn not_hardware(&self) -> Option<&'static str> {
        let named = |name: &Option<String>| {
            let name = name.as_deref()?;
            Quirk::of(name)
                .not_hardware
                .or_else(|| Quirk::of_module(name)?.not_hardware)
        };
        named(&self.identity).or_else(|| named(&self.driver))
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        write!(
            f,
            "{} (identity {}, driver {})",
            self.path.display(),
            self.identity.clone().unwrap_or_else(unknown),
            self.driver.clone().unwrap_or_else(unknown)
        )
    }
}

/// The watchdogs of this host, in the order of their numbers; `sysfs` is normally /sys, `dev`
/// /dev.
#[must_use]
pub fn candidates(sysfs: &Path, dev: &Path) -> Vec<Candidate> {
    let class = fs::read_dir(sysfs.join("class/watchdog")).ok();
    let mut numbered: Vec<(u32, Candidate)> = class
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix("watchdog")?.parse().ok()?;
            let driver = entry.path().join("device/driver").canonicalize().ok();
            let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
            let candidate = Candidate {
                identity: Attributes::read_directory(&entry.path()).identity,
                path: dev.join(name),
                driver,
            };
            Some((number, candidate))
        })
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    // The misc device is another name of watchdog0, where that is there.
    let has_first = numbered.first().is_some_and(|(number, _)| *number == 0);
    let legacy = !has_first && sysfs.join("class/misc/watchdog").exists();
    let legacy = legacy.then(|| {
        let quirk = Quirk::of_legacy(sysfs);
        Candidate {
            path: dev.join("watchdog"),
            identity: quirk.map(|quirk| quirk.identity.to_owned()),
            driver: quirk.map(|quirk| quirk.module.to_owned()),
        }
    });
    let numbered = numbered.into_iter().map(|(_, candidate)| candidate);
    legacy.into_iter().chain(numbered).collect()
}

/// The devices that a selector means, in the order of preference. A path stands for itself,
/// even where nothing is known of it.
///
/// # Errors
/// That nothing fits, and what this host has.
pub fn choose(selector: &Selector, candidates: &[Candidate]) -> Result<Vec<PathBuf>, String> {
    if let Selector::Path(path) = selector {
        return Ok(vec![path.clone()]);
    }
    let found = candidates.iter().filter(|c| selector.means(c));
    let found: Vec<PathBuf> = found.map(|c| c.path.clone()).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let all: Vec<String> = candidates.iter().map(Candidate::to_string).collect();
    let all = if all.is_empty() {
        "no watchdog at all: load its driver".to_owned()
    } else {
        all.join(", ")
    };
    let what = if *selector == Selector::Auto {
        "no hardware watchdog"
    } else {
        "no such watchdog"
    };
    Err(format!(
        "host-watchdog.device = \"{selector}\": {what}; this host has {all}"
    ))
}

/// The same of all selectors, for each of them.
///
/// # Errors
/// Of the first that nothing fits.
pub fn choose_all(
    selectors: &[Selector],
    candidates: &[Candidate],
) -> Result<Vec<Vec<PathBuf>>, String> {
    let chosen = selectors.iter().map(|one| choose(one, candidates));
    chosen.collect()
}

/// Whether one of the devices that a configuration means says that the last reset of the host
/// was its doing; none where none of them can tell.
#[must_use]
pub fn fired(selectors: &[Selector], sysfs: &Path, dev: &Path) -> Option<bool> {
    let chosen = choose_all(selectors, &candidates(sysfs, dev)).unwrap_or_default();
    let told = chosen.iter().flatten();
    let told = told.filter_map(|device| Attributes::read(sysfs, device).card_reset);
    told.reduce(|one, another| one || another)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &str, identity: Option<&str>, driver: Option<&str>) -> Candidate {
        Candidate {
            path: path.into(),
            identity: identity.map(str::to_owned),
            driver: driver.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_no_hardware_is_chosen_by_name_alone() {
        let soft = candidate("/dev/watchdog0", Some("Software Watchdog"), None);
        let xen = candidate("/dev/watchdog1", None, Some("xen_wdt"));
        let hard = candidate("/dev/watchdog2", Some("iTCO_wdt"), Some("iTCO_wdt"));
        let all = [soft.clone(), xen.clone(), hard];
        let chosen = |text: &str, from: &[Candidate]| choose(&Selector::parse(text)?, from);
        let third = vec![PathBuf::from("/dev/watchdog2")];
        assert_eq!(chosen("auto", &all), Ok(third.clone()));
        assert_eq!(chosen("driver:iTCO_wdt", &all), Ok(third));
        let first = vec![PathBuf::from("/dev/watchdog0")];
        assert_eq!(chosen("identity:Software Watchdog", &all), Ok(first));
        let none = chosen("auto", &[soft, xen]).expect_err("none of them");
        assert!(
            none.contains("no hardware watchdog") && none.contains("xen_wdt"),
            "{none}"
        );
        assert!(
            chosen("auto", &[])
                .expect_err("none")
                .contains("load its driver")
        );
        let path = vec![PathBuf::from("/dev/elsewhere")];
        assert_eq!(chosen("/dev/elsewhere", &[]), Ok(path));
    }

    #[test]
    fn a_selector_is_one_of_its_forms() {
        for text in [
            "",
            "watchdog0",
            "identity:",
            "driver:",
            "driver:a\n",
            "/dev/\u{7}",
            "Auto",
        ] {
            assert!(Selector::parse(text).is_err(), "{text:?}");
        }
        for text in ["auto", "/dev/watchdog3", "identity:a: b", "driver:i6300ESB"] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn watchdogs_are_found_by_sysfs_and_the_legacy_one_by_its_module() {
        let root =
            std::env::temp_dir().join(format!("xenwarden-candidates-{}", std::process::id()));
        let (sysfs, dev) = (root.join("sys"), Path::new("/dev"));
        let put = |path: &str, text: &str| {
            let path = sysfs.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        put("class/misc/watchdog/dev", "10:130\n");
        put("module/ipmi_watchdog/parameters/action", "none\n");
        put("class/watchdog/watchdog10/identity", "ten\n");
        put("class/watchdog/watchdog2/identity", "two\n");
        put("class/watchdog/watchdog2/device/uevent", "");
        let paths = |found: &[Candidate]| -> Vec<String> {
            found.iter().map(|c| c.path.display().to_string()).collect()
        };
        let found = candidates(&sysfs, dev);
        assert_eq!(
            paths(&found),
            ["/dev/watchdog", "/dev/watchdog2", "/dev/watchdog10"]
        );
        assert_eq!(
            found[0],
            candidate("/dev/watchdog", Some("IPMI"), Some("ipmi_watchdog"))
        );
        assert_eq!(found[1].identity.as_deref(), Some("two"));
        let ipmi = Quirk::of("IPMI");
        assert_eq!(ipmi.parameter(&sysfs, "action").as_deref(), Some("none"));
        assert_eq!(ipmi.nowayout(&sysfs), None);
        put("class/watchdog/watchdog0/identity", "zero\n");
        let found = candidates(&sysfs, dev);
        assert_eq!(
            paths(&found),
            ["/dev/watchdog0", "/dev/watchdog2", "/dev/watchdog10"]
        );
        fs::remove_dir_all(root).expect("removed");
    }
}

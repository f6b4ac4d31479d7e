// SPDX-License-Identifier: GPL-2.0-only
//! Which devices the guard arms, on a made-up /sys and /dev. /dev/null and its like stand for
//! watchdogs: nothing is opened.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use nix::errno::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use xenwarden::config::Policy;
use xenwarden::config::file::File;
use xenwarden::exit::{CONFIG, NOPERM, OSERR, UNAVAILABLE};
use xenwarden::guard::devices::{Shown, arm_failure, check_devices, choose_watchdogs, paths};
use xenwarden::watchdog::candidates::Selector;
use xenwarden::watchdog::error::ArmError;

/// The character devices that stand for the watchdogs: their names and numbers.
const NODES: [(&str, &str); 3] = [("null", "1:3"), ("zero", "1:5"), ("full", "1:7")];

/// A host with these watchdogs, each by its identity, greatest timeout and nowayout.
fn host(name: &str, watchdogs: &[(&str, u32, u32)]) -> Shown {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("guard-devices")
        .join(name);
    let _ = fs::remove_dir_all(&root);
    let shown = Shown {
        sysfs: root.join("sys"),
        dev: root.join("dev"),
    };
    fs::create_dir_all(&shown.dev).expect("a directory");
    for ((number, (identity, max, nowayout)), (node, dev)) in (0..).zip(watchdogs).zip(NODES) {
        let class = shown.sysfs.join(format!("class/watchdog/watchdog{number}"));
        fs::create_dir_all(&class).expect("a directory");
        let put = |file: &str, text: String| fs::write(class.join(file), text).expect("a file");
        put("identity", format!("{identity}\n"));
        put("max_timeout", format!("{max}\n"));
        put("nowayout", format!("{nowayout}\n"));
        put("dev", format!("{dev}\n"));
        let link = shown.dev.join(format!("watchdog{number}"));
        symlink(Path::new("/dev").join(node), link).expect("a node");
    }
    shown
}

fn policy(devices: &[&str]) -> Policy {
    let mut policy = Policy::from_file(File::default()).expect("the defaults");
    let parse = |text: &&str| Selector::parse(text).expect("a selector");
    policy.devices = devices.iter().map(parse).collect();
    policy
}

fn chosen(shown: &Shown, devices: &[&str]) -> Result<Vec<PathBuf>, (u8, String)> {
    match choose_watchdogs(&policy(devices), shown) {
        Ok(chosen) => Ok(chosen.into_iter().map(|one| one.device).collect()),
        Err(failure) => Err((failure.code, failure.message)),
    }
}

#[test]
fn the_first_that_can_do_what_is_asked_is_chosen() {
    let shown = host(
        "first",
        &[("i6300ESB timer", 3, 0), ("i6300ESB timer", 600, 1)],
    );
    let second = shown.dev.join("watchdog1");
    assert_eq!(chosen(&shown, &["auto"]), Ok(vec![second.clone()]));
    let known = choose_watchdogs(&policy(&["auto"]), &shown).expect("a choice");
    let [known] = &known[..] else {
        panic!("{known:?}");
    };
    assert_eq!(known.attributes.nowayout, Some(true));
    assert_eq!(known.attributes.max_timeout_s, Some(600));
    // Each that is named, in the order of their names.
    let first = shown.dev.join("watchdog0");
    let (one, other) = (second.display().to_string(), first.display().to_string());
    let (code, message) = chosen(&shown, &[&one, &other]).expect_err("the second cannot");
    assert_eq!(code, CONFIG);
    assert!(message.contains("3 s"), "{message}");
    assert_eq!(
        paths(&[second, first]),
        format!("{one}, {other}"),
        "for people"
    );
}

#[test]
fn why_none_can_is_said_of_the_first_with_the_code_that_fits() {
    let shown = host("none", &[("Software Watchdog", 600, 0)]);
    let (code, message) = chosen(&shown, &["auto"]).expect_err("no hardware");
    assert_eq!(code, UNAVAILABLE);
    assert!(message.contains("no hardware watchdog"), "{message}");
    let (code, message) = chosen(&shown, &["identity:Software Watchdog"]).expect_err("no hardware");
    assert_eq!(code, UNAVAILABLE);
    assert!(message.contains("not hardware but"), "{message}");
    let missing = shown.dev.join("watchdog7").display().to_string();
    let (code, message) = chosen(&shown, &[&missing]).expect_err("no device");
    assert_eq!(code, UNAVAILABLE);
    assert!(message.contains("watchdog7"), "{message}");
}

#[test]
fn the_exit_code_says_whether_another_start_may_help() {
    let device = || PathBuf::from("/dev/watchdog0");
    let open = |kind: io::ErrorKind| ArmError::Open {
        device: device(),
        error: kind.into(),
        holder: None,
    };
    let timeout = || ArmError::Timeout {
        device: device(),
        asked_s: 5,
        instead: "it does 6 s".to_owned(),
    };
    let not_one = ArmError::NotAWatchdog {
        device: device(),
        errno: Errno::ENOTTY,
    };
    let still = ArmError::StillArmed {
        first: Box::new(timeout()),
        still: io::ErrorKind::ResourceBusy.into(),
    };
    let unsuitable = ArmError::Unsuitable {
        device: device(),
        identity: "x".to_owned(),
        why: "y".to_owned(),
    };
    let cases = [
        (timeout(), CONFIG),
        (not_one, CONFIG),
        // The device runs: another start would feed it.
        (still, OSERR),
        (open(io::ErrorKind::PermissionDenied), NOPERM),
        (open(io::ErrorKind::ResourceBusy), UNAVAILABLE),
        (unsuitable, UNAVAILABLE),
    ];
    for (error, code) in cases {
        let text = error.to_string();
        let failure = arm_failure(error);
        assert_eq!((failure.code, failure.message), (code, text));
    }
}

#[test]
fn the_check_of_the_configuration_says_what_each_watchdog_is() {
    let shown = host("check", &[("i6300ESB timer", 600, 0), ("iTCO_wdt", 600, 1)]);
    let checked = |devices: &[&str]| match check_devices(&policy(devices), &shown) {
        Ok(lines) => Ok(lines),
        Err(failure) => Err((failure.code, failure.message)),
    };
    let node = |name: &str| shown.dev.join(name).display().to_string();
    let (first, second, missing) = (node("watchdog0"), node("watchdog1"), node("watchdog7"));
    assert_eq!(
        checked(&["identity:i6300ESB timer", "identity:iTCO_wdt", &missing]),
        Ok(format!(
            "{first}: i6300ESB timer\n{second}: iTCO_wdt, nowayout: cannot be disarmed\n{missing}: not here"
        ))
    );
    let none = checked(&["driver:nobody"]).expect("no fault of the configuration");
    assert!(none.contains("no such watchdog"), "{none}");
    let directory = shown.dev.display().to_string();
    let (code, message) = checked(&[&directory]).expect_err("no device");
    assert_eq!(code, CONFIG);
    assert!(message.starts_with("host-watchdog.device: "), "{message}");
    let small = host("check-small", &[("i6300ESB timer", 3, 0)]);
    let failure = check_devices(&policy(&["auto"]), &small).expect_err("it cannot do 5 s");
    assert_eq!(failure.code, CONFIG);
    assert!(failure.message.contains("it allows"), "{}", failure.message);
}

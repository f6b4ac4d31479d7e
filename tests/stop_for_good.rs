// SPDX-License-Identifier: GPL-2.0-only
//! What stops all of xenwarden before it is removed: with a systemctl that writes down what it is
//! asked, and in directories of the test's own.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host on which the guard is at work.
struct Host(PathBuf);

impl Host {
    fn new(name: &str, systemctl: &str, check: &str) -> Self {
        let directory = format!("stop-for-good-{name}-{}", std::process::id());
        let host = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory));
        let _ = fs::remove_dir_all(&host.0);
        fs::create_dir_all(host.0.join("run/systemd/system")).expect("a directory");
        host.program("xenwarden", &format!("echo '{check}'"));
        let note = format!("echo \"$*\" >>{}/asked", host.0.display());
        host.program(
            "systemctl",
            &format!("{note}\ncase $* in\n{systemctl}\nis-active*) echo active ;;\nesac"),
        );
        host
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// Runs the script, as it is but for where things are.
    fn stop(&self) -> (i32, String) {
        let script = include_str!("../init/systemd/stop-for-good");
        let root = self.0.display().to_string();
        let script = script
            .replace("/run/systemd/system", &format!("{root}/run/systemd/system"))
            .replace("/usr/bin/xenwarden", &format!("{root}/xenwarden"));
        let path = format!("{root}:{}", std::env::var("PATH").expect("a PATH"));
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("PATH", path)
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("ended by itself"), said)
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.0.join("asked")).unwrap_or_default()
    }

    /// Whether a stop by hand is still allowed to what only a shutdown is to stop.
    fn is_still_allowed(&self) -> bool {
        let asked = self.asked();
        let reloaded = asked.trim_end().ends_with("daemon-reload") || asked.contains("is-failed");
        let dropin = "run/systemd/system/xenwarden-shutdown.service.d";
        self.0.join(dropin).exists() || !reloaded
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_is_stopped_at_once_and_a_stop_by_hand_is_refused_again_afterwards() {
    let host = Host::new("all", "*is-failed*) exit 1 ;;", "ok");
    assert_eq!(host.stop(), (0, String::new()));
    let stop = "stop xenwarden-monitor.service xenwardend.service xenwarden-shutdown.service\n";
    assert!(host.asked().contains(stop), "{}", host.asked());
    let first = "stop xenwarden-pulse@*.service xenwarden-qemu@*.service xenwarden-pool.service\nstop run-xenwarden_qemu_trace.mount\n";
    assert!(
        host.asked().contains(&format!("{first}{stop}")),
        "{}",
        host.asked()
    );
    assert!(!host.is_still_allowed());
}

#[test]
fn a_guard_that_cannot_disarm_is_not_stopped() {
    let host = Host::new(
        "nowayout",
        "",
        "WEAK host watchdog: nowayout: a stop leaves it armed",
    );
    let (code, said) = host.stop();
    assert_eq!(code, 1);
    assert!(said.contains("cannot be disarmed"), "{said}");
    assert!(!host.asked().contains("stop "), "{}", host.asked());
}

#[test]
fn a_guard_that_has_failed_to_disarm_is_started_again() {
    let systemctl = "is-active*) echo failed; exit 3 ;;";
    let host = Host::new("stopped-before", systemctl, "WEAK: nowayout: a stop of it");
    let (code, said) = host.stop();
    assert_eq!(code, 1);
    assert!(said.contains("cannot be disarmed"), "{said}");
    let asked = host.asked();
    assert!(asked.ends_with("start xenwardend.service\n"), "{asked}");
    // One that is not there is nothing to stay for.
    let systemctl = "is-active*) echo inactive; exit 3 ;;";
    let host = Host::new("inactive", systemctl, "WEAK: nowayout: a stop of it");
    assert_eq!(host.stop().0, 0);
}

#[test]
fn where_the_guard_did_not_end_well_it_is_started_again() {
    let host = Host::new("failed", "", "ok");
    let (code, said) = host.stop();
    assert_eq!(code, 1);
    assert!(said.contains("started again"), "{said}");
    assert!(
        host.asked().ends_with("start xenwardend.service\n"),
        "{}",
        host.asked()
    );
    assert!(!host.is_still_allowed());
}

#[test]
fn a_stop_that_fails_is_told_and_leaves_no_allowance_behind() {
    let host = Host::new("stop", "stop*) exit 5 ;;\n*is-failed*) exit 1 ;;", "ok");
    let (code, said) = host.stop();
    assert_eq!(code, 1);
    assert!(said.contains("systemctl could not stop"), "{said}");
    let asked = host.asked();
    assert!(asked.ends_with("start xenwardend.service\n"), "{asked}");
    assert!(!host.is_still_allowed());
}

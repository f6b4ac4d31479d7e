// SPDX-License-Identifier: GPL-2.0-only
//! What tells the guard of a shutdown before systemd stops it: with a systemctl that has the jobs of a
//! real one.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Which signal a guard gets from the script, if any, and how the script ends.
fn signal(systemctl: &str) -> (Option<i32>, bool) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = format!("stopping-{}-{number}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("systemctl");
    fs::write(&program, format!("#!/bin/sh\n{systemctl}\n")).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    // It ends when its stdin does.
    let guard = Command::new("cat").stdin(Stdio::piped()).spawn();
    let mut guard = guard.expect("cat");
    let path = std::env::var("PATH").expect("a PATH");
    let ended = Command::new("sh")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/init/systemd/stopping"
        ))
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("MAINPID", guard.id().to_string())
        .status();
    drop(guard.stdin.take());
    let signal = guard.wait().expect("waited for").signal();
    fs::remove_dir_all(folder).expect("removed");
    (signal, ended.expect("sh").success())
}

fn jobs(jobs: &str) -> (Option<i32>, bool) {
    signal(&format!("cat <<'END'\n{jobs}\nEND"))
}

#[test]
fn a_shutdown_is_told_to_the_guard() {
    for target in ["reboot", "poweroff", "kexec"] {
        let shutdown = format!(
            "  345 xenwardend.service     stop  running\n\
             \x20 312 systemd-{target}.service start waiting\n\
             \x20 300 {target}.target          start waiting"
        );
        assert_eq!(jobs(&shutdown), (Some(libc::SIGPWR), true), "{target}");
    }
}

#[test]
fn nothing_else_is_taken_for_a_shutdown() {
    for other in [
        "  345 xenwardend.service stop running",
        "  345 xenwardend.service restart waiting",
        "  300 halt.target start waiting",
        "  300 rescue.target start waiting",
        "  300 soft-reboot.target start waiting",
        "  300 my-reboot.target start waiting",
        "  300 reboot.target.wants start waiting",
        "  300 reboot.target stop waiting",
        "No jobs running.",
    ] {
        assert_eq!(jobs(other).0, None, "{other}");
    }
}

#[test]
fn where_systemd_does_not_answer_or_the_guard_is_gone_nobody_is_told() {
    assert_eq!(signal("exit 1").0, None);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/init/systemd/stopping");
    let ended = Command::new("sh")
        .arg(script)
        .env_remove("MAINPID")
        .status();
    assert!(ended.expect("sh").success());
}

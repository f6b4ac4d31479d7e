// SPDX-License-Identifier: GPL-2.0-only
//! What tells the guard of a shutdown before systemd stops it: with a systemctl that has the jobs of a
//! real one.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A guard, and one of an earlier version, which that signal kills.
const GUARD: &str = "trap 'exit 30' PWR; echo ready; while read line; do :; done; exit 0";
const EARLIER: &str = "echo ready; while read line; do :; done; exit 0";

/// Whether such a guard is told of a shutdown by the script, with this systemctl; none: it is killed.
fn told(guard: &str, systemctl: &str) -> Option<bool> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = format!("stopping-{}-{number}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("systemctl");
    fs::write(&program, format!("#!/bin/sh\n{systemctl}\n")).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    // It ends when its stdin does.
    let guard = Command::new("sh")
        .args(["-c", guard])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut guard = guard.expect("sh");
    let mut ready = [0; 6];
    let stdout = guard.stdout.as_mut().expect("a pipe");
    stdout.read_exact(&mut ready).expect("ready");
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
    let code = guard.wait().expect("waited for").code();
    fs::remove_dir_all(folder).expect("removed");
    ended.expect("sh");
    code.map(|code| code == 30)
}

fn jobs(jobs: &str) -> String {
    format!("cat <<'END'\n{jobs}\nEND")
}

#[test]
fn a_shutdown_is_told_to_the_guard() {
    for target in ["reboot", "poweroff"] {
        let shutdown = format!(
            "  345 xenwardend.service     stop  running\n\
             \x20 312 systemd-{target}.service start waiting\n\
             \x20 300 {target}.target          start waiting"
        );
        assert_eq!(told(GUARD, &jobs(&shutdown)), Some(true), "{target}");
        assert_eq!(told(EARLIER, &jobs(&shutdown)), Some(false), "{target}");
    }
}

#[test]
fn nothing_else_is_taken_for_a_shutdown() {
    for other in [
        "  345 xenwardend.service stop running",
        "  345 xenwardend.service restart waiting",
        "  300 halt.target start waiting",
        "  300 kexec.target start waiting",
        "  300 rescue.target start waiting",
        "  300 soft-reboot.target start waiting",
        "  300 my-reboot.target start waiting",
        "  300 reboot.target.wants start waiting",
        "  300 reboot.target stop waiting",
        "  300 reboot.target          stop          waiting",
        "  300 reboot.target          verify-active waiting",
        "No jobs running.",
    ] {
        assert_eq!(told(GUARD, &jobs(other)), Some(false), "{other}");
    }
}

#[test]
fn where_systemd_does_not_answer_or_the_guard_is_gone_nobody_is_told() {
    assert_eq!(told(GUARD, "exit 1"), Some(false));
    // Not even SIGTERM ends it.
    assert_eq!(told(GUARD, "trap '' TERM; sleep 1000"), Some(false));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/init/systemd/stopping");
    for pid in ["", "0", "4194305"] {
        let ended = Command::new("sh").arg(script).env("MAINPID", pid).status();
        assert!(ended.expect("sh").success(), "{pid:?}");
    }
}

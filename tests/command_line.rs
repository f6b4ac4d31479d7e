// SPDX-License-Identifier: GPL-2.0-only
//! The two programs from outside: exit codes and the one line that they say, on a machine
//! without Xen or with a configuration that cannot be.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).expect("scratch directory");
    directory
}

fn config(name: &str, text: &[u8]) -> PathBuf {
    let path = scratch("config").join(name);
    fs::write(&path, text).expect("write");
    path
}

fn xenwardend(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwardend"));
    command.args(arguments).output().expect("runs")
}

fn xenwarden(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    command.args(arguments).output().expect("runs")
}

/// The one line on stderr, with the exit code.
fn error_line(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "one line: {text:?}");
    (output.status.code().expect("not killed"), text)
}

#[test]
fn a_bad_configuration_is_one_clear_line_and_exit_78() {
    let cases: [(&str, &[u8], &str); 6] = [
        ("unknown-key", b"[evidence]\nsamples = 3\n", "samples"),
        ("unknown-section", b"[evidences]\n", "evidences"),
        ("malformed", b"[evidence\n", ":1:"),
        ("not-text", b"\xff\xfe\x00", "UTF-8"),
        ("fighting", b"[host-watchdog]\ntimeout_s = 2\n", "fight"),
        ("twice", b"[log]\nsyslog = true\n[log]\n", ":3:"),
    ];
    for (name, text, part) in cases {
        let path = config(name, text);
        let path = path.to_str().expect("a plain path");
        for check in [
            &["--config", path][..],
            &["--config", path, "--check-config"],
        ] {
            let (code, line) = error_line(&xenwardend(check));
            assert_eq!(code, 78, "{name}");
            assert!(line.contains(path) && line.contains(part), "{name}: {line}");
        }
    }
}

#[test]
fn a_missing_or_unreadable_configuration_is_exit_78() {
    let directory = scratch("config");
    for path in [directory.join("missing"), directory] {
        let path = path.to_str().expect("a plain path");
        let (code, line) = error_line(&xenwardend(&["--config", path]));
        assert_eq!(code, 78);
        assert!(line.contains(path), "{line}");
    }
}

#[test]
fn a_good_configuration_is_said_to_be_ok() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/init/xenwarden.conf");
    let output = xenwardend(&["--check-config", "--config", shipped]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn check_config_tells_all_that_is_wrong_in_one_run() {
    let text = b"[host-watchdog]\ndevice = \"/dev/null\"\n[state]\ndirectory = \"/proc/version\"\n\
                 [[hook]]\nkinds = [\"alarm.\"]\nprogram = \"/nowhere/hook\"\n";
    let path = config("wrong-host", text);
    let path = path.to_str().expect("a plain path");
    let output = xenwardend(&["--check-config", "--config", path]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).expect("text");
    for key in ["host-watchdog.device", "state.directory", "hook 1: program"] {
        assert!(text.contains(&format!("{path}: {key}")), "{key}: {text}");
    }
    for line in text.lines() {
        let rest = line.strip_prefix(&format!("xenwardend: {path}: "));
        let named = rest
            .and_then(|rest| rest.split_once(": "))
            .is_some_and(|(key, _)| {
                key.contains('.') && !key.contains('/') || key.starts_with("hook ")
            });
        assert!(named, "each line names the file and the key: {line}");
    }
}

#[test]
fn without_xen_it_says_so_and_exits_69() {
    if Path::new("/proc/xen").exists() {
        return; // On Xen itself the lab's scenarios are the test.
    }
    let path = config("empty", b"");
    let (code, line) = error_line(&xenwardend(&["--config", path.to_str().expect("plain")]));
    assert_eq!(code, 69);
    assert!(line.contains("does not run on Xen"), "{line}");
}

#[test]
fn unknown_arguments_are_exit_64() {
    assert_eq!(error_line(&xenwardend(&["--frobnicate"])).0, 64);
    let cases: [&[&str]; 9] = [
        &["why", "--watch"],
        &["frobnicate"],
        &["status", "--watch"],
        &["check", "--watch"],
        &["guests", "--follow"],
        &["events", "--since", "yesterday"],
        &["events", "--kind", "guest.eaten"],
        &["ack"],
        &["ack", "a", "b"],
    ];
    for arguments in cases {
        assert_eq!(error_line(&xenwarden(arguments)).0, 64, "{arguments:?}");
    }
}

#[test]
fn help_explains_every_command_and_option_and_is_exit_0() {
    for arguments in [&["help"][..], &["--help"], &["-h"], &["events", "--help"]] {
        let output = xenwarden(arguments);
        assert!(output.status.success() && output.stderr.is_empty());
    }
    let text = String::from_utf8(xenwarden(&["-h"]).stdout).expect("text");
    for part in [
        "status",
        "guests",
        "events",
        "ack",
        "check",
        "why",
        "--config",
        "--socket",
        "Exit codes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_sockets_are_where_the_configuration_says() {
    let nowhere = scratch("status").join("configured.sock");
    let text = format!("[control]\nsocket = {nowhere:?}\n");
    let path = config("sockets", text.as_bytes());
    let argument = format!("--config={}", path.display());
    let (code, line) = error_line(&xenwarden(&["status", &argument]));
    assert_eq!(code, 2);
    assert!(line.contains("configured.sock"), "{line}");
    let (code, line) = error_line(&xenwarden(&["guests", "--config", "/no/such/file"]));
    assert_eq!(code, 2);
    assert!(line.contains("/no/such/file"), "{line}");
}

#[test]
fn a_status_that_cannot_be_had_is_exit_2() {
    let nowhere = scratch("status").join("nowhere.sock");
    let nowhere = nowhere.to_str().expect("a plain path");
    assert_eq!(
        error_line(&xenwarden(&["status", "--socket", nowhere])).0,
        2
    );
}

/// What the command line makes of a monitor that answers `answer`.
fn status_from(name: &str, answer: &'static [u8]) -> Output {
    let path = scratch("status").join(name);
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("bind");
    let monitor = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        reader.read_line(&mut request).expect("a request");
        stream.write_all(answer).expect("answer");
        request
    });
    let output = xenwarden(&["status", "--socket", path.to_str().expect("plain")]);
    assert_eq!(monitor.join().expect("no panic"), "status\n");
    output
}

#[test]
fn an_answer_that_is_not_understood_is_exit_2_never_fine() {
    let answers: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("garbage", b"\xff\xff{}\n"),
        ("half", b"{\"version\":1,\"host_watchdog\":"),
        ("other", b"{}\n"),
        ("refusal", b"{\"error\":\"no\"}\n"),
    ];
    for (name, answer) in answers {
        assert_eq!(error_line(&status_from(name, answer)).0, 2, "{name}");
    }
}

#[test]
fn an_order_to_inhibit_that_cannot_be_is_refused_in_one_line() {
    let path = config("maintenance", b"[maintenance]\nlongest_s = 600\n");
    let path = path.to_str().expect("a plain path");
    let long = "a".repeat(201);
    let cases = [
        ("11m", "fans", "at most 10 min (maintenance.longest_s)"),
        ("1m", " ", "give a reason"),
        ("1m", long.as_str(), "at most 200 characters"),
    ];
    for (span, reason, part) in cases {
        let words = [
            "--config", path, "inhibit", "--for", span, "--reason", reason,
        ];
        let (code, line) = error_line(&xenwarden(&words));
        assert_eq!(code, 1);
        assert!(line.contains(part), "{line}");
    }
    if !Path::new("/run/xenwarden/inhibit").exists() {
        let (code, line) = error_line(&xenwarden(&["--config", path, "resume"]));
        assert_eq!(code, 1);
        assert!(line.contains("no guard has run since the boot"), "{line}");
    }
}

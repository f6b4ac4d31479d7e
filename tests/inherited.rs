// SPDX-License-Identifier: GPL-2.0-only
//! What a service manager kept for the next guard (sd_listen_fds(3)): a child takes it, once, and only
//! if it is meant; and what is no watchdog is closed.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use xenwarden::guard::devices::{Shown, running};
use xenwarden::sys::inherited::inherited;

/// Says that this process is the child.
const CHILD: &str = "XENWARDEN_TEST_INHERITED";

fn child() {
    let taken = inherited();
    let numbers: Vec<i32> = taken.iter().map(AsRawFd::as_raw_fd).collect();
    assert!(inherited().is_empty(), "they are there once");
    let path = |n: &i32| fs::read_link(format!("/proc/self/fd/{n}")).expect("open");
    let paths: Vec<PathBuf> = numbers.iter().map(path).collect();
    // Neither a device that is no watchdog nor a file is one.
    let left = running(taken, &[PathBuf::from("/dev/watchdog")], &Shown::default());
    assert!(left.is_empty());
    let open = fs::read_link("/proc/self/fd/3").is_ok();
    assert_eq!(open, numbers.is_empty(), "what is taken is closed");
    println!("took {numbers:?} {paths:?}.");
}

#[test]
fn what_was_kept_for_this_process_is_taken_once_and_what_is_no_watchdog_is_closed() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    // As the harness calls it: the mutants' one program of all tests has it in a module.
    let thread = std::thread::current();
    let name = thread.name().expect("a test's thread has its name");
    let program = std::env::current_exe().expect("a path");
    let program = program.to_str().expect("a text");
    for (environment, expected) in [
        (
            "LISTEN_PID=$$ LISTEN_FDS=2",
            r#"[3, 4] ["/dev/null", "/etc/passwd"]"#,
        ),
        // More than there are, and a number that nobody means.
        (
            "LISTEN_PID=$$ LISTEN_FDS=4",
            r#"[3, 4] ["/dev/null", "/etc/passwd"]"#,
        ),
        ("LISTEN_PID=$$ LISTEN_FDS=-1", "[] []"),
        ("LISTEN_PID=1 LISTEN_FDS=2", "[] []"),
        ("LISTEN_FDS=2", "[] []"),
    ] {
        let line = format!("{environment} exec {program} {name} --exact --nocapture");
        let line = format!("exec 3< /dev/null 4< /etc/passwd; {line}");
        let mut command = Command::new("sh");
        let output = command.args(["-c", &line]).env(CHILD, "1").output();
        let output = output.expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&format!("took {expected}.")), "{said}");
    }
}

/// /dev/null and /dev/zero stand for two watchdogs: they are devices, and opening them harms nobody.
#[test]
fn a_watchdog_that_was_kept_goes_by_the_name_that_is_chosen_or_by_its_own() {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("inherited");
    let _ = fs::remove_dir_all(&root);
    let (sysfs, dev) = (root.join("sys"), root.join("dev"));
    fs::create_dir_all(&dev).expect("made");
    for (name, device) in [("watchdog3", "/dev/null"), ("watchdog4", "/dev/zero")] {
        fs::create_dir_all(sysfs.join("class/watchdog").join(name)).expect("made");
        std::os::unix::fs::symlink(device, dev.join(name)).expect("made");
    }
    let shown = Shown { sysfs, dev };
    let open = |path: &str| std::os::fd::OwnedFd::from(fs::File::open(path).expect("opens"));
    let kept = || {
        [
            "/dev/null",
            "/etc/passwd",
            "/dev/full",
            "/dev/zero",
            "/dev/null",
        ]
        .map(open)
    };
    let names = |chosen: &[PathBuf]| -> Vec<PathBuf> {
        let running = running(kept().into(), chosen, &shown).into_iter();
        running.map(|(path, _)| path).collect()
    };
    let own = ["watchdog3", "watchdog4"].map(|name| shown.dev.join(name));
    assert_eq!(names(&[]), own, "each once, and nothing else");
    let other = root.join("by-another-name");
    std::os::unix::fs::symlink("/dev/zero", &other).expect("made");
    assert_eq!(
        names(std::slice::from_ref(&other)),
        [own[0].clone(), other.clone()]
    );
}

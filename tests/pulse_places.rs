// SPDX-License-Identifier: GPL-2.0-only
//! Places to listen at, and places for connections, where they are taken, stopped or short.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as join, listen, socket,
};
use pulse_stage::{PULSE, Process, Pulses, Stage, connect, free_port, wait_until};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn unix_socket(flags: SockFlag) -> OwnedFd {
    socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket")
}

/// Listens, accepts nobody, and has no room for another in its queue: as a stopped process.
fn stopped(path: &Path) -> Vec<OwnedFd> {
    let address = UnixAddr::new(path).expect("an address");
    let listener = unix_socket(SockFlag::empty());
    bind(listener.as_raw_fd(), &address).expect("binds");
    listen(&listener, Backlog::new(0).expect("a backlog")).expect("listens");
    let mut all = vec![listener];
    loop {
        let client = unix_socket(SockFlag::SOCK_NONBLOCK);
        if join(client.as_raw_fd(), &address).is_err() {
            return all;
        }
        all.push(client);
    }
}

#[test]
fn a_stopped_process_at_a_place_is_in_use_and_not_waited_for() {
    let stage = Stage::new();
    let path = stage.named("node.sock");
    let _node = stopped(Path::new(&path));
    let text = format!("[heartbeat.h]\nlisten = \"unix:{path}\"\n");
    stage.write("taken.toml", &text);
    let output = stage.output(&["--config", "taken.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("cannot listen at"), "{said}");
    assert!(Path::new(&path).exists(), "it is not replaced");
    // Without its status socket, heartbeats are watched all the same.
    let _status = stopped(&stage.path("run/xenwarden-pulse/other.sock"));
    let port = free_port();
    let text = format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\n");
    let other = stage.start_with("other", &text);
    other.wait_for("will not show this program");
}

#[test]
fn a_plan_that_may_need_more_descriptors_than_there_are_is_refused() {
    let stage = Stage::new();
    let port = free_port();
    let text = format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\nmax_connections = 100\n");
    let file = stage.write("many.toml", &text);
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 150; exec \"$0\" --run \"$1\" --config \"$2\"",
        ])
        .arg(env!("CARGO_BIN_EXE_xenwarden-pulse"))
        .args([stage.path("run"), file])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("164 descriptors"), "{said}");
    assert!(said.contains("max_connections"), "{said}");
}

fn limit_descriptors(program: &Process, most: usize) {
    let done = Command::new("prlimit")
        .args(["--pid", &program.id().to_string()])
        .arg(format!("--nofile={most}:"))
        .status();
    assert!(done.expect("it runs").success());
}

#[test]
fn where_descriptors_run_out_who_has_proved_nothing_gives_way() {
    let stage = Stage::new();
    let port = free_port();
    let text = format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\ntimeout_ms = 30000\n");
    let program = stage.start_with("short", &text);
    let descriptors = || {
        let all = fs::read_dir(format!("/proc/{}/fd", program.id())).expect("it runs");
        let numbers = all.flatten().map(|entry| entry.file_name());
        let numbers = numbers.filter_map(|name| name.to_str()?.parse::<usize>().ok());
        numbers.collect::<Vec<_>>()
    };
    let before = descriptors().len();
    let idle: Vec<_> = (0..4).map(|_| connect(port)).collect();
    wait_until("all are accepted", || {
        (descriptors().len() >= before + idle.len()).then_some(())
    });
    // What it was started with may have any number.
    let taken = descriptors();
    let free = (0..).find(|number| !taken.contains(number)).expect("one");
    limit_descriptors(&program, free);
    // It finds them all at once, the one that is to stay last.
    program.signal(Signal::SIGSTOP);
    let _more: Vec<_> = (0..8).map(|_| connect(port)).collect();
    let _pulses = Pulses::over(connect(port), PULSE, Duration::from_millis(100));
    program.signal(Signal::SIGCONT);
    program.wait_for("armed by");
    limit_descriptors(&program, 256);
    program.wait_for_state("h", "armed");
    assert_eq!(program.times("accepts nobody"), 0, "{}", program.log());
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden pulses`: all programs' heartbeats at a glance, and what a program that does not answer hides.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod pulse_stage;

use pulse_stage::{PULSE, Pulses, Stage, connect, free_port};
use serde_json::Value;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::time::Duration;

fn pulses(stage: &Stage, more: &[&str]) -> Output {
    let place = stage.named("run/xenwarden-pulse");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    command.args(["pulses", "--socket", &place]).args(more);
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn all_heartbeats_of_all_programs_are_in_one_table_and_a_lost_one_is_seen_at_once() {
    let stage = Stage::new();
    let ports = [(); 3].map(|()| free_port());
    let [a, b, c] = ports;
    let colo = stage.start_with(
        "colo",
        &format!("[heartbeat.heart1]\nlisten = \"127.0.0.1:{a}\"\ntimeout_ms = 60000\n[heartbeat.heart2]\nlisten = \"127.0.0.1:{b}\"\n"),
    );
    let guests = stage.start_with("guests", &format!("[heartbeat.web]\nlisten = \"127.0.0.1:{c}\"\nprotocol = \"any\"\npulse_interval_ms = 100\ntimeout_ms = 800\n"));
    let each = Duration::from_millis(50);
    let _heart = Pulses::over(connect(a), PULSE, each);
    let web = Pulses::over(connect(c), b".", each);
    colo.wait_for("heart1: armed");
    guests.wait_for("web: armed");
    assert_eq!(pulses(&stage, &["--json"]).status.code(), Some(0));
    drop(web);
    guests.wait_for("LOST");
    let output = pulses(&stage, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = text(&output.stdout);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let has = |words: &[&str]| {
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(has(&["HEARTBEAT", "PEER", "STATE", "LOSSES"]), "{table}");
    assert!(has(&["heart1", "colo", "auto", "armed", "0"]), "{table}");
    assert!(has(&["heart2", "colo", "auto", "waiting", "-"]), "{table}");
    assert!(has(&["web", "guests", "any", "LOST", "1"]), "{table}");
    let json: Value = serde_json::from_slice(&pulses(&stage, &["--json"]).stdout).expect("JSON");
    let programs: Vec<&Value> = json
        .as_array()
        .expect("programs")
        .iter()
        .map(|p| &p["program"])
        .collect();
    assert_eq!(programs, ["colo", "guests"]);
}

#[test]
fn a_program_that_does_not_answer_is_told_and_hides_no_other() {
    let stage = Stage::new();
    let port = free_port();
    let _program = stage.start_with(
        "colo",
        &format!("[heartbeat.heart1]\nlisten = \"127.0.0.1:{port}\"\n"),
    );
    let _hung = UnixListener::bind(stage.path("run/xenwarden-pulse/hung.sock")).expect("binds");
    let dead = stage.path("run/xenwarden-pulse/dead.sock");
    drop(UnixListener::bind(&dead).expect("binds"));
    let output = pulses(&stage, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).contains("heart1"), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("hung.sock: no answer within 5 s"), "{said}");
    assert!(said.contains("dead.sock: Connection refused"), "{said}");
}

#[test]
fn where_no_program_runs_that_is_said() {
    let stage = Stage::new();
    let output = pulses(&stage, &[]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "no heartbeat is watched\n")
    );
    std::fs::remove_dir_all(stage.path("run/xenwarden-pulse")).expect("removed");
    let output = pulses(&stage, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("does xenwarden-pulse run?"),
        "{output:?}"
    );
}

// SPDX-License-Identifier: GPL-2.0-only
//! A thousand heartbeats of one second in one process: none is lost, and with `--nocapture` what they cost.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use pulse_stage::{Process, Stage, wait_until};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Two programs that hear each other over so many unix sockets.
fn pair(stage: &Stage, count: usize, sealed: bool) -> [Process; 2] {
    let key = stage.write_key("key", "0123456789abcdef0123456789abcdef");
    let [listens, connects] = ["listen", "connect"].map(|word| {
        let mut text = String::new();
        for n in 0..count {
            let at = stage.named(&format!("{n}.sock"));
            let answers = word == "connect";
            let _ = write!(text, "[heartbeat.h{n}]\n{word} = \"unix:{at}\"\nanswers = {answers}\npulse_interval_ms = 1000\ntimeout_ms = 10000\n");
            if sealed {
                let _ = writeln!(text, "key = \"{key}\"");
            }
        }
        text
    });
    [
        stage.start_with("listens", &listens),
        stage.start_with("connects", &connects),
    ]
}

fn all_armed(program: &Process, count: usize) {
    wait_until("all are armed", || {
        let status = program.status();
        let beats = status["heartbeats"].as_array().expect("heartbeats");
        let armed = beats.iter().filter(|beat| beat["state"] == "armed").count();
        (armed == count).then_some(())
    });
}

fn losses(program: &Process) -> u64 {
    let status = program.status();
    let beats = status["heartbeats"].as_array().expect("heartbeats");
    beats
        .iter()
        .filter_map(|beat| beat["losses"].as_u64())
        .sum()
}

#[test]
fn hundreds_of_heartbeats_are_armed_and_none_is_lost() {
    let stage = Stage::new();
    let programs = pair(&stage, 300, false);
    for program in &programs {
        all_armed(program, 300);
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(programs.each_ref().map(losses), [0, 0]);
}

/// The figures, for the manual and the notes: run alone, with a release build.
#[test]
#[ignore = "takes two minutes and prints figures: --release --ignored --nocapture"]
fn a_thousand_heartbeats_of_one_second_cost_this() {
    println!("heartbeats  sealed  CPU of one core  resident memory  worst lateness  losses");
    for (count, sealed) in [(100, false), (1_000, false), (1_000, true)] {
        let stage = Stage::new();
        let programs = pair(&stage, count, sealed);
        for program in &programs {
            all_armed(program, count);
        }
        let (start, before) = (Instant::now(), programs.each_ref().map(Process::cpu_ticks));
        std::thread::sleep(Duration::from_secs(30));
        for (program, before) in programs.iter().zip(before) {
            let spent = u128::from(program.cpu_ticks() - before) * 10;
            let permille = spent * 1_000 / start.elapsed().as_millis();
            let late = program.status()["worst_late_us"]
                .as_u64()
                .expect("a number");
            println!(
                "{count:>10}  {sealed:>6}  {:>13}.{} %  {:>11} KiB  {late:>11} us  {:>6}",
                permille / 10,
                permille % 10,
                program.memory_kib(),
                losses(program)
            );
        }
    }
}

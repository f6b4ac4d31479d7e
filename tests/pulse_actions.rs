// SPDX-License-Identifier: GPL-2.0-only
//! What is done for a loss: scripts, commands of QMP, hooks, leases; each told, none in another's way.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use nix::sys::signal::Signal;
use pulse_stage::{
    LIMIT, PULSE, Process, Pulses, Stage, connect, free_port, wait_for_file, wait_until,
};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_millis(50);

/// A heartbeat that was armed and has nobody any more.
fn bereft(stage: &Stage, name: &str, more: &str) -> Process {
    let port = free_port();
    let text = format!(
        "[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 800\n{more}\n"
    );
    let program = stage.start_with(name, &text);
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    program.wait_for("h: armed by");
    drop(pulses);
    program
}

/// A QMP monitor that answers as `answer` says; the commands that it was given.
fn monitor(listener: &UnixListener, answer: impl Fn(&str) -> Value) -> Vec<String> {
    let (stream, _) = listener.accept().expect("a client");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    let mut out = stream.try_clone().expect("a copy");
    let mut say = |value: Value| out.write_all(format!("{value}\r\n").as_bytes());
    say(json!({"QMP": {"version": {}, "capabilities": []}})).expect("said");
    let mut commands = Vec::new();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let command: Value = serde_json::from_str(&line).expect("JSON");
        let name = command["execute"].as_str().expect("a command").to_owned();
        let _ = say(json!({"event": "RESUME", "timestamp": {}}));
        let mut answer = answer(&name);
        answer["id"] = command["id"].clone();
        commands.push(name);
        if say(answer).is_err() {
            break;
        }
    }
    commands
}

#[test]
fn commands_of_qmp_are_given_in_their_order_after_the_handshake() {
    let stage = Stage::new();
    let listener = UnixListener::bind(stage.path("qmp.sock")).expect("binds");
    let program = bereft(
        &stage,
        "qmp",
        &format!(
            "notify_connect = \"unix:{}\"\nqmp = ['{{\"execute\": \"nbd-server-stop\"}}', '{{\"execute\": \"x-colo-lost-heartbeat\"}}']",
            stage.named("qmp.sock")
        ),
    );
    let commands = monitor(&listener, |_| json!({"return": {}}));
    assert_eq!(
        commands,
        [
            "qmp_capabilities",
            "nbd-server-stop",
            "x-colo-lost-heartbeat"
        ]
    );
    program.wait_for("giving the commands of QMP is done");
}

#[test]
fn a_command_that_is_refused_is_told_and_ends_the_talk() {
    let stage = Stage::new();
    let listener = UnixListener::bind(stage.path("qmp.sock")).expect("binds");
    let program = bereft(
        &stage,
        "qmp",
        &format!(
            "notify_connect = \"unix:{}\"\nqmp = ['{{\"execute\": \"one\"}}', '{{\"execute\": \"two\"}}']",
            stage.named("qmp.sock")
        ),
    );
    let commands = monitor(&listener, |name| match name {
        "one" => json!({"error": {"class": "GenericError", "desc": "not in COLO"}}),
        _ => json!({"return": {}}),
    });
    assert_eq!(commands, ["qmp_capabilities", "one"]);
    program.wait_for("giving the commands of QMP FAILED");
    program.wait_for("is refused: not in COLO");
}

#[test]
fn a_monitor_that_never_reads_and_one_that_is_not_there_are_told_and_delay_nobody() {
    let stage = Stage::new();
    stage.write("long", &"x_colo_lost_heartbeat\n".repeat(2_900));
    let script = stage.named("long");
    let deaf = UnixListener::bind(stage.path("deaf.sock")).expect("binds");
    let mute = UnixListener::bind(stage.path("mute.sock")).expect("binds");
    let (healthy, lost) = (free_port(), free_port());
    let beats = ["deaf", "absent", "mute"].map(|name| {
        let port = if name == "deaf" { lost } else { free_port() };
        let message = match name {
            "mute" => "qmp = ['{\"execute\": \"quit\"}']".to_owned(),
            _ => format!("script = \"{script}\""),
        };
        let at = stage.named(&format!("{name}.sock"));
        (port, format!("[heartbeat.{name}]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 800\nrepeat_s = 1\nnotify_connect = \"unix:{at}\"\n{message}\n"))
    });
    let text = beats.each_ref().map(|(_, text)| text.as_str()).concat();
    let program = stage.start_with(
        "deaf",
        &format!(
            "{text}[heartbeat.healthy]\nlisten = \"127.0.0.1:{healthy}\"\ntimeout_ms = 10000\n"
        ),
    );
    let _kept = deaf.accept().expect("a connection that nobody reads");
    let _pulses = Pulses::over(connect(healthy), PULSE, EACH);
    let peers = beats.map(|(port, _)| Pulses::over(connect(port), PULSE, EACH));
    program.wait_for_times("armed by", 4);
    let before = program.memory_kib();
    drop(peers);
    program.wait_for("deaf: sending the script FAILED: it did not read within 10 s");
    program.wait_for("absent: sending the script FAILED: no connection within 10 s");
    program.wait_for("mute: giving the commands of QMP FAILED: no its greeting");
    let beat = program.beat("healthy");
    assert_eq!(
        (beat["state"].as_str(), beat["losses"].as_u64()),
        (Some("armed"), Some(0))
    );
    assert!(program.memory_kib() < before + 8_192);
    drop(mute);
}

#[test]
fn a_script_goes_to_everybody_who_is_connected_to_a_listening_node() {
    let stage = Stage::new();
    stage.write("script", "quit\n");
    let at = stage.path("told.sock");
    let port = free_port();
    let text = format!(
        "[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 800\nnotify_listen = \"unix:{}\"\nscript = \"{}\"\n",
        at.display(),
        stage.named("script")
    );
    let program = stage.start_with("told", &text);
    let listeners = [(); 2].map(|()| UnixStream::connect(&at).expect("connects"));
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    program.wait_for("armed by");
    drop(pulses);
    program.wait_for("sending the script is done");
    for listener in listeners {
        let mut line = String::new();
        BufReader::new(listener).read_line(&mut line).expect("read");
        assert_eq!(line, "quit\n");
    }
}

#[test]
fn a_hook_knows_what_was_lost_and_one_that_hangs_is_ended() {
    let stage = Stage::new();
    let out = stage.path("out");
    let hook = stage.write_program(
        "hook",
        &format!(
            "echo $1 $XENWARDEN_KIND $XENWARDEN_HEARTBEAT $XENWARDEN_LOSSES >> {}\nexit 3",
            out.display()
        ),
    );
    let program = bereft(&stage, "hook", &format!("hook = [\"{hook}\", \"fence\"]"));
    assert_eq!(wait_for_file(&out, 10), "fence pulse.lost h 1\n");
    program.wait_for("running the hook FAILED: ");
    program.wait_for("it exited with status 3");
    let hanging = stage.write_program("hanging", "sleep 1000 & sleep 1000");
    let program = bereft(
        &stage,
        "hangs",
        &format!("hook = [\"{hanging}\"]\nhook_timeout_s = 1"),
    );
    program.wait_for("it took longer than 1 s and was ended");
    // It was there when the program was started.
    let gone = stage.write_program("gone", "exit 0");
    let program = bereft(
        &stage,
        "absent",
        &format!("act_after_ms = 1000\nhook = [\"{gone}\"]"),
    );
    fs::remove_file(stage.path("gone")).expect("removed");
    program.wait_for("running the hook FAILED: ");
    program.wait_for("No such file");
}

#[test]
fn what_waits_after_a_loss_is_called_off_by_a_pulse_and_repeated_without_one() {
    let stage = Stage::new();
    let out = stage.path("out");
    let hook = stage.write_program("hook", &format!("echo lost >> {}", out.display()));
    let port = free_port();
    let text = format!(
        "[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 800\nact_after_ms = 20000\nhook = [\"{hook}\"]\n"
    );
    let program = stage.start_with("later", &text);
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    program.wait_for("armed by");
    drop(pulses);
    program.wait_for("LOST");
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    program.wait_for("is back");
    drop(pulses);
    assert!(!out.exists(), "called off");
    drop(program);
    let _program = bereft(
        &stage,
        "again",
        &format!("repeat_s = 1\nhook = [\"{hook}\"]"),
    );
    let text = wait_for_file(&out, 15);
    assert!(text.starts_with("lost\nlost\nlost\n"), "{text}");
}

/// What a lease was told, until `stop` says enough.
fn told(lease: &UnixDatagram, mut enough: impl FnMut(&[String]) -> bool) -> Vec<String> {
    let mut all = Vec::new();
    wait_until("the lease is told", || {
        let mut bytes = [0; 64];
        while let Ok(count) = lease.recv(&mut bytes) {
            let text = bytes.get(..count).expect("within");
            all.push(String::from_utf8_lossy(text).into_owned());
        }
        enough(&all).then_some(())
    });
    all
}

#[test]
fn a_lease_is_renewed_until_the_loss_and_again_after_it_and_given_back_by_a_stop() {
    let stage = Stage::new();
    let lease = stage.lease("quorum");
    let port = free_port();
    let text = format!(
        "[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 800\nlease = \"quorum\"\n"
    );
    let program = stage.start_with("lease", &text);
    std::thread::sleep(Duration::from_secs(2)); // two renewals, if there were any
    assert_eq!(lease.recv(&mut [0; 64]).ok(), None, "nothing is proved yet");
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    let renewed = told(&lease, |all| all.len() >= 2);
    assert!(
        renewed.iter().all(|said| said == "WATCHDOG=1"),
        "{renewed:?}"
    );
    drop(pulses);
    program.wait_for("LOST");
    let _ = told(&lease, |_| true);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(
            lease.recv(&mut [0; 64]).ok(),
            None,
            "no renewal while it is lost"
        );
        std::thread::sleep(EACH);
    }
    let _pulses = Pulses::over(connect(port), PULSE, EACH);
    let _ = told(&lease, |all| !all.is_empty());
    assert_eq!(program.stop(), Some(0));
    let last = told(&lease, |all| all.iter().any(|said| said == "STOPPING=1"));
    assert_eq!(last.last().map(String::as_str), Some("STOPPING=1"));
}

#[test]
fn a_stop_forgives_no_loss_and_a_crash_gives_nothing_back() {
    let stage = Stage::new();
    let lease = stage.lease("quorum");
    let lost = bereft(&stage, "lost", "lease = \"quorum\"");
    lost.wait_for("LOST");
    let _ = told(&lease, |_| true);
    assert_eq!(lost.stop(), Some(0));
    assert_eq!(lease.recv(&mut [0; 64]).ok(), None);
    let port = free_port();
    let mut killed = stage.start_with(
        "killed",
        &format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\nlease = \"quorum\"\n"),
    );
    let _pulses = Pulses::over(connect(port), PULSE, EACH);
    let _ = told(&lease, |all| !all.is_empty());
    killed.kill();
    let rest = told(&lease, |_| true);
    assert!(rest.iter().all(|said| said == "WATCHDOG=1"), "{rest:?}");
}

/// A program whose lease is renewed, and what keeps its heartbeat.
fn renewed(stage: &Stage, lease: &UnixDatagram) -> (Process, Pulses) {
    let port = free_port();
    let text = format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\nlease = \"quorum\"\n");
    let program = stage.start_with("lease", &text);
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    let _ = told(lease, |all| !all.is_empty());
    (program, pulses)
}

#[test]
fn a_lease_is_given_back_to_a_monitor_that_comes_back_while_the_program_stops() {
    let stage = Stage::new();
    let lease = stage.lease("quorum");
    let (program, _pulses) = renewed(&stage, &lease);
    drop(lease);
    fs::remove_file(stage.path("run/xenwarden/lease/quorum")).expect("removed");
    program.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(500)); // the first try finds nobody
    let lease = stage.lease("quorum");
    let said = told(&lease, |all| !all.is_empty());
    assert_eq!(said.last().map(String::as_str), Some("STOPPING=1"));
    assert_eq!(program.stop(), Some(0));
}

#[test]
fn a_lease_that_nobody_takes_back_is_told_and_ends_the_program_all_the_same() {
    let stage = Stage::new();
    let lease = stage.lease("quorum");
    let (program, _pulses) = renewed(&stage, &lease);
    drop(lease);
    program.signal(Signal::SIGTERM);
    program.wait_for("lease quorum: ");
    program.wait_for("NOT given back");
    assert_eq!(program.stop(), Some(0));
}

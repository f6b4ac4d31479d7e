// SPDX-License-Identifier: GPL-2.0-only
//! What a network can do to one heartbeat: the others stay on time, and memory stays bounded.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod pulse_stage;

use pulse_stage::{PULSE, Process, Pulses, Stage, connect, free_port, wait_until};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_millis(50);
/// How long an attack lasts.
const ATTACK: Duration = Duration::from_secs(4);
/// What it may cost in memory, KiB.
const COST_KIB: u64 = 8_192;

/// One heartbeat that is attacked and one beside it that is healthy.
struct Field {
    _stage: Stage,
    program: Process,
    attacked: u16,
    _healthy: Pulses,
    memory: u64,
}

impl Field {
    fn new(name: &str) -> Self {
        let stage = Stage::new();
        let (attacked, healthy) = (free_port(), free_port());
        let program = stage.start_with(
            name,
            &format!(
                "[heartbeat.attacked]\nlisten = \"127.0.0.1:{attacked}\"\nanswers = true\n\
                 [heartbeat.healthy]\nlisten = \"127.0.0.1:{healthy}\"\npulse_interval_ms = 100\ntimeout_ms = 10000\n"
            ),
        );
        let pulses = Pulses::over(connect(healthy), PULSE, EACH);
        program.wait_for("healthy: armed by");
        let memory = program.memory_kib();
        Self {
            _stage: stage,
            program,
            attacked,
            _healthy: pulses,
            memory,
        }
    }

    /// After the attack: the other heartbeat never wavered, and goes on.
    fn held(&self) {
        let beat = self.program.beat("healthy");
        assert_eq!(
            (beat["state"].as_str(), beat["losses"].as_u64()),
            (Some("armed"), Some(0))
        );
        let before = beat["pulses"].as_u64().expect("a number");
        wait_until("it is heard still", || {
            let now = self.program.beat("healthy")["pulses"].as_u64()?;
            (now > before + 3).then_some(())
        });
        let memory = self.program.memory_kib();
        assert!(
            memory < self.memory + COST_KIB,
            "{} KiB, then {memory}",
            self.memory
        );
    }

    /// A genuine peer of the attacked one is heard all the same.
    fn is_reached(&self) {
        let before = self.program.beat("attacked")["pulses"]
            .as_u64()
            .expect("a number");
        let _pulses = Pulses::over(connect(self.attacked), PULSE, EACH);
        wait_until("the genuine peer is heard", || {
            let now = self.program.beat("attacked")["pulses"].as_u64()?;
            (now > before + 3).then_some(())
        });
    }
}

fn try_connect(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

#[test]
fn a_thousand_connections_that_say_nothing_leave_room_for_one_that_does() {
    let field = Field::new("thousand");
    let mut silent: Vec<TcpStream> = Vec::new();
    let start = Instant::now();
    while silent.len() < 1_000 && start.elapsed() < pulse_stage::LIMIT {
        silent.extend(try_connect(field.attacked));
    }
    assert_eq!(silent.len(), 1_000);
    field.is_reached();
    let held = field.program.beat("attacked")["connections"].as_u64();
    assert!(held.expect("a number") <= 16, "{held:?}");
    field.held();
}

#[test]
fn half_open_connections_and_one_byte_a_second_disturb_nobody() {
    let field = Field::new("slow");
    let halves: Vec<TcpStream> = (0..8)
        .map(|_| {
            let stream = connect(field.attacked);
            stream.shutdown(Shutdown::Write).expect("shut");
            stream
        })
        .collect();
    let mut slow = connect(field.attacked);
    for byte in PULSE.iter().take(4) {
        slow.write_all(&[*byte]).expect("sent");
        std::thread::sleep(Duration::from_secs(1));
    }
    field.is_reached();
    field.held();
    drop(halves);
}

#[test]
fn a_storm_of_reconnects_disturbs_nobody() {
    let field = Field::new("reconnects");
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < ATTACK {
        if let Some(mut stream) = try_connect(field.attacked) {
            let _ = stream.write(PULSE);
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
    field.is_reached();
    field.held();
}

#[test]
fn floods_of_frames_and_of_garbage_by_peers_that_never_read_disturb_nobody() {
    let field = Field::new("floods");
    let frames = PULSE.repeat(1_000);
    let garbage = vec![0; 28_000];
    std::thread::scope(|scope| {
        for bytes in [&frames, &garbage] {
            let mut stream = connect(field.attacked);
            scope.spawn(move || {
                let start = Instant::now();
                while start.elapsed() < ATTACK && stream.write_all(bytes).is_ok() {}
            });
        }
    });
    field.is_reached();
    field.held();
}

#[test]
fn clients_of_the_status_that_never_read_keep_nobody_waiting() {
    let field = Field::new("status");
    let path = field._stage.path("run/xenwarden-pulse/status.sock");
    let idle: Vec<_> = (0..100)
        .filter_map(|_| std::os::unix::net::UnixStream::connect(&path).ok())
        .collect();
    field.held();
    for mut client in idle {
        let mut text = String::new();
        let _ = client.read_to_string(&mut text);
    }
}

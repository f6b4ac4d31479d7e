// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats beside real QEMUs, where there is one: a COLO pair fails over by the letter's options and
//! scripts, QMP is spoken as it is, and a guest's serial console gives pulses.
//!
//! XENWARDEN_TEST_QEMU names another QEMU than the one that is installed. Each test says that it is skipped
//! where there is none.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pulse_stage::{LIMIT, Process, Stage, free_port, wait_until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A QEMU without a guest's system; killed at its end.
struct Qemu {
    child: Child,
    reader: BufReader<UnixStream>,
}

impl Qemu {
    /// None: there is no QEMU here.
    fn start(stage: &Stage, name: &str, more: &[&str]) -> Option<Self> {
        let program = std::env::var("XENWARDEN_TEST_QEMU");
        let program = program.unwrap_or_else(|_| "/usr/bin/qemu-system-x86_64".to_owned());
        if !Path::new(&program).exists() {
            eprintln!("skipped: there is no {program} (Debian: qemu-system-x86)");
            return None;
        }
        let socket = stage.named(&format!("{name}.qmp"));
        let qmp = format!("unix:{socket},server=on,wait=off");
        let child = Command::new(program)
            .args(["-M", "pc", "-accel", "tcg", "-m", "64", "-display", "none"])
            .args(["-nodefaults", "-qmp", &qmp])
            .args(more)
            .current_dir(&stage.directory)
            .stdin(Stdio::null())
            .spawn()
            .expect("starts");
        let stream = wait_until("QMP", || UnixStream::connect(&socket).ok());
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let mut qemu = Self {
            child,
            reader: BufReader::new(stream),
        };
        assert!(qemu.line()["QMP"].is_object());
        qemu.execute("qmp_capabilities", json!({}));
        Some(qemu)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        let stream = self.reader.get_mut();
        stream.write_all(text.as_bytes()).expect("said");
        loop {
            let mut line = self.line();
            assert!(line["error"].is_null(), "{command}: {line}");
            if !line["return"].is_null() {
                return line["return"].take();
            }
        }
    }

    fn hmp(&mut self, line: &str) {
        self.execute("human-monitor-command", json!({"command-line": line}));
    }

    fn is_running(&mut self) -> bool {
        self.execute("query-status", json!({}))["running"] == true
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pair in COLO, each with a human monitor at a port, as the letter has it.
struct Colo {
    primary: Qemu,
    secondary: Qemu,
    pulses: [Process; 2],
}

impl Colo {
    fn start(stage: &Stage) -> Option<Self> {
        let [node, one, two, incoming] = [(); 4].map(|()| free_port());
        let monitor = |port: u16| format!("tcp:127.0.0.1:{port},server=on,wait=off");
        let mut secondary = Qemu::start(
            stage,
            "two",
            &["-monitor", &monitor(two), "-incoming", "defer"],
        )?;
        let mut primary = Qemu::start(stage, "one", &["-monitor", &monitor(one)])?;
        let colo = json!({"capabilities": [{"capability": "x-colo", "state": true}]});
        for side in [&mut primary, &mut secondary] {
            side.execute("migrate-set-capabilities", colo.clone());
            // Its first checkpoint is to come after the test.
            side.execute(
                "migrate-set-parameters",
                json!({"x-checkpoint-delay": 600_000}),
            );
        }
        let uri = format!("tcp:127.0.0.1:{incoming}");
        secondary.execute("migrate-incoming", json!({"uri": uri}));
        primary.execute("migrate", json!({"uri": uri}));
        wait_until("COLO", || {
            let status = primary.execute("query-migrate", json!({}));
            (status["status"] == "colo").then_some(())
        });
        for (side, mode) in [(&mut primary, "primary"), (&mut secondary, "secondary")] {
            wait_until(mode, || {
                let status = side.execute("query-colo-status", json!({}));
                (status["mode"] == mode).then_some(())
            });
        }
        stage.write("script", "x_colo_lost_heartbeat\n");
        let first = format!(
            "-chardev socket,id=h1,host=127.0.0.1,port={node},server,nowait -chardev socket,id=heartbeat0,host=127.0.0.1,port={one} \
             -object iothread,id=iothread2 -object advanced-watchdog,id=heart1,server=on,awd_node=h1,notification_node=heartbeat0,opt_script=script,iothread=iothread1,pulse_interval=200,timeout=3000"
        );
        let second = format!(
            "-monitor tcp::{two},server,nowait -chardev socket,id=h1,host=127.0.0.1,port={node},reconnect=1 -chardev socket,id=heart1,host=127.0.0.1,port={two} \
             -object iothread,id=iothread1 -object advanced-watchdog,id=heart1,server=off,awd_node=h1,notification_node=heart1,opt_script=script,iothread=iothread1,pulse_interval=200,timeout=3000"
        );
        let pulses = [("primary", first), ("secondary", second)].map(|(name, words)| {
            let words: Vec<&str> = words.split_whitespace().collect();
            stage.start(name, &words)
        });
        for pulse in &pulses {
            pulse.wait_for_state("heart1", "armed");
        }
        Some(Self {
            primary,
            secondary,
            pulses,
        })
    }
}

#[test]
fn the_secondary_of_a_colo_pair_takes_over_when_the_primarys_host_dies() {
    let stage = Stage::new();
    let Some(mut colo) = Colo::start(&stage) else {
        return;
    };
    colo.primary.kill();
    let [first, second] = &mut colo.pulses;
    first.kill();
    second.wait_for("heart1: sending the script is done");
    wait_until("the secondary runs", || {
        colo.secondary.is_running().then_some(())
    });
}

/// Its host and its heartbeat live on: they do not keep a QEMU alive that is dead or stopped.
#[test]
fn the_secondary_of_a_colo_pair_takes_over_when_the_primary_alone_dies_or_stops() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let stage = Stage::new();
        let Some(mut colo) = Colo::start(&stage) else {
            return;
        };
        let pid = i32::try_from(colo.primary.child.id()).expect("a pid");
        let [first, second] = &colo.pulses;
        // Before that nobody can know that it would answer.
        first.wait_for("monitor has a prompt");
        kill(Pid::from_raw(pid), signal).expect("sent");
        first.wait_for("our own VMM does not answer");
        second.wait_for("heart1: sending the script is done");
        wait_until("the secondary has taken over", || {
            let status = colo.secondary.execute("query-colo-status", json!({}));
            (status["mode"] == "none").then_some(())
        });
        assert!(colo.secondary.is_running());
    }
}

#[test]
fn the_primary_of_a_colo_pair_goes_on_when_the_secondarys_host_dies() {
    let stage = Stage::new();
    let Some(mut colo) = Colo::start(&stage) else {
        return;
    };
    colo.secondary.kill();
    let [first, second] = &mut colo.pulses;
    second.kill();
    first.wait_for("heart1: sending the script is done");
    wait_until("the primary runs", || {
        let status = colo.primary.execute("query-migrate", json!({}));
        let over = status["status"] != "colo";
        (over && colo.primary.is_running()).then_some(())
    });
}

/// The guest writes by its serial port, as firmware and systems alike can; QMP has the loss.
#[test]
fn a_guest_that_no_longer_writes_to_its_console_is_lost_and_qmp_is_told() {
    let stage = Stage::new();
    let chardev = format!(
        "socket,id=pulse,path={},server=on,wait=off",
        stage.named("guest.sock")
    );
    let told = format!("unix:{},server=on,wait=off", stage.named("told.qmp"));
    let more = [
        "-chardev",
        &chardev,
        "-device",
        "isa-serial,chardev=pulse",
        "-qmp",
        &told,
    ];
    let Some(mut qemu) = Qemu::start(&stage, "guest", &more) else {
        return;
    };
    let pulse = stage.start_with("guest", &format!(
        "[heartbeat.guest]\nconnect = \"unix:{}\"\nprotocol = \"any\"\ntimeout_ms = 3000\nnotify_connect = \"unix:{}\"\nqmp = ['{{\"execute\": \"stop\"}}']\n",
        stage.named("guest.sock"),
        stage.named("told.qmp")
    ));
    wait_until("it is armed", || {
        qemu.hmp("o /b 0x3f8 0x0a");
        (pulse.beat("guest")["state"] == "armed").then_some(())
    });
    assert!(qemu.is_running());
    pulse.wait_for("guest: giving the commands of QMP is done");
    assert!(!qemu.is_running(), "it was told to stop");
    qemu.hmp("o /b 0x3f8 0x0a");
    pulse.wait_for("is back");
}

// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats over real sockets, terminals and fifos, between real programs: armed, lost, back; whatever else comes.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use pulse_stage::{
    PULSE, Process, Pulses, REPLY, Stage, connect, free_port, read_exactly, wait_until,
};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

const SCRIPT: &str = "x_colo_lost_heartbeat\n";
const EACH: Duration = Duration::from_millis(50);

/// The letter's two sides, with addresses and times of this test.
struct Letter {
    stage: Stage,
    node: u16,
    monitor: u16,
}

impl Letter {
    fn new() -> Self {
        let stage = Stage::new();
        stage.write("script", SCRIPT);
        Self {
            stage,
            node: free_port(),
            monitor: free_port(),
        }
    }

    fn primary(&self, timeout: u32) -> Process {
        let (node, monitor) = (self.node, self.monitor);
        let words = format!(
            "-chardev socket,id=h1,host=127.0.0.1,port={node},server,nowait \
             -chardev socket,id=heartbeat0,host=127.0.0.1,port={monitor} -object iothread,id=iothread2 \
             -object advanced-watchdog,id=heart1,server=on,awd_node=h1,notification_node=heartbeat0,opt_script=script,iothread=iothread1,pulse_interval=100,timeout={timeout}"
        );
        let words: Vec<&str> = words.split_whitespace().collect();
        self.stage.start("primary", &words)
    }

    fn secondary(&self, timeout: u32) -> Process {
        let (node, monitor) = (self.node, self.monitor);
        let words = format!(
            "-monitor tcp::{monitor},server,nowait -chardev socket,id=h1,host=127.0.0.1,port={node},reconnect-ms=100 \
             -chardev socket,id=heart1,host=127.0.0.1,port={monitor} -object iothread,id=iothread1 \
             -object advanced-watchdog,id=heart1,server=off,awd_node=h1,notification_node=heart1,opt_script=script,iothread=iothread1,pulse_interval=100,timeout={timeout}"
        );
        let words: Vec<&str> = words.split_whitespace().collect();
        self.stage.start("secondary", &words)
    }
}

#[test]
fn a_killed_peer_is_lost_its_script_is_sent_once_and_another_run_of_it_is_back() {
    let letter = Letter::new();
    let monitor = TcpListener::bind(("127.0.0.1", letter.monitor)).expect("binds");
    let primary = letter.primary(1_500);
    let (mut told, _) = monitor.accept().expect("the primary connects at its start");
    let mut secondary = letter.secondary(60_000);
    primary.wait_for_state("heart1", "armed");
    secondary.wait_for_state("heart1", "armed");
    wait_until("round trips are known", || {
        primary.beat("heart1")["round_trip_us"].as_u64()
    });
    secondary.kill();
    drop(secondary);
    primary.wait_for("heart1: sending the script is done");
    assert_eq!(read_exactly(&mut told, SCRIPT.len()), SCRIPT.as_bytes());
    let lost = primary.wait_for_state("heart1", "lost");
    assert_eq!(lost["losses"], 1);
    let _again = letter.secondary(60_000);
    primary.wait_for("is back, lost for");
    primary.wait_for_state("heart1", "armed");
    assert_eq!(primary.stop(), Some(0));
    let mut rest = Vec::new();
    told.read_to_end(&mut rest).expect("ended");
    assert_eq!(rest, b"", "once, and nothing for a stop in order");
}

#[test]
fn a_stopped_peer_is_lost_and_the_stopped_one_blames_its_own_gap_on_nobody() {
    let letter = Letter::new();
    let _monitor = TcpListener::bind(("127.0.0.1", letter.monitor)).expect("binds");
    let primary = letter.primary(1_500);
    let secondary = letter.secondary(3_000);
    primary.wait_for_state("heart1", "armed");
    secondary.wait_for_state("heart1", "armed");
    secondary.signal(Signal::SIGSTOP);
    primary.wait_for_state("heart1", "lost");
    std::thread::sleep(Duration::from_secs(3)); // longer than the stopped one's own timeout
    secondary.signal(Signal::SIGCONT);
    secondary.wait_for("nobody listened for");
    primary.wait_for("is back, lost for");
    let pulses = secondary.beat("heart1")["pulses"]
        .as_u64()
        .expect("a number");
    wait_until("it hears pulses again", || {
        let now = secondary.beat("heart1")["pulses"].as_u64()?;
        (now > pulses + 3).then_some(())
    });
    assert_eq!(secondary.times("LOST"), 0, "{}", secondary.log());
}

#[test]
fn qemus_own_frames_are_answered_as_its_patch_does() {
    let stage = Stage::new();
    for (answers, name) in [(true, "off"), (false, "on")] {
        let port = free_port();
        let words = format!(
            "-chardev socket,id=a,host=127.0.0.1,port={port},server=on -object advanced-watchdog,id={name},server={name},awd_node=a,timeout=60000,pulse_interval=3600000"
        );
        let words: Vec<&str> = words.split_whitespace().collect();
        let program = stage.start(name, &words);
        let mut peer = connect(port);
        assert_eq!(read_exactly(&mut peer, PULSE.len()), PULSE, "at once");
        for byte in PULSE {
            peer.write_all(&[*byte]).expect("sent");
        }
        program.wait_for_state(name, "armed");
        peer.write_all(PULSE).expect("sent");
        if answers {
            assert_eq!(
                read_exactly(&mut peer, 2 * REPLY.len()),
                [REPLY, REPLY].concat()
            );
        }
        drop(program);
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        assert_eq!(rest, b"", "server={name}");
    }
}

#[test]
fn nothing_is_sent_while_our_own_vmms_monitor_is_not_there() {
    let letter = Letter::new();
    let monitor = TcpListener::bind(("127.0.0.1", letter.monitor)).expect("binds");
    let primary = letter.primary(60_000);
    let (own_vmm, _) = monitor.accept().expect("connects");
    let mut peer = connect(letter.node);
    assert_eq!(read_exactly(&mut peer, PULSE.len()), PULSE);
    drop((own_vmm, monitor));
    primary.wait_for("our own VMM does not answer: no pulses are sent");
    // What was sent before is read first.
    peer.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("set");
    let mut bytes = [0; 4096];
    wait_until("silence", || peer.read(&mut bytes).is_err().then_some(()));
    peer.write_all(PULSE).expect("sent");
    primary.wait_for_state("heart1", "armed");
    let _monitor = TcpListener::bind(("127.0.0.1", letter.monitor)).expect("binds");
    primary.wait_for_times("our own VMM is there: pulses are sent", 2);
    peer.set_read_timeout(Some(pulse_stage::LIMIT))
        .expect("set");
    assert_eq!(read_exactly(&mut peer, PULSE.len()), PULSE);
}

#[test]
fn garbage_never_stops_the_monitoring() {
    let stage = Stage::new();
    let (auto, strict) = (free_port(), free_port());
    let program = stage.start_with(
        "garbage",
        &format!(
            "[heartbeat.auto]\nlisten = \"127.0.0.1:{auto}\"\nanswers = true\ntimeout_ms = 2000\n\
             [heartbeat.strict]\nlisten = \"127.0.0.1:{strict}\"\nprotocol = \"awd\"\nanswers = true\ntimeout_ms = 2000\n"
        ),
    );
    let garbage: Vec<u8> = (0..100_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let mut raw = connect(auto);
    let mut framed = connect(strict);
    for stream in [&mut raw, &mut framed] {
        stream.write_all(&u32::MAX.to_be_bytes()).expect("sent");
        stream.write_all(&garbage).expect("sent");
    }
    program.wait_for_state("auto", "armed");
    program.wait_for_state("auto", "lost");
    assert_eq!(
        program.beat("strict")["state"],
        "waiting",
        "no frame is in it"
    );
    for stream in [&mut raw, &mut framed] {
        stream.write_all(PULSE).expect("sent");
        assert_eq!(read_exactly(stream, PULSE.len()), PULSE);
        wait_until("it is answered", || {
            let mut byte = read_exactly(stream, 1);
            byte.extend(read_exactly(stream, 3));
            let pulse = byte == PULSE.get(..4).unwrap_or_default();
            let rest = if pulse { PULSE.len() } else { REPLY.len() };
            let _ = read_exactly(stream, rest - 4);
            (!pulse).then_some(())
        });
    }
    program.wait_for("strict: armed by");
    program.wait_for("auto: 127.0.0.1");
    program.wait_for_times("is back", 1);
}

#[test]
fn a_guest_is_heard_by_notify_lines_on_a_unix_socket_and_nothing_is_said_to_it() {
    let stage = Stage::new();
    let path = stage.path("guest.sock");
    let program = stage.start_with(
        "guest",
        &format!(
            "[heartbeat.web]\nconnect = \"unix:{}\"\nprotocol = \"notify\"\ntimeout_ms = 1500\n",
            path.display()
        ),
    );
    // QEMU, and with it the chardev's socket, comes later.
    let chardev = UnixListener::bind(&path).expect("binds");
    let (mut guest, _) = chardev.accept().expect("connects again and again");
    guest.write_all(b"STATUS=booting\nREADY=1\n").expect("sent");
    guest.write_all(b"WATCHDOG=1\n").expect("sent");
    program.wait_for_state("web", "armed");
    program.wait_for_state("web", "lost");
    guest
        .write_all(b"still here, but not well\n")
        .expect("sent");
    guest.write_all(b"WATCHDOG=1").expect("sent");
    program.wait_for("web: unix:");
    program.wait_for("is back");
    drop(program);
    let mut said = Vec::new();
    let _ = guest.read_to_end(&mut said);
    assert_eq!(said, b"");
}

#[test]
fn a_terminal_passes_bytes_as_they_are_and_a_fifo_is_only_read() {
    let stage = Stage::new();
    let console = nix::pty::openpty(None, None).expect("a terminal");
    let tty = nix::unistd::ttyname(&console.slave).expect("its name");
    let fifo = stage.path("guest.out");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).expect("a fifo");
    let program = stage.start_with(
        "console",
        &format!(
            "[heartbeat.tty]\ndevice = \"{}\"\nprotocol = \"awd\"\nanswers = true\npulse_interval_ms = 60000\ntimeout_ms = 120000\n\
             [heartbeat.fifo]\ndevice = \"{}\"\nprotocol = \"auto\"\ntimeout_ms = 120000\n",
            tty.display(),
            fifo.display()
        ),
    );
    let mut console = std::fs::File::from(console.master);
    assert_eq!(
        read_exactly(&mut console, PULSE.len()),
        PULSE,
        "with its zero bytes"
    );
    console.write_all(PULSE).expect("sent");
    assert_eq!(read_exactly(&mut console, REPLY.len()), REPLY);
    program.wait_for_state("tty", "armed");
    assert_eq!(
        program.beat("fifo")["state"],
        "waiting",
        "it does not hear itself"
    );
    let mut guest = OpenOptions::new().write(true).open(&fifo).expect("opens");
    guest.write_all(b".").expect("sent");
    program.wait_for_state("fifo", "armed");
}

#[test]
fn several_peers_may_keep_one_heartbeat_and_a_closed_connection_is_no_loss() {
    let stage = Stage::new();
    let path = stage.path("node.sock");
    let program = stage.start_with(
        "several",
        &format!(
            "[heartbeat.h]\nlisten = \"unix:{}\"\ntimeout_ms = 60000\n",
            path.display()
        ),
    );
    for _ in 0..50 {
        let mut peer = UnixStream::connect(&path).expect("connects");
        peer.write_all(PULSE).expect("sent");
        program.wait_for_state("h", "armed");
    }
    let beat = program.beat("h");
    assert_eq!(
        (beat["losses"].as_u64(), beat["state"].as_str()),
        (Some(0), Some("armed"))
    );
}

#[test]
fn what_is_not_told_to_the_monitor_waits_for_it() {
    let stage = Stage::new();
    let port = free_port();
    let program = stage.start_with(
        "told",
        &format!("[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\ntimeout_ms = 2000\n"),
    );
    let pulses = Pulses::over(connect(port), PULSE, EACH);
    program.wait_for("armed by");
    drop(pulses);
    program.wait_for("the monitor is not told yet");
    program.wait_for("LOST");
    // The monitor comes up, after some of it.
    let control = UnixListener::bind(stage.path("control.sock")).expect("binds");
    for (seq, kind) in ["pulse.armed", "pulse.lost"].iter().enumerate() {
        let (mut client, _) = control.accept().expect("connects");
        let mut request = Vec::new();
        while !request.ends_with(b"\n") {
            request.extend(read_exactly(&mut client, 1));
        }
        let request = String::from_utf8(request).expect("text");
        assert!(
            request.starts_with("tell {") && request.contains(kind),
            "{request}"
        );
        assert!(request.contains("\"heartbeat\":\"h\""), "{request}");
        client
            .write_all(format!("{{\"told\":{seq}}}\n").as_bytes())
            .expect("sent");
    }
}

#[test]
fn a_stop_in_order_removes_the_status_and_ends_with_success() {
    let stage = Stage::new();
    let port = free_port();
    let text = format!(
        "metrics_textfile = \"{}\"\n[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\n",
        stage.named("pulse.prom")
    );
    let program = stage.start_with("stop", &text);
    let metrics = stage.path("pulse.prom");
    let written = wait_until("metrics are written", || {
        std::fs::read_to_string(&metrics)
            .ok()
            .filter(|text| text.contains("xenwarden_pulse_up"))
    });
    for part in [
        "xenwarden_pulse_up{program=\"stop\"} 1\n",
        "xenwarden_pulse_waiting{program=\"stop\",heartbeat=\"h\"} 1\n",
        "xenwarden_pulse_losses_total{program=\"stop\",heartbeat=\"h\"} 0\n",
    ] {
        assert!(written.contains(part), "{written}");
    }
    assert!(stage.path("run/xenwarden-pulse/stop.sock").exists());
    assert_eq!(program.stop(), Some(0));
    assert!(!stage.path("run/xenwarden-pulse/stop.sock").exists());
    let down = std::fs::read_to_string(&metrics).expect("metrics");
    assert!(
        down.ends_with("xenwarden_pulse_up{program=\"stop\"} 0\n"),
        "{down}"
    );
}

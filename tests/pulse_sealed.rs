// SPDX-License-Identifier: GPL-2.0-only
//! Sealed heartbeats between real programs, through a proxy that records, replays and cuts.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use pulse_stage::{PULSE, Process, Stage, connect, free_port, wait_until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: &str = "a key of more than sixteen bytes\n";

/// Passes bytes on between whoever connects and `to`, each way while it is not cut.
#[derive(Clone)]
struct Proxy {
    port: u16,
    forth: Arc<AtomicBool>,
    back: Arc<AtomicBool>,
    /// What went back, to be replayed.
    recorded: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let proxy = Self {
            port: listener.local_addr().expect("an address").port(),
            forth: Arc::new(AtomicBool::new(true)),
            back: Arc::new(AtomicBool::new(true)),
            recorded: Arc::default(),
        };
        let of = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let ends = (
                    client.try_clone().expect("a copy"),
                    server.try_clone().expect("a copy"),
                );
                pass(client, server, &of.forth, None);
                pass(ends.1, ends.0, &of.back, Some(&of.recorded));
            }
        });
        proxy
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    open: &Arc<AtomicBool>,
    record: Option<&Arc<Mutex<Vec<u8>>>>,
) {
    let (open, record) = (Arc::clone(open), record.cloned());
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let some = bytes.get(..count).expect("within");
            if let Some(record) = &record {
                record.lock().expect("alone").extend_from_slice(some);
            }
            if open.load(Ordering::Relaxed) && to.write_all(some).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

struct Pair {
    stage: Stage,
    proxy: Proxy,
    port: u16,
}

impl Pair {
    fn new() -> Self {
        let port = free_port();
        Self {
            stage: Stage::new(),
            proxy: Proxy::to(port),
            port,
        }
    }

    fn listener(&self, timeout: u32) -> Process {
        let key = self.stage.write_key("key", KEY);
        let port = self.port;
        let text = format!(
            "[heartbeat.pair]\nlisten = \"127.0.0.1:{port}\"\nprotocol = \"awd+psk\"\nkey = \"{key}\"\npulse_interval_ms = 100\ntimeout_ms = {timeout}\n"
        );
        self.stage.start_with("listener", &text)
    }

    fn client(&self, timeout: u32, more: &str) -> Process {
        let key = self.stage.write_key("key", KEY);
        let port = self.proxy.port;
        let text = format!(
            "[heartbeat.pair]\nconnect = \"127.0.0.1:{port}\"\nreconnect_ms = 100\nkey = \"{key}\"\npulse_interval_ms = 100\ntimeout_ms = {timeout}\n{more}\n"
        );
        self.stage.start_with("client", &text)
    }
}

#[test]
fn two_that_have_the_key_hear_each_other_and_know_the_round_trip() {
    let pair = Pair::new();
    let (listener, client) = (pair.listener(30_000), pair.client(30_000, "answers = true"));
    for program in [&listener, &client] {
        program.wait_for_state("pair", "armed");
        wait_until("a round trip", || {
            program.beat("pair")["round_trip_us"].as_u64()
        });
        assert_eq!(program.beat("pair")["refused"], 0, "{}", program.log());
    }
}

#[test]
fn a_cut_of_one_direction_is_a_loss_on_both_sides() {
    for forth in [true, false] {
        let pair = Pair::new();
        let (listener, client) = (pair.listener(2_000), pair.client(2_000, "answers = true"));
        for program in [&listener, &client] {
            program.wait_for_state("pair", "armed");
        }
        let cut = if forth {
            &pair.proxy.forth
        } else {
            &pair.proxy.back
        };
        cut.store(false, Ordering::Relaxed);
        listener.wait_for("is LOST");
        client.wait_for("is LOST");
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(listener.beat("pair")["state"], "lost");
            assert_eq!(client.beat("pair")["state"], "lost");
        }
        cut.store(true, Ordering::Relaxed);
        listener.wait_for("is back");
        client.wait_for("is back");
    }
}

#[test]
fn a_recording_of_a_dead_peer_does_not_bring_it_back() {
    let pair = Pair::new();
    // Through the proxy goes back what the listener says: it is the listener that dies.
    let (listener, client) = (pair.listener(30_000), pair.client(2_000, "answers = true"));
    client.wait_for_state("pair", "armed");
    std::thread::sleep(Duration::from_millis(500));
    drop(listener);
    let recorded = pair.proxy.recorded.lock().expect("alone").clone();
    assert!(recorded.len() > 200, "{}", recorded.len());
    client.wait_for_state("pair", "lost");
    // Another takes the dead one's place, and plays all of it, again and again.
    let port = pair.port;
    let replay = TcpListener::bind(("127.0.0.1", port));
    let replay = wait_until("bound", || replay.as_ref().ok());
    let (mut stream, _) = replay.accept().expect("the client connects");
    for _ in 0..5 {
        if stream.write_all(&recorded).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    client.wait_for("they were heard before");
    assert_eq!(client.beat("pair")["state"], "lost");
    assert_eq!(client.times("is back"), 0, "{}", client.log());
}

#[test]
fn plain_frames_another_key_another_name_and_the_same_role_are_refused_and_told_once() {
    let pair = Pair::new();
    let listener = pair.listener(30_000);
    let mut forger = connect(pair.port);
    for _ in 0..100 {
        forger.write_all(PULSE).expect("sent");
    }
    listener.wait_for("they are not sealed, and a key is set");
    wait_until("all are counted", || {
        (listener.beat("pair")["refused"].as_u64()? >= 100).then_some(())
    });
    assert_eq!(
        listener.times("they are not sealed"),
        1,
        "a flood is told once"
    );
    let port = pair.port;
    let other = pair
        .stage
        .write_key("other", "another key of sixteen bytes or more");
    let key = pair.stage.write_key("key", KEY);
    for (name, beat, key, answers, why) in [
        (
            "key",
            "pair",
            &other,
            true,
            "sealed with another key, or for another heartbeat",
        ),
        (
            "name",
            "other",
            &key,
            true,
            "sealed with another key, or for another heartbeat",
        ),
        ("role", "pair", &key, false, "they are of our own role"),
    ] {
        let text = format!(
            "[heartbeat.{beat}]\nconnect = \"127.0.0.1:{port}\"\nkey = \"{key}\"\nanswers = {answers}\npulse_interval_ms = 100\n"
        );
        let program = pair.stage.start_with(name, &text);
        listener.wait_for(why);
        assert_eq!(program.beat(beat)["state"], "waiting");
    }
    assert_eq!(listener.beat("pair")["state"], "waiting");
}

#[test]
fn another_run_of_a_peer_is_heard_at_once_without_stored_state() {
    let pair = Pair::new();
    let listener = pair.listener(30_000);
    for run in 0..3 {
        let client = pair.client(30_000, "answers = true");
        client.wait_for_state("pair", "armed");
        let before = listener.beat("pair")["pulses"].as_u64().expect("a number");
        wait_until(&format!("run {run} is heard"), || {
            (listener.beat("pair")["pulses"].as_u64()? > before + 3).then_some(())
        });
    }
    assert_eq!(listener.beat("pair")["losses"], 0);
}

#[test]
fn a_short_second_start_of_one_side_does_not_lock_out_the_one_that_lives() {
    let pair = Pair::new();
    let (listener, lives) = (pair.listener(5_000), pair.client(5_000, "answers = true"));
    listener.wait_for_state("pair", "armed");
    lives.wait_for_state("pair", "armed");
    let key = pair.stage.named("key");
    let port = pair.port;
    let text = format!(
        "[heartbeat.pair]\nconnect = \"127.0.0.1:{port}\"\nkey = \"{key}\"\nanswers = true\npulse_interval_ms = 100\n"
    );
    let second = pair.stage.start_with("second", &text);
    second.wait_for_state("pair", "armed");
    drop(second);
    let refused = listener.beat("pair")["refused"].as_u64();
    // Longer than the timeout: only who is heard is still armed.
    std::thread::sleep(Duration::from_secs(7));
    for program in [&listener, &lives] {
        let beat = program.beat("pair");
        assert_eq!(beat["state"], "armed", "{}", program.log());
        assert_eq!(beat["losses"], 0, "{}", program.log());
    }
    assert_eq!(listener.beat("pair")["refused"].as_u64(), refused);
}

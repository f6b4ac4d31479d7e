// SPDX-License-Identifier: GPL-2.0-only
//! The pool's socket: what is asked, what is refused, and cursors.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_members;
mod pool_stage;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use pool_members::Ring;
use pool_stage::{directory, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use xenwarden::pool::clients::{Clients, Context, MAX_CLIENTS, MAX_FOLLOWERS};
use xenwarden::pool::promises::Promises;
use xenwarden::pool::protocol::PoolStatus;

/// A member whose clients are served, in a thread.
struct Served {
    path: PathBuf,
    ring: Arc<Mutex<Ring>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn new(name: &str, ring: Ring) -> Self {
        let path = directory(name).join("pool.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("set");
        let ring = Arc::new(Mutex::new(ring));
        let stop = Arc::new(AtomicBool::new(false));
        let group = nix::unistd::getegid().as_raw();
        let (shared, ends) = (Arc::clone(&ring), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
            let mut clients = Clients::new(listener, Some(group), 1);
            let mut fencer = pool_stage::fencer();
            while !ends.load(Ordering::Relaxed) {
                let mut events = [EpollEvent::empty(); 16];
                let count = poller
                    .wait(&mut events, EpollTimeout::from(10_u8))
                    .expect("epoll");
                let ready: Vec<u64> = events.iter().take(count).map(EpollEvent::data).collect();
                clients.accept(&poller);
                let mut ring = shared.lock().expect("a lock");
                ring.step();
                let now = ring.now;
                let mut context = Context {
                    node: ring.node(0),
                    fencer: &mut fencer,
                    trouble: None,
                    status: PoolStatus::default(),
                    promises: &Promises::default(),
                    now,
                };
                clients.serve(&ready, &poller, &mut context);
            }
        });
        Self {
            path,
            ring,
            stop,
            thread: Some(thread),
        }
    }

    fn ask(&self, request: &str) -> Vec<Value> {
        let lines = asks(&self.path, request).lines();
        lines
            .map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
            .collect()
    }

    fn events(&self, subscription: &Value) -> Vec<Value> {
        self.ask(&format!("events {subscription}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .collect()
}

#[test]
fn events_go_on_after_the_places_that_were_seen() {
    let mut ring = Ring::new(1, 1_000, Vec::new());
    (0..300).for_each(|_| ring.event(0, "guest.armed", 1));
    ring.event(0, "alarm.raised", 2);
    ring.settle();
    let served = Served::new("pool-clients-after", ring);
    let all = served.events(&json!({"kinds": ["guest.", "alarm."]}));
    assert_eq!(seqs(&all), (1..=301).collect::<Vec<u64>>());
    for seen in [0, 1, 100, 300] {
        let after = &all[seen]["position"];
        let rest = served.events(&json!({"after": [after], "kinds": ["guest.", "alarm."]}));
        assert_eq!(
            seqs(&rest),
            (seen as u64 + 2..=301).collect::<Vec<u64>>(),
            "{seen}"
        );
    }
    let guest = xenwarden::event::Uuid::from_u128(2);
    assert_eq!(seqs(&served.events(&json!({"guest": guest}))), [301]);
    // From now on: nothing that was before.
    let mut stream = UnixStream::connect(&served.path).expect("connects");
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("set");
    stream
        .write_all(b"events {\"follow\":true,\"kinds\":[\"guest.late\"]}\n")
        .expect("written");
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    wait_for("a new event", || {
        served
            .ring
            .lock()
            .expect("a lock")
            .event(0, "guest.late", 1);
        lines.read_line(&mut line).ok()
    });
    let first: Value = serde_json::from_str(&line).expect("JSON");
    assert!(first["seq"].as_u64() > Some(301), "{first}");
}

#[test]
fn a_subscriber_that_comes_back_too_late_is_told_what_it_missed() {
    let mut ring = Ring::new(1, 10, Vec::new());
    (0..5).for_each(|_| ring.event(0, "guest.armed", 1));
    ring.settle();
    let served = Served::new("pool-clients-missed", ring);
    let early = served.events(&json!({}));
    let position = early.last().expect("an event")["position"].clone();
    (0..100).for_each(|_| {
        served
            .ring
            .lock()
            .expect("a lock")
            .event(0, "guest.armed", 1)
    });
    wait_for("they are known", || {
        served
            .events(&json!({}))
            .iter()
            .any(|e| e["seq"] == 105)
            .then_some(())
    });
    let late = served.events(&json!({"after": [position]}));
    let upto = late[0]["missed_upto"].as_str().expect("a notice");
    let first = seqs(&late)[0];
    assert_eq!(seqs(&late), (first..=105).collect::<Vec<u64>>());
    assert!(
        upto.ends_with(&format!("/{first}")),
        "the record before: {upto}, {first}"
    );
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let served = Served::new("pool-clients-refused", Ring::new(1, 10, Vec::new()));
    let guest = xenwarden::event::Uuid::from_u128(2);
    let long = format!("events {}", "x".repeat(20_000));
    for request in [
        "",
        "host",
        "events {\"since\":1}",
        "events 7",
        &format!("ack {guest}"),
        &long,
    ] {
        let answer = served.ask(request);
        assert!(
            answer.len() == 1 && answer[0]["error"].is_string(),
            "{request:.40}: {answer:?}"
        );
    }
    let hosts = served.ask("hosts");
    assert_eq!(hosts[0]["hosts"][0]["name"], "host1");
    assert_eq!(hosts[0]["quorate"], true);
    assert_eq!(served.ask("guests")[0]["guests"], json!([]));
    // Who has the same records has the same hash, whatever is asked.
    assert_eq!(served.ask("status")[0]["hash"], hosts[0]["hash"]);
}

/// A client that has asked.
fn asks(path: &Path, request: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(path).expect("connects");
    stream
        .set_read_timeout(Some(pool_stage::LIMIT))
        .expect("set");
    stream
        .write_all(format!("{request}\n").as_bytes())
        .expect("written");
    BufReader::new(stream)
}

/// The same, and what it was told first.
fn asks_and_hears(path: &Path, request: &str) -> (BufReader<UnixStream>, String) {
    let mut lines = asks(path, request);
    let mut first = String::new();
    lines.read_line(&mut first).expect("a line");
    (lines, first)
}

#[test]
fn followers_take_no_place_of_those_that_ask_and_connections_none_of_roots() {
    let mut ring = Ring::new(1, 1_000, Vec::new());
    ring.event(0, "guest.armed", 1);
    ring.settle();
    let served = Served::new("pool-clients-full", ring);
    let follow = format!("events {}", json!({"after": [], "follow": true}));
    let mut followers = Vec::new();
    for number in 0..MAX_FOLLOWERS {
        let (follower, first) = asks_and_hears(&served.path, &follow);
        assert!(first.contains("position"), "{number}: {first}");
        followers.push(follower);
    }
    for _ in 0..40 {
        let (_, first) = asks_and_hears(&served.path, &follow);
        assert!(first.contains("too many requests"), "{first}");
    }
    assert!(served.ask("power")[0]["error"].is_string(), "off the ring");
    assert!(served.ask("hosts")[0]["me"].is_string());
    // Who comes and says nothing takes all other places, for 5 seconds; root's agent has its own.
    let silent = |_| UnixStream::connect(&served.path).expect("connects");
    let silent: Vec<UnixStream> = (MAX_FOLLOWERS..MAX_CLIENTS).map(silent).collect();
    if nix::unistd::geteuid().is_root() {
        assert!(served.ask("hosts")[0]["me"].is_string());
    }
    drop(silent);
    // A follower that leaves makes room for another.
    drop(followers.pop());
    wait_for("a place", || {
        let (_, first) = asks_and_hears(&served.path, &follow);
        first.contains("position").then_some(())
    });
}

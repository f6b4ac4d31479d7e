// SPDX-License-Identifier: GPL-2.0-only
//! 64 hosts and 10,000 guests: what the fold, a join and an event cost. `cargo test --release --test pool_size -- --ignored
//! --nocapture` prints it.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_members;

use pool_members::Ring;
use std::sync::Arc;
use std::time::Instant;
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::guests::report::DomainState;
use xenwarden::pool::record::{
    Boot, EventOf, GuestChanges, GuestFacts, HostFacts, MAX_CHANGES, Position, Record, Stored,
    VERSION, What, event,
};
use xenwarden::pool::store::{Store, Taken};

/// The resident memory of this process, KiB (proc_pid_status(5)).
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

fn log_of(host: u128, guests: u128, events: u64) -> Vec<Arc<Stored>> {
    let mut records = Vec::new();
    let mut push = |what: What| {
        let seq = records.len() as u64 + 1;
        let position = Position {
            boot: 1_795_449_066,
            seq,
        };
        let host = Uuid::from_u128(host);
        let record = Record {
            version: VERSION,
            host,
            position,
            time: Timestamp(1_795_449_066_250_000),
            what,
        };
        records.push(Arc::new(Stored::of(&record).expect("short")));
    };
    push(What::Boot(Boot {
        name: format!("host{host}"),
        ..Boot::default()
    }));
    push(What::Host(HostFacts::default()));
    let all: Vec<GuestFacts> = (0..guests)
        .map(|guest| GuestFacts {
            uuid: Uuid::from_u128((host << 32) | guest),
            name: Some(format!("guest-{host}-{guest}")),
            domid: u16::try_from(guest).expect("few"),
            state: DomainState::Running,
            fed: true,
        })
        .collect();
    for some in all.chunks(MAX_CHANGES) {
        push(What::Guests(GuestChanges {
            are: some.to_vec(),
            gone: Vec::new(),
        }));
    }
    for number in 0..events {
        let guest = Uuid::from_u128((host << 32) | (u128::from(number) % guests));
        let kind = if number % 50 == 0 {
            "alarm.raised"
        } else {
            "guest.late"
        };
        let line = format!(
            r#"{{"version":1,"seq":{number},"time":"2026-11-23T15:51:06.250000Z","monotonic_ns":8412250000000,"host":"host{host}","severity":"warning","guest":{{"uuid":"{guest}","domid":7,"name":"web"}},"kind":"{kind}","slot":1,"timeout_s":10,"margin_ms":900,"count":1,"expiries":1}}"#
        );
        let EventOf { event } = event(line.as_bytes()).expect("an event");
        push(What::Event(EventOf { event }));
    }
    records
}

#[test]
#[ignore = "prints what 64 hosts and 10,000 guests cost"]
fn sixty_four_hosts_and_ten_thousand_guests_fit() {
    const HOSTS: u128 = 64;
    const GUESTS: u128 = 157;
    const KEEP: usize = 1_000;
    let logs: Vec<Vec<Arc<Stored>>> = (1..=HOSTS)
        .map(|host| log_of(host, GUESTS, 1_500))
        .collect();
    let records: usize = logs.iter().map(Vec::len).sum();
    let bytes: usize = logs.iter().flatten().map(|stored| stored.bytes.len()).sum();
    let before = resident_kib();
    let mut store = Store::new(KEEP);
    let start = Instant::now();
    for stored in logs.iter().flatten() {
        let copy = Arc::new(Stored::read(&stored.bytes).expect("a record"));
        assert_eq!(store.take(&copy), Taken::New);
    }
    let took = start.elapsed();
    let each = took.as_nanos() / records as u128;
    println!(
        "fold: {records} records, {} KiB, in {took:?}: {each} ns each, decoding included",
        bytes >> 10
    );
    println!(
        "memory: {} MiB for the state, the snapshots and the records that are kept",
        (resident_kib() - before) >> 10
    );
    let start = Instant::now();
    let hash = store.hash();
    println!("hash of everything: {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(store.hash(), hash);
    println!("hash with nothing changed: {:?}", start.elapsed());
    drop(logs);
    // One that knows nothing joins one that knows all: the others are silent.
    let mut ring = Ring::new(2, KEEP, Vec::new());
    let first = ring.node(0).host();
    for (host, log) in store.hosts().filter(|(host, _)| *host != first) {
        ring.node(0).store_mut().take_base(host, log.base().clone());
        for stored in log.records() {
            ring.node(0).store_mut().take(stored);
        }
    }
    let second = ring.node(1).host();
    let start = Instant::now();
    let (messages, bytes, now) = (ring.messages, ring.bytes, ring.now);
    let mut steps = 0;
    loop {
        ring.step();
        steps += 1;
        let known = |ring: &mut Ring, host: usize| {
            let mut all = ring.node(host).store().positions();
            all.remove(&second);
            all
        };
        if known(&mut ring, 0) == known(&mut ring, 1) {
            break;
        }
        assert!(steps < 10_000, "it never knows all");
    }
    println!(
        "join: {:?} of processor time of both; {} messages, {} KiB, {} rounds of asking and answering",
        start.elapsed(),
        ring.messages - messages,
        (ring.bytes - bytes) >> 10,
        (ring.now - now) / pool_members::STEP,
    );
}

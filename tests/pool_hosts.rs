// SPDX-License-Identifier: GPL-2.0-only
//! Hosts that are lost, fenced and back: told once in the pool, whoever leads; and what a host cannot reach, told by itself.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_members;

use pool_members::Ring;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use xenwarden::event::{Cause, Coverage, Uuid};
use xenwarden::fencing::order::How;
use xenwarden::guests::report::{DomainState, GuestReport, GuestsReport};
use xenwarden::pool::fold::kind_of;
use xenwarden::pool::hooks::Rule;
use xenwarden::pool::message::message_of;
use xenwarden::pool::node::{Identity, Node};
use xenwarden::pool::record::{GuardFacts, HostFacts, HostId, Position, ResetFacts};
use xenwarden::pool::sightings::{MAX_ABSENCES, is_repeated, key_of, last_absence};
use xenwarden::pool::store::Store;
use xenwarden::pool::told::{self, Filter};

/// A subscriber that remembers what it has passed, as one at the socket does.
#[derive(Default)]
struct Reader {
    passed: BTreeMap<HostId, Position>,
    events: Vec<Map<String, Value>>,
}

impl Reader {
    /// Reads on from this host, and gives what is new of kinds that begin with this.
    fn read(&mut self, ring: &mut Ring, host: usize, kinds: &str) -> Vec<String> {
        let store = ring.node(host).store();
        let before = self.events.len();
        for (of, log) in store.hosts() {
            let after = self.passed.get(&of).copied().unwrap_or_default();
            for stored in log.after(after).expect("all is kept") {
                let event = told::event(store, stored).filter(|e| kind_of(e).starts_with(kinds));
                let event = event.filter(|event| !is_repeated(store, event, &self.passed));
                self.events.extend(event);
                self.passed.insert(of, stored.position);
            }
        }
        let new = self.events[before..].iter();
        new.map(|event| {
            let kind = kind_of(event);
            let peer = event.get("peer").and_then(Value::as_str).unwrap_or("-");
            format!("{kind} {peer}")
        })
        .collect()
    }
}

fn facts(reset: Option<&str>) -> HostFacts {
    let guard = GuardFacts {
        device: "/dev/watchdog0".to_owned(),
        identity: "stand-in".to_owned(),
        timeout_ms: 5_000,
        fence_bound_ms: Some(11_000),
        kick: false,
        reason: Some("pcpu 3 is not serviced".to_owned()),
        coverage: Coverage::Full,
        weakness: None,
        inhibited: false,
    };
    HostFacts {
        guard: Some(guard),
        reset: reset.map(|text| ResetFacts {
            time: None,
            text: text.to_owned(),
        }),
    }
}

fn guests(names: &[&str]) -> GuestsReport {
    let guest = |(number, name): (usize, &&str)| GuestReport {
        uuid: Some(Uuid::from_u128(number as u128 + 1)),
        name: Some((*name).into()),
        domid: 3,
        state: DomainState::Running,
        slots: Vec::new(),
        alarm: None,
        boot_failed: false,
        feeds_unseen: None,
    };
    GuestsReport {
        guests: names.iter().enumerate().map(guest).collect(),
        ..GuestsReport::default()
    }
}

fn steps(ring: &mut Ring, count: usize) {
    (0..count).for_each(|_| ring.step());
}

/// A rule for all that is told of hosts.
fn rule() -> Rule {
    Rule {
        name: "page".to_owned(),
        command: vec!["/bin/true".to_owned()],
        filter: Filter {
            kinds: vec![
                "pool.host_".to_owned() + "lost",
                "pool.host_back".to_owned(),
            ],
            guest: None,
        },
        timeout_ms: 1_000,
    }
}

fn leader(ring: &mut Ring) -> usize {
    let now = ring.now;
    let leads = |host: &pool_members::Host| host.node.as_ref().is_some_and(|node| node.leads(now));
    ring.hosts.iter().position(leads).expect("somebody leads")
}

#[test]
fn a_host_that_is_lost_is_told_of_once_with_what_it_said_last_and_why_once_it_is_back() {
    let mut ring = Ring::new(3, 1_000, vec![rule()]);
    ring.settle();
    let now = ring.now;
    let report = guests(&["web", "data\u{1b}[2Jbase"]);
    ring.node(2).facts(facts(None), Some(&report), now);
    ring.settle();
    ring.kill(2);
    steps(&mut ring, 60);
    let mut reader = Reader::default();
    assert_eq!(
        reader.read(&mut ring, 1, "pool.host_"),
        ["pool.host_lost host3"]
    );
    let lost = reader.events[0].clone();
    assert_eq!(lost["severity"], "error");
    assert_eq!(lost["quorate"], true);
    assert_eq!(lost["kick"], false);
    assert_eq!(lost["reason"], "pcpu 3 is not serviced");
    assert_eq!(lost["guest_count"], 2);
    assert_eq!(lost["guests"][0]["name"], "web");
    let silent = lost["silent_ms"].as_u64().expect("it was heard");
    assert!((500..10_000).contains(&silent), "{silent}");
    let said = message_of(&lost).expect("a message");
    for word in [
        "host3 is LOST",
        "pcpu 3",
        "11.0 s",
        "2 guests",
        "web",
        "this partition has quorum",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains('\u{1b}'), "{said:?}");
    // It boots, and its monitor takes a while to say why it went down.
    ring.reboot(2);
    steps(&mut ring, 40);
    assert_eq!(reader.read(&mut ring, 0, "pool.host_"), [""; 0]);
    let now = ring.now;
    let why = facts(Some("pcpu 3 stopped"));
    ring.node(2).facts(why, None, now);
    steps(&mut ring, 40);
    assert_eq!(
        reader.read(&mut ring, 2, "pool.host_"),
        ["pool.host_back host3"]
    );
    let back = &reader.events[1];
    assert_eq!(back["same_boot"], false);
    assert_eq!(back["reset"]["text"], "pcpu 3 stopped");
    assert!(back["away_ms"].as_u64() >= Some(6_000), "{back:?}");
    let said = message_of(back).expect("a message");
    assert!(
        said.contains("has booted since, as pcpu 3 stopped"),
        "{said}"
    );
    // Its program is restarted: nobody lost the host. And killed for so short a time: nobody says anything.
    ring.kill(2);
    ring.node(0).ring_nodes(vec![1, 2, 3]);
    ring.node(1).ring_nodes(vec![1, 2, 3]);
    steps(&mut ring, 100);
    ring.start(2);
    steps(&mut ring, 100);
    assert_eq!(reader.read(&mut ring, 1, "pool.host_"), [""; 0]);
    let runs: usize = ring.hosts.iter().map(|host| host.ran.len()).sum();
    assert_eq!(runs, 2, "one for each");
}

#[test]
fn a_program_that_stays_away_while_its_corosync_is_there_is_silent_and_not_lost() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    ring.kill(2);
    for host in [0, 1] {
        ring.node(host).ring_nodes(vec![1, 2, 3]);
    }
    steps(&mut ring, 200);
    let mut reader = Reader::default();
    assert_eq!(
        reader.read(&mut ring, 0, "pool.host_"),
        ["pool.host_silent host3"]
    );
    // And then it is lost: the same absence.
    for host in [0, 1] {
        ring.node(host).ring_nodes(vec![1, 2]);
    }
    steps(&mut ring, 50);
    ring.start(2);
    steps(&mut ring, 50);
    assert_eq!(
        reader.read(&mut ring, 0, "pool.host_"),
        ["pool.host_lost host3", "pool.host_back host3"]
    );
    let absences: Vec<&Value> = reader
        .events
        .iter()
        .map(|event| &event["absence"])
        .collect();
    assert_eq!(absences, [1, 1, 1]);
    assert_eq!(reader.events[2]["same_boot"], true);
}

#[test]
fn what_a_leader_wrote_that_died_before_it_could_say_it_is_told_again_and_given_once() {
    let mut ring = Ring::new(5, 1_000, vec![rule()]);
    ring.settle();
    let old = leader(&mut ring);
    let (lost, other) = (4, (old + 1) % 4);
    ring.kill(lost);
    // It writes that a host is lost to its disk, and dies before a message leaves it.
    let mut early = Reader::default();
    loop {
        ring.now += pool_members::STEP;
        let now = ring.now;
        ring.node(old).tick(now);
        let records = ring.node(old).to_save();
        let is_it = records
            .iter()
            .any(|stored| String::from_utf8_lossy(&stored.bytes).contains("sighting"));
        ring.node(old).saved(now);
        ring.hosts[old].disk.extend(records);
        while ring.node(old).next_message().is_some() {}
        if is_it {
            break;
        }
    }
    // Who follows events there has seen it.
    assert_eq!(
        early.read(&mut ring, old, "pool.host_lost"),
        ["pool.host_lost host5"]
    );
    let key = key_of(&early.events[0]).expect("a key").to_owned();
    ring.kill(old);
    steps(&mut ring, 80);
    let mut reader = Reader::default();
    let told = reader.read(&mut ring, other, "pool.host_lost");
    assert!(
        told.contains(&"pool.host_lost host5".to_owned()),
        "{told:?}"
    );
    // It comes back with its disk: the same with the same key, which nobody is given twice.
    ring.start(old);
    ring.settle();
    steps(&mut ring, 40);
    for host in [old, other] {
        let again = reader.read(&mut ring, host, "pool.host_lost");
        assert_eq!(again, [""; 0]);
        let again = early.read(&mut ring, host, "pool.host_lost");
        assert!(
            !again.contains(&"pool.host_lost host5".to_owned()),
            "{again:?}"
        );
        let again: Vec<_> = early.events.iter().filter_map(key_of).collect();
        assert_eq!(again.iter().filter(|k| **k == key).count(), 1, "{again:?}");
    }
    assert_eq!(ring.node(other).counts().sightings_twice, 1);
    assert_eq!(ring.node(old).counts().hooks_twice, 0);
    // A subscriber of no past is given it once, too.
    let all = Reader::default().read(&mut ring, other, "pool.host_lost");
    let of_it = all.iter().filter(|told| told.ends_with("host5")).count();
    assert_eq!(of_it, 1, "{all:?}");
    // And so is the hook, wherever it ran.
    let ran = ring.hosts.iter().flat_map(|host| &host.ran);
    let keys: Vec<_> = ran.filter_map(|job| key_of(&job.event)).collect();
    assert_eq!(keys.iter().filter(|k| **k == key).count(), 1, "{keys:?}");
}

#[test]
fn leaders_that_die_again_and_again_lose_no_absence_and_tell_none_twice() {
    for seed in 1..=40 {
        let mut random = pool_members::Random(seed);
        let mut ring = Ring::new(5, 1_000, Vec::new());
        ring.settle();
        let mut readers: Vec<Reader> = (0..2).map(|_| Reader::default()).collect();
        // Host 5 goes and comes; whoever leads is killed at some moment of it.
        for _ in 0..4 {
            ring.kill(4);
            steps(&mut ring, random.below(14));
            let old = leader(&mut ring);
            ring.kill(old);
            steps(&mut ring, 40);
            for reader in &mut readers {
                let mut host = random.below(5);
                while ring.hosts[host].node.is_none() {
                    host = random.below(5);
                }
                reader.read(&mut ring, host, "pool.host_");
            }
            ring.start(4);
            ring.start(old);
            ring.settle();
            steps(&mut ring, 40);
        }
        for reader in &mut readers {
            let host = random.below(5);
            reader.read(&mut ring, host, "pool.host_");
            let of_it = reader
                .events
                .iter()
                .filter(|event| event["peer"] == "host5");
            let told: Vec<(u64, &str)> = of_it
                .map(|event| (event["absence"].as_u64().expect("a number"), kind_of(event)))
                .collect();
            let expected = (1..=4).flat_map(|n| [(n, "pool.host_lost"), (n, "pool.host_back")]);
            let mut sorted = told.clone();
            sorted.sort_by_key(|(n, kind)| (*n, *kind == "pool.host_back"));
            assert_eq!(sorted, expected.collect::<Vec<_>>(), "seed {seed}");
        }
        let hashes = ring.hashes();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "seed {seed}");
    }
}

#[test]
fn a_host_that_was_fenced_is_told_of_by_whoever_fenced_it_and_once_it_is_heard_again() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let leads = leader(&mut ring);
    let (fences, target) = ((leads + 1) % 3, (leads + 2) % 3);
    // It withheld, its bound has passed, and corosync has not noticed yet.
    let node = u32::try_from(target).expect("small") + 1;
    ring.node(fences).fenced(node, How::Withheld);
    ring.node(fences).fenced(node, How::Withheld);
    ring.kill(target);
    steps(&mut ring, 60);
    let mut reader = Reader::default();
    let name = format!("host{node}");
    let mut told = reader.read(&mut ring, fences, "pool.host_");
    told.sort();
    assert_eq!(
        told,
        [
            format!("pool.host_fenced {name}"),
            format!("pool.host_lost {name}")
        ]
    );
    ring.reboot(target);
    let now = ring.now;
    ring.node(target).facts(facts(Some("fenced")), None, now);
    steps(&mut ring, 60);
    assert_eq!(
        reader.read(&mut ring, leads, "pool.host_"),
        [format!("pool.host_back {name}")]
    );
    let back = reader.events.last().expect("it is back");
    assert_eq!(back["fenced"], true);
    let absences = reader.events.iter().map(|event| &event["absence"]);
    assert!(
        absences.clone().all(|absence| *absence == json!(1)),
        "{absences:?}"
    );
}

#[test]
fn a_host_that_is_cut_off_says_so_itself_and_others_read_it_once_they_can() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    steps(&mut ring, 60);
    ring.hosts[2].side = 1;
    ring.changed();
    steps(&mut ring, 60);
    let mut alone = Reader::default();
    let kinds = ["pool.link_lost -", "pool.quorum_lost -"];
    let told = alone.read(&mut ring, 2, "pool.");
    let reached: Vec<&String> = told.iter().filter(|t| !t.contains("booted")).collect();
    assert_eq!(reached, kinds, "without quorum it tells of no other host");
    let link = alone.events.iter().find(|e| kind_of(e) == "pool.link_lost");
    let link = link.expect("told");
    assert_eq!(link["peers"], json!(["host1", "host2"]));
    assert_eq!(link["quorate"], false);
    // Its program is killed and started again meanwhile: that is not told again.
    ring.kill(2);
    ring.start(2);
    steps(&mut ring, 100);
    assert_eq!(alone.read(&mut ring, 2, "pool."), [""; 0]);
    let mut others = Reader::default();
    let told = others.read(&mut ring, 0, "pool.host_");
    assert_eq!(told, ["pool.host_lost host3"]);
    assert_eq!(others.read(&mut ring, 0, "pool.link_"), [""; 0]);
    ring.hosts[2].side = 0;
    ring.changed();
    ring.settle();
    steps(&mut ring, 40);
    let told = Reader::default().read(&mut ring, 0, "pool.");
    let of_it = told
        .iter()
        .filter(|t| t.contains("link_") || t.contains("quorum_"));
    let of_it: Vec<&String> = of_it.collect();
    assert_eq!(
        of_it,
        [
            "pool.link_lost -",
            "pool.quorum_lost -",
            "pool.link_back -",
            "pool.quorum_back -"
        ]
    );
    assert_eq!(
        others.read(&mut ring, 1, "pool.host_"),
        ["pool.host_back host3"]
    );
}

#[test]
fn a_corosync_that_ends_is_told_from_a_link_that_is_lost() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    ring.node(2).ring_lost("corosync is not there");
    ring.node(2).ring_nodes(Vec::new());
    steps(&mut ring, 20);
    let mut reader = Reader::default();
    let told = reader.read(&mut ring, 2, "pool.ring_");
    assert_eq!(told, ["pool.ring_lost -"]);
    assert_eq!(reader.events[0]["reason"], "corosync is not there");
    ring.changed();
    ring.settle();
    assert_eq!(
        reader.read(&mut ring, 2, "pool.ring_"),
        ["pool.ring_back -"]
    );
    assert_eq!(Reader::default().read(&mut ring, 2, "pool.link_"), [""; 0]);
    assert_eq!(
        Reader::default().read(&mut ring, 2, "pool.quorum_"),
        [""; 0]
    );
}

#[test]
fn a_host_that_nobody_has_heard_since_they_started_has_a_minute_and_a_node_that_says_nothing_may_be_it()
 {
    for (nodes, kind) in [(vec![1, 2], "lost"), (vec![1, 2, 7], "silent")] {
        let mut ring = Ring::new(3, 1_000, Vec::new());
        ring.settle();
        (0..3).for_each(|host| ring.kill(host));
        (0..2).for_each(|host| ring.start(host));
        for host in [0, 1] {
            ring.node(host).ring_nodes(nodes.clone());
        }
        steps(&mut ring, 500);
        let mut reader = Reader::default();
        assert_eq!(reader.read(&mut ring, 0, "pool.host_"), [""; 0]);
        steps(&mut ring, 200);
        let told = reader.read(&mut ring, 0, "pool.host_");
        assert_eq!(told, [format!("pool.host_{kind} host3")]);
        assert_eq!(reader.events[0]["silent_ms"], Value::Null);
    }
}

#[test]
fn a_host_that_was_fenced_is_not_back_for_being_counted_a_moment_longer() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    // Dead, and corosync has not noticed yet.
    ring.hosts[2].node = None;
    let leads = leader(&mut ring);
    steps(&mut ring, 5);
    ring.node(leads).fenced(3, How::Withheld);
    steps(&mut ring, 50);
    let mut reader = Reader::default();
    assert_eq!(
        reader.read(&mut ring, leads, "pool.host_"),
        ["pool.host_fenced host3"]
    );
}

#[test]
fn why_a_host_went_down_before_is_not_told_as_why_it_did_now() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let told = |ring: &mut Ring| {
        let now = ring.now;
        ring.node(2).facts(facts(Some("a fan")), None, now);
        ring.settle();
    };
    told(&mut ring);
    ring.kill(2);
    steps(&mut ring, 60);
    ring.reboot(2);
    steps(&mut ring, 5);
    told(&mut ring);
    steps(&mut ring, 40);
    let mut reader = Reader::default();
    reader.read(&mut ring, 0, "pool.host_");
    let back = &reader.events[1];
    assert_eq!(kind_of(back), "pool.host_back");
    assert_eq!(back["same_boot"], false);
    assert_eq!(back["reset"], Value::Null);
}

#[test]
fn of_each_host_the_last_eight_absences_are_kept() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    for _ in 0..MAX_ABSENCES + 4 {
        ring.kill(2);
        steps(&mut ring, 30);
        ring.start(2);
        steps(&mut ring, 30);
    }
    let of = Uuid::from_u128(3);
    let last = last_absence(ring.node(0).store(), of);
    assert_eq!(last.number, MAX_ABSENCES as u64 + 4);
    let logs = ring.node(0).store().hosts();
    let kept = logs.filter_map(|(_, log)| log.state().sightings.get(&of));
    assert_eq!(kept.map(Vec::len).max(), Some(MAX_ABSENCES));
}

#[test]
fn a_lost_host_had_the_guests_that_were_there_and_names_some() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let long = "n".repeat(200);
    let mut report = guests(&[&long[..]; 30]);
    report.guests[0].state = DomainState::Gone(Cause::Destroyed);
    let now = ring.now;
    ring.node(2).facts(facts(None), Some(&report), now);
    ring.settle();
    ring.kill(2);
    steps(&mut ring, 60);
    let mut reader = Reader::default();
    reader.read(&mut ring, 0, "pool.host_");
    let lost = &reader.events[0];
    assert_eq!(lost["guest_count"], 29);
    let named = lost["guests"].as_array().expect("guests");
    assert_eq!(named.len(), 24);
    assert_eq!(named[0]["name"].as_str().map(str::len), Some(64));
}

#[test]
fn what_a_host_never_had_since_it_started_it_has_not_lost() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.kill(1);
    ring.kill(2);
    steps(&mut ring, 200);
    let mut reader = Reader::default();
    assert_eq!(reader.read(&mut ring, 0, "pool."), ["pool.booted -"]);
    // What it had it loses.
    ring.start(1);
    steps(&mut ring, 100);
    ring.kill(1);
    steps(&mut ring, 100);
    let told = reader.read(&mut ring, 0, "pool.");
    for kind in ["pool.link_lost -", "pool.quorum_lost -"] {
        assert!(told.iter().any(|told| told == kind), "{told:?}");
    }
}

#[test]
fn a_guest_has_the_name_that_it_has_where_it_runs() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    // xl renames the domain that a migration leaves behind.
    let mut left = guests(&["web--migratedaway"]);
    left.guests[0].state = DomainState::Gone(Cause::Suspend);
    let now = ring.now;
    for (host, report) in [(0, left), (1, guests(&["web"]))] {
        ring.node(host).facts(facts(None), Some(&report), now);
    }
    ring.settle();
    let now = ring.now;
    for host in 0..3 {
        let report = ring.node(host).guests_report(now);
        let names: Vec<_> = report.guests.iter().map(|g| g.name.as_deref()).collect();
        assert_eq!(names, [Some("web")], "on host {host}");
    }
}

#[test]
fn a_host_that_has_just_joined_may_still_find_the_quorum_that_it_had() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    ring.node(2).ring_lost("corosync is not there");
    ring.node(2).ring_nodes(Vec::new());
    steps(&mut ring, 20);
    let now = ring.now;
    let node = ring.node(2);
    node.joined(3, now);
    node.ring_nodes(vec![3]);
    node.membership(&[3], now);
    node.quorum(Some(false));
    steps(&mut ring, 30);
    let mut reader = Reader::default();
    assert_eq!(reader.read(&mut ring, 2, "pool.quorum_"), [""; 0]);
    steps(&mut ring, 40);
    let told = reader.read(&mut ring, 2, "pool.quorum_");
    assert_eq!(told, ["pool.quorum_lost -"]);
}

#[test]
fn a_link_that_is_lost_was_to_the_hosts_that_were_heard_last_on_it() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    // Their pools end first, and nobody else is heard.
    ring.kill(0);
    ring.kill(1);
    ring.node(2).ring_nodes(vec![1, 2, 3]);
    steps(&mut ring, 20);
    ring.node(2).ring_nodes(vec![3]);
    steps(&mut ring, 20);
    let mut reader = Reader::default();
    reader.read(&mut ring, 2, "pool.link_lost");
    let lost = reader.events.last().expect("it is told");
    assert_eq!(lost["peers"], json!(["host1", "host2"]));
}

#[test]
fn corosync_that_is_away_is_not_back_for_a_start_of_the_program() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    ring.node(2).ring_lost("corosync is not there");
    ring.node(2).ring_nodes(Vec::new());
    steps(&mut ring, 20);
    let mut store = Store::new(1_000);
    for stored in &ring.hosts[2].disk {
        store.take(stored);
    }
    let identity = Identity {
        host: Uuid::from_u128(3),
        name: "host3".to_owned(),
        boot_id: "boot1".to_owned(),
    };
    ring.hosts[2].node = Some(Node::new(identity, store, Vec::new(), false));
    steps(&mut ring, 20);
    let mut reader = Reader::default();
    let told = reader.read(&mut ring, 2, "pool.ring_");
    assert_eq!(told, ["pool.ring_lost -"]);
    ring.changed();
    ring.settle();
    let told = reader.read(&mut ring, 2, "pool.ring_");
    assert_eq!(told, ["pool.ring_back -"]);
}

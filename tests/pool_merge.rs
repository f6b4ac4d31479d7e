// SPDX-License-Identifier: GPL-2.0-only
//! Whatever the order, the repetitions, the partitions and the deaths: what all know is the same in the end, and each event
//! is there once.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_members;

use pool_members::{Random, Ring};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xenwarden::event::Uuid;
use xenwarden::pool::alarms::Settled;
use xenwarden::pool::frame::sum;
use xenwarden::pool::hooks::Rule;
use xenwarden::pool::record::{Position, Stored};
use xenwarden::pool::store::{Store, Taken};
use xenwarden::pool::told::Filter;
use xenwarden::pool::transfer::{Incoming, Outgoing};
use xenwarden::pool::view::alarms_of;
use xenwarden::pool::wire::{Message, Part, Want, WantLog};

const RAISED: &str = "alarm.raised";
const FED: &str = "guest.first_fed";

/// The logs of three hosts, some records each.
fn logs() -> Vec<Vec<Arc<Stored>>> {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    for step in 0..6 {
        for host in 0..3 {
            let kind = [RAISED, "guest.armed", FED, "alarm.cleared"][(step + host) % 4];
            ring.event(host, kind, step as u128 % 2 + 1);
        }
        ring.step();
    }
    ring.settle();
    let store = ring.node(0).store();
    store
        .hosts()
        .map(|(_, log)| log.records().cloned().collect())
        .collect()
}

fn hash_of(records: &[Arc<Stored>]) -> String {
    let mut store = Store::new(1_000);
    for stored in records {
        store.take(stored);
    }
    store.hash()
}

#[test]
fn logs_merged_in_any_order_and_any_number_of_times_give_one_state() {
    let logs = logs();
    let all: Vec<Arc<Stored>> = logs.concat();
    let expected = hash_of(&all);
    // Every order of the first two records of each host, among themselves.
    let short: Vec<Vec<Arc<Stored>>> = logs.iter().map(|log| log[..2].to_vec()).collect();
    let expected_short = hash_of(&short.concat());
    let mut orders = 0;
    let mut left = vec![(Vec::new(), [0_usize; 3])];
    while let Some((order, taken)) = left.pop() {
        if order.len() == 6 {
            assert_eq!(hash_of(&order), expected_short);
            orders += 1;
        }
        for host in 0..3 {
            if taken[host] < 2 {
                let mut next = taken;
                next[host] += 1;
                let mut longer = order.clone();
                longer.push(Arc::clone(&short[host][taken[host]]));
                left.push((longer, next));
            }
        }
    }
    assert_eq!(orders, 90, "all interleavings of 2, 2 and 2");
    let mut random = Random(7);
    for _ in 0..300 {
        // Any order at all: a gap is refused, so it is given until everything is taken.
        let mut store = Store::new(1_000);
        let mut order: Vec<usize> = (0..all.len()).collect();
        loop {
            for at in (1..order.len()).rev() {
                order.swap(at, random.below(at + 1));
            }
            for at in &order {
                store.take(&all[*at]);
                store.take(&all[*at]);
            }
            if all
                .iter()
                .all(|stored| store.fits(&stored.record()) == Taken::Known)
            {
                break;
            }
        }
        assert_eq!(store.hash(), expected);
    }
}

#[test]
fn a_snapshot_and_the_records_after_it_are_the_same_as_all_records() {
    let logs = logs();
    let all = logs.concat();
    let expected = hash_of(&all);
    for keep in 2..8 {
        let mut store = Store::new(keep);
        for stored in &all {
            store.take(stored);
        }
        assert_eq!(store.hash(), expected);
        let mut copy = Store::new(keep);
        for (host, log) in store.hosts() {
            let base = serde_json::to_vec(log.base()).expect("JSON");
            copy.take_base(host, serde_json::from_slice(&base).expect("a state"));
            for stored in log.records() {
                copy.take(&Arc::new(Stored::read(&stored.bytes).expect("a record")));
            }
        }
        assert_eq!(copy.hash(), expected, "keep {keep}");
    }
}

fn rule() -> Rule {
    Rule {
        name: "restart".to_owned(),
        command: vec!["/bin/true".to_owned()],
        filter: Filter {
            kinds: vec![RAISED.to_owned()],
            guest: None,
        },
        timeout_ms: 1_000,
    }
}

#[test]
fn members_that_die_restart_and_are_cut_off_at_random_know_the_same_in_the_end_and_each_event_once()
{
    for seed in 1..=60 {
        let mut random = Random(seed);
        let mut ring = Ring::new(4, 1_000, vec![rule()]);
        ring.settle();
        // Somebody leads, and the hook has begun.
        (0..80).for_each(|_| ring.step());
        for _ in 0..120 {
            let host = random.below(4);
            match random.below(12) {
                0 => ring.kill(host),
                1 if ring.hosts[host].node.is_none() => ring.start(host),
                2 if ring.hosts[host].node.is_none() => ring.reboot(host),
                3 => {
                    ring.hosts[host].side = random.below(2);
                    ring.changed();
                }
                4 => (0..3).for_each(|_| ring.event(host, RAISED, random.next() as u128 % 5 + 1)),
                5 => ring.event(host, FED, random.next() as u128 % 5 + 1),
                _ => {
                    ring.event(host, "guest.armed", 9);
                    ring.step();
                }
            }
        }
        for host in 0..4 {
            ring.hosts[host].side = 0;
            if ring.hosts[host].node.is_none() {
                ring.start(host);
            }
        }
        ring.changed();
        (0..80).for_each(|_| ring.step());
        ring.settle();
        let events: BTreeMap<u128, Vec<u64>> = ring
            .hosts
            .iter()
            .filter(|h| !h.events.is_empty())
            .map(|h| (h.id, (1..=h.events.len() as u64).collect()))
            .collect();
        for host in 0..4 {
            assert_eq!(ring.seen(host), events, "seed {seed}, host {host}");
            assert_eq!(ring.node(host).counts().diverged, 0, "seed {seed}");
        }
        // Of the events for the hook none was left out, whoever led.
        let ran: BTreeSet<String> = ring
            .hosts
            .iter()
            .flat_map(|h| &h.ran)
            .map(|job| job.key.to_string())
            .collect();
        let raised: usize = ring
            .hosts
            .iter()
            .map(|h| h.events.iter().filter(|e| e.contains(RAISED)).count())
            .sum();
        assert_eq!(ran.len(), raised, "seed {seed}");
    }
}

#[test]
fn an_alarm_ends_with_its_guests_first_feed_on_another_host_once_and_everywhere() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let guest = Uuid::from_u128(5);
    let open = |ring: &mut Ring| {
        (0..3)
            .map(|host| alarms_of(ring.node(host).store(), guest).len())
            .collect::<Vec<_>>()
    };
    // A feed before the alarm is known proves nothing.
    ring.event(1, FED, 5);
    ring.settle();
    ring.event(0, RAISED, 5);
    ring.settle();
    assert_eq!(open(&mut ring), [1, 1, 1]);
    // No reboot, no migration, no death of its host ends it.
    ring.event(0, "alarm.moved", 5);
    ring.event(1, "guest.rebooted", 5);
    ring.event(1, "guest.armed", 5);
    ring.kill(0);
    ring.settle();
    assert_eq!(alarms_of(ring.node(2).store(), guest).len(), 1);
    ring.event(1, FED, 5);
    ring.event(1, "guest.fed_again", 5);
    ring.settle();
    assert!(alarms_of(ring.node(2).store(), guest).is_empty());
    ring.start(0);
    ring.settle();
    assert_eq!(open(&mut ring), [0, 0, 0]);
    let cleared = |ring: &mut Ring| {
        let logs = ring
            .node(2)
            .store()
            .hosts()
            .flat_map(|(_, log)| log.records());
        logs.filter(|stored| {
            matches!(
                stored.record().what,
                xenwarden::pool::record::What::Cleared(_)
            )
        })
        .count()
    };
    assert_eq!(cleared(&mut ring), 1, "told once");
    // The first host's own monitor is to end it, until it says that it has.
    let ended = (guest, Settled::Ended { expiries: 1 });
    assert_eq!(ring.node(0).monitor_is_to_know(), [ended]);
    assert_eq!(ring.node(1).monitor_is_to_know(), []);
    ring.event(0, "alarm.closed", 5);
    ring.settle();
    assert_eq!(ring.node(0).monitor_is_to_know(), []);
    // Expiring again on the first host is another matter.
    ring.event(0, RAISED, 5);
    ring.settle();
    assert_eq!(open(&mut ring), [1, 1, 1]);
}

#[test]
fn an_alarm_can_be_acknowledged_on_any_host() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let guest = Uuid::from_u128(5);
    assert!(ring.node(2).acknowledge(guest, 0).is_err(), "there is none");
    ring.event(0, RAISED, 5);
    ring.settle();
    ring.node(2).acknowledge(guest, 0).expect("acknowledged");
    ring.settle();
    for host in 0..3 {
        let open = alarms_of(ring.node(host).store(), guest);
        assert!(open.len() == 1 && open[0].acknowledged, "{host}");
    }
    let settled = ring.node(0).monitor_is_to_know();
    assert_eq!(settled, [(guest, Settled::Acknowledged)]);
}

#[test]
fn a_host_whose_disk_was_lost_begins_anew_and_all_agree() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    for _ in 0..10 {
        ring.event(0, "guest.armed", 1);
        ring.event(1, "guest.armed", 1);
    }
    ring.settle();
    ring.kill(0);
    ring.settle();
    ring.lose_disk(0);
    ring.start(0);
    ring.event(0, RAISED, 1);
    ring.settle();
    // Its monitor's events are told again, as nobody there knows that they were.
    assert_eq!(ring.seen(1)[&1], (1..=11).collect::<Vec<u64>>());
    assert_eq!(ring.seen(0)[&2], (1..=10).collect::<Vec<u64>>());
}

#[test]
fn a_member_that_joins_late_gets_snapshots_and_goes_on_where_a_transfer_broke() {
    let mut ring = Ring::new(3, 20, Vec::new());
    ring.kill(2);
    for round in 0..40 {
        for guest in 1..=40 {
            ring.event(0, RAISED, guest + round * 40);
        }
        ring.step();
    }
    ring.settle();
    // A snapshot of a thousand alarms takes many messages; whoever sends it dies on the way.
    ring.start(2);
    for _ in 0..4 {
        ring.step();
    }
    ring.kill(0);
    ring.settle();
    assert_eq!(ring.node(2).counts().snapshots, 1);
    assert_eq!(ring.node(2).counts().garbage, 0);
}

#[test]
fn a_snapshot_comes_in_parts_and_a_wrong_one_is_refused() {
    let mut ring = Ring::new(2, 4, Vec::new());
    for guest in 1..=600 {
        ring.event(0, RAISED, guest);
    }
    ring.settle();
    let of = Uuid::from_u128(1);
    let mut outgoing = Outgoing::default();
    let mut incoming = Incoming::default();
    let mut ask = |part: Option<Part>, ring: &mut Ring| {
        let logs = vec![WantLog {
            of,
            after: Position::default(),
            part,
        }];
        outgoing.answer(ring.node(0).store(), &Want { to: 1, logs })
    };
    let expected = ring.node(0).store().host(of).expect("a log").base().clone();
    let first = ask(None, &mut ring);
    let chunks: Vec<_> = first
        .iter()
        .filter_map(|m| {
            if let Message::Base(chunk) = m {
                Some(chunk.clone())
            } else {
                None
            }
        })
        .collect();
    assert!(chunks.len() > 2, "{}", chunks.len());
    assert_eq!(incoming.take(&chunks[1]), Ok(None), "the first is missing");
    assert_eq!(incoming.take(&chunks[0]), Ok(None));
    let part = incoming.part(of).expect("a part");
    // The log goes on meanwhile; what was begun is finished.
    for guest in 1..=50 {
        ring.event(0, RAISED, guest);
    }
    ring.settle();
    let rest = ask(Some(part), &mut ring);
    let mut whole = None;
    for message in &rest {
        if let Message::Base(chunk) = message {
            whole = incoming.take(chunk).expect("right").or(whole);
        }
    }
    assert_eq!(whole.expect("whole"), expected);
    let mut wrong = Incoming::default();
    let mut last = Ok(None);
    for chunk in &chunks {
        let mut chunk = chunk.clone();
        if let Some(byte) = chunk.bytes.last_mut() {
            *byte ^= 1;
        }
        last = wrong.take(&chunk);
    }
    assert!(last.is_err(), "{last:?}");
}

#[test]
fn what_a_member_sends_that_is_no_message_is_counted_and_named_and_nothing_else_comes_of_it() {
    let mut ring = Ring::new(3, 1_000, Vec::new());
    ring.settle();
    let hash = ring.hashes()[0].clone();
    let now = ring.now;
    let long = vec![b'x'; 1 << 20];
    for bytes in [&b""[..], b"garbage", b"XWP\x01", b"XWP\x02\x01", &long] {
        ring.node(0).delivered(2, bytes, now);
    }
    for (kind, body) in [(9, "{}"), (5, r#"{"weather":{}}"#)] {
        let newer = [
            &b"XWP\x01"[..],
            &[kind],
            &sum(body.as_bytes()),
            body.as_bytes(),
        ]
        .concat();
        assert!(ring.node(0).delivered(3, &newer, now).is_none());
        let newer = ring.node(0).counts().last_newer.clone().expect("named");
        assert!(newer.starts_with("of node 3: of a kind"), "{newer}");
    }
    let counts = ring.node(0).counts().clone();
    assert_eq!((counts.garbage, counts.newer), (5, 2));
    let named = counts.last_garbage.expect("named");
    assert!(named.contains("node 2"), "{named}");
    // A flood of what is asked for costs a bounded answer.
    let logs = vec![
        WantLog {
            of: Uuid::from_u128(1),
            after: Position::default(),
            part: None
        };
        128
    ];
    let flood = Message::Want(Want { to: 1, logs }).encode();
    for _ in 0..10_000 {
        ring.node(0).delivered(3, &flood, now);
    }
    let mut said = 0;
    while ring.node(0).next_message().is_some() {
        said += 1;
    }
    assert!(said <= 64, "{said}");
    ring.settle();
    assert_eq!(ring.hashes()[0], hash);
}

#[test]
fn a_record_of_a_newer_member_is_kept_and_passed_on_whole() {
    let mut ring = Ring::new(2, 1_000, Vec::new());
    ring.settle();
    let of = Uuid::from_u128(9);
    let newer = |seq: u64, what: &str| {
        let text = format!(
            r#"{{"version":1,"host":"{of}","boot":5,"seq":{seq},"time":"2026-11-23T15:51:06.250000Z","what":{what},"weather":"fine"}}"#
        );
        Arc::new(Stored::read(text.as_bytes()).expect("a record"))
    };
    let boot = r#"{"record":"boot","boot_id":"b","name":"new","after":null,"event_seq":null,"version":"9.0.0","colour":"red"}"#;
    let records = [newer(1, boot), newer(2, r#"{"record":"weather","wind":3}"#)];
    for record in &records {
        assert_eq!(ring.node(0).store_mut().take(record), Taken::New);
    }
    ring.settle();
    let log = ring.node(1).store().host(of).expect("it came");
    assert_eq!(
        log.records()
            .map(|stored| stored.bytes.to_vec())
            .collect::<Vec<_>>(),
        records.map(|r| r.bytes.to_vec())
    );
    assert_eq!(log.state().unknown, 1);
}

// SPDX-License-Identifier: GPL-2.0-only
//! The bus: one order for all, and losses that are counted and told.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use crossbeam_channel::Receiver;
use sink_common::{Scratch, bus, close, drops, eventually, expired, guest, raised, spawn};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use xenwarden::config::sinks::Hook;
use xenwarden::event::bus::Bus;
use xenwarden::event::{Event, Kind, Severity, VERSION};
use xenwarden::sink::hooks;
use xenwarden::sink::syslog::{self, Sockets};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const TEN_S: u64 = 10 * NS_PER_S;

fn numbers(queue: &Receiver<Arc<Event>>) -> Vec<u64> {
    queue.try_iter().map(|event| event.seq).collect()
}

/// The `sink.dropped` events in a queue: sink, count, total.
fn told(queue: &Receiver<Arc<Event>>) -> Vec<(String, u64, u64)> {
    let events = queue.try_iter();
    let told = events.filter_map(|event| match &event.what {
        Kind::SinkDropped { sink, count, total } => Some((sink.clone(), *count, *total)),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_event_is_stamped_with_everything_that_it_needs() {
    let bus = bus();
    let queue = bus.attach("one", 4);
    let before = Monotonic::now();
    let web = guest(Some(7), 3, "web");
    assert_eq!(bus.publish(Some(web.clone()), expired()), 1);
    assert_eq!(bus.next_seq(), 2);
    let event = queue.try_recv().expect("an event");
    assert_eq!((event.version, event.seq), (VERSION, 1));
    assert_eq!(
        (&*event.host, event.severity),
        ("testhost", Severity::Error)
    );
    assert_eq!((&event.guest, &event.what), (&Some(web), &expired()));
    assert!(event.monotonic_ns >= before.0 && event.monotonic_ns <= Monotonic::now().0);
    assert!(event.time.0 > 0);
}

#[test]
fn all_sinks_see_the_same_order_whoever_publishes() {
    let bus = bus();
    let queues = [bus.attach("a", 4_000), bus.attach("b", 4_000)];
    let publishers: Vec<_> = (0..4_u16)
        .map(|n| {
            let bus = Arc::clone(&bus);
            thread::spawn(move || {
                for _ in 0..500 {
                    bus.publish(Some(guest(None, n, "g")), raised());
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().expect("publishes");
    }
    for queue in &queues {
        assert_eq!(numbers(queue), (1..=2_000).collect::<Vec<u64>>());
    }
    assert_eq!(bus.counts(), [("alarm.raised", 2_000)]);
}

#[test]
fn a_full_queue_loses_for_its_sink_alone_and_the_loss_is_told_once_there_is_room() {
    let bus = bus();
    let (slow, fast) = (bus.attach("slow", 4), bus.attach("fast", 100));
    for _ in 0..20 {
        bus.publish(None, raised());
    }
    assert_eq!((drops(&bus, "slow"), drops(&bus, "fast")), (16, 0));
    assert_eq!(told(&fast), [], "no report while there is no room");
    assert_eq!(numbers(&slow), [1, 2, 3, 4]);
    bus.report_drops();
    let expected = ("slow".to_owned(), 16, 16);
    assert_eq!(told(&fast), [expected]);
    assert_eq!(told(&slow).len(), 1, "the sink itself learns of it");
}

#[test]
fn a_sink_that_never_has_room_is_told_of_each_10_s_and_no_more() {
    let bus = bus();
    let (stuck, fast) = (bus.attach("stuck", 1), bus.attach("fast", 1_000));
    let before = Monotonic::now();
    for _ in 0..6 {
        bus.publish(None, raised());
    }
    bus.report_drops_at(before.plus_ns(TEN_S - 1));
    assert_eq!(told(&fast), [], "it may have room soon");
    let first = Monotonic::now().plus_ns(TEN_S);
    bus.report_drops_at(first);
    assert_eq!(told(&fast), [("stuck".to_owned(), 5, 5)]);
    // That report was itself lost on the sink: it is told of with the next loss.
    bus.report_drops_at(first);
    bus.report_drops_at(first.plus_ns(TEN_S - 1));
    bus.publish(None, raised());
    assert_eq!(told(&fast), []);
    bus.report_drops_at(first.plus_ns(TEN_S));
    assert_eq!(told(&fast), [("stuck".to_owned(), 2, 7)]);
    assert_eq!(numbers(&stuck), [1]);
}

#[test]
fn a_sink_that_is_gone_counts_as_losing_and_its_reports_do_not_breed() {
    let bus = bus();
    drop(bus.attach("gone", 10));
    let watching = bus.attach("watching", 100);
    bus.publish(None, raised());
    assert_eq!(told(&watching), [("gone".to_owned(), 1, 1)]);
    for n in 1..10 {
        bus.report_drops_at(Monotonic::now().plus_ns(n * TEN_S));
    }
    assert_eq!(told(&watching), [], "nothing but the report was lost since");
    assert_eq!(drops(&bus, "gone"), 2);
}

#[test]
fn what_a_sink_fails_to_deliver_is_counted_and_told() {
    let bus = bus();
    let queue = bus.attach("watching", 10);
    bus.count_failed("unattached", 3);
    bus.count_failed("unattached", 2);
    bus.count_failed("watching", 0);
    assert_eq!(bus.drops(), [("watching", 0), ("unattached", 5)]);
    bus.report_drops();
    assert_eq!(told(&queue), [("unattached".to_owned(), 5, 5)]);
}

#[test]
fn a_closed_bus_ends_its_queues_after_what_they_hold() {
    let bus = bus();
    let (queue, (waking, mut woken)) = (
        bus.attach("a", 10),
        bus.attach_waking("b", 10).expect("socket pair"),
    );
    bus.publish(None, raised());
    close(&bus);
    assert_eq!(bus.publish(None, raised()), 2, "numbers go on");
    for queue in [queue, waking] {
        assert_eq!(queue.recv().map(|event| event.seq), Ok(1));
        assert!(queue.recv().is_err(), "it has ended");
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut woken, &mut bytes).expect("the end");
    assert_eq!(bytes.len(), 1, "one event woke");
    assert!(bus.attach("late", 1).recv().is_err());
}

#[test]
fn each_sink_ends_at_the_deadline_although_it_is_not_done() {
    let scratch = Scratch::new("stop");
    let sockets = Sockets {
        journal: scratch.path("journal"),
        devlog: scratch.path("log"),
    };
    let hook = Hook {
        kinds: vec!["alarm.".to_owned()],
        program: scratch.script("hook", "sleep 1000"),
        arguments: Vec::new(),
        timeout: Duration::from_secs(300),
    };
    type Run = Box<dyn FnOnce(&Receiver<Arc<Event>>, &Bus) + Send>;
    let sinks: [(&'static str, Run); 2] = [
        (
            syslog::NAME,
            Box::new(move |queue, bus| syslog::run(queue, &sockets, bus, |_| false)),
        ),
        (
            hooks::NAME,
            Box::new(move |queue, bus| hooks::run(queue, &[hook], 4, None, bus)),
        ),
    ];
    for (name, run) in sinks {
        let bus = bus();
        let queue = bus.attach(name, 64);
        let counted = Arc::clone(&bus);
        let sink = spawn(move || run(&queue, &counted));
        for _ in 0..60 {
            bus.publish(None, raised());
        }
        close(&bus);
        eventually(name, || sink.is_finished());
        sink.join().expect("no panic");
    }
}

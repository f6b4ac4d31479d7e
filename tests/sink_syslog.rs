// SPDX-License-Identifier: GPL-2.0-only
//! Events to the journal and to /dev/log, with sockets that stand in for both.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use sink_common::{LONG, Scratch, bus, close, drops, eventually, expired, guest, raised, spawn};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use xenwarden::event::bus::Bus;
use xenwarden::event::{Event, Kind};
use xenwarden::sink::syslog::{self, NAME, Sockets};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

struct Sink {
    scratch: Scratch,
    bus: Arc<Bus>,
    thread: JoinHandle<()>,
}

impl Sink {
    fn start(scratch: Scratch) -> Self {
        let bus = bus();
        let queue = bus.attach(NAME, 8_192);
        let sockets = Sockets {
            journal: scratch.path("journal"),
            devlog: scratch.path("log"),
        };
        let counted = Arc::clone(&bus);
        let thread = spawn(move || {
            syslog::run(&queue, &sockets, &counted, |_| false);
        });
        Self {
            scratch,
            bus,
            thread,
        }
    }

    fn end(self) -> Scratch {
        close(&self.bus);
        self.thread.join().expect("no panic");
        self.scratch
    }
}

fn monitor(scratch: &Scratch, name: &str) -> UnixDatagram {
    let socket = UnixDatagram::bind(scratch.path(name)).expect("bind");
    socket.set_read_timeout(Some(LONG)).expect("timeout");
    socket
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let n = socket.recv(&mut bytes).expect("a datagram");
    bytes.truncate(n);
    bytes
}

fn text(socket: &UnixDatagram) -> String {
    String::from_utf8(receive(socket)).expect("text")
}

/// The native protocol, strictly.
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|b| *b == b'\n').expect("a line");
        let (line, rest) = datagram.split_at(end);
        let equals = line.iter().position(|b| *b == b'=');
        let (name, value, rest) = match equals {
            Some(at) => (&line[..at], &line[at + 1..], &rest[1..]),
            None => {
                let (length, rest) = rest[1..].split_at(8);
                let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
                let (value, rest) = rest.split_at(usize::try_from(length).expect("a length"));
                assert_eq!(rest[0], b'\n', "a line feed after the value");
                (line, value, &rest[1..])
            }
        };
        let name = String::from_utf8(name.to_vec()).expect("a name");
        let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(legal) && !name.starts_with('_'), "{name}");
        let value = String::from_utf8(value.to_vec()).expect("text");
        assert!(fields.insert(name, value).is_none(), "a field twice");
        datagram = rest;
    }
    fields
}

#[test]
fn the_journal_gets_every_field_and_dev_log_nothing() {
    let scratch = Scratch::new("journal-fields");
    let (journal, devlog) = (monitor(&scratch, "journal"), monitor(&scratch, "log"));
    let sink = Sink::start(scratch);
    let odd = guest(Some(0xabc), 3, "web\nPRIORITY=0\n");
    sink.bus.publish(Some(odd.clone()), expired());
    let found = fields(&receive(&journal));
    let uuid = "00000000-0000-0000-0000-000000000abc";
    let expected = [
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "xenwarden-monitor"),
        ("XENWARDEN_KIND", "guest.expired"),
        ("XENWARDEN_SEQ", "1"),
        ("XENWARDEN_GUEST_UUID", uuid),
        ("XENWARDEN_GUEST_NAME", "web\nPRIORITY=0\n"),
        ("XENWARDEN_DOMID", "3"),
    ];
    for (name, value) in expected {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(found["MESSAGE"].contains("its watchdog expired, unfed for 10.4 s"));
    let event: Event = serde_json::from_str(&found["XENWARDEN_EVENT"]).expect("the event");
    assert_eq!((event.seq, event.guest), (1, Some(odd)));
    sink.bus.publish(None, Kind::HostDisarmed {});
    assert!(!fields(&receive(&journal)).contains_key("XENWARDEN_DOMID"));
    drop(sink.end());
    devlog.set_nonblocking(true).expect("non-blocking");
    assert!(
        devlog.recv(&mut [0; 8]).is_err(),
        "an event must not come twice"
    );
}

#[test]
fn without_a_journal_dev_log_gets_a_line_and_a_new_journal_is_found() {
    let scratch = Scratch::new("journal-gone");
    let devlog = monitor(&scratch, "log");
    let journal = monitor(&scratch, "journal");
    let sink = Sink::start(scratch);
    let web = guest(None, 3, "web\u{1b}[2J\n");
    sink.bus.publish(Some(web.clone()), raised());
    receive(&journal);
    // Its socket stays behind when it dies; then that goes as well.
    drop(journal);
    sink.bus.publish(Some(web.clone()), raised());
    let line = text(&devlog);
    assert!(
        line.starts_with("<27>") && line.contains(" xenwarden-monitor["),
        "{line}"
    );
    assert!(
        line.ends_with("guest web?[2J? (domain 3): ALARM: its watchdog expired"),
        "{line}"
    );
    std::fs::remove_file(sink.scratch.path("journal")).expect("unlink");
    sink.bus.publish(Some(web.clone()), raised());
    text(&devlog);
    let journal = monitor(&sink.scratch, "journal");
    sink.bus.publish(Some(web), raised());
    assert_eq!(fields(&receive(&journal))["XENWARDEN_SEQ"], "4");
    assert_eq!(drops(&sink.bus, NAME), 0);
    sink.end();
}

#[test]
fn a_burst_that_outruns_a_reading_logger_is_not_lost() {
    for name in ["journal", "log"] {
        let scratch = Scratch::new(&format!("burst-{name}"));
        let socket = monitor(&scratch, name);
        let sink = Sink::start(scratch);
        let reader = thread::spawn(move || (0..2_000).for_each(|_| drop(receive(&socket))));
        for _ in 0..2_000 {
            sink.bus.publish(None, raised());
        }
        reader.join().expect("all");
        assert_eq!(drops(&sink.bus, NAME), 0);
        sink.end();
    }
}

#[test]
fn a_stalled_logger_costs_events_each_of_which_is_counted() {
    for name in ["journal", "log"] {
        let scratch = Scratch::new(&format!("stall-{name}"));
        let socket = monitor(&scratch, name);
        let sink = Sink::start(scratch);
        for _ in 0..3_000 {
            sink.bus.publish(None, raised());
        }
        let bus = Arc::clone(&sink.bus);
        // Its end waits until each was tried.
        let _scratch = sink.end();
        let lost = drops(&bus, NAME);
        socket.set_nonblocking(true).expect("non-blocking");
        let held = (0_u64..).take_while(|_| socket.recv(&mut [0; 65_536]).is_ok());
        assert!(lost > 0);
        assert_eq!(u64::try_from(held.count()).expect("few") + lost, 3_000);
    }
}

#[test]
fn a_slow_logger_does_not_hold_up_the_end_and_what_it_misses_is_counted() {
    let scratch = Scratch::new("slow-logger");
    let socket = monitor(&scratch, "log");
    let sink = Sink::start(scratch);
    let (end, ended) = channel::<()>();
    // Two datagrams a second: 4000 events would take it half an hour.
    let reader = thread::spawn(move || {
        let mut count = 0;
        let pause = Duration::from_millis(500);
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            receive(&socket);
            count += 1;
        }
        socket.set_nonblocking(true).expect("non-blocking");
        count
            + (0_u64..)
                .take_while(|_| socket.recv(&mut [0; 65_536]).is_ok())
                .count()
    });
    for _ in 0..4_000 {
        sink.bus.publish(None, raised());
    }
    let (bus, before) = (Arc::clone(&sink.bus), Instant::now());
    let _scratch = sink.end();
    let took = before.elapsed();
    drop(end);
    let read = reader.join().expect("no panic");
    assert!(took < LONG, "{took:?}");
    let read = u64::try_from(read).expect("few");
    assert_eq!(read + drops(&bus, NAME), 4_000, "each is read or counted");
}

#[test]
fn a_logger_that_reads_again_is_told_what_it_missed() {
    for name in ["journal", "log"] {
        let scratch = Scratch::new(&format!("again-{name}"));
        let socket = monitor(&scratch, name);
        let sink = Sink::start(scratch);
        for _ in 0..3_000 {
            sink.bus.publish(None, raised());
        }
        eventually("drops", || drops(&sink.bus, NAME) > 0);
        sink.bus.report_drops();
        let is_told = |text: String| text.contains("sink syslog lost ");
        // Tried after those before it, some of which the reading makes room for.
        while !is_told(String::from_utf8_lossy(&receive(&socket)).into_owned()) {}
        sink.end();
    }
}

#[test]
fn a_logger_that_is_not_there_costs_events_that_are_counted_and_told_once() {
    let sink = Sink::start(Scratch::new("no-logger"));
    let watching = sink.bus.attach("watching", 64);
    for _ in 0..10 {
        sink.bus.publish(None, raised());
    }
    eventually("drops", || drops(&sink.bus, NAME) == 10);
    for round in 1..5 {
        let later = Monotonic::now().plus_ns(round * 10 * NS_PER_S);
        sink.bus.report_drops_at(later);
        // The report itself is lost as well.
        eventually("the report's loss", || drops(&sink.bus, NAME) > 10);
    }
    let told = |event: &Event| matches!(event.what, Kind::SinkDropped { .. });
    let reports = watching.try_iter().filter(|event| told(event)).count();
    assert!((1..=2).contains(&reports), "{reports} reports of 10 losses");
    sink.end();
}

#[test]
fn local_loggers_get_local_time() {
    // A zone of its own rules (tzset(3)), half an hour off any clock that UTC could be taken for.
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_line_has_the_time_of_the_zone", "--ignored"])
        .env("TZ", "XYZ-05:30")
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "run by local_loggers_get_local_time"]
fn a_line_has_the_time_of_the_zone() {
    if std::env::var("TZ").as_deref() != Ok("XYZ-05:30") {
        return;
    }
    let scratch = Scratch::new("syslog-zone");
    let socket = monitor(&scratch, "log");
    let mut devlog = xenwarden::sink::devlog::DevLog::new(&scratch.path("log"), "test");
    assert_eq!(devlog.send(xenwarden::event::Severity::Info.into(), "x"), 0);
    let line = text(&socket);
    let date = |zone: &str| {
        let mut date = std::process::Command::new("date");
        let output = date
            .env("TZ", zone)
            .arg("+%e %H:%M:")
            .output()
            .expect("date");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    };
    let (local, utc) = (date("XYZ-05:30"), date("UTC0"));
    assert!(line.contains(&local) && !line.contains(&utc), "{line}");
}

// SPDX-License-Identifier: GPL-2.0-only
//! The names of domains, against an xenstored of the test's own, which can fall silent.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::unistd::gettid;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use xenwarden::event::Uuid;
use xenwarden::event::sequence::Sequence;
use xenwarden::guests::GuestEvent;
use xenwarden::guests::alarm::Rules;
use xenwarden::guests::registry::Registry;
use xenwarden::monitor::names::Names;
use xenwarden::monitor::shared_registry::SharedRegistry;
use xenwarden::monitor::watcher::{self, Idle};
use xenwarden::state::saver::Saver;
use xenwarden::state::store::Store;
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::xenstore::Xenstore;

const LONG: Duration = Duration::from_secs(30);
const READ: u32 = 2;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// An xenstored with a few values.
#[derive(Default)]
struct FakeXenstored {
    values: Mutex<BTreeMap<String, String>>,
    silent: AtomicBool,
    reads: AtomicUsize,
    connections: AtomicUsize,
    /// The latest connection.
    latest: Mutex<Option<Arc<UnixStream>>>,
    /// Path, token and watcher: as Linux takes them, also twice.
    watches: Mutex<Vec<(String, String, Arc<UnixStream>)>>,
}

impl FakeXenstored {
    /// Gives a domain a name, and tells who watches it.
    fn set(&self, domid: u16, name: &str) {
        let path = format!("/local/domain/{domid}/name");
        let mut values = self.values.lock().expect("values");
        values.insert(path.clone(), name.to_owned());
        drop(values);
        let watches = self.watches.lock().expect("watches");
        for (watched, token, watcher) in watches.iter().filter(|(p, ..)| *p == path) {
            let payload = format!("{watched}\0{token}\0");
            let _ = watcher
                .as_ref()
                .write_all(&message(WATCH_EVENT, 0, &payload));
        }
    }

    fn watched(&self) -> usize {
        self.watches.lock().expect("watches").len()
    }

    fn connect(self: &Arc<Self>) -> Xenstore {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("non-blocking");
        let xenstored = Arc::clone(self);
        thread::spawn(move || xenstored.serve(ours));
        Xenstore::over(theirs.into())
    }

    fn serve(&self, stream: UnixStream) -> Option<()> {
        let shared = Arc::new(stream);
        *self.latest.lock().expect("latest") = Some(Arc::clone(&shared));
        loop {
            let mut stream = shared.as_ref();
            let mut head = [0; 16];
            stream.read_exact(&mut head).ok()?;
            let word = |n: usize| u32::from_ne_bytes(head[n * 4..][..4].try_into().expect("four"));
            let mut payload = vec![0; usize::try_from(word(3)).expect("short")];
            stream.read_exact(&mut payload).ok()?;
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            let text = String::from_utf8(payload).expect("text");
            let mut words = text.split('\0').map(str::to_owned);
            let path = words.next().expect("a path");
            let value = self.values.lock().expect("values").get(&path).cloned();
            let token = words.next().unwrap_or_default();
            let answer = match (word(0), value) {
                (kind @ (WATCH | UNWATCH), _) => {
                    let mut watches = self.watches.lock().expect("watches");
                    let mut answer = message(kind, 0, "OK\0");
                    if kind == UNWATCH {
                        let at = watches
                            .iter()
                            .position(|(p, t, _)| (p, t) == (&path, &token));
                        at.map(|at| watches.swap_remove(at));
                    } else {
                        // Each watch fires once when it is set (docs/misc/xenstore.txt).
                        answer.extend(message(WATCH_EVENT, 0, &format!("{path}\0{token}\0")));
                        watches.push((path, token, Arc::clone(&shared)));
                    }
                    answer
                }
                (READ, value) => {
                    self.reads.fetch_add(1, Ordering::Relaxed);
                    match value {
                        Some(value) => message(READ, word(1), &value),
                        None => message(ERROR, word(1), "ENOENT\0"),
                    }
                }
                _ => message(ERROR, word(1), "ENOSYS\0"),
            };
            stream.write_all(&answer).ok()?;
        }
    }
}

fn message(kind: u32, request: u32, payload: &str) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short");
    let words = [kind, request, 0, len];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend(payload.bytes());
    bytes
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

struct Running {
    xenstored: Arc<FakeXenstored>,
    names: Arc<Names>,
    refuses: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread_id: Arc<AtomicI32>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(refuses: bool) -> Self {
        let xenstored = Arc::new(FakeXenstored::default());
        let refuses = Arc::new(AtomicBool::new(refuses));
        let (connector, asked) = (Arc::clone(&xenstored), Arc::clone(&refuses));
        let names = Arc::new(Names::new(Box::new(move || {
            if asked.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            Ok(connector.connect())
        })));
        let stop = Arc::new(AtomicBool::new(false));
        let (run, ends) = (Arc::clone(&names), Arc::clone(&stop));
        let thread_id = Arc::new(AtomicI32::new(0));
        let says = Arc::clone(&thread_id);
        Self {
            xenstored,
            names,
            refuses,
            stop,
            thread_id,
            thread: thread::spawn(move || {
                says.store(gettid().as_raw(), Ordering::Relaxed);
                run.run(&ends);
            }),
        }
    }

    /// How often the thread has slept.
    fn sleeps(&self) -> u64 {
        let id = self.thread_id.load(Ordering::Relaxed);
        let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status"));
        let status = status.expect("a thread");
        let counted = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        counted.expect("counted").trim().parse().expect("a number")
    }

    fn named(&self, created: u64) -> Option<String> {
        let table = self.names.table();
        table.by_domain.get(&created).map(|name| name.to_string())
    }

    fn is(&self, created: u64, name: &str) {
        eventually(name, || self.named(created).as_deref() == Some(name));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.names.wake();
        self.thread.join().expect("ends");
    }
}

#[test]
fn names_are_known_as_they_are_written_and_belong_to_one_creation() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50), (6, 60)]);
    r.is(50, "five");
    // xenstore learns of a domain later than the hypervisor; a watch tells.
    eventually("watched", || r.xenstored.watched() == 3);
    assert_eq!(r.named(60), None);
    r.xenstored.set(6, "six");
    r.is(60, "six");
    r.xenstored.set(6, "renamed");
    r.is(60, "renamed");
    r.xenstored
        .set(6, &"\u{e9}".repeat(500).replacen('\u{e9}', "e", 1));
    eventually("bounded", || {
        r.named(60)
            .is_some_and(|n| n.len() == 255 && n.starts_with("e\u{e9}"))
    });
    assert_eq!(r.named(50).as_deref(), Some("five"));
    assert_eq!(r.names.table().trouble, None);
    // The domid is used again: nothing of the domain before may stay.
    r.xenstored.set(5, "other");
    r.names.follow(vec![(5, 70)]);
    r.is(70, "other");
    eventually("forgotten", || {
        r.named(50).is_none() && r.named(60).is_none()
    });
    eventually("unwatched", || r.xenstored.watched() == 2);
    r.end();
}

#[test]
fn nothing_is_asked_while_nothing_happens() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50)]);
    r.is(50, "five");
    eventually("watched", || r.xenstored.watched() == 2);
    let reads = || r.xenstored.reads.load(Ordering::Relaxed);
    let (before, table) = (reads(), r.names.table());
    thread::sleep(Duration::from_millis(2_500)); // rounds, each of which might ask
    assert_eq!(reads(), before);
    assert!(
        Arc::ptr_eq(&table, &r.names.table()),
        "nothing to take over"
    );
    r.end();
}

#[test]
fn names_sleep_while_no_domain_comes_or_goes() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50)]);
    r.is(50, "five");
    eventually("watched", || r.xenstored.watched() == 2);
    eventually("asleep", || {
        let before = r.sleeps();
        thread::sleep(Duration::from_secs(3));
        r.sleeps() == before
    });
    // It is woken, and not by a watch.
    r.xenstored.set(6, "six");
    r.names.follow(vec![(5, 50), (6, 60)]);
    r.is(60, "six");
    r.end();
}

#[test]
fn a_silent_xenstored_is_told_and_delays_nobody_and_known_names_stay() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50)]);
    r.is(50, "five");
    r.xenstored.silent.store(true, Ordering::Relaxed);
    r.names.follow(vec![(5, 50), (6, 60)]);
    eventually("says so", || r.names.table().trouble.is_some());
    assert_eq!(r.named(50).as_deref(), Some("five"));
    assert_eq!(r.xenstored.connections.load(Ordering::Relaxed), 1, "kept");
    r.end();
}

#[test]
fn an_xenstored_that_cannot_be_reached_is_told_and_taken_back() {
    let r = Running::start(true);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50)]);
    eventually("says so", || r.names.table().trouble.is_some());
    r.refuses.store(false, Ordering::Relaxed);
    r.is(50, "five");
    eventually("no trouble", || r.names.table().trouble.is_none());
    r.end();
}

#[test]
fn that_names_can_be_known_again_is_told_also_where_there_is_nobody_to_name() {
    let r = Running::start(false);
    r.names.follow(vec![]);
    let latest = || r.xenstored.latest.lock().expect("latest").take();
    let mut connection = None;
    eventually("connected", || {
        connection = latest();
        connection.is_some()
    });
    eventually("asleep", || {
        let before = r.sleeps();
        thread::sleep(Duration::from_secs(1));
        r.sleeps() == before
    });
    r.refuses.store(true, Ordering::Relaxed);
    let ended = connection.expect("connected").shutdown(Shutdown::Both);
    ended.expect("was open");
    eventually("says so", || r.names.table().trouble.is_some());
    r.refuses.store(false, Ordering::Relaxed);
    eventually("no trouble", || r.names.table().trouble.is_none());
    r.end();
}

#[test]
fn an_xenstored_that_is_silent_about_a_new_name_is_told_until_it_is_not() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    r.names.follow(vec![(5, 50)]);
    r.is(50, "five");
    eventually("watched", || r.xenstored.watched() == 2);
    r.xenstored.silent.store(true, Ordering::Relaxed);
    r.xenstored.set(5, "renamed");
    eventually("says so", || r.names.table().trouble.is_some());
    let until = Instant::now() + Duration::from_secs(10); // three attempts
    while Instant::now() < until {
        assert!(r.names.table().trouble.is_some(), "no answer came");
        thread::sleep(Duration::from_millis(20));
    }
    r.end();
}

/// The names in the first events of a monitor that starts beside a guest of domid 5, which
/// fed and expired before.
fn first_names(r: &Running) -> Vec<Option<String>> {
    let xen = Simulation::new(1);
    xen.create(5, Uuid::from_u128(5));
    xen.arm(5, 0, 10);
    xen.feed(5, 0);
    xen.expire(5, 0);
    let (send, told) = std::sync::mpsc::channel();
    let publish = Mutex::new(send);
    let publish = move |event: GuestEvent| {
        let name = event.guest.name.map(|name| name.to_string());
        let _ = publish.lock().expect("whole").send(name);
    };
    let store = Store::new(std::path::Path::new("/proc/nowhere"));
    let saver = Saver::new(store, Arc::new(Sequence::from(1)), "boot".to_owned());
    let registry = Registry::new(Rules::default());
    let registry = SharedRegistry::new(registry, Arc::new(saver), Box::new(publish));
    let (table, idle) = (xen.table(), Idle::default());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| watcher::run(&table, &r.names, &registry, &idle, &stop));
        let next = || told.recv_timeout(LONG).expect("an event");
        let names = (0..4).map(|_| next()).collect();
        stop.store(true, Ordering::Release);
        names
    })
}

#[test]
fn what_a_monitor_tells_first_has_the_names_of_the_guests() {
    let r = Running::start(false);
    r.xenstored.set(5, "five");
    assert_eq!(
        first_names(&r),
        [const { Some("five") }; 4].map(|n| n.map(str::to_owned))
    );
    r.end();
}

#[test]
fn a_silent_xenstored_does_not_hold_up_what_a_monitor_tells_first() {
    let r = Running::start(false);
    r.xenstored.silent.store(true, Ordering::Relaxed);
    assert_eq!(first_names(&r), [const { None }; 4]);
    r.end();
}

#[test]
fn many_domains_at_once_are_asked_for_and_watched_once_and_then_no_more() {
    const DOMAINS: u16 = 1_000;
    let r = Running::start(false);
    let named = 1..=DOMAINS / 2;
    named
        .clone()
        .for_each(|n| r.xenstored.set(n, &format!("guest{n}")));
    r.names
        .follow((1..=DOMAINS).map(|n| (n, n.into())).collect());
    named.for_each(|n| r.is(n.into(), &format!("guest{n}")));
    let all = usize::from(DOMAINS) + 1;
    eventually("watched", || r.xenstored.watched() >= all);
    // A name that is written afterwards: it is known some rounds later.
    r.xenstored.set(DOMAINS, "last");
    r.is(DOMAINS.into(), "last");
    let reads = r.xenstored.reads.load(Ordering::Relaxed);
    for round in 0..3 {
        let name = format!("last{round}");
        r.xenstored.set(DOMAINS, &name);
        r.is(DOMAINS.into(), &name);
        thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(r.xenstored.watched(), all, "each once");
    let more = r.xenstored.reads.load(Ordering::Relaxed) - reads;
    assert!(more < all, "{more} reads for three names");
    r.end();
}

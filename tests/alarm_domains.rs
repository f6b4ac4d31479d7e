// SPDX-License-Identifier: GPL-2.0-only
//! The threads around the registry, from outside: the table of domains against an xenstored
//! of the test's own, and the watcher from snapshot to happening to disk.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::guard::ledger::Ledger;
use xenwarden::guests::Desk;
use xenwarden::guests::Happening;
use xenwarden::guests::alarm::Rules;
use xenwarden::guests::guest::Incarnation;
use xenwarden::monitor::domains::{DomainInfo, Domains};
use xenwarden::monitor::watcher;
use xenwarden::state::saver;
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::simulated::Scene;
use xenwarden::xen::xenstore::Xenstore;

const LONG: Duration = Duration::from_secs(30);
const READ: u32 = 2;
const WATCH: u32 = 4;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// An xenstored with a few values, which can fall silent.
#[derive(Default)]
struct Daemon {
    values: Mutex<BTreeMap<String, String>>,
    silent: AtomicBool,
    watches: AtomicUsize,
    watchers: Mutex<Vec<UnixStream>>,
}

impl Daemon {
    fn set(&self, domid: u16, uuid: &str, name: &str) {
        let mut values = self.values.lock().expect("values");
        let path = format!("/local/domain/{domid}");
        values.insert(format!("{path}/vm"), format!("/vm/{uuid}"));
        values.insert(format!("{path}/name"), name.to_owned());
    }

    fn connect(self: &Arc<Self>) -> Xenstore {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("non-blocking");
        let daemon = Arc::clone(self);
        thread::spawn(move || daemon.serve(ours));
        Xenstore::over(theirs.into())
    }

    fn serve(&self, mut stream: UnixStream) -> Option<()> {
        loop {
            let mut head = [0; 16];
            stream.read_exact(&mut head).ok()?;
            let word = |n: usize| u32::from_ne_bytes(head[n * 4..][..4].try_into().expect("four"));
            let mut payload = vec![0; usize::try_from(word(3)).expect("short")];
            stream.read_exact(&mut payload).ok()?;
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            let text = String::from_utf8(payload).expect("text");
            let path = text.split('\0').next().expect("a path");
            let value = self.values.lock().expect("values").get(path).cloned();
            let answer = match (word(0), value) {
                (WATCH, _) => {
                    self.watches.fetch_add(1, Ordering::Relaxed);
                    let copy = stream.try_clone().expect("a copy");
                    self.watchers.lock().expect("watchers").push(copy);
                    message(WATCH, 0, "OK\0")
                }
                (READ, Some(value)) => message(READ, word(1), &value),
                _ => message(ERROR, word(1), "ENOENT\0"),
            };
            stream.write_all(&answer).ok()?;
        }
    }

    fn ring(&self) {
        for watcher in self.watchers.lock().expect("watchers").iter_mut() {
            let event = message(WATCH_EVENT, 0, "@introduceDomain\0xenwarden\0");
            watcher.write_all(&event).expect("written");
        }
    }
}

fn message(kind: u32, request: u32, payload: &str) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short");
    let mut bytes: Vec<u8> = [kind, request, 0, len]
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .collect();
    bytes.extend(payload.bytes());
    bytes
}

fn uuid(n: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{n:02x}")
}

fn show(ledger: &Ledger, scene: &Scene) {
    let state = scene.state_page();
    let mut copying = ledger.snapshots.begin(Monotonic::now(), &state);
    for n in 0..scene.timers.len().div_ceil(63) {
        copying.timers(&scene.timers_page(u32::try_from(n).expect("few")));
    }
    copying.finish();
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn known(domains: &Domains, domid: u16, generation: u32) -> Option<DomainInfo> {
    let table = domains.table();
    table.get(Incarnation { domid, generation }).cloned()
}

#[test]
fn domains_are_known_by_uuid_and_name_and_stay_so_while_xenstored_is_silent() {
    let daemon = Arc::new(Daemon::default());
    let connector = Arc::clone(&daemon);
    let domains = Arc::new(Domains::new(Box::new(move || Ok(connector.connect()))));
    let ledger = Arc::new(Ledger::new());
    let mut scene = Scene::empty();
    scene.create(5);
    scene.timers[1].generation = 7;
    daemon.set(5, &uuid(5), "five");
    show(&ledger, &scene);
    let runner = {
        let (domains, ledger) = (Arc::clone(&domains), Arc::clone(&ledger));
        thread::spawn(move || domains.run(&ledger))
    };
    let five = DomainInfo {
        uuid: Some(uuid(5).parse().expect("a UUID")),
        name: Some("five".into()),
    };
    eventually("known", || known(&domains, 5, 1).as_ref() == Some(&five));
    eventually("watched", || daemon.watches.load(Ordering::Relaxed) == 2);
    // A domain that xenstore learns of later than the hypervisor; its watch tells.
    scene.create(6);
    show(&ledger, &scene);
    eventually("asked for", || known(&domains, 6, 1).is_some());
    daemon.set(6, &uuid(6), "six");
    daemon.ring();
    eventually("told", || {
        known(&domains, 6, 1).is_some_and(|d| d.uuid.is_some())
    });
    daemon.set(6, &uuid(6), "renamed");
    eventually("renamed", || {
        known(&domains, 6, 1).is_some_and(|d| d.name.as_deref() == Some("renamed"))
    });
    daemon.set(
        6,
        &uuid(6),
        &"\u{e9}".repeat(500).replacen('\u{e9}', "e", 1),
    );
    eventually("bounded", || {
        let name = known(&domains, 6, 1).and_then(|d| d.name);
        name.is_some_and(|name| name.len() == 255 && name.starts_with("e\u{e9}"))
    });
    daemon.silent.store(true, Ordering::Relaxed);
    scene.create(7);
    show(&ledger, &scene);
    eventually("says so", || domains.table().trouble.is_some());
    assert_eq!(known(&domains, 5, 1), Some(five.clone()), "kept");
    // Of a domain being destroyed one record goes first; its other has another generation.
    for record in scene.timers.iter_mut().filter(|t| t.domid == 5) {
        record.used = record.slot == 2;
    }
    show(&ledger, &scene);
    thread::sleep(Duration::from_millis(400)); // several rounds, each of which must keep it
    assert_eq!(known(&domains, 5, 1), Some(five.clone()), "the same domain");
    // Domain 5 goes, and its number is used again: nothing of it may stay.
    scene.timers.clear();
    scene.create(5);
    for record in &mut scene.timers {
        record.generation = 9;
    }
    show(&ledger, &scene);
    eventually("forgotten", || known(&domains, 5, 1).is_none());
    assert_eq!(known(&domains, 5, 9), None);
    ledger.ended.store(true, Ordering::Relaxed);
    runner.join().expect("ends although xenstored is silent");
}

#[test]
fn xenstored_that_cannot_be_reached_is_told_and_taken_back() {
    let daemon = Arc::new(Daemon::default());
    daemon.set(5, &uuid(5), "five");
    let refuses = Arc::new(AtomicBool::new(true));
    let (connector, asked) = (Arc::clone(&daemon), Arc::clone(&refuses));
    let domains = Arc::new(Domains::new(Box::new(move || {
        if asked.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        Ok(connector.connect())
    })));
    let ledger = Arc::new(Ledger::new());
    let mut scene = Scene::empty();
    scene.create(5);
    show(&ledger, &scene);
    let runner = {
        let (domains, ledger) = (Arc::clone(&domains), Arc::clone(&ledger));
        thread::spawn(move || domains.run(&ledger))
    };
    eventually("says so", || domains.table().trouble.is_some());
    refuses.store(false, Ordering::Relaxed);
    eventually("known", || {
        known(&domains, 5, 1).is_some_and(|d| d.uuid.is_some())
    });
    eventually("no trouble", || domains.table().trouble.is_none());
    ledger.ended.store(true, Ordering::Relaxed);
    runner.join().expect("ends");
}

#[test]
fn the_watcher_hands_over_in_order_and_saves_before_it_ends() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watcher");
    let _ = fs::remove_dir_all(&directory);
    let opened = saver::open(&directory, Rules::default(), None);
    assert_eq!(opened.told, []);
    let (desk, saver) = (Arc::new(opened.desk), opened.saver);
    let ledger = Arc::new(Ledger::new());
    // Nobody fills the table: the guest is followed without its UUID.
    let domains = Domains::new(Box::new(|| Err(std::io::ErrorKind::NotFound.into())));
    let told: Arc<Mutex<Vec<Happening>>> = Arc::default();
    let runner = {
        let (ledger, desk, told) = (Arc::clone(&ledger), Arc::clone(&desk), Arc::clone(&told));
        thread::spawn(move || {
            let hand_over = |happening| told.lock().expect("told").push(happening);
            watcher::run(&ledger, &domains, &desk, &saver, &hand_over);
        })
    };
    let kinds = || {
        let told = told.lock().expect("told");
        told.iter().map(|h| h.what.kind()).collect::<Vec<_>>()
    };
    let mut scene = Scene::empty();
    scene.create(1);
    for _ in 0..2 {
        scene.poke(1, 1, 5);
        scene.pass_ms(1_000);
    }
    // The same look again and again, as the sampler would: newly taken each time.
    eventually("fed", || {
        show(&ledger, &scene);
        kinds() == ["guest.armed", "guest.first_fed"]
    });
    scene.pass_ms(6_000);
    let expired = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
    ];
    eventually("expired", || {
        show(&ledger, &scene);
        kinds() == expired
    });
    let file = directory.join("guests.json");
    let saved = || fs::read_to_string(&file).unwrap_or_default();
    eventually("saved at once", || saved().contains("\"raised\""));
    assert_eq!(desk.report().guests.len(), 1);
    ledger.disarmed.store(true, Ordering::Release);
    ledger.ended.store(true, Ordering::Release);
    runner.join().expect("ends");
    let last = fs::read_to_string(directory.join("last.json")).expect("last words");
    assert!(last.contains("disarmed"), "{last}");
    assert_eq!(kinds(), expired, "nothing twice");
    let again = saver::open(&directory, Rules::default(), None);
    assert!(again.desk.report().guests[0].alarm.is_some());
}

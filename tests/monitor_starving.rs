// SPDX-License-Identifier: GPL-2.0-only
//! What is told of pCPUs that starve: their beginning and their end, once each, and not often.
#![allow(clippy::expect_used)] // how tests fail

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use xenwarden::event::Kind;
use xenwarden::monitor::pcpus::Pcpus;
use xenwarden::monitor::reported::Reported;
use xenwarden::monitor::reporter::{Reporter, Watcher};
use xenwarden::monitor::starving::StarvingPcpus;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Starved;

const DOMID: u32 = 7;

fn waits(ms: u64) -> Option<Starved> {
    Some(Starved {
        ms: u32::try_from(ms).expect("small"),
        domid: DOMID,
        vcpu: 1,
    })
}

fn begins(waited_ms: u64) -> Kind {
    Kind::HostStarving {
        cpu: 1,
        domid: DOMID,
        vcpu: 1,
        waited_ms,
    }
}

/// A host, and those who look at it twice a second.
struct Host {
    xen: Simulation,
    starving: StarvingPcpus,
    now_ms: u64,
    told: u64,
}

impl Host {
    fn new() -> Self {
        Self {
            xen: Simulation::new(2),
            starving: StarvingPcpus::new(0),
            now_ms: 1_000_000,
            told: 0,
        }
    }

    /// A second that begins with a scan; gives what is told in it.
    fn second(&mut self, idle: bool, starved: Option<Starved>) -> Vec<Kind> {
        self.xen.scan(1, idle, starved);
        let mut told = Vec::new();
        for _ in 0..2 {
            let now = Monotonic(self.now_ms * NS_PER_MS);
            self.starving.look(&self.xen.table(), now);
            for (number, what) in self.starving.news(self.told) {
                assert!(number > self.told, "in order");
                self.told = number;
                told.push(what);
            }
            self.now_ms += 500;
        }
        told
    }
}

#[test]
fn a_pcpu_that_idles_while_its_vcpu_waits_is_told_after_two_seconds_and_so_is_the_end() {
    let mut host = Host::new();
    let mut told = Vec::new();
    for n in 0..90 {
        told.extend(host.second(true, waits(n * 1_000 + 4)));
    }
    assert_eq!(told, [begins(2_004)]);
    let told = host.second(true, None);
    let ended = Kind::HostStarvingEnded {
        cpu: 1,
        starved_ms: 90_004,
    };
    assert_eq!(told, [ended]);
    assert_eq!(host.second(true, None), []);
}

#[test]
fn what_is_lawful_is_not_told() {
    let mut host = Host::new();
    for n in 0..600 {
        let waited = waits(n * 1_000 + 4);
        assert_eq!(host.second(false, waited), [], "the pcpu runs others");
    }
    for n in 0..600 {
        let waited = waits(n % 2 * 1_000 + 4);
        assert_eq!(host.second(true, waited), [], "it runs each two seconds");
    }
    let mut host = Host::new();
    for _ in 0..600 {
        assert_eq!(host.second(true, waits(60_000)), [], "nobody renews it");
    }
}

#[test]
fn a_pcpu_that_starves_now_and_then_is_told_once_a_minute() {
    let mut host = Host::new();
    let mut told = Vec::new();
    // Four seconds in each five, for ten minutes.
    for n in 0..600 {
        told.extend(host.second(n % 5 != 4, waits(n % 5 * 1_000 + 4)));
    }
    let begun = told.iter().filter(|what| **what == begins(2_004)).count();
    assert_eq!((begun, told.len()), (10, 20), "{told:?}");
}

#[test]
fn what_nobody_has_told_is_told_by_whoever_comes_next() {
    let xen = Simulation::new(2);
    let mut starving = StarvingPcpus::new(41);
    for n in 0..4 {
        xen.scan(1, true, waits(n * 1_000 + 4));
        starving.look(&xen.table(), Monotonic((n + 9) * 1_000 * NS_PER_MS));
    }
    let expected = vec![(42, begins(2_004))];
    assert_eq!(starving.news(41), expected);
    assert_eq!(starving.news(41), expected);
    assert_eq!(starving.news(42), []);
    xen.online(1, false);
    starving.look(&xen.table(), Monotonic(20_000 * NS_PER_MS));
    let kinds: Vec<_> = starving.news(42).iter().map(|(_, k)| k.kind()).collect();
    assert_eq!(kinds, ["host.starving_ended"], "its vcpus are elsewhere");
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("starving-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }
}

/// A monitor with two watchers; gives what it tells over so many seconds of a wait.
fn monitor(
    scratch: &Scratch,
    xen: &'static Simulation,
    seconds: std::ops::Range<u64>,
) -> Vec<Kind> {
    let told = Mutex::new(Vec::new());
    let reported = Reported::open(&scratch.0.join("reported")).expect("memory");
    let publish = |what| told.lock().expect("no panic").push(what);
    let reporter = Reporter::new(&scratch.0.join("guard"), reported, publish);
    reporter.see(xen.table());
    let mut watchers = [Watcher::new(&reporter), Watcher::new(&reporter)];
    for n in seconds {
        xen.scan(1, true, waits(n * 1_000 + 4));
        for (watcher, after_ms) in watchers.iter_mut().zip([0, 250]) {
            watcher.turn(Monotonic((n * 1_000 + after_ms + 9_000) * NS_PER_MS));
        }
    }
    drop(watchers);
    drop(reporter);
    told.into_inner().expect("no panic")
}

#[test]
fn a_monitor_tells_it_once_by_however_many_watchers_and_the_next_one_tells_what_goes_on() {
    let scratch = Scratch::new("monitor");
    let xen: &'static Simulation = Box::leak(Box::new(Simulation::new(2)));
    assert_eq!(monitor(&scratch, xen, 0..20), [begins(2_004)]);
    assert_eq!(monitor(&scratch, xen, 20..40), [begins(22_004)]);
}

#[test]
fn the_status_shows_who_waits_and_whether_the_pcpu_idled() {
    let xen = Simulation::new(2);
    let mut pcpus = Pcpus::default();
    xen.scan(1, true, waits(12));
    pcpus.look(&xen.table(), Monotonic(0));
    let status = pcpus.status(1_000, Monotonic(1));
    let json = serde_json::to_value(&status).expect("JSON");
    let expected = serde_json::json!({"waited_ms": 12, "domid": 7, "vcpu": 1});
    let [first, second] = [0, 1].map(|n| json.get(n).cloned().unwrap_or_default());
    assert_eq!(second.get("starved"), Some(&expected));
    assert_eq!(second.get("idle"), Some(&true.into()));
    assert_eq!(first.get("starved"), Some(&serde_json::Value::Null));
    assert_eq!(first.get("idle"), Some(&false.into()));
    xen.online(1, false);
    pcpus.look(&xen.table(), Monotonic(2));
    let offline = pcpus.status(1_000, Monotonic(2)).pop().expect("a pcpu");
    assert_eq!((offline.idle, offline.starved), (false, None));
}

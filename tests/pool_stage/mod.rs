// SPDX-License-Identifier: GPL-2.0-only
//! A monitor that stands in for a host's: an event socket that keeps its events, and a control socket that knows guests.
#![allow(dead_code)] // not every test uses all of it
#![allow(clippy::cast_possible_truncation)] // numbers of events

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::config::leases::LeaseName;
use xenwarden::event::Uuid;
use xenwarden::fencing::member::Terms;
use xenwarden::pool::fencer::{Fencer, Settings};

/// Longer than anything takes that works.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until it is so.
pub fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "not so after {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A directory of one test's own.
pub fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// The part in fencing of a member that is not on any ring.
pub fn fencer() -> Fencer {
    let nowhere = Path::new("/nonexistent");
    let settings = Settings {
        terms: Terms::default(),
        lease: LeaseName::default(),
        page: nowhere.join("leases"),
        kept: nowhere.join("fencing.json"),
    };
    Fencer::new(Uuid::from_u128(1), "host1", settings).expect("nothing is kept")
}

#[derive(Default)]
struct Kept {
    events: Vec<String>,
    guests: Vec<Value>,
    orders: Vec<String>,
    /// The guard does not kick.
    withholds: bool,
}

/// The monitor.
#[derive(Clone)]
pub struct FakeMonitor {
    kept: Arc<(Mutex<Kept>, Condvar)>,
    host: String,
}

impl FakeMonitor {
    /// Serves in `directory`: `events.sock`, `control.sock`.
    pub fn start(directory: &Path, host: &str) -> Self {
        let monitor = Self {
            kept: Arc::default(),
            host: host.to_owned(),
        };
        let events = UnixListener::bind(directory.join("events.sock")).expect("a socket");
        let control = UnixListener::bind(directory.join("control.sock")).expect("a socket");
        let (a, b) = (monitor.clone(), monitor.clone());
        thread::spawn(move || {
            for stream in events.incoming().flatten() {
                let monitor = a.clone();
                thread::spawn(move || monitor.serve_events(stream));
            }
        });
        thread::spawn(move || {
            for stream in control.incoming().flatten() {
                b.answer(stream);
            }
        });
        monitor
    }

    /// An event happens; gives its number.
    pub fn event(&self, kind: &str, guest: Option<u128>, fields: Value) -> u64 {
        let (kept, changed) = &*self.kept;
        let mut kept = kept.lock().expect("a lock");
        let seq = kept.events.len() as u64 + 1;
        let guest = guest.map(|guest| {
            json!({"uuid": xenwarden::event::Uuid::from_u128(guest), "domid": 5, "name": format!("guest-{guest}")})
        });
        let mut event = json!({
            "version": 1, "seq": seq, "time": xenwarden::event::Timestamp::now(), "monotonic_ns": 1,
            "host": self.host, "severity": "info", "guest": guest, "kind": kind,
        });
        let own = fields.as_object().cloned().unwrap_or_default();
        event.as_object_mut().expect("an object").extend(own);
        kept.events.push(event.to_string());
        changed.notify_all();
        seq
    }

    /// It has this guest, which fed so long ago.
    pub fn guest(&self, guest: u128, last_fed_age_ms: u64) {
        let uuid = xenwarden::event::Uuid::from_u128(guest);
        let slot = json!({"slot": 1, "timeout_s": 10, "last_fed_age_ms": last_fed_age_ms, "margin_ms": 5000, "expired": false});
        let report = json!({
            "uuid": uuid, "name": format!("guest-{guest}"), "domid": 5, "state": "running", "slots": [slot],
            "alarm": null, "boot_failed": false,
        });
        let mut kept = self.kept.0.lock().expect("a lock");
        kept.guests.retain(|other| other["uuid"] != json!(uuid));
        kept.guests.push(report);
    }

    /// Whether the guard kicks.
    pub fn kick(&self, kick: bool) {
        self.kept.0.lock().expect("a lock").withholds = !kick;
    }

    /// What it was ordered.
    pub fn orders(&self) -> Vec<String> {
        self.kept.0.lock().expect("a lock").orders.clone()
    }

    fn serve_events(&self, stream: UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        let _ = reader.read_line(&mut line);
        let request: Value = serde_json::from_str(&line).unwrap_or_default();
        let since = request["since_seq"].as_u64().unwrap_or(u64::MAX);
        let mut stream = stream;
        let mut next = since.max(1) as usize - 1;
        loop {
            let (kept, changed) = &*self.kept;
            let mut kept = kept.lock().expect("a lock");
            while kept.events.len() <= next {
                kept = changed.wait(kept).expect("a lock");
            }
            let line = kept.events[next].clone() + "\n";
            drop(kept);
            next += 1;
            if stream.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, stream: UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        let _ = reader.read_line(&mut line);
        let mut stream = stream;
        let mut kept = self.kept.0.lock().expect("a lock");
        let answer = match line.trim() {
            "guests" => json!({
                "version": 1, "guests": kept.guests, "evidence_age_ms": 10, "names_trouble": null, "no_table": null,
            }),
            "why" => json!({"version": 1, "resets": []}),
            "status" => status(!kept.withholds),
            tell if tell.starts_with("tell ") => {
                drop(kept);
                let json = tell.split_once(' ').map(|(_, json)| json);
                let mut fields: Value = json
                    .and_then(|json| serde_json::from_str(json).ok())
                    .expect("an event");
                let own = fields.as_object_mut().expect("an object");
                let kind = own.remove("kind").expect("a kind");
                own.remove("guest");
                let seq = self.event(kind.as_str().expect("a kind"), None, fields.clone());
                json!({ "told": seq })
            }
            order if order.starts_with("elsewhere ") => {
                kept.orders.push(order.to_owned());
                drop(kept);
                let uuid: Option<Uuid> = order.split(' ').nth(1).and_then(|u| u.parse().ok());
                let guest = uuid.map(|uuid| uuid.as_u128());
                let closed = json!({"cause": "fed_elsewhere", "open_ms": 1});
                self.event("alarm.closed", guest, closed);
                json!({ "closed": uuid })
            }
            order => {
                kept.orders.push(order.to_owned());
                let uuid = order.strip_prefix("ack ").unwrap_or_default();
                json!({"acknowledged": uuid})
            }
        };
        let _ = stream.write_all(format!("{answer}\n").as_bytes());
    }
}

fn status(kick: bool) -> Value {
    json!({
        "version": 1,
        "host_watchdog": {"device": "/dev/watchdog0", "identity": "stand-in", "timeout_ms": 5000,
            "resets_within_ms": 10000, "fence_bound_ms": 11000, "time_left_ms": 4000,
            "last_kick_age_ms": 100, "kicks": 1},
        "decision": {"kick": kick, "reason": null, "for_ms": 5},
        "coverage": "full", "look_age_ms": 1, "weakness": null, "excused": null,
        "kick_path": {"samples": 1, "max_look_us": 1, "max_kick_gap_ms": 1, "max_kick_us": 1,
            "failed_kicks": 0, "withholds": 0, "minor_faults": 0, "major_faults": 0},
        "monitor": null,
    })
}

// SPDX-License-Identifier: GPL-2.0-only
//! A monitor that stands in for the real one: its control socket as it is, over a host and
//! guests that the test makes up.
#![allow(dead_code, clippy::expect_used, clippy::indexing_slicing)] // each test program uses its part

pub mod program;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xenwarden::control::client_pool;
use xenwarden::control::protocol::Told;
use xenwarden::control::server::{self, Context, MonitorContext};
use xenwarden::control::status::{GuestWatchdog, MonitorStatus, Pcpu, Status};
use xenwarden::control::tell::Tellers;
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::guests::report::{
    AlarmPhase, AlarmReport, DomainState, GuestReport, GuestsReport, SlotReport,
};
use xenwarden::guests::{GuestRequests, RequestError};
use xenwarden::monitor::open_alarms::OpenAlarms;
use xenwarden::state::history::Resets;
use xenwarden::sys::clock::Monotonic;

/// Longer than any machine takes.
pub const LONG: Duration = Duration::from_secs(30);

/// Guests as the test says, and what was ordered.
#[derive(Debug, Default)]
pub struct Registry {
    pub report: Mutex<GuestsReport>,
    pub orders: Mutex<Vec<(&'static str, Uuid, u32)>>,
    /// Events of other processes.
    pub told: Mutex<Vec<Told>>,
}

impl Registry {
    fn order(&self, what: &'static str, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        self.orders.lock().expect("whole").push((what, uuid, uid));
        let report = self.report.lock().expect("whole");
        let guest = report.guests.iter().find(|g| g.uuid == Some(uuid));
        let alarm = &guest.ok_or(RequestError::NoGuest)?.alarm;
        alarm.as_ref().map(|_| ()).ok_or(RequestError::NoAlarm)
    }
}

impl GuestRequests for Registry {
    fn report(&self) -> GuestsReport {
        self.report.lock().expect("whole").clone()
    }

    fn acknowledge(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        self.order("ack", uuid, uid)
    }

    fn close(&self, uuid: Uuid, uid: u32) -> Result<(), RequestError> {
        self.order("close", uuid, uid)
    }

    fn fed_elsewhere(&self, uuid: Uuid, expiries: u32) -> Result<(), RequestError> {
        self.order("elsewhere", uuid, expiries)
    }
}

/// A guest that feeds.
pub fn guest(uuid: u128, domid: u16, name: &str) -> GuestReport {
    GuestReport {
        uuid: Some(Uuid::from_u128(uuid)),
        name: Some(name.to_owned()),
        domid,
        state: DomainState::Running,
        slots: vec![SlotReport {
            slot: 1,
            timeout_s: 10,
            last_fed_age_ms: 200,
            margin_ms: 9_800,
            expired: false,
        }],
        alarm: None,
        boot_failed: false,
        feeds_unseen: None,
    }
}

/// One whose alarm is open.
pub fn alarmed(uuid: u128, domid: u16, name: &str) -> GuestReport {
    GuestReport {
        alarm: Some(AlarmReport {
            phase: AlarmPhase::Raised,
            raised: Timestamp::now(),
            expiries: 1,
            reboots: 0,
            acknowledged: false,
        }),
        slots: Vec::new(),
        ..guest(uuid, domid, name)
    }
}

/// Guests seen just now.
pub fn report(guests: Vec<GuestReport>) -> GuestsReport {
    GuestsReport {
        version: 1,
        guests,
        evidence_age_ms: Some(120),
        names_trouble: None,
        no_table: None,
    }
}

/// The group that may ask, in these tests: the tester's own.
pub fn own_group() -> Option<u32> {
    Some(nix::unistd::getegid().as_raw())
}

/// The status of a host with four pCPUs, so many guest watchdogs, and no guard.
pub fn status(guests: u16) -> Status {
    let pcpu = |cpu| Pcpu {
        cpu,
        online: true,
        canary_age_ms: 500,
        canary_overdue_ms: 0,
        sched_overdue_ms: 0,
        canary_runs: 100,
        idle: true,
        starved: None,
    };
    let watchdog = |n| GuestWatchdog {
        domid: n,
        uuid: None,
        name: None,
        slot: 1,
        timeout_s: 10,
        last_fed_age_ms: 200,
        margin_ms: 9_800,
        expired: false,
    };
    let mut status = Status::of_page(None, None, Monotonic::now());
    status.monitor = Some(MonitorStatus {
        pcpus: (0..4).map(pcpu).collect(),
        guest_watchdogs: (0..guests).map(watchdog).collect(),
        ..MonitorStatus::default()
    });
    status
}

pub struct FakeMonitor {
    pub path: PathBuf,
    pub registry: Arc<Registry>,
    /// Its end ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl FakeMonitor {
    /// One with so many guest watchdogs in its status.
    pub fn start(name: &str, guests: u16) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.sock"));
        Self::start_at(path, guests, own_group())
    }

    pub fn start_at(path: PathBuf, guests: u16, group: Option<u32>) -> Self {
        let listener = client_pool::bind(&path, "no-such-group").expect("bind");
        let registry = Arc::new(Registry::default());
        *registry.report.lock().expect("whole") = report(Vec::new());
        let shared = Arc::clone(&registry);
        let (stop, stopped) = UnixStream::pair().expect("a pair");
        let thread = thread::spawn(move || {
            let open = Mutex::new(OpenAlarms::default());
            let monitor = MonitorContext {
                status: &|| status(guests),
                resets: &Resets::default(),
                tellers: &Tellers::default(),
                publish: &|told| {
                    open.lock().expect("whole").take(&told)?;
                    let mut told_of = shared.told.lock().expect("whole");
                    told_of.push(told);
                    Ok(told_of.len() as u64)
                },
            };
            let context = Context {
                guests: shared.as_ref(),
                monitor: Some(monitor),
                group,
            };
            server::run(&listener, &context, &stopped);
        });
        Self {
            path,
            registry,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn set_guests(&self, report: GuestsReport) {
        *self.registry.report.lock().expect("whole") = report;
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        stream.set_write_timeout(Some(LONG)).expect("timeout");
        stream
    }

    /// What the monitor answers to `request`; a close counts as an empty answer.
    pub fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The monitor may close before it has read all of a long one.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    }

    /// How many guest watchdogs its status has.
    pub fn watchdogs(&self) -> usize {
        let monitor = self.status().monitor.expect("the monitor's part");
        monitor.guest_watchdogs.len()
    }

    pub fn status(&self) -> Status {
        let answer = self.ask(b"status\n");
        serde_json::from_str(&answer).expect("a status")
    }
}

impl Drop for FakeMonitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        let whole = ended.is_some_and(|e| e.is_ok());
        assert!(whole || thread::panicking(), "the control thread panicked");
    }
}

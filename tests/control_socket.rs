// SPDX-License-Identifier: GPL-2.0-only
//! The control socket under clients that mean no good: each gets an answer or a close, and
//! the next honest one is served.
#![allow(clippy::expect_used)] // how tests fail

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xenwarden::control::{self, Context};
use xenwarden::guests::names::Names;
use xenwarden::hypervisor::patched::Patched;
use xenwarden::hypervisor::simulated::{Scene, Simulated};
use xenwarden::hypervisor::{Coverage, Hypervisor};
use xenwarden::ledger::Ledger;
use xenwarden::status::{Armed, Status};

const LONG: Duration = Duration::from_secs(30);

struct Daemon {
    path: PathBuf,
    ledger: Arc<Ledger>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str, guests: u16) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.sock"));
        let ledger = Arc::new(Ledger::new());
        let scene = Scene::healthy(4, guests);
        Patched::new(Simulated::still(&scene)).look(Some(&ledger.snapshots));
        let listener = control::bind(&path, "no-such-group").expect("bind");
        let served = Arc::clone(&ledger);
        let thread = thread::spawn(move || {
            let armed = Armed {
                device: "/dev/watchdog0".into(),
                identity: "test".to_owned(),
                timeout_ns: 5_000_000_000,
                coverage: Coverage::Full,
                period_ns: 250_000_000,
            };
            let names = Names::default();
            let context = Context {
                armed: &armed,
                ledger: &served,
                names: &names,
            };
            control::run(&listener, &context);
        });
        let thread = Some(thread);
        Self {
            path,
            ledger,
            thread,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        stream.set_write_timeout(Some(LONG)).expect("timeout");
        stream
    }

    /// What the daemon answers to `request`; a close counts as an empty answer.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The daemon may close before it has read all of a long one.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    }

    fn status(&self) -> Status {
        let answer = self.ask(b"status\n");
        serde_json::from_str(&answer).expect("a status")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.ledger.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            ended.is_some_and(|e| e.is_ok()),
            "the control thread panicked"
        );
    }
}

#[test]
fn status_shows_every_pcpu_and_guest_watchdog() {
    let daemon = Daemon::start("status", 300);
    let status = daemon.status();
    assert_eq!(status.version, 1);
    assert_eq!((status.pcpus.len(), status.guest_watchdogs.len()), (4, 300));
    assert!(
        !status.decision.kick,
        "nobody has decided yet: unknown is not kick"
    );
}

#[test]
fn the_socket_is_for_root_and_one_group() {
    let daemon = Daemon::start("mode", 0);
    let mode = std::fs::metadata(&daemon.path)
        .expect("socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn any_bytes_get_an_error_or_a_close() {
    let daemon = Daemon::start("bytes", 2);
    let long = vec![b'x'; 100_000];
    let cases: [&[u8]; 6] = [
        b"\n",
        b"stat\n",
        b"status \n",
        b"\0\xff\xfe\n",
        b"status\0\n",
        &long,
    ];
    for request in cases {
        let answer = daemon.ask(request);
        assert!(
            answer.is_empty() || answer.contains("\"error\""),
            "{answer}"
        );
    }
    assert_eq!(daemon.status().guest_watchdogs.len(), 2);
}

#[test]
fn a_flood_of_half_open_clients_keeps_nobody_out_for_long() {
    let daemon = Daemon::start("flood", 2);
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let mut stream = daemon.connect();
        if n % 2 == 0 {
            let _ = stream.write_all(b"stat");
        } else if n % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        idle.push(stream);
    }
    assert_eq!(daemon.status().guest_watchdogs.len(), 2);
}

#[test]
fn a_client_that_does_not_read_its_answer_delays_no_other() {
    let daemon = Daemon::start("deaf", 2_000);
    let mut deaf = daemon.connect();
    deaf.write_all(b"status\n").expect("write");
    assert_eq!(daemon.status().guest_watchdogs.len(), 2_000);
}

#[test]
fn a_second_daemon_does_not_take_the_socket_of_a_living_one() {
    let daemon = Daemon::start("second", 0);
    let error = control::bind(&daemon.path, "no-such-group").expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(daemon.status().version, 1);
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dead.sock");
    drop(control::bind(&path, "no-such-group").expect("first"));
    assert!(path.exists());
    control::bind(&path, "no-such-group").expect("again");
}

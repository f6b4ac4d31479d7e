// SPDX-License-Identifier: GPL-2.0-only
//! The control socket under clients that mean no good: each gets an answer or a close, and
//! the next honest one is served.
#![allow(clippy::expect_used)] // how tests fail

mod fake_monitor;

use fake_monitor::{FakeMonitor, LONG, alarmed, guest, report};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, socket};
use nix::unistd::geteuid;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use xenwarden::control::client_pool;
use xenwarden::control::protocol::Told;
use xenwarden::control::tell::{NotTold, tell};
use xenwarden::event::{Kind, Uuid};
use xenwarden::guests::report::GuestsReport;

#[test]
fn status_shows_every_pcpu_and_guest_watchdog() {
    let monitor = FakeMonitor::start("status", 300);
    let status = monitor.status();
    assert_eq!(status.version, 1);
    let monitor = status.monitor.expect("the monitor's part");
    assert_eq!(
        (monitor.pcpus.len(), monitor.guest_watchdogs.len()),
        (4, 300)
    );
    assert!(
        !status.decision.kick,
        "nobody has decided yet: unknown is not kick"
    );
}

#[test]
fn the_socket_is_for_root_and_one_group() {
    let monitor = FakeMonitor::start("mode", 0);
    let mode = std::fs::metadata(&monitor.path)
        .expect("socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn any_bytes_get_an_error_or_a_close() {
    let monitor = FakeMonitor::start("bytes", 2);
    let long = vec![b'x'; 100_000];
    let cases: [&[u8]; 18] = [
        b"ack\n",
        b"ack \n",
        b"ack  \n",
        b"ack 00000000-0000-0000-0000-00000000000g\n",
        b"ack 00000000-0000-0000-0000-000000000001 \n",
        b"ack 00000000-0000-0000-0000-000000000001\0\n",
        b"close \xff\n",
        b"close\n",
        b"guests all\n",
        b"status now\n",
        b" status\n",
        b"Status\n",
        b"\n",
        b"stat\n",
        b"status \n",
        b"\0\xff\xfe\n",
        b"status\0\n",
        &long,
    ];
    for request in cases {
        let answer = monitor.ask(request);
        assert!(
            answer.is_empty() || answer.contains("\"error\""),
            "{answer}"
        );
    }
    assert_eq!(monitor.watchdogs(), 2);
}

#[test]
fn a_flood_of_half_open_clients_keeps_nobody_out_for_long() {
    let monitor = FakeMonitor::start("flood", 2);
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let mut stream = monitor.connect();
        if n % 2 == 0 {
            let _ = stream.write_all(b"stat");
        } else if n % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        idle.push(stream);
    }
    assert_eq!(monitor.watchdogs(), 2);
}

/// Whether the far end has closed.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut bytes = [0; 512];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_thousand_clients_hold_at_most_32_places() {
    let monitor = FakeMonitor::start("places", 2);
    let mut idle: Vec<UnixStream> = (0..1_000)
        .map(|_| {
            let mut stream = monitor.connect();
            let _ = stream.write_all(&[b'x'; 255]);
            stream
        })
        .collect();
    // This one is behind them in the queue: when it is served they have all been accepted.
    assert_eq!(monitor.watchdogs(), 2);
    let open = idle
        .iter_mut()
        .filter_map(|s| (!is_closed(s)).then_some(()));
    let open = open.count();
    assert!(open < 32, "{open} places beside the one that was served");
}

#[test]
fn clients_that_never_read_their_answers_keep_nobody_out() {
    let monitor = FakeMonitor::start("deaf-flood", 2_000);
    let deaf: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = monitor.connect();
            let _ = stream.write_all(b"status\n");
            stream
        })
        .collect();
    assert_eq!(monitor.watchdogs(), 2_000);
    drop(deaf);
}

#[test]
fn guests_are_told_as_the_registry_knows_them() {
    let monitor = FakeMonitor::start("guests", 0);
    let known = report(vec![guest(1, 7, "web"), alarmed(2, 8, "db\n")]);
    monitor.set_guests(known.clone());
    let answer = monitor.ask(b"guests\n");
    assert_eq!(answer.lines().count(), 1);
    let answer: GuestsReport = serde_json::from_str(&answer).expect("a report");
    assert_eq!(answer, known);
}

#[test]
fn root_acknowledges_and_closes_and_nobody_else() {
    let monitor = FakeMonitor::start("orders", 0);
    monitor.set_guests(report(vec![guest(1, 7, "web"), alarmed(2, 8, "db")]));
    let is_root = geteuid().is_root();
    let cases = [
        (
            "ack",
            2,
            r#"{"acknowledged":"00000000-0000-0000-0000-000000000002"}"#,
        ),
        (
            "close",
            2,
            r#"{"closed":"00000000-0000-0000-0000-000000000002"}"#,
        ),
        ("ack", 1, r#"{"error":"this guest has no open alarm"}"#),
        (
            "close",
            9,
            r#"{"error":"no guest of this UUID is known: see `xenwarden guests`"}"#,
        ),
    ];
    for (word, uuid, expected) in cases {
        let answer = monitor.ask(format!("{word} {}\n", Uuid::from_u128(uuid)).as_bytes());
        if is_root {
            assert_eq!(answer.trim_end(), expected);
        } else {
            assert!(answer.contains("only root"), "{answer}");
        }
    }
    let orders = monitor.registry.orders.lock().expect("whole");
    let expected = cases.map(|(word, uuid, _)| (word, Uuid::from_u128(uuid), 0));
    assert_eq!(orders.as_slice(), if is_root { &expected[..] } else { &[] });
}

#[test]
fn what_another_process_tells_is_published_if_it_may_tell_of_that_and_only_then() {
    let monitor = FakeMonitor::start("told", 0);
    let armed = |slot| Told {
        guest: None,
        by: None,
        what: Kind::GuestArmed {
            slot,
            timeout_s: 5,
            left_out: 0,
        },
    };
    let host = Told {
        guest: None,
        by: None,
        what: Kind::HostDisarmed {},
    };
    let is_root = geteuid().is_root();
    for slot in [1, 2] {
        match tell(&monitor.path, armed(slot)) {
            Ok(number) => assert_eq!((is_root, number), (true, u64::from(slot))),
            Err(NotTold::Refused(why)) => assert!(!is_root, "{why:?}"),
            Err(NotTold::Later(error)) => panic!("{error}"),
        }
    }
    let refused = tell(&monitor.path, host);
    assert!(matches!(refused, Err(NotTold::Refused(_))), "{refused:?}");
    for request in ["tell", "tell {}", "tell {\"kind\":\"guest.armed\"}"] {
        let answer = monitor.ask(format!("{request}\n").as_bytes());
        assert!(answer.contains("\"error\""), "{answer}");
    }
    let told = monitor.registry.told.lock().expect("whole").clone();
    let expected = [armed(1), armed(2)];
    assert_eq!(told, if is_root { &expected[..] } else { &[] });
}

#[test]
fn a_monitor_that_is_not_there_is_to_be_told_later() {
    let what = Kind::GuestArmed {
        slot: 1,
        timeout_s: 5,
        left_out: 0,
    };
    let (guest, by) = (None, None);
    let told = Told { guest, by, what };
    let nobody = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nobody.sock");
    let late = tell(&nobody, told.clone());
    assert!(matches!(late, Err(NotTold::Later(_))), "{late:?}");
}

/// A place that every user can reach, with the command line in it.
struct PublicPlace(PathBuf);

impl PublicPlace {
    fn make(name: &str) -> Self {
        let name = format!("xenwarden-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("directory");
        let program = directory.join("xenwarden");
        fs::copy(env!("CARGO_BIN_EXE_xenwarden"), &program).expect("copied");
        let place = Self(directory);
        for path in [&place.0, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        place
    }

    /// The command line as another user asks it.
    fn run_as(&self, uid: u32, gid: u32, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.0.join("xenwarden"));
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.0.join("socket"));
        command
            .current_dir("/")
            .uid(uid)
            .gid(gid)
            .output()
            .expect("runs")
    }
}

impl Drop for PublicPlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn strangers_are_refused_by_their_credentials_even_if_they_get_in() {
    if !geteuid().is_root() {
        return; // Only root can be somebody else; src/peer.rs has the table of who may.
    }
    const GROUP: u32 = 4_242;
    let uuid = Uuid::from_u128(2).to_string();
    let place = PublicPlace::make("strangers");
    let monitor = FakeMonitor::start_at(place.0.join("socket"), 1, Some(GROUP));
    monitor.set_guests(report(vec![guest(2, 8, "db")]));
    fs::set_permissions(&monitor.path, fs::Permissions::from_mode(0o666)).expect("mode");
    let stranger = (65_534, 65_534);
    let member = (65_534, GROUP);
    // The status withholds, as nobody decides here; so 1 is its answer.
    type Case<'a> = ((u32, u32), &'a [&'a str], i32, &'a str);
    let cases: [Case<'_>; 7] = [
        (
            stranger,
            &["status"],
            2,
            "only root and the configured group may ask",
        ),
        (
            stranger,
            &["guests"],
            2,
            "only root and the configured group may ask",
        ),
        (
            stranger,
            &["ack", &uuid],
            1,
            "only root and the configured group may ask",
        ),
        (member, &["status"], 1, ""),
        (member, &["guests"], 0, ""),
        (
            member,
            &["ack", &uuid],
            1,
            "only root may acknowledge or close",
        ),
        (
            member,
            &["ack", &uuid, "--close"],
            1,
            "only root may acknowledge or close",
        ),
    ];
    for ((uid, gid), arguments, code, says) in cases {
        let output = place.run_as(uid, gid, arguments);
        let error_line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {error_line}"
        );
        assert!(error_line.contains(says), "{arguments:?}: {error_line}");
        assert_eq!(
            error_line.is_empty(),
            says.is_empty(),
            "{arguments:?}: {error_line}"
        );
    }
    assert!(monitor.registry.orders.lock().expect("whole").is_empty());
}

#[test]
fn that_a_guest_feeds_elsewhere_is_for_root_and_the_pool_to_say() {
    let monitor = FakeMonitor::start("elsewhere", 2);
    let uuid = Uuid::from_u128(1);
    monitor.set_guests(report(vec![alarmed(1, 1, "web")]));
    let answer = monitor.ask(format!("elsewhere {uuid} 3\n").as_bytes());
    let orders = monitor.registry.orders.lock().expect("whole").clone();
    match geteuid().is_root() {
        true => {
            assert_eq!(answer, format!("{{\"closed\":\"{uuid}\"}}\n"));
            assert_eq!(orders, [("elsewhere", uuid, 3)]);
        }
        false => {
            assert!(answer.contains("only root"), "{answer}");
            assert_eq!(orders, []);
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_answer_delays_no_other() {
    let monitor = FakeMonitor::start("deaf", 2_000);
    let mut deaf = monitor.connect();
    deaf.write_all(b"status\n").expect("write");
    assert_eq!(monitor.watchdogs(), 2_000);
}

#[test]
fn a_second_monitor_does_not_take_the_socket_of_a_living_one() {
    let monitor = FakeMonitor::start("second", 0);
    let error = client_pool::bind(&monitor.path, "no-such-group").expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(monitor.status().version, 1);
}

#[test]
fn a_dead_monitors_socket_is_replaced() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dead.sock");
    drop(client_pool::bind(&path, "no-such-group").expect("first"));
    assert!(path.exists());
    client_pool::bind(&path, "no-such-group").expect("again");
}

#[test]
fn a_stopped_monitor_whose_queue_is_full_does_not_hang_the_start() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stopped.sock");
    let _ = std::fs::remove_file(&path);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let make = || socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
    let address = UnixAddr::new(&path).expect("an address");
    let stopped = make();
    nix::sys::socket::bind(stopped.as_raw_fd(), &address).expect("bind");
    nix::sys::socket::listen(&stopped, Backlog::new(1).expect("a length")).expect("listen");
    let mut waiting = Vec::new();
    loop {
        let client = make();
        let connected = nix::sys::socket::connect(client.as_raw_fd(), &address);
        waiting.push(client);
        match connected {
            Ok(()) => {}
            Err(errno) => break assert_eq!(errno, nix::errno::Errno::EAGAIN),
        }
    }
    let (tell, told) = std::sync::mpsc::channel();
    let tried = path.clone();
    thread::spawn(move || tell.send(client_pool::bind(&tried, "no-such-group").map(drop)));
    let bound = told.recv_timeout(LONG).expect("it does not wait");
    let kind = bound.expect_err("somebody listens there").kind();
    assert_eq!(kind, std::io::ErrorKind::AddrInUse);
    assert!(path.exists(), "it is not replaced");
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_request_that_is_too_long_gets_its_reason_and_an_end_in_order() {
    let monitor = FakeMonitor::start("long", 2);
    // More than its buffers hold, with an end of its own or without one.
    for end in [&b""[..], b"\n"] {
        let mut stream = UnixStream::connect(&monitor.path).expect("connects");
        stream.set_read_timeout(Some(LONG)).expect("set");
        for _ in 0..64 {
            stream.write_all(&[b'x'; 16_384]).expect("it is read");
        }
        stream.write_all(end).expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("no reset");
        assert!(answer.contains("the request is too long"), "{answer}");
        assert!(answer.ends_with('\n'), "{answer}");
    }
    assert_eq!(monitor.status().version, 1);
}

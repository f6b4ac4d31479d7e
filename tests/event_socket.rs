// SPDX-License-Identifier: GPL-2.0-only
//! The event socket: what honest clients get, and that others harm nobody.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use serde_json::{Value, json};
use sink_common::{LONG, Scratch, bus, close, drops, eventually, expired, guest, raised, spawn};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use xenwarden::control::client_pool;
use xenwarden::control::peer::gid_of;
use xenwarden::event::bus::Bus;
use xenwarden::event::{Guest, Kind};
use xenwarden::sink::socket::{self, MAX_CLIENTS, NAME, Settings};

struct Server {
    scratch: Scratch,
    bus: Arc<Bus>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(name: &str, keep: usize) -> Self {
        Self::start_for(name, keep, "no-such-group")
    }

    fn start_for(name: &str, keep: usize, group: &str) -> Self {
        let scratch = Scratch::new(&format!("socket-{name}"));
        let bus = bus();
        let listener = client_pool::bind(&scratch.path("events.sock"), group).expect("bind");
        let (queue, woken) = bus.attach_waking(NAME, 8_192).expect("attach");
        let group = gid_of(group);
        let settings = Settings { keep, group };
        let served = Arc::clone(&bus);
        let thread = Some(spawn(move || {
            socket::run(&listener, &queue, &woken, &settings, &served);
        }));
        Self {
            scratch,
            bus,
            thread,
        }
    }

    fn connect(&self) -> UnixStream {
        connect(&self.scratch.path("events.sock"))
    }

    fn ask(&self, request: &Value) -> Client {
        let mut stream = self.connect();
        let request = format!("{request}\n");
        // One that is refused may be closed before it has asked.
        let _ = stream.write_all(request.as_bytes());
        Client(BufReader::new(stream))
    }

    /// One that follows, as its first event shows.
    fn follower(&self) -> Client {
        self.publish(1);
        let mut client = self.ask(&json!({"since_seq": self.bus.next_seq() - 1, "follow": true}));
        assert_eq!(client.next()["kind"], "alarm.raised");
        client
    }

    fn publish(&self, count: usize) {
        for _ in 0..count {
            self.bus.publish(Some(web()), raised());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        close(&self.bus);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|e| e.is_ok()), "the thread panicked");
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    stream.set_write_timeout(Some(LONG)).expect("timeout");
    stream
}

fn web() -> Guest {
    guest(Some(0xabc), 3, "web")
}

struct Client(BufReader<UnixStream>);

impl Client {
    /// The next line; null at the end.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => serde_json::from_str(&line).expect("JSON"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Value::Null,
            Err(error) => panic!("no line: {error}"),
        }
    }

    fn rest(mut self) -> Vec<Value> {
        let lines = std::iter::from_fn(|| Some(self.next()).filter(|value| !value.is_null()));
        lines.collect()
    }
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line["seq"].as_u64())
        .collect()
}

#[test]
fn a_replay_begins_where_it_was_asked_to_or_says_where() {
    let server = Server::start("replay", 8);
    for n in 1..=20_u16 {
        let (who, what) = match n % 2 {
            0 => (web(), raised()),
            _ => (guest(None, n, "db"), expired()),
        };
        server.bus.publish(Some(who), what);
    }
    // Asked for what has come, so that the server has all of it.
    let mut last = server.ask(&json!({"since_seq": 20, "follow": true}));
    eventually("the last event", || last.next()["seq"] == 20);
    let begins = Some(json!({"replay_begins_at": 13}));
    let cases = [
        (json!({"since_seq": 1}), begins.clone(), (13..=20).collect()),
        (json!({"since_seq": 13}), None, (13..=20).collect()),
        (json!({"since_seq": 18}), None, vec![18, 19, 20]),
        (json!({"since_seq": 900}), None, vec![]),
        (json!({}), None, vec![]),
        (
            json!({"since_time": "2000-01-01T00:00:00Z"}),
            begins.clone(),
            (13..=20).collect(),
        ),
        (json!({"since_time": "2999-01-01T00:00:00Z"}), None, vec![]),
        (
            json!({"since_seq": 1, "kinds": ["alarm."]}),
            begins.clone(),
            vec![14, 16, 18, 20],
        ),
        (
            json!({"since_seq": 13, "kinds": ["guest.expired", "host."]}),
            None,
            vec![13, 15, 17, 19],
        ),
        (json!({"since_seq": 13, "guest": "17"}), None, vec![17]),
        (
            json!({"since_seq": 17, "guest": "00000000-0000-0000-0000-000000000ABC"}),
            None,
            vec![18, 20],
        ),
    ];
    for (request, notice, expected) in cases {
        let lines = server.ask(&request).rest();
        assert_eq!(numbers(&lines), expected, "{request}");
        let notices = lines.into_iter().find(|line| line["seq"].is_null());
        assert_eq!(notices, notice, "{request}");
    }
}

#[test]
fn a_replay_longer_than_any_queue_arrives_whole_and_goes_on_without_a_gap() {
    let server = Server::start("long", 5_000);
    server.publish(5_000);
    // One that follows before all are kept is no longer replayed to, and must keep up with the rest.
    eventually("the last one is kept", || {
        numbers(&server.ask(&json!({"since_seq": 5_000})).rest()) == [5_000]
    });
    let mut client = server.ask(&json!({"since_seq": 1, "follow": true}));
    for seq in 1..=5_000 {
        assert_eq!(client.next()["seq"], seq);
    }
    server.publish(3);
    for seq in 5_001..=5_003 {
        assert_eq!(client.next()["seq"], seq);
    }
}

#[test]
fn nothing_need_be_kept_to_follow() {
    let server = Server::start("keepless", 0);
    let asked = json!({"since_seq": 1, "follow": true});
    server.publish(4);
    eventually("a notice, which shows that it follows", || {
        server.ask(&asked).next() == json!({"replay_begins_at": 5})
    });
    let mut client = server.ask(&asked);
    client.next();
    server.publish(1);
    assert_eq!(client.next()["seq"], 5);
}

#[test]
fn a_client_that_has_closed_its_own_end_still_gets_events() {
    let server = Server::start("half-closed", 8);
    let mut client = server.follower();
    client
        .0
        .get_ref()
        .shutdown(Shutdown::Write)
        .expect("shutdown");
    server.publish(1);
    assert_eq!(client.next()["seq"], 2);
}

#[test]
fn any_bytes_get_an_error_or_a_close() {
    let server = Server::start("bytes", 8);
    server.publish(3);
    let long = vec![b' '; 1024];
    let deep = vec![b'['; 1000];
    let endless = vec![b'x'; 300_000];
    let nearly = format!("{}{{\"since_seq\":1}}\n", " ".repeat(1010));
    let cases: [&[u8]; 12] = [
        b"\n",
        b"{}{}\n",
        b"null\n",
        b"[1]\n",
        b"\0\xff\xfe\n",
        b"{\"since_seq\":-1}\n",
        b"{\"since\":1}\n",
        b"{\"kinds\":[\"nonsense\"]}\n",
        &long,
        &[&deep[..], b"\n"].concat(),
        &endless,
        nearly.as_bytes(),
    ];
    for request in cases {
        let mut stream = server.connect();
        // The monitor may close before it has read all of a long one.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with("{\"error\":"),
            "{:?}: {answer}",
            String::from_utf8_lossy(request)
        );
        let lines = server.ask(&json!({"since_seq": 1})).rest();
        assert_eq!(numbers(&lines), [1, 2, 3], "the next one is served");
    }
}

#[test]
fn a_flood_of_clients_that_do_not_ask_keeps_nobody_out() {
    let server = Server::start("flood", 8);
    let mut follower = server.follower();
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let mut stream = server.connect();
        if n % 2 == 0 {
            let _ = stream.write_all(b"{\"follow\"");
        } else if n % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        idle.push(stream);
    }
    let lines = server.ask(&json!({"since_seq": 1})).rest();
    assert_eq!(numbers(&lines), [1]);
    server.publish(1);
    assert_eq!(follower.next()["seq"], 2, "those before them are served on");
}

#[test]
fn beyond_the_limit_a_users_oldest_subscriber_gives_way_and_is_told() {
    let server = Server::start("limit", 100);
    let mut oldest = server.follower();
    let mut second = server.follower();
    let _others: Vec<Client> = (2..MAX_CLIENTS).map(|_| server.follower()).collect();
    let mut newest = server.ask(&json!({"since_seq": 1, "follow": true}));
    assert_eq!(newest.next()["seq"], 1);
    let last = std::iter::repeat_with(|| oldest.next()).find(|line| line["seq"].is_null());
    let error = last.expect("a notice")["error"].as_str().map(str::to_owned);
    assert!(error.expect("an error").contains("newer subscriber"));
    assert_eq!(oldest.next(), Value::Null, "and then a close");
    let seq = server.bus.next_seq();
    server.publish(1);
    eventually("the others are served on", || second.next()["seq"] == seq);
}

#[test]
fn a_member_of_the_group_keeps_root_out_by_no_number_of_subscriptions() {
    let Some(group) = group_of_nobody() else {
        return;
    };
    let server = Server::start_for("lockout", 16, &group);
    server.publish(1);
    let socket = server.scratch.path("events.sock");
    let mut root = server.follower();
    let mut member = as_nobody(&server.scratch, "a_member_takes_all_places")
        .env("EVENT_SOCKET", &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let output = member.stdout.take().expect("piped");
    let mut lines = BufReader::new(output).lines();
    let ready = lines.any(|line| line.expect("text").contains("all places taken"));
    assert!(ready);
    let mut client = server.ask(&json!({"since_seq": 1}));
    assert_eq!(client.next()["seq"], 1);
    let seq = server.bus.next_seq();
    server.publish(1);
    assert_eq!(root.next()["seq"], seq, "who was there before is served on");
    drop(member.stdin.take());
    member.wait().expect("ends");
}

#[test]
#[ignore = "run by a_member_of_the_group_keeps_root_out_by_no_number_of_subscriptions"]
fn a_member_takes_all_places() {
    let Some(path) = std::env::var_os("EVENT_SOCKET") else {
        return;
    };
    let take = |_| {
        let mut stream = connect(Path::new(&path));
        let _ = stream.write_all(b"{\"since_seq\":1,\"follow\":true}\n");
        let mut client = Client(BufReader::new(stream));
        client.next();
        client
    };
    // More than there are.
    let _held: Vec<Client> = (0..2 * MAX_CLIENTS).map(take).collect();
    println!("\nall places taken");
    let _ = std::io::stdin().read(&mut [0]);
}

/// The group of uid 65534, where this test can become that user.
fn group_of_nobody() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not checked: only root can become somebody else");
        return None;
    }
    let group = nix::unistd::Group::from_gid(NOBODY.into()).expect("groups");
    group.map(|group| group.name)
}

const NOBODY: u32 = 65_534;

/// One of the ignored tests here, to be run by somebody else.
fn as_nobody(scratch: &Scratch, test: &str) -> Command {
    let own = std::env::current_exe().expect("this program");
    // Somebody else may not be able to reach where this was built.
    let program = scratch.path("stranger");
    std::fs::copy(own, &program).expect("copy");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn a_guest_is_not_taken_for_another_by_its_name() {
    let server = Server::start("names", 16);
    let uuid = "00000000-0000-0000-0000-000000000abc";
    server.publish(1);
    for name in [uuid, &uuid.to_uppercase(), "3"] {
        let evil = guest(Some(0x666), 66, name);
        server.bus.publish(Some(evil), raised());
    }
    let cases = [
        (uuid, vec![1]),
        ("3", vec![1]),
        ("web", vec![1]),
        ("66", vec![2, 3, 4]),
        ("70000", vec![]),
        ("", vec![]),
    ];
    for (wanted, expected) in cases {
        let lines = server.ask(&json!({"since_seq": 0, "guest": wanted})).rest();
        assert_eq!(numbers(&lines), expected, "{wanted}");
    }
}

#[test]
fn a_slow_reader_is_dropped_with_the_number_of_what_it_missed_and_alone() {
    let server = Server::start("slow", 8);
    let mut slow = server.follower();
    let mut honest = server.ask(&json!({"since_seq": 1, "follow": true}));
    honest.next();
    let mut sent = 1;
    eventually("the slow one is dropped", || {
        server.publish(1);
        sent += 1;
        assert_eq!(honest.next()["seq"], sent, "the honest one misses nothing");
        drops(&server.bus, NAME) > 0
    });
    let mut last = 1;
    let notice = loop {
        let line = slow.next();
        match line["seq"].as_u64() {
            Some(seq) => {
                assert_eq!(seq, last + 1, "no gap before the notice");
                last = seq;
            }
            None => break line,
        }
    };
    assert_eq!(notice, json!({"dropped_from": last + 1}));
    assert_eq!(slow.next(), Value::Null, "and then a close");
    let lost = drops(&server.bus, NAME);
    let held = usize::try_from(lost).expect("few") * 250;
    assert!(held < 600 * 1024, "{lost} events were held for it");
}

#[test]
fn strangers_are_refused_even_where_the_sockets_mode_lets_them_in() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not checked: only root can become somebody else");
        return;
    }
    let group = group_of_nobody();
    let mut cases = vec![("no-such-group".to_owned(), "{\"error\":")];
    cases.extend(group.map(|name| (name, "{\"version\":")));
    for (group, expected) in cases {
        let server = Server::start_for("stranger", 8, &group);
        server.publish(1);
        let socket = server.scratch.path("events.sock");
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("mode");
        let output = as_nobody(&server.scratch, "a_stranger_asks")
            .env("EVENT_SOCKET", &socket)
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "{group}: {text}");
    }
}

#[test]
#[ignore = "run by strangers_are_refused_even_where_the_sockets_mode_lets_them_in"]
fn a_stranger_asks() {
    let Some(path) = std::env::var_os("EVENT_SOCKET") else {
        return;
    };
    let mut stream = connect(Path::new(&path));
    let _ = stream.write_all(b"{\"since_seq\":1}\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    println!("\n{answer}");
}

#[test]
fn every_line_is_an_event_that_can_be_read_back() {
    let server = Server::start("lines", 8);
    let odd = guest(None, 9, "a\n\"b\"\u{202e}\\");
    let what = Kind::HostWithhold {
        reason: "x\ny".to_owned(),
        last_kick_age_ms: 1,
        left_ms: 2,
    };
    server.bus.publish(Some(odd.clone()), what.clone());
    let line = server.ask(&json!({"since_seq": 1})).next();
    let event: xenwarden::event::Event = serde_json::from_value(line).expect("an event");
    assert_eq!((event.guest, event.what), (Some(odd), what));
}

#[test]
fn the_end_of_the_bus_ends_the_server_and_its_clients() {
    let mut server = Server::start("end", 8);
    let mut client = server.follower();
    close(&server.bus);
    server.thread.take().expect("runs").join().expect("ends");
    assert_eq!(client.next(), Value::Null);
    server.thread = Some(spawn(|| {}));
}

#[test]
fn what_guests_do_in_their_ordinary_lives_is_replayed_as_it_was_told() {
    let server = Server::start("ordinary", 8);
    let mut live = server.follower();
    for n in 1..=12_u16 {
        let slot = 1 + u8::from(n % 3 == 0);
        let what = match n % 4 {
            0 => raised(),
            1 => Kind::GuestDisarmed { slot, left_out: 2 },
            _ => Kind::GuestFirstFed {
                slot,
                timeout_s: 30,
                since_seen_ms: (n > 6).then_some(1_234),
            },
        };
        server
            .bus
            .publish(Some(guest(Some(n.into()), n, "db")), what);
    }
    let told: Vec<Value> = (1..=12).map(|_| live.next()).collect();
    let replayed = server.ask(&json!({"since_seq": told[4]["seq"]})).rest();
    assert_eq!(replayed, told[4..]);
    let kinds = json!({"since_seq": told[4]["seq"], "kinds": ["guest.first_fed"]});
    let first_feds: Vec<u64> = numbers(&server.ask(&kinds).rest());
    let of_kind = |line: &&Value| line["kind"] == "guest.first_fed";
    let expected: Vec<Value> = told[4..].iter().filter(of_kind).cloned().collect();
    assert_eq!(first_feds, numbers(&expected));
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden events` from outside, before a server that says what the test has it say.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

mod fake_monitor;
mod samples;

use fake_monitor::program::{Running, Terminal, error_line, finish, text, xenwarden};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use xenwarden::event::Timestamp;
use xenwarden::event::request::Subscription;

fn path(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("events-{name}.sock"));
    let _ = fs::remove_file(&path);
    path
}

/// Takes a client and its request.
fn client(listener: &UnixListener) -> (UnixStream, Subscription) {
    let (stream, _) = listener.accept().expect("a client");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut request = String::new();
    reader.read_line(&mut request).expect("a request");
    (
        stream,
        serde_json::from_str(&request).expect("a subscription"),
    )
}

/// A server that sends each of `sessions` to one client after the other and closes, and then
/// tells what they asked for.
fn serve(name: &str, sessions: Vec<String>) -> (PathBuf, JoinHandle<Vec<Subscription>>) {
    let path = path(name);
    let listener = UnixListener::bind(&path).expect("bind");
    let server = thread::spawn(move || {
        let session = |lines: String| {
            let (mut stream, subscription) = client(&listener);
            // A client that has seen enough may be gone.
            let _ = stream.write_all(lines.as_bytes());
            subscription
        };
        sessions.into_iter().map(session).collect()
    });
    (path, server)
}

fn event(seq: u64, kind: &str, own: &Value) -> Value {
    let mut event = json!({
        "version": 1, "seq": seq, "time": "2026-11-23T15:51:06.250123Z",
        "monotonic_ns": 1, "host": "host1", "severity": "error",
        "guest": {"uuid": null, "domid": 7, "name": "web"}, "kind": kind,
    });
    let fields = event.as_object_mut().expect("an object");
    fields.extend(own.as_object().expect("an object").clone());
    event
}

fn raised(seq: u64) -> String {
    format!("{}\n", event(seq, "alarm.raised", &json!({"expiries": 1})))
}

fn events_from(path: &Path, options: &[&str]) -> std::process::Output {
    let socket = ["events", "--socket", path.to_str().expect("a plain path")];
    finish(&[&socket[..], options].concat())
}

fn follow(path: &Path) -> Running {
    let socket = path.to_str().expect("a plain path");
    Running::start(xenwarden(&["events", "--follow", "--socket", socket]))
}

#[test]
fn a_replay_is_one_line_for_each_event_and_then_the_end() {
    let (path, server) = serve("replay", vec![raised(1) + &raised(2)]);
    let output = events_from(&path, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = "2026-11-23 15:51:06.250Z  error    web (7)       ALARM: its watchdog expired\n";
    assert_eq!(text(&output.stdout), line.repeat(2));
    assert!(output.stderr.is_empty(), "{output:?}");
    let asked = &server.join().expect("no panic")[0];
    let expected = Subscription {
        since_seq: Some(0),
        ..Subscription::default()
    };
    assert_eq!(*asked, expected);
}

#[test]
fn options_become_the_subscription() {
    let time: Timestamp = "2026-11-23T15:51:06.250000Z".parse().expect("a time");
    let cases: [(&[&str], Subscription); 4] = [
        (
            &["--since", "17"],
            Subscription {
                since_seq: Some(17),
                ..Subscription::default()
            },
        ),
        (
            &["--since", "2026-11-23T15:51:06.25Z"],
            Subscription {
                since_time: Some(time),
                ..Subscription::default()
            },
        ),
        (
            &["--guest", "web", "--kind", "alarm", "--kind=guest.late"],
            Subscription {
                since_seq: Some(0),
                kinds: vec!["alarm.".to_owned(), "guest.late".to_owned()],
                guest: Some("web".to_owned()),
                ..Subscription::default()
            },
        ),
        (
            &["--guest=a \"b\"\\"],
            Subscription {
                since_seq: Some(0),
                guest: Some("a \"b\"\\".to_owned()),
                ..Subscription::default()
            },
        ),
    ];
    for (n, (options, expected)) in cases.into_iter().enumerate() {
        let (path, server) = serve(&format!("options-{n}"), vec![String::new()]);
        assert_eq!(events_from(&path, options).status.code(), Some(0));
        assert_eq!(server.join().expect("no panic"), [expected]);
    }
}

#[test]
fn json_passes_every_event_through_unchanged_and_nothing_else() {
    let odd =
        "{ \"seq\":1.0e0, \"kind\" : \"guest.eaten\",\"b\":1,\"a\":2,\"x\":\"\\u00e9\u{e9}\" }\n";
    let sent = raised(1) + "{\"replay_begins_at\":1}\n" + odd;
    let (path, server) = serve("json", vec![sent]);
    let output = events_from(&path, &["--json"]);
    assert_eq!(text(&output.stdout), raised(1) + odd);
    assert_eq!(output.status.code(), Some(0));
    server.join().expect("no panic");
}

#[test]
fn every_kind_is_told_in_words() {
    let lines = |event| serde_json::to_string(event).expect("JSON") + "\n";
    let (path, server) = serve("words", vec![samples::events().iter().map(lines).collect()]);
    let shown = text(&events_from(&path, &[]).stdout);
    assert_eq!(shown.lines().count(), samples::events().len());
    for (line, event) in shown.lines().zip(samples::events()) {
        let kind = event.what.kind();
        assert!(!line.contains(kind), "{kind}: {line}");
        assert!(!line.contains(['{', '}']), "{kind}: {line}");
    }
    server.join().expect("no panic");
}

#[test]
fn what_a_later_version_sends_is_shown_as_far_as_it_goes() {
    let later = [
        (
            event(1, "guest.eaten", &json!({"by": "a bear", "bites": 3})),
            "web (7)       guest.eaten {\"bites\":3,\"by\":\"a bear\"}",
        ),
        (
            event(2, "guest.eaten", &json!({})),
            "web (7)       guest.eaten",
        ),
        (
            event(
                3,
                "alarm.raised",
                &json!({"expiries": 1, "added_later": [1]}),
            ),
            "ALARM: its watchdog expired",
        ),
        (
            event(4, "alarm.raised", &json!({"expiries": "many"})),
            "alarm.raised {\"expiries\":\"many\"}",
        ),
        (
            event(
                5,
                "host.melted",
                &json!({"severity": "fatal", "guest": null, "time": "now"}),
            ),
            "now  fatal    host          host.melted",
        ),
        (json!({"kind": "bare"}), "?  ?        host          bare"),
    ];
    let sent: String = later
        .iter()
        .map(|(event, _)| format!("{event}\n"))
        .collect();
    let (path, server) = serve("later", vec![sent]);
    let output = events_from(&path, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = text(&output.stdout);
    for (line, (event, expected)) in shown.lines().zip(&later) {
        assert!(line.ends_with(expected), "{event}: {line}");
    }
    assert_eq!(shown.lines().count(), later.len());
    server.join().expect("no panic");
}

#[test]
fn nothing_that_a_guest_is_named_moves_the_cursor() {
    let guest = json!({"uuid": null, "domid": 7, "name": "a\u{1b}[2J\nb\u{9b}1m\u{202e}"});
    let own = json!({"guest": guest, "text": "\u{7f}\u{9b}\r"});
    let sent = event(1, "alarm.raised", &json!({"guest": guest, "expiries": 1}));
    let sent = format!("{sent}\n{}\n", event(2, "guest.eaten", &own));
    let (path, server) = serve("names", vec![sent]);
    let shown = text(&events_from(&path, &[]).stdout);
    assert_eq!(shown.lines().count(), 2, "{shown:?}");
    let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!shown.contains(bad), "{shown:?}");
    assert!(shown.contains("a?[2J?b?1m? (7)"), "{shown:?}");
    server.join().expect("no panic");
}

#[test]
fn json_that_is_shown_moves_no_cursor_either() {
    let mut event = event(1, "alarm.raised", &json!({"expiries": 1}));
    event["guest"]["name"] = json!("a\u{9b}2J\u{7f}\u{202e}b");
    let (path, server) = serve("escape_controls", vec![format!("{event}\n")]);
    let output = events_from(&path, &["--json"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        !text
            .trim_end()
            .contains(|c: char| c.is_control() || c == '\u{202e}')
    );
    let shown: Value = serde_json::from_str(&text).expect("still JSON");
    assert_eq!(shown, event);
    server.join().expect("no panic");
}

#[test]
fn what_is_not_understood_or_refused_is_exit_2() {
    let cases = [
        ("garbage", "\u{0}\u{1}garbage\n", "not understood"),
        ("list", "[1]\n", "not understood"),
        (
            "refusal",
            "{\"error\":\"no\\nway\"}\n",
            "the monitor refuses: no?way",
        ),
        ("cut", "{\"version\":1,", "cut short"),
    ];
    for (name, sent, says) in cases {
        for options in [&[][..], &["--json"]] {
            let (path, server) = serve(name, vec![sent.to_owned()]);
            let output = events_from(&path, options);
            let (code, line) = error_line(&output);
            assert_eq!(code, 2, "{name}");
            assert!(line.contains(says), "{name}: {line}");
            assert!(output.stdout.is_empty(), "{name}");
            server.join().expect("no panic");
        }
    }
}

#[test]
fn a_monitor_that_never_answers_is_given_up() {
    let path = path("silent");
    let listener = UnixListener::bind(&path).expect("bind");
    let server = thread::spawn(move || {
        let (stream, _) = client(&listener);
        (stream, listener)
    });
    let (code, line) = error_line(&events_from(&path, &[]));
    assert!(code == 2 && line.contains("no answer within 5 s"), "{line}");
    server.join().expect("no panic");
}

#[test]
fn a_monitor_that_never_accepts_is_given_up() {
    let path = path("full");
    let new = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket")
    };
    let address = UnixAddr::new(&path).expect("an address");
    let server = new();
    bind(server.as_raw_fd(), &address).expect("bind");
    listen(&server, Backlog::new(0).expect("a backlog")).expect("listen");
    let mut queued = Vec::new();
    loop {
        let client = new();
        if connect(client.as_raw_fd(), &address).is_err() {
            break;
        }
        queued.push(client);
    }
    assert!(!queued.is_empty());
    for command in ["events", "guests"] {
        let socket = path.to_str().expect("a plain path");
        let (code, line) = error_line(&finish(&[command, "--socket", socket]));
        assert!(code == 2 && line.contains("no answer within 5 s"), "{line}");
    }
}

#[test]
fn a_dropped_reader_connects_again_and_goes_on_where_it_was() {
    let sessions = vec![
        raised(1) + &raised(2) + "{\"dropped_from\":3}\n",
        raised(3) + &raised(9),
    ];
    let (path, server) = serve("dropped", sessions);
    let output = events_from(&path, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), [1, 2, 3, 9].map(raised).concat());
    assert!(
        error_line(&output)
            .1
            .contains("dropped; going on from event 3")
    );
    let asked = server.join().expect("no panic");
    assert_eq!(asked[1].since_seq, Some(3));
    assert!(!asked[1].follow);
}

#[test]
fn a_reader_that_is_dropped_again_and_again_gives_up() {
    let sessions = vec!["{\"dropped_from\":3}\n".to_owned(); 6];
    let (path, server) = serve("dropped-always", sessions);
    let output = events_from(&path, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        text(&output.stderr).ends_with("again and again\n"),
        "{output:?}"
    );
    server.join().expect("no panic");
}

#[test]
fn events_that_are_no_longer_kept_are_told_to_whom_asked_for_them() {
    let sent = || vec!["{\"replay_begins_at\":7}\n".to_owned() + &raised(7)];
    let (path, server) = serve("begins", sent());
    let output = events_from(&path, &["--since", "3"]);
    let said = error_line(&output);
    assert_eq!(
        said,
        (
            0,
            "xenwarden: events before 7 are no longer kept\n".to_owned()
        )
    );
    server.join().expect("no panic");
    let (path, server) = serve("begins-all", sent());
    let output = events_from(&path, &[]);
    assert!(
        output.stderr.is_empty() && output.status.success(),
        "{output:?}"
    );
    server.join().expect("no panic");
}

#[test]
fn follow_goes_on_after_the_last_event_when_the_monitor_is_restarted() {
    let path = path("restart");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut running = follow(&path);
    let (mut stream, asked) = client(&listener);
    assert!(asked.follow && asked.since_seq.is_none() && asked.since_time.is_none());
    stream.write_all(raised(5).as_bytes()).expect("sent");
    assert!(running.line().contains("ALARM"));
    // The monitor is killed, its socket stays for a while, and goes.
    drop((stream, listener));
    assert!(running.error_line().contains("trying to connect again"));
    fs::remove_file(&path).expect("removed");
    let listener = UnixListener::bind(&path).expect("bind");
    let (mut stream, asked) = client(&listener);
    assert!(asked.follow);
    assert_eq!((asked.since_seq, asked.since_time), (Some(6), None));
    assert_eq!(running.error_line(), "xenwarden: connected again\n");
    stream.write_all(raised(6).as_bytes()).expect("sent");
    assert!(running.line().contains("ALARM"));
    // Its reader goes while nothing happens: it ends, quietly.
    running.stdout = None;
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn follow_loses_nothing_even_if_it_has_seen_nothing_yet() {
    let began = Timestamp::now();
    let path = path("nothing-seen");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut running = follow(&path);
    drop(client(&listener));
    let (_stream, asked) = client(&listener);
    let since = asked.since_time.expect("a time");
    assert!(since >= began && since <= Timestamp::now(), "{since}");
    assert!(running.error_line().contains("closed the connection"));
}

#[test]
fn a_half_line_of_a_dying_monitor_is_not_shown() {
    let path = path("half");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut running = follow(&path);
    let (mut stream, _) = client(&listener);
    let half = raised(6);
    let half = &half.as_bytes()[..40];
    stream.write_all(raised(5).as_bytes()).expect("sent");
    stream.write_all(half).expect("sent");
    drop(stream);
    assert!(running.line().contains("ALARM"));
    assert!(running.error_line().contains("broke"));
    let (mut stream, asked) = client(&listener);
    assert_eq!(asked.since_seq, Some(6));
    stream.write_all(raised(6).as_bytes()).expect("sent");
    assert!(running.line().contains("ALARM"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let (path, server) = serve("head", vec![raised(1).repeat(20_000)]);
    let socket = path.to_str().expect("a plain path");
    let mut running = Running::start(xenwarden(&["events", "--socket", socket]));
    running.line();
    running.stdout = None;
    assert_eq!(running.wait().code(), Some(0));
    let mut said = String::new();
    let stderr = running.stderr.as_mut().expect("stderr");
    std::io::Read::read_to_string(stderr, &mut said).expect("text");
    assert_eq!(said, "");
    server.join().expect("no panic");
}

#[test]
fn errors_are_coloured_on_a_terminal() {
    for (no_color, coloured) in [("", true), ("1", false)] {
        let (path, server) = serve("colours", vec![raised(1)]);
        let socket = path.to_str().expect("a plain path");
        let mut command = xenwarden(&["events", "--socket", socket]);
        command.env("NO_COLOR", no_color);
        let shown = Terminal::start(command).rest();
        assert!(shown.contains("ALARM"), "{shown:?}");
        assert_eq!(shown.contains("\u{1b}[31merror"), coloured, "{shown:?}");
        assert_eq!(shown.contains('\u{1b}'), coloured, "{shown:?}");
        server.join().expect("no panic");
    }
}

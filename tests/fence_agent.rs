// SPDX-License-Identifier: GPL-2.0-only
//! fence_xenwarden, the program, as Pacemaker runs it: against a pool that the test makes up.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

const ON: &str = r#"{"quorate":true,"hosts":[{"name":"a","power":"on"}]}"#;
const OFF: &str = r#"{"quorate":true,"hosts":[{"name":"a","power":"off"}]}"#;
const UNKNOWN: &str = r#"{"quorate":true,"hosts":[{"name":"a","power":"unknown"}]}"#;
const DOWN: &str = r#"{"down":"silent"}"#;
const TIME: &str = r#"{"waits":{"for":"time","left_ms":1000}}"#;

struct Pool {
    directory: PathBuf,
    socket: PathBuf,
}

impl Pool {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("xwf-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        let socket = directory.join("pool.sock");
        Self { directory, socket }
    }

    /// Answers one client with these lines, and closes; gives its question.
    fn answers(&self, lines: &[&str]) -> JoinHandle<String> {
        self.answers_and(lines, false)
    }

    /// The same; closes only after the client.
    fn answers_and(&self, lines: &[&str], holds: bool) -> JoinHandle<String> {
        let _ = fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).expect("listens");
        let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut question = String::new();
            let mut from = BufReader::new(&stream);
            from.read_line(&mut question).expect("a question");
            let mut to: &UnixStream = &stream;
            for line in lines {
                // A client that has heard enough is gone.
                let _ = to.write_all(line.as_bytes());
            }
            while holds && from.read_line(&mut String::new()).is_ok_and(|n| n > 0) {}
            question
        })
    }

    fn stdin(&self, text: &str) -> String {
        format!("{text}\nsocket_path={}\n", self.socket.display())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn agent(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fence_xenwarden"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    // One that goes by its arguments reads none of it.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("a code")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn off_and_reboot_succeed_only_when_the_pool_says_that_the_host_is_down() {
    let pool = Pool::new("off");
    for action in ["off", "reboot", "OFF"] {
        let asked = pool.answers(&[TIME, TIME, DOWN]);
        let output = agent(&[], &pool.stdin(&format!("action={action}\nplug=a")));
        assert_eq!(code(&output), 0, "{}", said(&output));
        assert_eq!(asked.join().expect("asked"), "fence a\n");
    }
    // No word of it in any other answer.
    let others: [&[&str]; 6] = [
        &[],
        &[TIME],
        &[r#"{"error":"a is no host of this pool"}"#],
        &[TIME, r#"{"error":"it is heard after its time"}"#],
        &["no JSON"],
        &[ON],
    ];
    for lines in others {
        let asked = pool.answers(lines);
        let output = agent(&[], &pool.stdin("action=off\nplug=a"));
        assert_eq!(code(&output), 1, "{lines:?}");
        assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        asked.join().expect("asked");
    }
}

#[test]
fn what_needs_more_time_than_there_is_fails_at_once_and_says_what_to_raise() {
    let pool = Pool::new("time");
    let needs = r#"{"waits":{"for":"time","left_ms":40000}}"#;
    let asked = pool.answers(&[needs, DOWN]);
    let output = agent(&[], &pool.stdin("action=off\nplug=a\npower_timeout=30"));
    assert_eq!(code(&output), 1);
    let said = said(&output);
    assert!(
        said.contains("41 s") && said.contains("power_timeout is 30 s"),
        "{said}"
    );
    asked.join().expect("asked");
}

#[test]
fn a_host_that_has_promised_nothing_is_named_as_such_when_time_is_up() {
    let pool = Pool::new("promise");
    let silent = r#"{"waits":{"for":"promise","left_ms":null}}"#;
    let asked = pool.answers_and(&[silent], true);
    let output = agent(&[], &pool.stdin("action=off\nplug=a\npower_timeout=1"));
    assert_eq!(code(&output), 1);
    assert!(
        said(&output).contains("fence_without_quorum"),
        "{}",
        said(&output)
    );
    asked.join().expect("asked");
}

#[test]
fn without_a_pool_everything_fails_but_what_needs_none() {
    let pool = Pool::new("none");
    for action in ["on", "off", "reboot", "status", "monitor", "list"] {
        let output = agent(
            &[],
            &pool.stdin(&format!("action={action}\nplug=a\npower_timeout=1")),
        );
        assert_eq!(code(&output), 1, "{action}");
        let said = said(&output);
        assert!(
            said.contains("is xenwarden-pool running"),
            "{action}: {said}"
        );
    }
    for action in ["metadata", "validate-all"] {
        let output = agent(&[], &pool.stdin(&format!("action={action}\nplug=a")));
        assert_eq!(code(&output), 0, "{action}: {}", said(&output));
    }
}

#[test]
fn options_are_valid_without_a_host_as_a_resource_for_many_has_none() {
    let output = agent(&["-o", "validate-all"], "");
    assert_eq!(code(&output), 0, "{}", said(&output));
    let output = agent(&[], "action=validate-all\npower_timeout=120");
    assert_eq!(code(&output), 0, "{}", said(&output));
}

#[test]
fn status_tells_on_from_off_and_what_is_not_known_from_both() {
    let pool = Pool::new("status");
    let cases = [
        (ON, 0),
        (OFF, 2),
        // Others may have had it boot since.
        (
            r#"{"quorate":false,"hosts":[{"name":"a","power":"off"}]}"#,
            1,
        ),
        (UNKNOWN, 1),
        (r#"{"quorate":true,"hosts":[]}"#, 1),
        (
            r#"{"quorate":true,"hosts":[{"name":"b","power":"off"}]}"#,
            1,
        ),
        (r#"{"error":"a is no host of this pool"}"#, 1),
    ];
    for (answer, expected) in cases {
        let asked = pool.answers(&[answer]);
        let output = agent(&[], &pool.stdin("action=status\nplug=a"));
        assert_eq!(code(&output), expected, "{answer}");
        assert_eq!(asked.join().expect("asked"), "power a\n");
    }
    for (answer, expected) in [(ON, 0), (OFF, 1), (UNKNOWN, 1)] {
        let asked = pool.answers(&[answer]);
        let output = agent(&[], &pool.stdin("action=on\nplug=a\npower_timeout=1"));
        assert_eq!(code(&output), expected, "on: {answer}");
        asked.join().expect("asked");
    }
}

#[test]
fn monitor_wants_a_quorum_and_list_shows_each_host() {
    let pool = Pool::new("monitor");
    for (quorate, expected) in [("true", 0), ("false", 1)] {
        let asked = pool.answers(&[&format!(r#"{{"quorate":{quorate},"hosts":[]}}"#)]);
        let output = agent(&[], &pool.stdin("action=monitor"));
        assert_eq!(code(&output), expected);
        assert_eq!(output.stdout, b"", "it prints nothing");
        assert_eq!(asked.join().expect("asked"), "power\n");
    }
    // Hosts that are heard can be fenced; that the others could not is said, and harms no other.
    let promises = r#"{"quorate":true,"hosts":[{"name":"a","power":"on","promise_ms":26000},{"name":"b","power":"on"},
        {"name":"c","power":"unknown","promise_ms":null},{"name":"d","power":"off"}]}"#;
    let asked = pool.answers(&[&promises.replace('\n', "")]);
    let output = agent(&[], &pool.stdin("action=monitor"));
    assert_eq!((code(&output), output.stdout.as_slice()), (0, &b""[..]));
    let told = said(&output);
    assert!(
        told.contains("b, c: ") && told.contains("fence_without_quorum"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    asked.join().expect("asked");
    let all = r#"{"quorate":true,"hosts":[{"name":"a","power":"on","promise_ms":26000}]}"#;
    let asked = pool.answers(&[all]);
    let output = agent(&[], &pool.stdin("action=monitor"));
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    asked.join().expect("asked");
    let two = r#"{"quorate":false,"hosts":[{"name":"a","power":"on"},{"name":"b","power":"off"}]}"#;
    let asked = pool.answers(&[two]);
    let output = agent(
        &[
            "-o",
            "list",
            "--socket-path",
            &pool.socket.display().to_string(),
        ],
        "",
    );
    assert_eq!(
        (code(&output), output.stdout.as_slice()),
        (0, b"a,\nb,\n".as_slice())
    );
    asked.join().expect("asked");
}

#[test]
fn options_are_those_of_the_api_and_a_mistake_is_never_exit_code_2() {
    let pool = Pool::new("options");
    // Comments, unknown names, spaces before, the last of a name, the older names.
    let asked = pool.answers(&[OFF]);
    let text =
        "#plug=x\n  nodename=b\nagent=fence_xenwarden\nplug=b\nplug=a\noption=status\njunk\n";
    assert_eq!(code(&agent(&[], &pool.stdin(text))), 2);
    assert_eq!(asked.join().expect("asked"), "power a\n");
    let asked = pool.answers(&[OFF]);
    let text = "nodename=b\nport=a\naction=status";
    assert_eq!(code(&agent(&[], &pool.stdin(text))), 2);
    assert_eq!(
        asked.join().expect("asked"),
        "power a\n",
        "port before nodename"
    );
    for wrong in [
        "action=explode\nplug=a",
        "action=off",
        "action=status",
        "action=off\nplug=a b",
        "action=off\nplug=a\npower_timeout=soon",
        "action=off\nplug=a\npower_timeout=0",
    ] {
        let output = agent(&[], wrong);
        assert_eq!(code(&output), 1, "{wrong}");
        assert_eq!(
            said(&output).lines().count(),
            1,
            "{wrong}: {}",
            said(&output)
        );
    }
    for wrong in [
        &["--explode"][..],
        &["-o"],
        &["-o", "off", "extra"],
        &["-x", "off"],
    ] {
        assert_eq!(code(&agent(wrong, "")), 1, "{wrong:?}");
    }
    for wrong in ["plug=a b", "power_timeout=soon", "power_timeout=0"] {
        let output = agent(&[], &format!("action=validate-all\n{wrong}"));
        assert_eq!(code(&output), 1, "validate-all: {wrong}");
    }
    let version = agent(&["--version"], "");
    assert!(version.stdout.starts_with(b"fence_xenwarden "));
    assert_eq!(code(&agent(&["-h"], "")), 0);
}

#[test]
fn the_metadata_names_each_action_and_parameter_once() {
    let output = agent(&["-o", "metadata"], "");
    let xml = String::from_utf8(output.stdout).expect("text");
    for name in [
        "on",
        "off",
        "reboot",
        "status",
        "list",
        "monitor",
        "metadata",
        "validate-all",
    ] {
        assert_eq!(
            xml.matches(&format!("<action name=\"{name}\"")).count(),
            1,
            "{name}"
        );
    }
    for name in [
        "action",
        "plug",
        "port",
        "nodename",
        "power_timeout",
        "socket_path",
    ] {
        assert_eq!(
            xml.matches(&format!("<parameter name=\"{name}\"")).count(),
            1,
            "{name}"
        );
    }
    let opened = xml.matches("<parameter ").count();
    assert_eq!(xml.matches("</parameter>").count(), opened);
    assert!(xml.ends_with("</resource-agent>\n"));
}

// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's option syntax, as the Advanced Watch Dog's letter has it; and what is refused, in one line that names
//! the option, with nothing started.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod pulse_stage;

use pulse_stage::Stage;
use xenwarden::pulse::options;
use xenwarden::pulse::plan::{HostPort, Message, Node, Place, Plan};
use xenwarden::pulse::protocol::Protocol;

/// As in the letter (qemu-devel, 2019-12-17), word for word.
const PRIMARY: &str = "-chardev socket,id=h1,host=3.3.3.3,port=9009,server,nowait \
    -chardev socket,id=heartbeat0,host=3.3.3.3,port=4445 \
    -object iothread,id=iothread2 \
    -object advanced-watchdog,id=heart1,server=on,awd_node=h1,notification_node=heartbeat0,opt_script=colo_opt_script_path,iothread=iothread1,pulse_interval=1000,timeout=5000";
const SECONDARY: &str = "-monitor tcp::4445,server,nowait \
    -chardev socket,id=h1,host=3.3.3.3,port=9009,reconnect=1 \
    -chardev socket,id=heart1,host=3.3.3.8,port=4445 \
    -object iothread,id=iothread1 \
    -object advanced-watchdog,id=heart1,server=off,awd_node=h1,notification_node=heart1,opt_script=colo_secondary_opt_script,iothread=iothread1,timeout=10000";

fn stage() -> Stage {
    let stage = Stage::new();
    stage.write("colo_opt_script_path", "x_colo_lost_heartbeat\n");
    stage.write(
        "colo_secondary_opt_script",
        "nbd_server_stop\nx_colo_lost_heartbeat\n",
    );
    stage
}

/// With the scripts' paths in full, as this process has another directory.
fn plan(stage: &Stage, text: &str) -> Result<Plan, String> {
    let script = format!("opt_script={}/", stage.directory.display());
    let text = text.replace("opt_script=", &script);
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    options::plan(&words)
}

fn tcp(host: &str, port: u16) -> Place {
    let host = host.to_owned();
    Place::Tcp(HostPort { host, port })
}

#[test]
fn the_letters_primary_means_what_it_says() {
    let stage = stage();
    let plan = plan(&stage, PRIMARY).expect("a plan");
    let [beat] = &plan.heartbeats[..] else {
        panic!("{plan:?}");
    };
    let Node::Stream(node) = &beat.node else {
        panic!("{beat:?}");
    };
    assert_eq!(
        (plan.name.as_str(), beat.name.as_str()),
        ("heart1", "heart1")
    );
    assert_eq!((&node.place, node.listens), (&tcp("3.3.3.3", 9009), true));
    assert_eq!(beat.protocol, Protocol::Auto);
    assert!(!beat.answers, "server=on");
    assert_eq!((beat.pulse_ms, beat.timeout_ms), (1_000, 5_000));
    let notification = beat.notification.as_ref().expect("a notification");
    assert_eq!(notification.to.place, tcp("3.3.3.3", 4445));
    assert!(!notification.to.listens);
    let script = b"x_colo_lost_heartbeat\n".to_vec();
    assert_eq!(notification.message, Message::Script(script));
    let [warning] = &plan.warnings[..] else {
        panic!("{:?}", plan.warnings);
    };
    assert!(
        warning.contains("iothread1"),
        "the letter's own slip: {warning}"
    );
}

#[test]
fn the_letters_secondary_means_what_it_says() {
    let stage = stage();
    let plan = plan(&stage, SECONDARY).expect("a plan");
    let [beat] = &plan.heartbeats[..] else {
        panic!("{plan:?}");
    };
    let Node::Stream(node) = &beat.node else {
        panic!("{beat:?}");
    };
    assert_eq!((&node.place, node.listens), (&tcp("3.3.3.3", 9009), false));
    assert_eq!(node.reconnect_ms, Some(1_000));
    assert!(beat.answers, "server=off");
    assert_eq!((beat.pulse_ms, beat.timeout_ms), (5_000, 10_000));
    let notification = beat.notification.as_ref().expect("a notification");
    assert_eq!(
        notification.to.place,
        tcp("3.3.3.8", 4445),
        "a chardev and an object share an id"
    );
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.contains("-monitor") && w.contains("QEMU's own"))
    );
}

#[test]
fn the_program_takes_the_letters_words() {
    let stage = stage();
    for text in [PRIMARY, SECONDARY] {
        let words: Vec<&str> = text.split_whitespace().chain(["--check-config"]).collect();
        let output = stage.output(&words);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"ok; 1 heartbeats\n");
    }
}

#[test]
fn defaults_are_the_letters_and_such_as_fire_between_pulses_are_warned_of() {
    let stage = stage();
    let text = "-chardev socket,id=a,path=/x,server=on,wait=off -object advanced-watchdog,id=h,server=on,awd_node=a";
    let plan = plan(&stage, text).expect("a plan");
    let beat = plan.heartbeats.first().expect("one");
    assert_eq!((beat.pulse_ms, beat.timeout_ms), (5_000, 2_000));
    assert_eq!(beat.notification, None, "the script is optional");
    let warned = plan
        .warnings
        .iter()
        .any(|w| w.contains("timeout=2000 is not longer than"));
    assert!(warned, "{:?}", plan.warnings);
}

#[test]
fn sockets_are_of_each_kind_that_qemu_has_words_for() {
    let stage = stage();
    let object = "-object advanced-watchdog,id=h,server=off,awd_node=a";
    let cases = [
        (
            "socket,id=a,path=/a,,b",
            Place::Unix("/a,b".into()),
            false,
            None,
        ),
        (
            "socket,id=a,path=/x,server",
            Place::Unix("/x".into()),
            true,
            None,
        ),
        (
            "socket,id=a,host=::1,port=1,reconnect-ms=250",
            tcp("::1", 1),
            false,
            Some(250),
        ),
        (
            "socket,id=a,host=h,port=1,reconnect=0",
            tcp("h", 1),
            false,
            None,
        ),
        (
            "socket,id=a,host=,port=1,server=on,wait=off",
            tcp("", 1),
            true,
            None,
        ),
        (
            "socket,id=a,host=h,port=1,nodelay=on,server=off",
            tcp("h", 1),
            false,
            None,
        ),
        (
            "serial,id=a,path=/dev/ttyS0",
            Place::Device("/dev/ttyS0".into()),
            false,
            None,
        ),
        (
            "tty,id=a,path=/dev/pts/3",
            Place::Device("/dev/pts/3".into()),
            false,
            None,
        ),
    ];
    for (chardev, place, listens, reconnect_ms) in cases {
        let plan = plan(&stage, &format!("-chardev {chardev} {object}")).expect(chardev);
        let Some(Node::Stream(node)) = plan.heartbeats.first().map(|beat| &beat.node) else {
            panic!("{plan:?}");
        };
        assert_eq!(node.place, place, "{chardev}");
        assert_eq!(
            (node.listens, node.reconnect_ms),
            (listens, reconnect_ms),
            "{chardev}"
        );
    }
}

/// What is wrong with the options, and a part of the line that says so.
#[test]
fn whatever_is_wrong_is_told_in_one_line_that_names_it() {
    let stage = stage();
    let a = "-chardev socket,id=a,path=/x,server=on";
    let h = "-object advanced-watchdog,id=h,server=on,awd_node=a";
    let cases = [
        (String::new(), "-object advanced-watchdog,... is missing"),
        (a.to_owned(), "is missing"),
        (h.to_owned(), "awd_node=a: no chardev has that id"),
        (
            format!("{a},telnet=on {h}"),
            "telnet is QEMU's, and not supported",
        ),
        (format!("{a},colour=red {h}"), "colour is unknown"),
        (format!("{a},id=b {h}"), "id is given twice"),
        (format!("{a} {a} {h}"), "another chardev with the id a"),
        (format!("{a} {h} {h}"), "another object with the id h"),
        (
            format!("{a} -object iothread,id=h {h}"),
            "another object with the id h",
        ),
        (format!("-chardev socket,path=/x {h}"), "id= is missing"),
        (format!("-chardev socket,id=../a,path=/x {h}"), "is no name"),
        (format!("-chardev socket,id=a {h}"), "are missing"),
        (format!("-chardev socket,id=a,host=h {h}"), "port= must be"),
        (
            format!("-chardev socket,id=a,host=h,port=70000 {h}"),
            "port= must be",
        ),
        (
            format!("-chardev socket,id=a,host=h,port=x {h}"),
            "port=x: must be a number",
        ),
        (
            format!("-chardev socket,id=a,host=h,port=+1 {h}"),
            "port=+1: must be a number",
        ),
        (
            format!("-chardev socket,id=a,host=h,port=1,path=/x {h}"),
            "exclude each other",
        ),
        (
            format!("-chardev socket,id=a,path=/x,reconnect=1,server {h}"),
            "reconnect is for a client",
        ),
        (
            format!("-chardev socket,id=a,path=/x,reconnect=1,reconnect-ms=1 {h}"),
            "exclude each other",
        ),
        (
            format!("-chardev socket,id=a,path=/x,nowait {h}"),
            "wait is for server=on",
        ),
        (
            format!("-chardev socket,id=a,path=/x,server=maybe {h}"),
            "server=maybe: must be on or off",
        ),
        (
            format!("-chardev pty,id=a {h}"),
            "the type pty is not supported",
        ),
        (
            format!("-object rng-random,id=r {a} {h}"),
            "the type rng-random is not supported",
        ),
        (
            format!("{a} {h},timeout=0"),
            "timeout=0: must be at least 1",
        ),
        (
            format!("{a} {h},pulse_interval=0"),
            "pulse_interval=0: must be",
        ),
        (
            format!("{a} {h},timeout=4294967296"),
            "timeout=4294967296: must be a number",
        ),
        (
            format!("{a} {h},timeout=-1"),
            "timeout=-1: must be a number",
        ),
        (
            format!("{a} {h},notification_node=n"),
            "notification_node=n: no chardev",
        ),
        (
            format!("{a} {h},notification_node=a"),
            "uses that chardev already",
        ),
        (
            format!("{a} {h},opt_script=colo_opt_script_path"),
            "without notification_node",
        ),
        (
            format!("{a} -object advanced-watchdog,id=h,awd_node=a"),
            "server= is missing",
        ),
        (
            format!("{a} -object advanced-watchdog,id=h,server=on"),
            "awd_node= is missing",
        ),
        (format!("{a} {h},opt_script=absent"), "absent: No such file"),
        (format!("{a} {h},opt_script=run"), "not a plain file"),
    ];
    for (text, part) in cases {
        let words: Vec<&str> = text.split_whitespace().collect();
        let why = plan(&stage, &text).expect_err(&text);
        assert!(why.contains(part), "{text}: {why}");
        assert_eq!(why.lines().count(), 1, "{why}");
        if words.is_empty() {
            continue;
        }
        let output = stage.output(&words);
        assert_eq!(output.status.code(), Some(78), "{text}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            !stage.path("run/xenwarden-pulse/h.sock").exists(),
            "nothing was started"
        );
    }
}

#[test]
fn a_wrong_command_line_is_told_so() {
    let stage = stage();
    for (words, code) in [
        (vec!["-display", "none"], 64),
        (vec![], 64),
        (vec!["-chardev"], 64),
        (vec!["--config", "absent.toml"], 78),
        (vec!["--config", "a", "-object", "iothread,id=i"], 64),
    ] {
        let output = stage.output(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert_eq!(
            output.stderr.iter().filter(|b| **b == b'\n').count(),
            1,
            "{output:?}"
        );
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The configuration of guests' alarms, events, hooks and metrics.
#![allow(clippy::expect_used)] // how tests fail

use std::path::Path;
use std::time::Duration;
use xenwarden::config::Policy;
use xenwarden::config::file::parse;
use xenwarden::config::sinks::Hook;

fn policy(text: &str) -> Result<Policy, String> {
    let file = parse(Path::new("x.conf"), text.as_bytes()).map_err(|e| e.to_string())?;
    Policy::from_file(file)
}

#[test]
fn an_empty_file_takes_the_documented_defaults() {
    let policy = policy("").expect("defaults");
    assert_eq!(policy.guests.clear_after_feeds, 1);
    assert_eq!(policy.guests.clear_after, Duration::ZERO);
    assert_eq!(policy.guests.boot_deadline, Duration::from_secs(300));
    assert_eq!(policy.state_directory, Path::new("/var/lib/xenwarden"));
    assert_eq!(
        policy.events.socket,
        Path::new("/run/xenwarden/events.sock")
    );
    assert_eq!((policy.events.keep, policy.events.syslog), (4_096, true));
    assert_eq!((policy.hooks.hooks, policy.hooks.concurrency), (vec![], 4));
    assert_eq!(policy.metrics_textfile, None);
}

#[test]
fn every_value_is_taken_at_both_ends_of_its_range() {
    let text = r#"
        [guests]
        clear_after_feeds = 1000
        clear_after_s = 3600
        boot_deadline_s = 10
        [state]
        directory = "/srv/state"
        [events]
        socket = "/run/e.sock"
        keep = 0
        syslog = false
        [hooks]
        concurrency = 16
        [[hook]]
        kinds = ["alarm.", "guest.expired"]
        program = "/a/b"
        [[hook]]
        kinds = ["host.withhold"]
        program = "/c"
        timeout_s = 300
        arguments = ["x", ""]
        [metrics]
        textfile = "/var/lib/node_exporter/xenwarden.prom""#;
    let policy = policy(text).expect("valid");
    assert_eq!(policy.guests.clear_after_feeds, 1_000);
    assert_eq!(policy.guests.clear_after, Duration::from_secs(3_600));
    assert_eq!(policy.guests.boot_deadline, Duration::from_secs(10));
    assert_eq!(policy.state_directory, Path::new("/srv/state"));
    assert_eq!((policy.events.keep, policy.events.syslog), (0, false));
    assert_eq!(policy.hooks.concurrency, 16);
    let hook = |kinds: &[&str], program: &str, arguments: &[&str], s| Hook {
        kinds: kinds.iter().map(|k| (*k).to_owned()).collect(),
        program: program.into(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        timeout: Duration::from_secs(s),
    };
    let expected = [
        hook(&["alarm.", "guest.expired"], "/a/b", &[], 10),
        hook(&["host.withhold"], "/c", &["x", ""], 300),
    ];
    assert_eq!(policy.hooks.hooks, expected);
    let textfile = policy.metrics_textfile.expect("a file");
    assert_eq!(textfile, Path::new("/var/lib/node_exporter/xenwarden.prom"));
}

#[test]
fn bad_input_names_the_key_and_what_to_do_in_one_line() {
    let many = "[[hook]]\nkinds=[\"alarm.\"]\nprogram=\"/x\"\n".repeat(65);
    let long = format!("[events]\nsocket = \"/{}\"", "x".repeat(107));
    let hook = |lines: &str| format!("[[hook]]\nkinds = [\"alarm.\"]\nprogram = \"/x\"\n{lines}");
    let cases: Vec<(String, &[&str])> = vec![
        (
            "[guests]\nclear_after_feeds = 0".into(),
            &["guests.clear_after_feeds = 0", "1 to 1000"],
        ),
        (
            "[guests]\nclear_after_feeds = 1001".into(),
            &["clear_after_feeds = 1001"],
        ),
        (
            "[guests]\nclear_after_s = 3601".into(),
            &["guests.clear_after_s = 3601", "0 to 3600 s"],
        ),
        (
            "[guests]\nboot_deadline_s = 9".into(),
            &["guests.boot_deadline_s = 9", "10 to 86400"],
        ),
        (
            "[guests]\nboot_deadline_s = 86401".into(),
            &["guests.boot_deadline_s = 86401"],
        ),
        (
            "[guests]\nclear = 1".into(),
            &["x.conf:2", "clear_after_feeds"],
        ),
        (
            "[state]\ndirectory = \"var\"".into(),
            &["state.directory", "absolute"],
        ),
        (
            "[events]\nkeep = 65537".into(),
            &["events.keep = 65537", "0 to 65536"],
        ),
        ("[events]\nkeep = -1".into(), &["x.conf:2", "keep = -1"]),
        (
            "[events]\nsocket = \"e.sock\"".into(),
            &["events.socket", "absolute"],
        ),
        (long, &["events.socket", "107"]),
        ("[events]\nsyslog = 1".into(), &["x.conf:2", "syslog = 1"]),
        (
            "[hooks]\nconcurrency = 0".into(),
            &["hooks.concurrency = 0", "1 to 16"],
        ),
        (
            "[hooks]\nconcurrency = 17".into(),
            &["hooks.concurrency = 17"],
        ),
        ("[[hook]]\nprogram = \"/x\"".into(), &["x.conf:1", "kinds"]),
        (
            "[[hook]]\nkinds = [\"alarm.\"]".into(),
            &["x.conf:1", "program"],
        ),
        (
            "[[hook]]\nkinds = []\nprogram = \"/x\"".into(),
            &["hook 1", "kinds is empty"],
        ),
        (
            "[[hook]]\nkinds = [\"alarm\"]\nprogram = \"/x\"".into(),
            &["hook 1", "\"alarm\"", "alarm.raised"],
        ),
        (
            hook("[[hook]]\nkinds = [\"alarm.\", \"x\\ny\"]\nprogram = \"/x\""),
            &["hook 2", "x\\ny"],
        ),
        (
            "[[hook]]\nkinds = [\"alarm.\"]\nprogram = \"x\"".into(),
            &["hook 1: program", "absolute"],
        ),
        (
            hook("timeout_s = 0"),
            &["hook 1: timeout_s = 0", "1 to 300"],
        ),
        (hook("timeout_s = 301"), &["hook 1: timeout_s = 301"]),
        (
            hook("arguments = [\"\\u0000\"]"),
            &["hook 1: arguments", "zero"],
        ),
        (hook("shell = true"), &["x.conf:4", "shell"]),
        (many, &["hook", "64"]),
        ("[hook]\nkinds = []".into(), &["x.conf:1"]),
        (
            "[metrics]\ntextfile = \"/x\"".into(),
            &["metrics.textfile", ".prom"],
        ),
        (
            "[metrics]\ntextfile = \"x.prom\"".into(),
            &["metrics.textfile", "absolute"],
        ),
        (
            "[events]\nsocket = \"/run/xenwarden//control.sock\"".into(),
            &["control.socket and events.socket"],
        ),
        (
            "[control]\nsocket = \"/a.prom\"\n[metrics]\ntextfile = \"/a.prom\"".into(),
            &["control.socket and metrics.textfile"],
        ),
        (
            "[state]\ndirectory = \"/run/xenwarden/events.sock\"".into(),
            &["events.socket and state.directory"],
        ),
    ];
    for (text, expected) in cases {
        let error = policy(&text).expect_err(&text);
        for part in expected {
            assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?} is more than a line");
    }
}

/// Keys without a default, with what the shipped file has as an example.
const EXAMPLES: [&str; 13] = [
    "withheld_ms = 1000",
    "hardware_s = 120",
    "starved_s = 10",
    "kinds = [\"alarm.\", \"guest.boot_failed\"]",
    "program = \"/usr/share/xenwarden/hooks/mail\"",
    "arguments = [\"root\"]",
    "timeout_s = 10",
    "watchdog_mux = \"/run/watchdog-mux.sock\"",
    "name = \"storage\"",
    "user = \"root\"",
    "required = false",
    "strict = false",
    "textfile = \"/var/lib/node_exporter/textfile_collector/xenwarden.prom\"",
];

/// The names that the parser asks for where it finds one that it does not know.
fn known(text: &str) -> Vec<String> {
    let error = policy(text).expect_err("an unknown name");
    let (_, expected) = error.split_once("expected").expect("what is known");
    let names = expected.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn the_shipped_file_is_all_comments_and_has_every_key_with_its_built_in_default() {
    let shipped = include_str!("../init/xenwarden.conf");
    assert_eq!(policy(shipped), policy(""));
    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && !key.contains([' ', '#'])
    };
    let lines = shipped.lines();
    assert_eq!(lines.clone().find(|line| is_key(line)), None);
    let keys: Vec<&str> = lines
        .clone()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| is_key(line))
        .collect();
    // Each key is there, in its section.
    let mut section = "";
    let there: Vec<(&str, &str)> = lines
        .filter_map(|line| {
            let bare = line.strip_prefix('#').unwrap_or(line);
            if bare.starts_with('[') {
                section = bare.trim_matches(['[', ']']);
            }
            is_key(bare).then(|| (section, bare.split(' ').next().unwrap_or_default()))
        })
        .collect();
    let mut count = 0;
    for section in known("[unknown]") {
        let text = match section.as_str() {
            "hook" | "lease" => format!("[[{section}]]\nunknown = 1"),
            section => format!("[{section}]\nunknown = 1"),
        };
        for key in known(&text) {
            count += 1;
            let has = there.contains(&(section.as_str(), key.as_str()));
            assert!(has, "{section}.{key} is not in the shipped file");
        }
    }
    assert_eq!((count, there.len()), (keys.len(), keys.len()));
    // Whatever has a default has that in the file.
    let taken = |examples: bool| -> String {
        let lines = shipped.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if is_key(key) && (examples || !EXAMPLES.contains(&key)) => key,
            Some(table) if table.starts_with("[[") && examples => table,
            _ => line,
        });
        lines.map(|line| format!("{line}\n")).collect()
    };
    assert_eq!(policy(&taken(false)), policy(""));
    assert_eq!(
        taken(false).lines().filter(|line| is_key(line)).count(),
        keys.iter().filter(|key| !EXAMPLES.contains(key)).count()
    );
    // The examples are valid, but for the two of which one excludes the other.
    let dump = EXAMPLES[1];
    assert_eq!(
        policy(&shipped.replace(&format!("#{dump}"), dump)).map(|p| p.hardware_s()),
        Ok(120)
    );
    let all = taken(true).replace(dump, "");
    let policy = policy(&all).expect("valid");
    assert_eq!(
        (policy.hooks.hooks.len(), policy.leases.leases.len()),
        (1, 1)
    );
    assert!(policy.metrics_textfile.is_some() && policy.starved_ns.is_some());
}

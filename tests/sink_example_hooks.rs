// SPDX-License-Identifier: GPL-2.0-only
//! The shipped example hooks, with stand-ins for xe, curl and sendmail that write down
//! what they are asked.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use serde_json::Value;
use sink_common::Scratch;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const UUID: &str = "0f9bbd6e-5f0a-4a39-8a8e-0123456789ab";
const NAME: &str = r#"we"b $(touch pwned) \ ü"#;

/// Runs a hook as the monitor would, but for a PATH that has the stand-ins.
fn run(scratch: &Scratch, hook: &str, arguments: &[&str], kind: &str, uuid: &str) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("hooks")
        .join(hook);
    let path = format!("{}:/usr/bin:/bin", scratch.0.display());
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(&scratch.0)
        .env_clear()
        .env("PATH", path)
        .env("LANG", "C")
        .env("XENWARDEN_KIND", kind)
        .env("XENWARDEN_SEQ", "12")
        .env("XENWARDEN_TIME", "2026-11-23T15:51:06.250000Z")
        .env("XENWARDEN_SEVERITY", "error")
        .env("XENWARDEN_HOST", "xen1")
        .env("XENWARDEN_UUID", uuid)
        .env("XENWARDEN_DOMID", "3")
        .env("XENWARDEN_NAME", NAME)
        .env("XENWARDEN_MESSAGE", format!("guest {NAME}: ALARM"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A hook need not read it.
    let _ = stdin.write_all(b"{\"seq\":12}\n");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(!scratch.path("pwned").exists(), "a name was run");
    output
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_xapi_message_is_raised_once_and_destroyed() {
    let scratch = Scratch::new("example-xapi");
    let stub = r#"
        for word in "$@"; do printf '%s|' "$word" >> $D/log; done; echo >> $D/log
        case $1 in message-list) cat $D/found ;; esac"#;
    scratch.script("xe", stub);
    let list = |name| format!("message-list|name={name}|obj-uuid={UUID}|--minimal|");
    let create = |name| {
        format!("message-create|name={name}|priority=1|vm-uuid={UUID}|body=guest {NAME}: ALARM|")
    };
    let destroy = |id| format!("message-destroy|uuid={id}|");
    let (alarm, boot) = ("xenwarden_alarm", "xenwarden_boot_failed");
    let cases = [
        ("alarm.raised", "", vec![list(alarm), create(alarm)]),
        (
            "alarm.raised",
            "m1",
            vec![list(alarm), destroy("m1"), create(alarm)],
        ),
        ("guest.boot_failed", "", vec![list(boot), create(boot)]),
        ("guest.first_fed", "m1", vec![list(boot), destroy("m1")]),
        (
            "alarm.cleared",
            "m1,m2",
            vec![
                list(alarm),
                destroy("m1"),
                destroy("m2"),
                list(boot),
                destroy("m1"),
                destroy("m2"),
            ],
        ),
        ("alarm.closed", "", vec![list(alarm), list(boot)]),
        ("guest.armed", "m1", vec![]),
    ];
    for (kind, found, expected) in cases {
        std::fs::write(scratch.path("found"), found).expect("write");
        std::fs::write(scratch.path("log"), "").expect("write");
        succeeds(&run(&scratch, "xapi-message", &[], kind, UUID));
        let log = scratch.read("log");
        assert_eq!(log.lines().collect::<Vec<_>>(), expected, "{kind} {found}");
    }
    let output = run(&scratch, "xapi-message", &[], "alarm.raised", "");
    assert_eq!(output.status.code(), Some(1), "no UUID, no message");
    scratch.script("xe", "exit 1");
    let output = run(&scratch, "xapi-message", &[], "alarm.raised", UUID);
    assert!(
        !output.status.success(),
        "a failure of xe is one of the hook"
    );
}

#[test]
fn an_alert_is_posted_and_resolved_under_the_same_labels() {
    let scratch = Scratch::new("example-alertmanager");
    scratch.script(
        "curl",
        r#"for last in "$@"; do :; done; echo "$last" > $D/url; cat > $D/body"#,
    );
    let post = |kind, uuid| {
        let url = ["http://am.example:9093"];
        succeeds(&run(&scratch, "alertmanager", &url, kind, uuid));
        assert_eq!(
            scratch.read("url"),
            "http://am.example:9093/api/v2/alerts\n"
        );
        let body: Value = serde_json::from_str(&scratch.read("body")).expect("JSON");
        body.as_array().expect("a list").clone()
    };
    let time = "2026-11-23T15:51:06.250000Z";
    let raised = post("alarm.raised", UUID);
    assert_eq!(raised.len(), 1);
    assert_eq!(raised[0]["labels"]["guest"], UUID);
    assert_eq!(
        raised[0]["annotations"]["summary"],
        format!("guest {NAME}: ALARM")
    );
    assert_eq!(raised[0]["annotations"]["name"], NAME);
    assert_eq!(raised[0]["startsAt"], time);
    let failed = post("guest.boot_failed", UUID);
    assert_eq!((failed.len(), &failed[0]["startsAt"]), (1, &time.into()));
    assert_ne!(failed[0]["labels"], raised[0]["labels"]);
    let both = vec![&raised[0]["labels"], &failed[0]["labels"]];
    let cases = [
        ("alarm.cleared", both.clone()),
        ("alarm.closed", both),
        ("guest.first_fed", vec![&failed[0]["labels"]]),
    ];
    for (kind, labels) in cases {
        let ended = post(kind, UUID);
        let resolved: Vec<&Value> = ended.iter().map(|alert| &alert["labels"]).collect();
        assert_eq!(resolved, labels, "{kind}");
        assert!(ended.iter().all(|alert| alert["endsAt"] == time), "{kind}");
    }
    std::fs::write(scratch.path("body"), "").expect("write");
    let url = ["http://am.example:9093"];
    let output = run(&scratch, "alertmanager", &url, "alarm.raised", "");
    assert_eq!(output.status.code(), Some(1), "no UUID, no alert");
    assert_eq!(scratch.read("body"), "");
    let output = run(&scratch, "alertmanager", &[], "alarm.raised", UUID);
    assert!(!output.status.success(), "without an address it fails");
    scratch.script("curl", "exit 22");
    let output = run(
        &scratch,
        "alertmanager",
        &["http://x"],
        "alarm.raised",
        UUID,
    );
    assert_eq!(output.status.code(), Some(22));
}

#[test]
fn a_mail_has_the_event_in_words_and_as_json_and_no_headers_of_others() {
    let scratch = Scratch::new("example-mail");
    scratch.script("sendmail", "echo \"$*\" > $D/arguments; cat > $D/mail");
    succeeds(&run(
        &scratch,
        "mail",
        &["ops@example.org"],
        "alarm.raised",
        UUID,
    ));
    assert_eq!(scratch.read("arguments"), "-t -i\n");
    let mail = scratch.read("mail");
    let (headers, body) = mail.split_once("\n\n").expect("headers and a body");
    let names: Vec<&str> = headers
        .lines()
        .filter_map(|l| l.split(": ").next())
        .collect();
    let expected = [
        "To",
        "Subject",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
        "Auto-Submitted",
    ];
    assert_eq!(names, expected);
    assert!(headers.starts_with("To: ops@example.org\nSubject: xenwarden: alarm.raised on xen1\n"));
    assert!(
        body.starts_with(&format!("guest {NAME}: ALARM\n")) && body.ends_with("{\"seq\":12}\n")
    );
    succeeds(&run(&scratch, "mail", &[], "alarm.raised", UUID));
    assert!(scratch.read("mail").starts_with("To: root\n"));
    let output = run(&scratch, "mail", &["a\nBcc: b"], "alarm.raised", UUID);
    assert!(!output.status.success());
}

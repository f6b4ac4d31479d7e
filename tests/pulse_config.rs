// SPDX-License-Identifier: GPL-2.0-only
//! The TOML file of xenwarden-pulse: it means the same as QEMU's options, and each mistake in it is told.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use pulse_stage::Stage;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use xenwarden::pulse::plan::Plan;
use xenwarden::pulse::{config, options};

fn load(stage: &Stage, text: &str) -> Result<Plan, String> {
    config::load(&stage.write("colo.toml", text))
}

#[test]
fn both_ways_to_configure_a_heartbeat_give_the_same_plan() {
    let stage = Stage::new();
    stage.write("script", "quit\n");
    let script = stage.named("script");
    let words = format!(
        "-chardev socket,id=a,host=192.0.2.1,port=9009,server=on,wait=off -chardev socket,id=m,path=/run/m \
         -object advanced-watchdog,id=heart1,server=off,awd_node=a,notification_node=m,opt_script={script},pulse_interval=1000,timeout=5000"
    );
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let one = options::plan(&words).expect("a plan");
    let other = load(
        &stage,
        &format!(
            "[heartbeat.heart1]\nlisten = \"192.0.2.1:9009\"\nanswers = true\npulse_interval_ms = 1000\n\
             timeout_ms = 5000\nnotify_connect = \"unix:/run/m\"\nscript = \"{script}\"\nown_vmm = true\n"
        ),
    );
    let other = other.expect("a plan");
    assert_eq!(one.heartbeats, other.heartbeats);
    assert_eq!(other.name, "colo", "as the file is called");
}

#[test]
fn defaults_do_not_fire_between_healthy_pulses() {
    let stage = Stage::new();
    let plan = load(&stage, "[heartbeat.h]\nconnect = \"peer:9009\"\n").expect("a plan");
    let beat = plan.heartbeats.first().expect("one");
    assert!(beat.timeout_ms >= 4 * beat.pulse_ms, "{beat:?}");
    assert_eq!((beat.repeat_ms, beat.act_after_ms), (None, 0));
}

#[test]
fn every_mistake_is_told_with_its_file_and_key() {
    let stage = Stage::new();
    stage.write("script", "quit\n");
    let script = stage.named("script");
    let key = stage.write_key("key", "0123456789abcdef");
    let open = stage
        .write("open", "0123456789abcdef")
        .display()
        .to_string();
    let short = stage.write_key("short", "123");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("set");
    let beat = |text: &str| format!("[heartbeat.h]\nlisten = \":9009\"\n{text}\n");
    let cases = [
        (String::new(), "there is no heartbeat"),
        ("heart = 1\n".to_owned(), "unknown field"),
        ("[heartbeat.h]\n".to_owned(), "needs exactly one of"),
        (beat("colour = 1"), "unknown field"),
        (beat("connect = \"h:1\""), "needs exactly one of"),
        (
            beat("timeout_ms = 1500"),
            "at least twice pulse_interval_ms",
        ),
        (beat("timeout_ms = 0"), "must be 10 to 3600000"),
        (beat("pulse_interval_ms = 5"), "must be 10 to 3600000"),
        (beat("protocol = \"smoke\""), "must be auto, awd, awd+psk"),
        (beat("protocol = \"awd+psk\""), "key: is missing"),
        (
            beat(&format!("protocol = \"awd\"\nkey = \"{key}\"")),
            "is for protocol awd+psk",
        ),
        (
            beat(&format!("key = \"{open}\"")),
            "others may use this key",
        ),
        (
            beat(&format!("key = \"{short}\"")),
            "a key has 16 to 4096 bytes, this one 3",
        ),
        (beat("key = \"/absent\""), "/absent: No such file"),
        (
            beat(&format!("script = \"{script}\"")),
            "a notification needs",
        ),
        (beat("notify_connect = \"unix:/m\""), "a notification needs"),
        (
            beat("notify_connect = \"unix:/m\"\nscript = \"/absent\""),
            "script: /absent: No such file",
        ),
        (
            beat("notify_connect = \"unix:/m\"\nqmp = [\"quit\"]"),
            "is no command like",
        ),
        (
            beat("notify_connect = \"unix:/m\"\nqmp = []"),
            "qmp: is empty",
        ),
        (
            beat("notify_connect = \"unix:m\"\nqmp = ['{\"execute\": \"quit\"}']"),
            "absolute path",
        ),
        (
            beat("notify_listen = \"unix:/m\"\nqmp = ['{\"execute\": \"quit\"}']"),
            "needs notify_connect",
        ),
        (
            beat("hook = [\"true\"]"),
            "hook: must be an array: an absolute path",
        ),
        (
            beat("hook = []"),
            "hook: must be an array: an absolute path",
        ),
        (beat("lease = \"../guard\""), "lease: "),
        (beat("lease = \"a/b\""), "lease: "),
        (beat("lease = \"\""), "lease: "),
        (beat("max_connections = 0"), "must be 1 to 1024"),
        (beat("repeat_s = 100000"), "must be 0 to 86400"),
        (
            "[heartbeat.\"a b\"]\nlisten = \":1\"\n".to_owned(),
            "is no name",
        ),
        (
            "[heartbeat.h]\nlisten = \"9009\"\n".to_owned(),
            "must be HOST:PORT",
        ),
        (
            "[heartbeat.h]\nconnect = \":9009\"\n".to_owned(),
            "must be HOST:PORT",
        ),
        (
            "[heartbeat.h]\nconnect = \"::1:9009\"\n".to_owned(),
            "must be HOST:PORT",
        ),
        (
            "[heartbeat.h]\nicmp = \"h\"\nprotocol = \"any\"\n".to_owned(),
            "are for listen, connect and device",
        ),
        (
            "[heartbeat.h]\ndevice = \"ttyS0\"\n".to_owned(),
            "must be an absolute path",
        ),
        (
            "[heartbeat.g]\nlisten = \":9009\"\n[heartbeat.h]\nlisten = \":9009\"\n".to_owned(),
            "is heartbeat.g's already",
        ),
        (
            "metrics_textfile = \"x\"\n[heartbeat.h]\nlisten = \":1\"\n".to_owned(),
            "absolute path",
        ),
    ];
    for (text, part) in cases {
        let why = load(&stage, &text).expect_err(&text);
        assert!(why.contains(part), "{text}: {why}");
        assert!(why.lines().all(|line| line.contains("colo.toml:")), "{why}");
        let output = stage.output(&["--config", "colo.toml"]);
        assert_eq!(output.status.code(), Some(78), "{text}: {output:?}");
        assert!(
            output.stderr.starts_with(b"xenwarden-pulse: "),
            "{output:?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let stage = Stage::new();
    let text = "[heartbeat.a]\nlisten = \"x\"\ntimeout_ms = 1\n[heartbeat.b]\nlease = \".\"\n";
    let why = load(&stage, text).expect_err("wrong");
    assert!(why.lines().count() >= 4, "{why}");
}

#[test]
fn a_fifo_in_place_of_a_file_is_a_mistake_and_no_wait() {
    let stage = Stage::new();
    let fifo = stage.named("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it runs").success());
    let beat = "[heartbeat.h]\nconnect = \"192.0.2.1:9009\"\n";
    let key = format!("{beat}key = \"{fifo}\"\n");
    let script = format!("{beat}notify_connect = \"unix:/run/m\"\nscript = \"{fifo}\"\n");
    stage.write("key.toml", &key);
    stage.write("script.toml", &script);
    let object = format!(
        "advanced-watchdog,id=h,server=on,awd_node=a,notification_node=m,opt_script={fifo}"
    );
    let chardevs = [
        "-chardev",
        "socket,id=a,host=192.0.2.1,port=9009",
        "-chardev",
        "socket,id=m,path=/run/m",
        "-object",
        &object,
    ];
    for words in [
        &["--config", "key.toml"][..],
        &["--config", "script.toml"],
        &["--config", &fifo],
        &chardevs,
    ] {
        let output = stage.output(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{words:?}: {said}");
        assert!(
            said.contains(&fifo) && said.contains("not a plain file"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_hook_that_could_not_be_run_is_told_before_anything_is_lost() {
    let stage = Stage::new();
    let good = stage.write_program("good", "exit 0");
    let plain = stage.write("plain", "#!/bin/sh\n");
    let plain = plain.to_str().expect("UTF-8").to_owned();
    let check = |hook: &str| {
        stage.write(
            "hooks.toml",
            &format!("[heartbeat.h]\nlisten = \"127.0.0.1:1\"\nhook = [\"{hook}\", \"x\"]\n"),
        );
        let output = stage.output(&["--check-config", "--config", "hooks.toml"]);
        let said = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), said)
    };
    assert_eq!(check(&good), (Some(0), String::new()));
    for (hook, why) in [
        (stage.named("none"), "No such file"),
        (stage.named("run"), "is no file"),
        (plain, "this user may not run it"),
        (format!("{good}/x"), "Not a directory"),
    ] {
        let (code, said) = check(&hook);
        assert_eq!(code, Some(78), "{hook}: {said}");
        let line = said.contains("hooks.toml: heartbeat.h.hook: ") || said.contains("hook");
        assert!(line && said.contains(&hook) && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The configuration: defaults, and everything that is wrong with it, told at once.
#![allow(clippy::expect_used)] // how tests fail

use std::path::Path;
use xenwarden::config::Policy;
use xenwarden::config::file::parse;
use xenwarden::event::Coverage;
use xenwarden::sys::clock::{NS_PER_MS, NS_PER_S};
use xenwarden::watchdog::candidates::Selector;

fn policy(text: &str) -> Result<Policy, String> {
    let file = parse(Path::new("x.conf"), text.as_bytes()).map_err(|e| e.to_string())?;
    Policy::from_file(file)
}

#[test]
fn an_empty_file_is_the_default_policy() {
    let policy = policy("").expect("defaults");
    assert_eq!(policy.timeout_s, 5);
    assert_eq!(policy.sample_ns, 250 * NS_PER_MS);
    assert_eq!(policy.coverage, Coverage::Full);
    assert_eq!(policy.devices, [Selector::Auto]);
    assert_eq!(policy.starved_ns, None, "no wait withholds a kick");
    assert_eq!(policy.silent_ns, 10 * NS_PER_S);
    assert!(policy.pin_probe);
}

#[test]
fn bad_input_names_the_line_or_the_key_and_what_to_do() {
    let cases = [
        (
            "[evidence]\nsample = 1",
            &["x.conf:2", "unknown field `sample`", "sample_ms"][..],
        ),
        ("[evidense]\n", &["x.conf:1", "evidense", "host-watchdog"]),
        ("[log]\n\n[log]", &["x.conf:3", "duplicate"]),
        (
            "[host-watchdog]\ntimeout_s = \"5\"",
            &["x.conf:2", "timeout_s = \"5\"", "u32"],
        ),
        (
            "[host-watchdog]\ntimeout_s = -1",
            &["x.conf:2", "timeout_s = -1"],
        ),
        ("[host-watchdog\n", &["x.conf:1"]),
        (
            "[evidence]\ncoverage = \"most\"",
            &["x.conf:2", "`full` or `partial`"],
        ),
        (
            "[host-watchdog]\ntimeout_s = 0",
            &["host-watchdog.timeout_s = 0", "2 to 300"],
        ),
        (
            "[host-watchdog]\ntimeout_s = 301",
            &["host-watchdog.timeout_s = 301"],
        ),
        (
            "[evidence]\nsample_ms = 99",
            &["evidence.sample_ms = 99", "time slice of a scheduler"],
        ),
        (
            "[host-watchdog]\ndevice = \"watchdog\"",
            &["host-watchdog.device", "absolute"],
        ),
        (
            "[evidence]\nsample_ms = 120\n[host-watchdog]\ntimeout_s = 2",
            &[
                "evidence.sample_ms = 120",
                "host-watchdog.timeout_s = 2",
                "at most 100",
            ],
        ),
        (
            "[evidence]\nsample_ms = 251\n[host-watchdog]\ntimeout_s = 60",
            &["evidence.sample_ms = 251", "100 to 250"],
        ),
        (
            "[[lease]]\nname = \"../x\"",
            &["lease 1: name = \"../x\"", "a-z, 0-9, - and _"],
        ),
        (
            "[[lease]]\nname = \"a\"\n[[lease]]\nname = \"a\"",
            &["lease 2: name = \"a\" is there twice"],
        ),
        (
            "[[lease]]\nname = \"watchdog-mux-1\"",
            &["lease 1: name", "not with watchdog-mux"],
        ),
        (
            "[[lease]]\nname = \"a\"\nuser = \"no-such-user\"",
            &["lease 1: user = \"no-such-user\"", "/etc/passwd"],
        ),
        (
            "[[lease]]\nname = \"a\"\ntimeout_s = 0",
            &["lease 1: timeout_s = 0", "1 to 3600"],
        ),
        (
            "[[lease]]\ntimeout_s = 5",
            &["x.conf:1", "missing field `name`"],
        ),
        (
            "[leases]\nunserved_s = 9",
            &["leases.unserved_s = 9", "10 to 86400"],
        ),
        (
            "[leases]\nwatchdog_mux = \"run/x\"",
            &["leases.watchdog_mux", "absolute"],
        ),
        (
            "[evidence]\nstarved_s = 2",
            &[
                "evidence.starved_s = 2",
                "3 to 3600 seconds",
                "once a second",
            ],
        ),
        (
            "[evidence]\nstarved_s = 3601",
            &["evidence.starved_s = 3601", "without the key"],
        ),
        (
            "[evidence]\nstarved_s = \"10\"",
            &["x.conf:2", "starved_s = \"10\"", "u32"],
        ),
        (
            "[evidence]\nsilent_s = 61",
            &["evidence.silent_s = 61", "1 to 60 seconds"],
        ),
        (
            "[evidence]\npin_probe = 1",
            &["x.conf:2", "pin_probe = 1", "a boolean"],
        ),
        (
            "[crash_dump]\nhardware_s = 19",
            &["crash_dump.hardware_s = 19", "22 to 3600 seconds", "boot"],
        ),
        (
            "[crash_dump]\nhardware_s = 29\n[host-watchdog]\ntimeout_s = 10",
            &["crash_dump.hardware_s = 29", "32 to 3600"],
        ),
        (
            "[crash_dump]\nhardware_s = 3601",
            &["crash_dump.hardware_s = 3601"],
        ),
        (
            "[crash_dump]\ntimeout_s = 60",
            &["x.conf:2", "unknown field `timeout_s`", "hardware_s"],
        ),
        (
            "[crash_dump]\nhardware_s = 60\n[fence]\nxen_slot = false",
            &[
                "crash_dump.hardware_s = 60",
                "fence.xen_slot = false",
                "fight",
            ],
        ),
        (
            "[crash_dump]\nhardware_s = 60\n[fast]\nguard_death = true",
            &["crash_dump.hardware_s = 60", "[fast]", "fight"],
        ),
        (
            "[crash_dump]\nhardware_s = 60\n[fast]\nwithheld_ms = 1000",
            &["crash_dump.hardware_s = 60", "[fast]", "fight"],
        ),
        (
            "[crash_dump]\nhardware_s = 60\n[host-watchdog]\nstopped_timeout_s = 59",
            &[
                "host-watchdog.stopped_timeout_s = 59",
                "crash_dump.hardware_s",
            ],
        ),
        (
            "[host-watchdog]\nshutdown_timeout_s = 59",
            &[
                "host-watchdog.shutdown_timeout_s = 59",
                "60 to 3600",
                "0 has",
            ],
        ),
        (
            "[control]\nsocket = \"a\\nb\"",
            &["control.socket", "absolute"],
        ),
    ];
    for (text, expected) in cases {
        let error = policy(text).expect_err(text);
        for part in expected {
            assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?} is more than a line");
    }
}

#[test]
fn a_wait_that_counts_is_what_the_file_says() {
    for seconds in [3, 10, 3_600] {
        let policy = policy(&format!("[evidence]\nstarved_s = {seconds}")).expect("a policy");
        assert_eq!(policy.starved_ns, Some(seconds * NS_PER_S));
    }
}

#[test]
fn what_a_shutdown_is_given_is_its_own_and_may_be_nothing() {
    let given = |more: &str| {
        let policy = policy(more).expect("a policy");
        let runs_on = policy.runs_on();
        (runs_on.stopped_s, runs_on.shutdown_s)
    };
    assert_eq!(given(""), (60, 600));
    assert_eq!(given("[host-watchdog]\nshutdown_timeout_s = 0"), (60, 0));
    assert_eq!(given("[host-watchdog]\nshutdown_timeout_s = 70"), (60, 70));
    let longer = "[crash_dump]\nhardware_s = 900";
    assert_eq!(
        given(longer),
        (900, 900),
        "never shorter than the hardware's own"
    );
}

#[test]
fn a_crash_dump_lengthens_the_hardware_alone_and_takes_xens_slot() {
    let without = policy("[crash_dump]").expect("off");
    assert_eq!((without.hardware_s(), without.fence.xen_slot), (5, false));
    let with = policy("[crash_dump]\nhardware_s = 90").expect("a policy");
    assert_eq!((with.timeout_s, with.hardware_s()), (5, 90));
    assert!(with.fence.xen_slot);
    assert_eq!(
        with.stopped_timeout_s, 90,
        "never shorter than the hardware's own"
    );
    // What nothing may outlast is still the timeout.
    let text = "[crash_dump]\nhardware_s = 90\n[host-watchdog]\ntimeout_s = 2";
    assert!(
        policy(text)
            .expect_err("too few samples")
            .contains("sample_ms")
    );
}

#[test]
fn what_probes_may_and_whether_pcpus_are_probed_is_what_the_file_says() {
    let policy = policy("[evidence]\nsilent_s = 1\npin_probe = false").expect("a policy");
    assert_eq!((policy.silent_ns, policy.pin_probe), (NS_PER_S, false));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "[host-watchdog]\ntimeout_s = 0\n[evidence]\nsample_ms = 10\n\
                [state]\ndirectory = \"x\"\n[[hook]]\nkinds = []\nprogram = \"y\"";
    let error = policy(text).expect_err("much is wrong");
    let keys = [
        "timeout_s",
        "sample_ms",
        "state.directory",
        "hook 1: kinds",
        "hook 1: program",
    ];
    assert_eq!(error.lines().count(), keys.len(), "{error}");
    assert!(keys.iter().all(|key| error.contains(key)), "{error}");
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_line() {
    let error = parse(Path::new("x.conf"), b"[log]\n\xff\xfe").expect_err("not UTF-8");
    assert!(
        error.to_string().starts_with("x.conf:2: not UTF-8"),
        "{error}"
    );
}

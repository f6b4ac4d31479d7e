// SPDX-License-Identifier: GPL-2.0-only
//! What the next boot makes of what the last one left: each combination of records has its
//! cause and its confidence, and nothing is claimed that no record says.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use xenwarden::event::Confidence::{Known, Likely, Unknown};
use xenwarden::event::ResetCause::{
    Crash, Dom0Panic, GuardSilent, KickRefused, ShutdownHung, Unrecorded, Unwatched, Watchdog,
    Withheld,
};
use xenwarden::event::{Confidence, Kind, ResetCause, Timestamp, Unkicked};
use xenwarden::state::deduction::{Left, Reset};
use xenwarden::state::drill::Ended;
use xenwarden::state::history::{self, History, KEPT};
use xenwarden::state::reset_reason::{self, HostRecord, HostState, boot_id};
use xenwarden::state::store::{Store, Stored};
use xenwarden::state::traces::{CrashRecord, Places, RecordOf, Traces};
use xenwarden::state::withhold::{Evidence, PcpuEvidence, WithholdRecord};

const S: i64 = 1_000_000;
/// When the last heartbeat was written, in the boot `old`, 100 s after its start.
const BEAT: Timestamp = Timestamp(1_795_449_066 * S);
const UPTIME_MS: u64 = 100_000;

fn heartbeat(state: HostState) -> HostRecord {
    HostRecord {
        uptime_ms: Some(UPTIME_MS),
        watchdog: Some(reset_reason::Watchdog {
            device: "/dev/watchdog0".to_owned(),
            identity: "i6300ESB timer".to_owned(),
            timeout_ms: 5_000,
            last_kick_age_ms: 200,
            look_age_ms: 200,
            kicks: 400,
            refused: 0,
            withholds: 0,
        }),
        ..HostRecord::new("old", BEAT, state)
    }
}

fn unkicked(cause: Unkicked) -> HostState {
    HostState::Withholding {
        reason: "what was wrong".to_owned(),
        cause,
    }
}

/// A record of so many seconds after the heartbeat.
fn record(boot: &str, after_s: i64) -> WithholdRecord {
    let uptime_ms = UPTIME_MS.saturating_add_signed(after_s * 1_000);
    WithholdRecord {
        version: 1,
        boot_id: boot.to_owned(),
        time: Timestamp(BEAT.0 + after_s * S),
        uptime_ms: Some(uptime_ms),
        cause: Unkicked::Withheld,
        reason: "what was recorded".to_owned(),
        evidence: Evidence::default(),
        console: None,
    }
}

fn traces(fired: Option<bool>, records: &[RecordOf]) -> Traces {
    let record = |of: &RecordOf| CrashRecord {
        path: format!("/somewhere/{of:?}"),
        of: *of,
    };
    Traces {
        boot_id: "new".to_owned(),
        booted: Some(Timestamp(BEAT.0 + 30 * S)),
        watchdog_fired: fired,
        records: records.iter().map(record).collect(),
        names: BTreeSet::new(),
    }
}

fn reset(last: HostRecord, withhold: Option<WithholdRecord>, traces: &Traces) -> Option<Reset> {
    let drill = None;
    Left {
        last,
        withhold,
        drill,
    }
    .reset(traces)
}

#[test]
fn each_combination_of_records_has_its_cause_and_its_confidence() {
    let armed = || heartbeat(HostState::Armed);
    let ended = || HostRecord {
        monitor_ended: true,
        ..armed()
    };
    let not = |cause| heartbeat(unkicked(cause));
    let (yes, no) = (Some(true), Some(false));
    use RecordOf::{Crash as Kexec, Dump, Oops, Panic};
    type Case<'a> = (
        HostRecord,
        Option<bool>,
        &'a [RecordOf],
        ResetCause,
        Confidence,
    );
    let cases: &[Case<'_>] = &[
        (not(Unkicked::Withheld), yes, &[], Withheld, Known),
        (not(Unkicked::Withheld), None, &[], Withheld, Likely),
        (not(Unkicked::Withheld), no, &[], Withheld, Unknown),
        // The crash kernel, which Xen's slot had it run, was done before the device fired.
        (not(Unkicked::Withheld), no, &[Kexec], Withheld, Likely),
        (not(Unkicked::Withheld), yes, &[Kexec], Withheld, Known),
        // Whoever panics writes no more: kicks had ended before.
        (not(Unkicked::Withheld), yes, &[Panic], Withheld, Known),
        (not(Unkicked::KickRefused), yes, &[], KickRefused, Known),
        (
            not(Unkicked::DisarmFailed),
            None,
            &[],
            ResetCause::DisarmFailed,
            Likely,
        ),
        (not(Unkicked::GuardSilent), yes, &[], GuardSilent, Known),
        // The guard had ended; what the device says is all that there is.
        (
            heartbeat(HostState::Shutdown),
            yes,
            &[],
            ShutdownHung,
            Likely,
        ),
        (armed(), yes, &[Panic], Dom0Panic, Known),
        (armed(), None, &[Panic], Dom0Panic, Known),
        (armed(), no, &[Oops, Panic], Dom0Panic, Known),
        (armed(), None, &[Kexec], Crash, Known),
        (armed(), None, &[Dump], Dom0Panic, Likely),
        // A kernel survives an oops.
        (armed(), None, &[Oops], Unrecorded, Unknown),
        (armed(), yes, &[], Watchdog, Known),
        // Between two guards.
        (heartbeat(HostState::Kept), yes, &[], Watchdog, Known),
        (heartbeat(HostState::Kept), None, &[Panic], Dom0Panic, Known),
        (armed(), None, &[], Unrecorded, Unknown),
        (armed(), no, &[], Unrecorded, Unknown),
        (ended(), None, &[], Unwatched, Unknown),
        (ended(), no, &[], Unwatched, Unknown),
        (ended(), yes, &[], Watchdog, Known),
        (ended(), None, &[Panic], Dom0Panic, Known),
    ];
    for (last, fired, records, cause, confidence) in cases {
        let found = reset(last.clone(), None, &traces(*fired, records)).expect("a reset");
        let what = (&last.state, fired, records);
        assert_eq!(
            (found.cause, found.confidence),
            (*cause, *confidence),
            "{what:?}"
        );
        assert_eq!(found.watchdog_fired, *fired);
        assert_eq!(found.last_kick, Some(BEAT.before_ms(200)));
        assert_eq!(found.uptime_ms, Some(UPTIME_MS));
        assert_eq!(found.records.len(), records.len());
    }
}

#[test]
fn a_stop_in_order_and_the_same_boot_and_what_cannot_be_told_are_no_reset() {
    let traces = traces(Some(true), &[RecordOf::Panic]);
    for fired in [Some(false), None] {
        let traces = self::traces(fired, &[]);
        assert_eq!(reset(heartbeat(HostState::Shutdown), None, &traces), None);
    }
    let disarmed = heartbeat(HostState::Disarmed);
    assert_eq!(reset(disarmed, Some(record("old", 1)), &traces), None);
    for boot in ["new", ""] {
        let last = HostRecord {
            boot_id: boot.to_owned(),
            ..heartbeat(HostState::Armed)
        };
        assert_eq!(reset(last, None, &traces), None, "{boot:?}");
    }
    let nowhere = Traces::default();
    assert_eq!(reset(heartbeat(HostState::Armed), None, &nowhere), None);
}

#[test]
fn a_withhold_record_counts_where_the_host_was_faster_than_the_heartbeat() {
    let armed = || heartbeat(HostState::Armed);
    let fired = traces(Some(true), &[]);
    let cases = [
        // Kicks ended after the last heartbeat, and nothing says that they went on.
        (record("old", 1), Withheld, Some(BEAT.0 + S)),
        // They went on before it.
        (record("old", -1), Watchdog, None),
        (record("another", 1), Watchdog, None),
    ];
    for (withhold, cause, seen) in cases {
        let found = reset(armed(), Some(withhold), &fired).expect("a reset");
        assert_eq!(found.cause, cause);
        assert_eq!(found.withhold.is_some(), seen.is_some());
        assert_eq!(found.last_seen.0, seen.unwrap_or(BEAT.0));
    }
    // The wall clock may have been set back in between.
    let stepped = WithholdRecord {
        time: Timestamp(0),
        ..record("old", 1)
    };
    let found = reset(armed(), Some(stepped), &fired).expect("a reset");
    assert_eq!(found.cause, Withheld);
    assert_eq!(found.reason, "what was recorded");
}

#[test]
fn no_older_record_explains_a_shutdown_that_hung_or_makes_a_reset_of_one_that_did_not() {
    for (fired, cause) in [
        (Some(true), Some(ShutdownHung)),
        (Some(false), None),
        (None, None),
    ] {
        for after_s in [-1, 1] {
            let left = Left {
                last: heartbeat(HostState::Shutdown),
                withhold: Some(record("old", after_s)),
                drill: Some(Ended { measured: None }),
            };
            let found = left.reset(&traces(fired, &[]));
            assert_eq!(found.as_ref().map(|found| found.cause), cause, "{fired:?}");
            assert!(found.is_none_or(|found| found.withhold.is_none()));
        }
    }
}

#[test]
fn a_guard_that_falls_silent_beside_a_late_pcpu_need_not_be_at_fault() {
    let pcpu = |canary_overdue_ms| PcpuEvidence {
        cpu: 1,
        online: true,
        canary_age_ms: 1_700,
        canary_overdue_ms,
        request_age_ms: 0,
    };
    let withhold = |overdue_ms| WithholdRecord {
        evidence: Evidence {
            pcpus: Some(vec![pcpu(overdue_ms)]),
            ..Evidence::default()
        },
        ..record("old", 0)
    };
    for (overdue_ms, confidence, named) in [(20, Known, false), (700, Likely, true)] {
        let last = heartbeat(unkicked(Unkicked::GuardSilent));
        let found = reset(last, Some(withhold(overdue_ms)), &traces(Some(true), &[]));
        let found = found.expect("a reset");
        assert_eq!((found.cause, found.confidence), (GuardSilent, confidence));
        assert_eq!(found.reason.contains("pcpu 1 was late"), named);
    }
}

#[test]
fn a_record_keeps_what_is_worst_within_bounds() {
    let pcpu = |cpu| PcpuEvidence {
        cpu,
        online: true,
        canary_age_ms: 0,
        canary_overdue_ms: if cpu == 4_000 { 700 } else { 0 },
        request_age_ms: 0,
    };
    let evidence = Evidence {
        pcpus: Some((0..4_095).map(pcpu).collect()),
        ..Evidence::default()
    };
    let pcpus = evidence.bounded().pcpus.expect("known");
    assert_eq!((pcpus.len(), pcpus[0].cpu), (64, 4_000));
}

/// What earlier releases wrote.
#[test]
fn a_heartbeat_of_an_earlier_release_is_read() {
    let text = r#"{"version":1,"boot_id":"old","time":"2026-11-23T15:51:06.000000Z","state":"withholding","reason":"timers of pcpu 2"}"#;
    let last: HostRecord = serde_json::from_str(text).expect("read");
    let found = reset(last, None, &traces(None, &[])).expect("a reset");
    assert_eq!((found.cause, found.confidence), (Withheld, Likely));
    assert_eq!((found.last_kick, found.uptime_ms), (None, None));
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reset-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("scratch directory");
    path
}

#[test]
fn records_of_crashes_are_found_by_name_once_and_never_read_beyond_their_head() {
    let place = scratch("traces");
    let at = |path: &str| place.join(path);
    for directory in ["pstore", "moved/1/001", "crash/202611231551", "crash/empty"] {
        fs::create_dir_all(at(directory)).expect("made");
    }
    let write = |path: &str, text: &[u8]| fs::write(at(path), text).expect("written");
    write("pstore/dmesg-erst-1", b"Oops#1 Part1\n<4>...");
    write("pstore/console-ramoops-0", b"Panic#1");
    write(
        "pstore/dmesg-efi-2",
        &[b"Panic#2 Part1\n".to_vec(), vec![0xff; 1 << 20]].concat(),
    );
    write("pstore/dmesg-odd.enc.z", b"\x78\x9c\xff");
    // systemd-pstore has moved one, and not yet removed it.
    write("moved/1/001/dmesg-efi-2", b"Panic#2 Part1\n");
    symlink("/etc/passwd", at("pstore/dmesg-link")).expect("linked");
    let places = Places {
        pstore: vec![at("pstore"), at("moved"), at("nowhere")],
        crash: vec![at("crash")],
    };
    let nothing = BTreeSet::new();
    let found = Traces::read(&places, None, Some(&nothing), None);
    let of: Vec<RecordOf> = found.records.iter().map(|record| record.of).collect();
    use RecordOf::{Crash as Kexec, Dump, Oops, Panic};
    assert_eq!(of, [Panic, Oops, Dump, Kexec, Kexec]);
    assert_eq!(found.boot_id, boot_id());
    assert!(found.booted.is_some_and(|booted| booted < Timestamp::now()));
    let again = Traces::read(&places, None, Some(&found.names), None);
    assert_eq!(again.records, [], "seen at the last start");
    // On the first start of all, what is older than the last heartbeat is nobody's.
    let old = Traces::read(&places, None, None, Some(Timestamp(i64::MAX)));
    assert_eq!(old.records, []);
    let new = Traces::read(&places, None, None, Some(Timestamp(0)));
    assert_eq!(new.records.len(), 5);
}

/// A boot of its own ended with its watchdog armed, as the files say.
fn boot_ended(store: &Store, number: usize) {
    let last = HostRecord {
        boot_id: format!("boot-{number}"),
        ..heartbeat(HostState::Armed)
    };
    store.save(&last).expect("saved");
}

#[test]
fn the_last_eight_resets_are_kept_newest_first_and_each_is_told_once() {
    let store = Store::new(&scratch("history"));
    let places = Places {
        pstore: Vec::new(),
        crash: Vec::new(),
    };
    for number in 0..KEPT + 3 {
        boot_ended(&store, number);
        let found = history::open(&store, &places, None);
        assert!(found.explained);
        assert!(matches!(found.told[..], [Kind::HostResetReason { .. }]));
        store.save(&found.history).expect("saved");
        let again = history::open(&store, &places, None);
        assert!(!again.explained && again.told.is_empty(), "told before");
        assert_eq!(again.history, found.history);
    }
    let looked = history::look(&store, &places, None).expect("readable");
    let boots: Vec<String> = looked
        .expect("written")
        .resets
        .resets
        .into_iter()
        .map(|r| r.boot_id)
        .collect();
    let expected: Vec<String> = (3..KEPT + 3).rev().map(|n| format!("boot-{n}")).collect();
    assert_eq!(boots, expected);
}

#[test]
fn a_history_that_cannot_be_used_is_set_aside_and_hides_no_reset() {
    let directory = scratch("torn");
    let store = Store::new(&directory);
    boot_ended(&store, 1);
    let path = directory.join(History::FILE);
    fs::write(&path, "{\"version\":1,\"resets\":").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    let looked = history::look(&store, &Places::default(), None);
    assert!(looked.is_err_and(|why| why.contains(History::FILE)));
    let found = history::open(&store, &Places::default(), None);
    let kinds: Vec<&str> = found.told.iter().map(Kind::kind).collect();
    assert_eq!(kinds, ["host.reset_reason", "host.state_set_aside"]);
}

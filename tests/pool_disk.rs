// SPDX-License-Identifier: GPL-2.0-only
//! Logs on disk: torn at any byte, on a full disk, replaced by snapshots.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail
#![allow(clippy::cast_possible_truncation)] // small numbers

mod pool_stage;

use pool_stage::directory;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::pool::fold::HostState;
use xenwarden::pool::log::Logs;
use xenwarden::pool::record::{Boot, HostFacts, Position, Record, Stored, VERSION, What};
use xenwarden::pool::store::Store;
use xenwarden::pool::told;

/// SIGXFSZ of signal(7), on all architectures that Debian has but mips.
const SIGXFSZ: i32 = 25;

/// One of them limits what the process may write.
static ALONE: Mutex<()> = Mutex::new(());

const HOST: Uuid = Uuid::from_u128(1);

fn record(seq: u64) -> Arc<Stored> {
    let what = match seq {
        1 => What::Boot(Boot::default()),
        _ => What::Host(HostFacts::default()),
    };
    let position = Position { boot: 1, seq };
    let record = Record {
        version: VERSION,
        host: HOST,
        position,
        time: Timestamp(7),
        what,
    };
    Arc::new(Stored::of(&record).expect("short"))
}

fn path(directory: &Path) -> std::path::PathBuf {
    directory.join(format!("{HOST}.log"))
}

/// The numbers of the records that a file gives, and whether it said that it was cut.
fn read(directory: &Path) -> (Vec<u64>, bool) {
    let (read, _) = Logs::open(directory)
        .expect("opens")
        .read(HOST)
        .expect("reads");
    let numbers = read.records.iter().map(|stored| stored.position.seq);
    (numbers.collect(), read.cut.is_some())
}

#[test]
fn a_log_that_is_torn_at_any_byte_keeps_every_whole_record_and_is_written_on() {
    let directory = directory("pool-torn");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = Logs::open(&directory).expect("opens");
    let (_, mut file) = logs.read(HOST).expect("reads");
    let mut ends = vec![0];
    for seq in 1..=4 {
        file.append(&[record(seq)], true).expect("written");
        ends.push(fs::metadata(path(&directory)).expect("a file").len());
    }
    let whole = fs::read(path(&directory)).expect("read");
    for length in 0..=whole.len() {
        fs::write(path(&directory), &whole[..length]).expect("written");
        let expected: Vec<u64> = (1..=4)
            .filter(|seq| ends[*seq as usize] <= length as u64)
            .collect();
        let torn = !ends.contains(&(length as u64));
        assert_eq!(read(&directory), (expected.clone(), torn), "{length} bytes");
        // Said once: it is whole again, and goes on.
        assert_eq!(
            read(&directory),
            (expected.clone(), false),
            "{length} bytes"
        );
        let (_, mut file) = logs.read(HOST).expect("reads");
        let next = expected.len() as u64 + 1;
        file.append(&[record(next)], true).expect("written");
        assert_eq!(
            read(&directory),
            ((1..=next).collect(), false),
            "{length} bytes"
        );
    }
}

#[test]
fn a_log_with_any_byte_changed_ends_before_it_and_the_rest_is_kept_aside() {
    let directory = directory("pool-changed");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = Logs::open(&directory).expect("opens");
    let (_, mut file) = logs.read(HOST).expect("reads");
    file.append(&[record(1), record(2), record(3)], true)
        .expect("written");
    let whole = fs::read(path(&directory)).expect("read");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(path(&directory), &changed).expect("written");
        let (numbers, cut) = read(&directory);
        assert!(cut, "byte {at}");
        assert!(
            numbers.len() < 3 && numbers.iter().copied().eq(1..=numbers.len() as u64),
            "byte {at}"
        );
        assert!(directory.join(format!("{HOST}.log.cut")).exists());
    }
}

#[test]
fn a_snapshot_replaces_what_it_holds_and_a_replacement_that_was_cut_short_is_none() {
    let directory = directory("pool-replaced");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = Logs::open(&directory).expect("opens");
    let (_, mut file) = logs.read(HOST).expect("reads");
    let mut store = Store::new(4);
    for seq in 1..=40 {
        store.take(&record(seq));
        file.append(&[record(seq)], false).expect("written");
    }
    let (host, log) = store.next_moved(None).expect("it has moved");
    assert_eq!(host, HOST);
    let records: Vec<Arc<Stored>> = log.records().cloned().collect();
    file.replace(log.base(), &records).expect("replaced");
    file.append(&[record(41)], true).expect("written");
    fs::write(directory.join(format!("{HOST}.log.new")), b"half of it").expect("written");
    assert_eq!(
        Logs::open(&directory)
            .expect("opens")
            .hosts()
            .expect("listed"),
        [HOST]
    );
    let (read, _) = logs.read(HOST).expect("reads");
    let base: HostState = read.base.expect("a snapshot");
    let first = base.position.seq + 1;
    let numbers: Vec<u64> = read.records.iter().map(|s| s.position.seq).collect();
    assert_eq!(numbers, (first..=41).collect::<Vec<u64>>());
    assert!(first > 30, "{first}");
    assert!(!directory.join(format!("{HOST}.log.new")).exists());
}

#[test]
fn a_full_disk_loses_nothing_that_was_written_and_is_written_on_once_there_is_room() {
    let directory = directory("pool-full");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = Logs::open(&directory).expect("opens");
    let (_, mut file) = logs.read(HOST).expect("reads");
    file.append(&[record(1)], true).expect("written");
    let length = fs::metadata(path(&directory)).expect("a file").len();
    // The largest file that this process may write (setrlimit(2)); the signal that would end it is caught.
    let limit = nix::sys::resource::Resource::RLIMIT_FSIZE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).expect("a limit");
    let caught = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGXFSZ, caught).expect("caught");
    nix::sys::resource::setrlimit(limit, length + 20, hard).expect("limited");
    let refused = file.append(&[record(2)], true);
    nix::sys::resource::setrlimit(limit, soft, hard).expect("unlimited");
    assert!(refused.is_err());
    assert_eq!(
        fs::metadata(path(&directory)).expect("a file").len(),
        length,
        "nothing half-written"
    );
    file.append(&[record(2), record(3)], true).expect("written");
    assert_eq!(read(&directory), (vec![1, 2, 3], false));
}

#[test]
fn records_of_a_newer_version_are_kept_byte_for_byte_over_restarts_and_snapshots() {
    let directory = directory("pool-newer");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = Logs::open(&directory).expect("opens");
    let (_, mut file) = logs.read(HOST).expect("reads");
    let newer = |seq: u64, what: &str| {
        let text = format!(
            r#"{{"weather":"fine", "version":1,"host":"{HOST}","boot":1,"seq":{seq},"time":"2026-11-23T15:51:06.250000Z","what":{what}}}"#
        );
        Arc::new(Stored::read(text.as_bytes()).expect("a record"))
    };
    let all = [
        newer(2, r#"{"record":"weather","wind": 3}"#),
        newer(
            3,
            r#"{"record":"host","guard":null,"reset":null,"colour":"red"}"#,
        ),
        newer(
            4,
            r#"{"record":"sighting","of":"00000000-0000-0000-0000-000000000002","name":"b","absence":1,"saw":{"kind":"asleep","since":4}}"#,
        ),
        newer(5, r#"{"record":"reach","reach":"sun_lost","lux":1}"#),
    ];
    let bytes = |all: &[Arc<Stored>]| all.iter().map(|s| s.bytes.to_vec()).collect::<Vec<_>>();
    let mut store = Store::new(100);
    store.take(&record(1));
    for stored in &all {
        store.take(stored);
    }
    file.append(&[record(1)], false).expect("written");
    file.append(&all, true).expect("written");
    for _ in 0..2 {
        let (read, _) = logs.read(HOST).expect("reads");
        assert!(read.cut.is_none());
        assert_eq!(bytes(&read.records[1..]), bytes(&all));
    }
    let log = store.host(HOST).expect("it is there");
    let kept: Vec<Arc<Stored>> = log.records().cloned().collect();
    assert_eq!(bytes(&kept[1..]), bytes(&all));
    file.replace(log.base(), &kept).expect("replaced");
    let (read, _) = logs.read(HOST).expect("reads");
    assert_eq!(bytes(&read.records), bytes(&kept));
    // None of them is told as anything.
    let event = |stored: &Arc<Stored>| told::event(&store, stored);
    assert!(all.iter().all(|stored| event(stored).is_none()));
}

// SPDX-License-Identifier: GPL-2.0-only
//! What real corosyncs get into, and what comes of it: `make pool`. Takes corosync-qnetd, corosync-qdevice and faketime besides.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_cluster;
mod pool_ring;
mod pool_stage;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_cluster::{Cluster, lease};
use pool_ring::{Host, Pool, Subscriber, sh};
use pool_stage::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::guard::leases::page::State;
use xenwarden::pool::frame::sum;
use xenwarden::pool::ring::GROUP;
use xenwarden::pool::wire::MAGIC;
use xenwarden::sys::corosync::{Connection, Libraries};

/// Which test is to flood a ring, as another process: the test program itself, within a host's namespaces.
const FLOOD: &str = "XENWARDEN_TEST_FLOOD_MS";

fn status(host: &Host) -> Value {
    host.ask("status").unwrap_or_default()
}

fn stay_up(cluster: &Cluster, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(cluster.below.iter().all(|below| below.down().is_none()));
        thread::sleep(Duration::from_millis(200));
    }
}

fn says(host: &Host, text: &str) {
    wait_for(text, || host.said("pool.log").contains(text).then_some(()));
}

fn quorum_device(pool: &mut Pool) {
    let conf = " device {\n model: net\n votes: 1\n timeout: 3000\n sync_timeout: 5000\n net {\n  host: 10.77.0.3\n  algorithm: ffsplit\n  tls: off\n  connect_timeout: 2000\n }\n }\n";
    pool.quorum = conf.to_owned();
    for host in &pool.hosts {
        fs::write(host.directory.join("corosync.conf"), pool.corosync_conf()).expect("written");
    }
    let device = &mut pool.hosts[2];
    let child = device
        .inside("sh")
        .args([
            "-c",
            "mkdir -p /run/corosync-qnetd; exec corosync-qnetd -f -s off -l 10.77.0.3",
        ])
        .stderr(device.log("qnetd.log"))
        .stdout(device.log("qnetd.log"))
        .spawn();
    device.others.push(child.expect("corosync-qnetd"));
}

fn start_qdevice(host: &mut Host) {
    // It ends where corosync is not there yet.
    let line = "mkdir -p /run/corosync-qdevice; for n in $(seq 100); do corosync-qdevice -f; sleep 0.3; done";
    let child = host
        .inside("sh")
        .args(["-c", line])
        .stderr(host.log("qdevice.log"))
        .stdout(host.log("qdevice.log"))
        .spawn();
    host.others.push(child.expect("corosync-qdevice"));
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn two_hosts_and_a_quorum_device_fence_the_one_that_the_device_does_not_choose() {
    let mut pool = Pool::start_with("situation-device", 2, "");
    quorum_device(&mut pool);
    let mut cluster = Cluster::begin(pool, true, "quorum_device_s = 8\n");
    for host in cluster.pool.hosts.iter_mut().take(2) {
        start_qdevice(host);
    }
    for host in &cluster.pool.hosts[..2] {
        wait_for("the device votes", || {
            let votes = &status(host)["votes"];
            (votes["qdevice_votes"] == json!(true) && votes["total_votes"] == json!(3))
                .then_some(())
        });
    }
    cluster.wait_until_known(true);
    // The second hears nobody, and the first has the device.
    sh(&format!("ip link set {}v2 nomaster", cluster.pool.bridge));
    wait_for("one member", || {
        (cluster.pool.hosts[0].members() == 1).then_some(())
    });
    let (code, said, told) = cluster.agent("off", "host2", 120);
    assert_eq!(code, 0, "{said}");
    let down = cluster.below[1].down().expect("the second is down");
    assert!(down <= told, "told {:?} before", down - told);
    assert!(cluster.below[0].down().is_none());
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn with_wait_for_all_nobody_promises_before_all_were_there_and_all_do_afterwards() {
    let mut pool = Pool::start_with("situation-all", 3, " wait_for_all: 1\n");
    // Two of three are there at first.
    pool.nodes = 2;
    let mut cluster = Cluster::begin(pool, true, "");
    cluster.pool.wait_until_whole();
    stay_up(&cluster, Duration::from_secs(8));
    for host in &cluster.pool.hosts[..2] {
        assert_eq!(status(host)["quorate"], json!(false));
        assert_eq!(lease(host), State::Waiting);
    }
    let (code, said, _) = cluster.agent("monitor", "host1", 5);
    assert_eq!(code, 1, "{said}");
    cluster.pool.nodes = 3;
    cluster.begin_the_third();
    cluster.wait_until_known(true);
    // From then on two are enough.
    cluster.cut_off_the_third();
    cluster.fence_the_third(90);
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn where_two_partitions_may_have_quorum_one_line_says_that_nobody_promises() {
    // corosync does without a tie breaker where there can be no tie.
    let all = [
        ("last_man_standing", 3),
        ("auto_tie_breaker", 2),
        ("allow_downscale", 3),
    ];
    for (name, nodes) in all {
        let called = format!("situation-{name}");
        let pool = Pool::start_with(&called, nodes, &format!(" {name}: 1\n"));
        let cluster = Cluster::begin(pool, true, "");
        cluster.pool.wait_until_whole();
        for host in cluster.pool.hosts.iter().take(nodes) {
            let text = format!("fence_without_quorum is not done: corosync.conf has {name}");
            says(host, &text);
            assert_eq!(host.said("pool.log").matches(&text).count(), 1);
            assert_eq!(lease(host), State::Waiting);
        }
    }
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_that_can_be_suspended_promises_nothing_and_says_what_to_do() {
    let pool = Pool::start("situation-sleep");
    let states = pool.hosts[2].directory.join("states");
    fs::write(&states, "freeze mem\n").expect("written");
    if !Path::new("/sys/power/state").exists() {
        println!("this kernel knows no sleep: nothing to be seen");
        return;
    }
    let done = pool.hosts[2]
        .inside("mount")
        .arg("--bind")
        .arg(&states)
        .arg("/sys/power/state")
        .status();
    assert!(done.expect("mount").success());
    let cluster = Cluster::begin(pool, true, "");
    cluster.pool.wait_until_whole();
    says(&cluster.pool.hosts[2], "systemctl mask sleep.target");
    wait_for("the others promise", || {
        let held = |n: usize| lease(&cluster.pool.hosts[n]) == State::Held;
        (held(0) && held(1)).then_some(())
    });
    assert_eq!(lease(&cluster.pool.hosts[2]), State::Waiting);
    let (code, said, _) = cluster.agent("monitor", "host3", 5);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("host3: can be fenced only while heard"),
        "{said}"
    );
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_whose_votes_somebody_changes_while_it_is_cut_off_goes_down_all_the_same() {
    let cluster = Cluster::start("situation-votes", true);
    cluster.cut_off_the_third();
    cluster.wait_until_left();
    let done = cluster.pool.hosts[2]
        .inside("corosync-quorumtool")
        .args(["-e", "1"])
        .status();
    assert!(done.expect("corosync-quorumtool").success());
    wait_for("alone it has quorum, says its corosync", || {
        (status(&cluster.pool.hosts[2])["quorate"] == json!(true)).then_some(())
    });
    cluster.fence_the_third(90);
    let said = cluster.pool.hosts[2].said("pool.log");
    assert!(said.contains("votes were changed in this boot"), "{said}");
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_whose_corosync_is_stopped_goes_down_and_is_fenced_and_nobody_else() {
    let cluster = Cluster::start("situation-stopped", true);
    let corosync = cluster.pool.hosts[2].corosync.as_ref().expect("runs").id();
    let pid = Pid::from_raw(i32::try_from(corosync).expect("a pid"));
    kill(pid, Signal::SIGSTOP).expect("sent");
    cluster.wait_until_left();
    let third = &cluster.pool.hosts[2];
    wait_for("that its corosync says nothing is seen", || {
        let age = status(third)["votes_age_ms"].as_u64()?;
        (age > 3_000).then_some(())
    });
    cluster.fence_the_third(90);
}

/// Runs within a host's namespaces.
#[test]
#[ignore = "is run by others of these"]
fn flood() {
    let Some(ms) = std::env::var(FLOOD).ok().and_then(|ms| ms.parse().ok()) else {
        return;
    };
    let libraries = Libraries::open().expect("corosync's libraries");
    let connection = wait_for("corosync", || Connection::join(libraries, GROUP).ok());
    let framed = |kind: u8, body: &[u8]| {
        let head = [&MAGIC[..], &[kind], &sum(body)[..]].concat();
        [&head[..], body].concat()
    };
    let mut newer = framed(5, b"{}");
    newer[3] += 1;
    let all = [
        newer,
        framed(99, b"of a newer member"),
        framed(5, br#"{"of_a_newer_member":{"node":1}}"#),
        framed(5, br#"{"order":{"node":"one"}}"#),
        framed(2, b"\xff\xfe"),
        vec![0; 60_000],
        Vec::new(),
        b"XWP\x01\x05".to_vec(),
        vec![0xa5; 3_000],
    ];
    let start = Instant::now();
    let mut sent: u64 = 0;
    for bytes in all.iter().cycle() {
        if start.elapsed() > Duration::from_millis(ms) {
            break;
        }
        if connection.send(bytes).is_ok() {
            sent += 1;
        } else {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = connection.dispatch(256).expect("corosync is there");
    }
    println!("sent {sent}");
}

fn start_flood(host: &Host, ms: u64) -> Child {
    let itself = std::env::current_exe().expect("this program");
    let mut command = host.inside("env");
    command.arg(format!("{FLOOD}={ms}")).arg(itself).args([
        "flood",
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    command
        .stdout(host.log("flood.log"))
        .stderr(host.log("flood.log"));
    command.spawn().expect("this program")
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn what_floods_the_ring_is_counted_and_named_and_has_nobody_withhold() {
    let cluster = Cluster::start("situation-flood", true);
    let mut flood = start_flood(&cluster.pool.hosts[2], 30_000);
    for _ in 0..100 {
        for host in &cluster.pool.hosts {
            host.monitor
                .event("guest.armed", Some(1), json!({"slot": 1}));
        }
        thread::sleep(Duration::from_millis(100));
    }
    stay_up(&cluster, Duration::from_secs(22));
    let ended = flood.wait().expect("waited for").success();
    assert!(ended, "{}", cluster.pool.hosts[2].said("flood.log"));
    for host in &cluster.pool.hosts {
        let counts = &status(host)["counts"];
        let (garbage, newer) = (counts["garbage"].as_u64(), counts["newer"].as_u64());
        println!("{counts}");
        assert!(garbage > Some(100) && newer > Some(20), "{counts}");
        let last = counts["last_garbage"].as_str().expect("named");
        assert!(last.starts_with("of node 3: "), "{last}");
        assert_eq!(lease(host), State::Held);
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(100)));
        subscriber.assert_each_once(100);
    }
    stay_up(&cluster, Duration::from_secs(3));
}

#[test]
#[ignore = "takes root, corosync, faketime and namespaces: make pool"]
fn a_host_whose_clock_is_an_hour_ahead_is_a_member_like_any_other() {
    let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let mut paths = libraries
        .map(|name| format!("/usr/lib/{name}/faketime/libfaketimeMT.so.1"))
        .into_iter();
    let library = paths.find(|path| Path::new(path).exists());
    let library = library.expect("libfaketime (Debian: apt-get install faketime)");
    let mut pool = Pool::start("situation-clock");
    pool.hosts[1].environment = vec![
        ("LD_PRELOAD", library),
        ("FAKETIME", "+3600s".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let cluster = Cluster::begin(pool, true, "");
    cluster.wait_until_known(true);
    for _ in 0..50 {
        for host in &cluster.pool.hosts {
            host.monitor
                .event("guest.armed", Some(1), json!({"slot": 1}));
        }
    }
    for host in &cluster.pool.hosts {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(50)));
        subscriber.assert_each_once(50);
    }
    cluster.pool.wait_until_equal();
    stay_up(&cluster, Duration::from_secs(15));
    cluster.cut_off_the_third();
    cluster.fence_the_third(90);
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_whose_disk_is_full_says_so_loses_nothing_and_fences_and_promises_as_before() {
    let pool = Pool::start("situation-disk");
    let state = pool.hosts[0].directory.join("state");
    let mount = |options: &str| {
        let options = format!("{options},mode=777");
        let mut command = pool.hosts[0].inside("mount");
        command
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&state);
        assert!(command.status().expect("mount").success());
    };
    mount("size=64k");
    let cluster = Cluster::begin(pool, true, "");
    cluster.wait_until_known(true);
    let first = &cluster.pool.hosts[0];
    for _ in 0..600 {
        first
            .monitor
            .event("guest.armed", Some(1), json!({"slot": 1}));
    }
    wait_for("it says so", || {
        status(first)["disk_trouble"].is_string().then_some(())
    });
    stay_up(&cluster, Duration::from_secs(15));
    cluster.cut_off_the_third();
    cluster.fence_the_third(90);
    // Room again: nothing is lost.
    let done = first
        .inside("mount")
        .args(["-o", "remount,size=16m"])
        .arg(&state)
        .status();
    assert!(done.expect("mount").success());
    wait_for("it is written", || {
        status(first)["disk_trouble"].is_null().then_some(())
    });
    let mut subscriber = Subscriber::default();
    let has = |s: &Subscriber| s.seen.get("host1").is_some_and(|seen| seen.len() >= 600);
    assert!(subscriber.read(&cluster.pool.hosts[1].socket(), has));
    assert_eq!(subscriber.seen["host1"], (1..=600).collect::<Vec<u64>>());
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn where_corosync_does_not_run_or_counts_no_quorum_one_line_says_so_and_nothing_is_promised() {
    let pool = Pool::start("situation-conf");
    // The third's is wrong, so that its corosync ends; there is no votequorum on any.
    let text = pool
        .corosync_conf()
        .replace(" provider: corosync_votequorum\n", "");
    for host in &pool.hosts[..2] {
        fs::write(host.directory.join("corosync.conf"), &text).expect("written");
    }
    let wrong = text.replace("version: 2", "version: two");
    fs::write(pool.hosts[2].directory.join("corosync.conf"), wrong).expect("written");
    let cluster = Cluster::begin(pool, true, "");
    let third = &cluster.pool.hosts[2];
    wait_for("it says so", || {
        status(third)["trouble"].is_string().then_some(())
    });
    thread::sleep(Duration::from_secs(5));
    assert_eq!(
        third.said("pool.log").matches("is not on the ring").count(),
        1
    );
    for host in &cluster.pool.hosts[..2] {
        says(host, "votequorum");
        assert_eq!(lease(host), State::Waiting);
        assert_eq!(status(host)["votes"], Value::Null);
    }
    // Whatever that corosync says without counting.
    let (code, said, _) = cluster.agent("monitor", "host1", 5);
    assert_eq!(code, 1, "{said}");
    // pool.conf: one line, and code 78.
    let conf = third.directory.join("wrong.conf");
    fs::write(&conf, "fence_without_quorum = \"yes\"\n").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_xenwarden-pool"))
        .arg("--config")
        .arg(&conf)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("fence_without_quorum"), "{said}");
}

// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pool on three real corosyncs: `make pool`. Takes root, corosync, iproute2, and a tree that every user may enter.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_ring;
mod pool_stage;

use pool_ring::{Host, Pool, Subscriber, hooked, sh, started};
use pool_stage::{FakeMonitor, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use xenwarden::event::Uuid;

/// A hook that nobody ever ran begins with what happens from then on; gives how many events of each host that took.
fn begin_hooks(pool: &Pool) -> u64 {
    wait_for("the hook has begun", || {
        let fields = json!({"slot": 1});
        let events = pool.hosts.iter();
        let last = events.map(|host| {
            host.monitor
                .event("guest.disarmed", Some(1), fields.clone())
        });
        let last = last.max();
        last.filter(|_| !hooked(pool).is_empty())
    })
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn events_of_each_host_are_read_on_all_and_an_alarm_ends_where_its_guest_feeds_again() {
    let pool = started("pool-read");
    for host in &pool.hosts {
        for _ in 0..50 {
            host.monitor
                .event("guest.armed", Some(1), json!({"slot": 1, "timeout_s": 10}));
        }
    }
    for host in &pool.hosts {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(50)));
        subscriber.assert_each_once(50);
    }
    pool.hosts[0]
        .monitor
        .event("alarm.raised", Some(7), json!({"expiries": 1}));
    let open = |host: &Host| {
        let report = host.ask("guests").unwrap_or_default();
        let guests = report["guests"].as_array().cloned().unwrap_or_default();
        let uuid = json!(Uuid::from_u128(7));
        guests
            .iter()
            .find(|guest| guest["uuid"] == uuid)
            .map_or(0, |guest| guest["alarms"].as_array().map_or(0, Vec::len))
    };
    wait_for("the alarm is open on all", || {
        pool.hosts.iter().all(|host| open(host) == 1).then_some(())
    });
    // Acknowledged on a host that has nothing to do with it: it is so on all, and the monitor is told.
    let answer = pool.hosts[2]
        .ask(&format!("ack {}", Uuid::from_u128(7)))
        .expect("an answer");
    assert_eq!(answer, json!({"acknowledged": Uuid::from_u128(7)}));
    wait_for("its monitor is told", || {
        pool.hosts[0]
            .monitor
            .orders()
            .contains(&format!("ack {}", Uuid::from_u128(7)))
            .then_some(())
    });
    pool.hosts[1].monitor.event(
        "guest.first_fed",
        Some(7),
        json!({"slot": 1, "timeout_s": 10}),
    );
    wait_for("the alarm has ended on all", || {
        pool.hosts.iter().all(|host| open(host) == 0).then_some(())
    });
    wait_for("the monitor that raised it is told, and ends it", || {
        let ended = format!("elsewhere {} 1", Uuid::from_u128(7));
        pool.hosts[0]
            .monitor
            .orders()
            .contains(&ended)
            .then_some(())
    });
    let mut subscriber = Subscriber::default();
    let cleared = |s: &Subscriber| s.positions.len() >= 154;
    assert!(subscriber.read(&pool.hosts[2].socket(), cleared));
    pool.wait_until_equal();
    the_command_line_shows_it(&pool);
}

/// What `xenwarden` says, with its exit code.
fn command_line(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    let output = command
        .arg("--socket")
        .arg(host.socket())
        .args(arguments)
        .output()
        .expect("xenwarden");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

fn the_command_line_shows_it(pool: &Pool) {
    let [first, _, third] = pool.hosts.as_slice() else {
        panic!("three hosts");
    };
    let (code, hosts) = command_line(third, &["hosts"]);
    println!("{hosts}");
    assert_eq!(code, Some(0), "{hosts}");
    for word in [
        "3 of 3 hosts here, quorum",
        "leads",
        "this host",
        "kicks /dev/watchdog0",
        "11.0 s",
    ] {
        assert!(hosts.contains(word), "{word}: {hosts}");
    }
    first.monitor.guest(8, 100);
    first
        .monitor
        .event("alarm.raised", Some(8), json!({"expiries": 1}));
    let guests = wait_for("the guest and its alarm", || {
        let (code, guests) = command_line(third, &["guests", "--pool"]);
        (code == Some(1) && guests.contains("running")).then_some(guests)
    });
    println!("{guests}");
    assert!(
        guests.contains("guest-8") && guests.contains("RAISED on "),
        "{guests}"
    );
    let (code, said) = command_line(third, &["ack", "--pool", "guest-8"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, events) = command_line(third, &["events", "--pool", "--json", "--kind", "alarm"]);
    assert_eq!(code, Some(0), "{events}");
    let last: Value = serde_json::from_str(events.lines().last().expect("an event")).expect("JSON");
    let position = last["position"].as_str().expect("a position");
    let after = ["events", "--pool", "--kind", "alarm", "--after", position];
    let (code, rest) = command_line(first, &after);
    assert_eq!(code, Some(0), "{rest}");
    assert_eq!(
        rest.lines().count(),
        0,
        "of that host nothing came after: {rest}"
    );
    let (code, _) = command_line(third, &["ack", "--pool", "nobody-has-this-name"]);
    assert_eq!(code, Some(2));
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn without_corosyncs_libraries_one_line_says_what_to_do() {
    let script = "for library in $(ldconfig -p | sed -n 's/.*libcpg.so.4.* => //p'); do mount --bind /dev/null $library; done; exec \"$1\"";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_xenwarden-pool"))
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.lines().count() == 1 && said.contains("corosync"),
        "{said}"
    );
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_subscriber_that_moves_from_leaders_that_are_killed_misses_nothing_and_gets_nothing_twice() {
    let mut pool = started("pool-kill");
    let kills: u64 = std::env::var("XENWARDEN_POOL_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    // So that events go on as long as members are killed.
    let each = 600.max(kills * 40);
    let before = begin_hooks(&pool);
    let last_event = before + each;
    let monitors: Vec<FakeMonitor> = pool.hosts.iter().map(|host| host.monitor.clone()).collect();
    let writer = std::thread::spawn(move || {
        // About 50 a second, of all three together.
        for number in 1..=each {
            let kind = if number % 10 == 0 {
                "guest.late"
            } else {
                "guest.armed"
            };
            for monitor in &monitors {
                monitor.event(kind, Some(1), json!({"slot": 1}));
            }
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    let mut subscriber = Subscriber::default();
    for round in 0..kills {
        let leader = wait_for("a leader", || pool.hosts.iter().position(Host::leads));
        let already = subscriber.positions.len();
        let socket = pool.hosts[leader].socket();
        // At some point of the load.
        let more = already + 20 + usize::try_from(round % 8).expect("a number") * 7;
        subscriber.read(&socket, |s| s.positions.len() >= more || s.has(last_event));
        pool.hosts[leader].kill_pool();
        let next = pool.hosts[(leader + 1) % 3].socket();
        let more = subscriber.positions.len() + 20;
        subscriber.read(&next, |s| s.positions.len() >= more || s.has(last_event));
        pool.hosts[leader].start_pool();
        pool.wait_until_whole();
    }
    writer.join().expect("written");
    let last = pool.hosts[1].socket();
    assert!(subscriber.read(&last, |s| s.has(last_event)));
    subscriber.assert_each_once(last_event);
    // Every event for the hook was told to it, at least once.
    let due = usize::try_from(3 * (each / 10)).expect("a number");
    wait_for("the hook has run for every event", || {
        let runs = hooked(&pool).into_iter();
        let keys: BTreeSet<String> = runs.filter(|run| run.starts_with("guest.late")).collect();
        (keys.len() >= due).then_some(())
    });
    let hash = pool.wait_until_equal();
    let runs = hooked(&pool);
    let runs = runs
        .iter()
        .filter(|run| run.starts_with("guest.late"))
        .count();
    println!(
        "{kills} kills of the leader, {} events, each once; {runs} runs of the hook for {due}; hash {hash}",
        3 * each
    );
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn what_happens_on_both_sides_of_a_partition_is_known_to_all_once_it_is_healed() {
    let pool = started("pool-partition");
    let veth = format!("{}v3", pool.bridge);
    let event = |host: &Host| {
        host.monitor
            .event("guest.armed", Some(1), json!({"slot": 1}))
    };
    for host in &pool.hosts {
        event(host);
    }
    let hash = pool.wait_until_equal();
    let start = Instant::now();
    sh(&format!("ip link set {veth} down"));
    wait_for("the third host is alone", || {
        (pool.hosts[2].members() == 1 && pool.hosts[0].members() == 2).then_some(())
    });
    println!("a partition was noticed after {:?}", start.elapsed());
    wait_for("it has no quorum", || {
        let status = pool.hosts[2].ask("status")?;
        (status["quorate"] == json!(false) && status["leads"] == json!(false)).then_some(())
    });
    for _ in 0..200 {
        for host in &pool.hosts {
            event(host);
        }
    }
    let both: Vec<String> = wait_for("both sides have gone on", || {
        let hashes: Option<Vec<String>> = pool.hosts.iter().map(Host::hash).collect();
        hashes.filter(|all| all[0] == all[1] && all[0] != all[2] && all.iter().all(|h| *h != hash))
    });
    assert_ne!(both[0], both[2]);
    let start = Instant::now();
    sh(&format!("ip link set {veth} up"));
    pool.wait_until_whole();
    pool.wait_until_equal();
    println!("equal again {:?} after the link was back", start.elapsed());
    for host in &pool.hosts {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(201)));
        subscriber.assert_each_once(201);
    }
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn corosync_may_be_killed_and_started_again() {
    let mut pool = started("pool-corosync");
    for round in 0..3 {
        let victim = round % 3;
        pool.hosts[victim].kill_corosync();
        wait_for("it says so", || {
            let status = pool.hosts[victim].ask("status")?;
            status["trouble"].is_string().then_some(())
        });
        // Its host's events are still taken, and told when it is back.
        for host in &pool.hosts {
            for _ in 0..20 {
                host.monitor
                    .event("guest.armed", Some(1), json!({"slot": 1}));
            }
        }
        pool.hosts[victim].start_corosync();
        pool.wait_until_whole();
        let each = (round as u64 + 1) * 20;
        for host in &pool.hosts {
            let mut subscriber = Subscriber::default();
            assert!(subscriber.read(&host.socket(), |s| s.has(each)));
            subscriber.assert_each_once(each);
        }
        pool.wait_until_equal();
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The pool's last link and a pulse between the same hosts, each on a network of its own, cut one by one: `make pool`. Real corosyncs and
//! real xenwarden-pulses in namespaces; takes root, corosync and iproute2.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_ring;
mod pool_stage;

use pool_ring::{Host, Pool, sh, started};
use pool_stage::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Duration;

/// A pulse between the first two hosts, on a link of its own.
struct Pulse {
    programs: Vec<Child>,
    link: String,
}

impl Pulse {
    fn start(pool: &Pool) -> Self {
        let [first, second, _] = pool.hosts.as_slice() else {
            panic!("three hosts");
        };
        let (one, two) = (first.holder.id(), second.holder.id());
        let link = format!("nsenter -t {one} -n ip link set eth1");
        sh(&format!(
            "nsenter -t {one} -n ip link add eth1 type veth peer name eth1 netns {two}"
        ));
        for (host, n) in [(one, 1), (two, 2)] {
            sh(&format!(
                "nsenter -t {host} -n sh -ec 'ip addr add 10.78.0.{n}/24 dev eth1; ip link set eth1 up'"
            ));
        }
        let ends = [
            (first, "listen = \"10.78.0.1:9009\"\n"),
            (
                second,
                "connect = \"10.78.0.1:9009\"\nreconnect_ms = 100\nanswers = true\n",
            ),
        ];
        let programs = ends.map(|(host, end)| pulse(host, end));
        Self {
            programs: programs.into(),
            link,
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

fn pulse(host: &Host, end: &str) -> Child {
    let at = &host.directory;
    fs::create_dir_all(at.join("run/xenwarden-pulse")).expect("a directory");
    let key = at.join("pulse.key");
    fs::write(&key, "a key of more than sixteen bytes\n").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    let text = format!(
        "control_socket = \"{}\"\n[heartbeat.pair]\n{end}key = \"{}\"\npulse_interval_ms = 200\ntimeout_ms = 3000\n",
        at.join("control.sock").display(),
        key.display()
    );
    fs::write(at.join("pulse.conf"), text).expect("written");
    host.inside(env!("CARGO_BIN_EXE_xenwarden-pulse"))
        .arg("--run")
        .arg(at.join("run"))
        .args(["--name", "pair", "--config"])
        .arg(at.join("pulse.conf"))
        .stderr(host.log("pulse.log"))
        .spawn()
        .expect("xenwarden-pulse")
}

/// What this host tells of its own so far, of these kinds.
fn told(host: &Host) -> Vec<String> {
    let Ok(mut stream) = UnixStream::connect(host.socket()) else {
        return Vec::new();
    };
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("set");
    let request = json!({"kinds": ["pulse.", "pool.link_lost", "pool.link_back", "pool.host_lost", "pool.host_back"]});
    let _ = stream.write_all(format!("events {request}\n").as_bytes());
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let name = format!("host{}", host.number);
    let word = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    events
        .filter(|event| {
            let kind = word(event, "kind");
            // What the leader says of a host is of the whole pool.
            word(event, "host") == name || kind.starts_with("pool.host_")
        })
        .map(|event| match word(&event, "kind") {
            kind if kind.starts_with("pool.host_") => format!("{kind} {}", word(&event, "peer")),
            kind => kind,
        })
        .filter(|told| told != "pulse.refused" && told != "pulse.own_gap")
        .collect()
}

/// Waits until each of these was told anew by this host, and then asserts that nothing else was.
fn tells(host: &Host, before: &[String], expected: &[&str]) {
    // Between logs of hosts there is no order.
    let new = |mut new: Vec<String>| {
        for told in before {
            let at = new.iter().position(|other| other == told);
            new.remove(at.expect("what was told stays"));
        }
        new.sort();
        new
    };
    let mut expected: Vec<String> = expected.iter().map(|told| (*told).to_owned()).collect();
    expected.sort();
    let name = format!("host{} tells {expected:?}", host.number);
    let mut last = Vec::new();
    wait_for(&name, || {
        let now = new(told(host));
        if now != last {
            println!("host{}: {now:?}", host.number);
            last.clone_from(&now);
        }
        expected.iter().all(|told| now.contains(told)).then_some(())
    });
    assert_eq!(new(told(host)), expected, "host{}", host.number);
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn the_pools_last_link_and_a_pulse_are_told_apart_whichever_is_cut() {
    let pool = started("pool-links");
    let pulse = Pulse::start(&pool);
    let [first, second, third] = pool.hosts.as_slice() else {
        panic!("three hosts");
    };
    for host in [first, second] {
        wait_for("the pulse is armed", || {
            told(host).contains(&"pulse.armed".to_owned()).then_some(())
        });
    }
    let ring = format!("ip link set {}v1", pool.bridge);
    let now = || [told(first), told(second), told(third)];
    let lost = "pool.host_lost host1";
    let back = "pool.host_back host1";

    // The ring alone: the first host is alone, and still hears its peer.
    let before = now();
    sh(&format!("{ring} down"));
    tells(first, &before[0], &["pool.link_lost"]);
    tells(second, &before[1], &[lost]);
    tells(third, &before[2], &[lost]);
    sh(&format!("{ring} up"));
    tells(second, &before[1], &[lost, back]);
    tells(
        first,
        &before[0],
        &["pool.link_lost", "pool.link_back", lost, back],
    );

    // The pulse alone: nobody has lost anybody.
    let before = now();
    sh(&format!("{} down", pulse.link));
    for (host, before) in [first, second].into_iter().zip(&before) {
        tells(host, before, &["pulse.lost"]);
    }
    tells(third, &before[2], &[]);
    sh(&format!("{} up", pulse.link));
    for (host, before) in [first, second].into_iter().zip(&before) {
        tells(host, before, &["pulse.lost", "pulse.back"]);
    }

    // Both.
    let before = now();
    sh(&format!("{ring} down; {} down", pulse.link));
    tells(first, &before[0], &["pool.link_lost", "pulse.lost"]);
    tells(second, &before[1], &[lost, "pulse.lost"]);
    tells(third, &before[2], &[lost]);
    sh(&format!("{ring} up; {} up", pulse.link));
    let all = ["pulse.lost", "pulse.back", lost, back];
    tells(second, &before[1], &all);
    let mut all_of_first = vec!["pool.link_lost", "pool.link_back"];
    all_of_first.extend(all);
    tells(first, &before[0], &all_of_first);
    pool.wait_until_equal();
}

// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats of remote hosts: a server that must accept connections, a host that must answer to pings.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod pulse_stage;

use pulse_stage::{Stage, free_port, wait_until};
use std::net::TcpListener;
use std::process::Command;

#[test]
fn a_server_that_dies_is_lost_and_one_that_accepts_again_is_back() {
    let stage = Stage::new();
    let port = free_port();
    let program = stage.start_with(
        "remote",
        &format!("[heartbeat.web]\ntcp_connect = \"127.0.0.1:{port}\"\npulse_interval_ms = 100\ntimeout_ms = 1500\n"),
    );
    wait_until("it is refused", || {
        program.beat("web")["trouble"].as_str().map(str::to_owned)
    });
    assert_eq!(program.beat("web")["state"], "waiting");
    let server = TcpListener::bind(("127.0.0.1", port)).expect("binds");
    program.wait_for_state("web", "armed");
    assert!(program.beat("web")["round_trip_us"].is_u64());
    assert!(program.beat("web")["connections"].is_null());
    drop(server);
    program.wait_for_state("web", "lost");
    let _server = wait_until("bound again", || {
        TcpListener::bind(("127.0.0.1", port)).ok()
    });
    program.wait_for("is back, lost for");
}

#[test]
fn a_name_that_has_no_address_is_a_trouble_and_no_end() {
    let stage = Stage::new();
    let program = stage.start_with(
        "names",
        "[heartbeat.web]\ntcp_connect = \"no-such-host.invalid:80\"\n[heartbeat.peer]\nconnect = \"no-such-host.invalid:80\"\n",
    );
    for name in ["web", "peer"] {
        wait_until("it is told", || {
            let trouble = program.beat(name)["trouble"].as_str().map(str::to_owned)?;
            trouble.contains("no-such-host.invalid").then_some(())
        });
    }
}

/// In a network of its own, where pings are allowed to everybody; skipped where there can be none.
#[test]
fn a_host_is_heard_by_pings_without_a_privilege() {
    let stage = Stage::new();
    let program = env!("CARGO_BIN_EXE_xenwarden-pulse");
    stage.write("ping.toml", &format!("control_socket = \"{}\"\n[heartbeat.gw]\nicmp = \"127.0.0.1\"\npulse_interval_ms = 100\ntimeout_ms = 1500\n", stage.named("none")));
    let script = format!(
        "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range || exit 77\n\
         ip link set lo up || exit 77\n\
         setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all true || exit 77\n\
         {program} --run {run} --config {config} 2> {log} & pid=$!\n\
         for try in $(seq 600); do grep -q 'armed by' {log} && break; sleep 0.1; done\n\
         ip link set lo down\n\
         for try in $(seq 600); do grep -q LOST {log} && break; sleep 0.1; done\n\
         ip link set lo up\n\
         for try in $(seq 600); do grep -q 'is back' {log} && break; sleep 0.1; done\n\
         kill $pid; wait $pid",
        run = stage.named("run"),
        config = stage.named("ping.toml"),
        log = stage.named("log"),
    );
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .output();
    let Ok(output) = output.map(|output| output.status) else {
        return;
    };
    if output.code() == Some(77) || output.code() == Some(1) {
        return;
    }
    let log = std::fs::read_to_string(stage.path("log")).expect("a log");
    for part in ["gw: armed by 127.0.0.1", "gw: 127.0.0.1 is LOST", "is back"] {
        assert!(log.contains(part), "{log}");
    }
}

#[test]
fn where_pings_are_not_allowed_the_sysctl_is_named() {
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range");
    if !allowed.is_ok_and(|range| range.split_whitespace().eq(["1", "0"])) {
        return;
    }
    let stage = Stage::new();
    stage.write("ping.toml", "[heartbeat.gw]\nicmp = \"127.0.0.1\"\n");
    let output = stage.output(&["--config", "ping.toml"]);
    assert_eq!(output.status.code(), Some(71), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("heartbeat gw: ") && said.contains("net.ipv4.ping_group_range"),
        "{said}"
    );
}

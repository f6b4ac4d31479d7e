// SPDX-License-Identifier: GPL-2.0-only
//! A heartbeat's lease when the program stops, or is started again: what is given back, what is not, and what is taken up again.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pulse_stage;

use nix::sys::signal::Signal;
use pulse_stage::{PULSE, Process, Pulses, Stage, connect, free_port, wait_until};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_millis(50);
const RENEWAL: &str = "WATCHDOG=1";
const RELEASE: &str = "STOPPING=1";

/// What a lease was told since the last time.
fn told(lease: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    let mut bytes = [0; 64];
    while let Ok(count) = lease.recv(&mut bytes) {
        all.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
    }
    all
}

/// Waits until it is told something that ends with `last`.
fn wait_for(lease: &UnixDatagram, last: &str) {
    wait_until(&format!("the lease is told {last}"), || {
        let told = told(lease);
        (told.last().map(String::as_str) == Some(last)).then_some(())
    });
}

/// A heartbeat with a lease, its peer's port, and what it says of the lease.
struct Host {
    stage: Stage,
    lease: UnixDatagram,
    port: u16,
    timeout_ms: u32,
}

impl Host {
    fn new(timeout_ms: u32) -> Self {
        let stage = Stage::new();
        let lease = stage.lease("pair");
        Self {
            stage,
            lease,
            port: free_port(),
            timeout_ms,
        }
    }

    fn start(&self) -> Process {
        self.start_at(self.port)
    }

    fn start_at(&self, port: u16) -> Process {
        let timeout_ms = self.timeout_ms;
        let text = format!(
            "[heartbeat.h]\nlisten = \"127.0.0.1:{port}\"\npulse_interval_ms = 300\ntimeout_ms = {timeout_ms}\nlease = \"pair\"\n"
        );
        self.stage.start_with("host", &text)
    }

    /// Started, and heard by a peer.
    fn armed(&self) -> (Process, Pulses) {
        let program = self.start();
        let pulses = Pulses::over(connect(self.port), PULSE, EACH);
        wait_for(&self.lease, RENEWAL);
        (program, pulses)
    }
}

/// Longer than two intervals, on any machine.
fn wait_past_two_intervals(program: &Process) {
    wait_until("its last pulse is older than two intervals", || {
        let age = program.beat("h")["last_pulse_ms"].as_u64();
        age.is_some_and(|age| age > 600).then_some(())
    });
}

#[test]
fn a_stop_of_a_healthy_heartbeat_gives_its_lease_back_and_says_so() {
    let host = Host::new(20_000);
    let (program, _pulses) = host.armed();
    program.signal(Signal::SIGTERM);
    program.wait_for("lease pair: given back");
    assert_eq!(program.stop(), Some(0));
    assert_eq!(
        told(&host.lease).last().map(String::as_str),
        Some(RELEASE),
        "nothing is said after it"
    );
}

#[test]
fn a_stop_in_a_cut_that_no_timeout_has_noticed_yet_gives_no_lease_back() {
    let host = Host::new(60_000);
    let (program, pulses) = host.armed();
    drop(pulses);
    wait_past_two_intervals(&program);
    assert_eq!(program.beat("h")["state"], "armed");
    program.signal(Signal::SIGTERM);
    program.wait_for("lease pair: NOT given back");
    assert_eq!(program.stop(), Some(0));
    let told = told(&host.lease);
    assert!(told.iter().all(|said| said == RENEWAL), "{told:?}");
}

#[test]
fn a_stop_waits_for_a_proof_of_a_peer_whose_pulses_are_seldom() {
    let host = Host::new(60_000);
    let program = host.start();
    let _pulses = Pulses::over(connect(host.port), PULSE, Duration::from_secs(2));
    wait_for(&host.lease, RENEWAL);
    wait_past_two_intervals(&program);
    program.signal(Signal::SIGTERM);
    program.wait_for("lease pair: given back");
    assert_eq!(program.stop(), Some(0));
}

#[test]
fn a_restart_takes_the_lease_up_again_for_as_long_as_the_run_before_would_have_renewed_it() {
    let host = Host::new(10_000);
    let (program, pulses) = host.armed();
    // The cut begins just before the stop: too young for it to be seen.
    let proved = Instant::now();
    assert_eq!(program.stop(), Some(0));
    drop(pulses);
    assert_eq!(told(&host.lease).last().map(String::as_str), Some(RELEASE));
    let program = host.start();
    wait_for(&host.lease, RENEWAL);
    assert_eq!(program.beat("h")["state"], "waiting");
    // And not a renewal more: nobody has proved to live since.
    let over = proved + Duration::from_millis(u64::from(host.timeout_ms));
    std::thread::sleep(over.saturating_duration_since(Instant::now()) + EACH);
    let _ = told(&host.lease);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(told(&host.lease), [""; 0]);
    // A second restart begins no other timeout.
    program.signal(Signal::SIGTERM);
    program.wait_for("lease pair: NOT given back");
    assert_eq!(program.stop(), Some(0));
    let _program = host.start();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(told(&host.lease), [""; 0]);
}

#[test]
fn a_restart_after_a_loss_or_a_crash_or_with_another_peer_renews_nothing_until_one_is_heard() {
    let host = Host::new(2_000);
    let (program, pulses) = host.armed();
    drop(pulses);
    program.wait_for("is LOST");
    assert_eq!(program.stop(), Some(0));
    let _ = told(&host.lease);
    let program = host.start();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(&host.lease), [""; 0], "lost before");
    drop(program);
    let host = Host::new(60_000);
    let (mut program, pulses) = host.armed();
    program.kill();
    drop(pulses);
    let _ = told(&host.lease);
    let program = host.start();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(&host.lease), [""; 0], "killed");
    drop(program);
    let (program, pulses) = host.armed();
    assert_eq!(program.stop(), Some(0));
    drop(pulses);
    let _ = told(&host.lease);
    let other = free_port();
    let _program = host.start_at(other);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(&host.lease), [""; 0], "another peer");
    let _pulses = Pulses::over(connect(other), PULSE, EACH);
    wait_for(&host.lease, RENEWAL);
}

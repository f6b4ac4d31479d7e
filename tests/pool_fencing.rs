// SPDX-License-Identifier: GPL-2.0-only
//! fence_xenwarden against xenwarden-pool on three real corosyncs: `make pool`. The leases are the real ones, with their page and their
//! server; the test plays what is below: a guard that kicks while nothing is against it, and a host watchdog that ends all that runs on its
//! host 5 s after the last kick.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_ring;
mod pool_stage;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_ring::{Host, NOBODY, Pool, sh};
use pool_stage::wait_for;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use xenwarden::config::leases::{Lease, LeaseName, Leases as Policy};
use xenwarden::guard::leases::Leases;
use xenwarden::guard::leases::page::{Access, Page, State};
use xenwarden::monitor::leases;
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

/// The host watchdog's timeout, and the lease's.
const HARDWARE_NS: u64 = 5 * NS_PER_S;
const LEASE_NS: u64 = 12 * NS_PER_S;

/// What is below a host's pool.
struct Below {
    stop: Option<UnixStream>,
    ends: Arc<AtomicBool>,
    /// It does not fire, whatever comes.
    broken: Arc<AtomicBool>,
    down: Arc<Mutex<Option<Instant>>>,
    /// What runs on the host.
    programs: Arc<Mutex<Vec<u32>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Below {
    fn start(host: &Host) -> Self {
        let path = host.directory.join("leases");
        let lease = Lease {
            name: LeaseName::new("pool").expect("a name"),
            uid: NOBODY,
            timeout_ns: LEASE_NS,
            required: false,
            strict: true,
        };
        let policy = Policy {
            leases: vec![lease],
            begin_ns: 600 * NS_PER_S,
            unserved_ns: 300 * NS_PER_S,
            mux: None,
        };
        let page = Page::create(&path, &policy, Monotonic::now()).expect("a page");
        let (stop, stopped) = UnixStream::pair().expect("a pair");
        let server = thread::spawn(move || leases::run(&path, None, &|_| (), &stopped));
        let (ends, broken, down, programs) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Option<Instant>>>::default(),
            Arc::<Mutex<Vec<u32>>>::default(),
        );
        let monitor = host.monitor.clone();
        let (e, b, d, p) = (ends.clone(), broken.clone(), down.clone(), programs.clone());
        let guard = thread::spawn(move || {
            let against = Leases::new(page.words(), Monotonic::now());
            let mut kicked = Monotonic::now();
            while !e.load(Ordering::Relaxed) {
                let now = Monotonic::now();
                let kick = against.against(now).is_none();
                monitor.kick(kick);
                if kick {
                    kicked = now;
                } else if now.since_ns(kicked) > HARDWARE_NS && !b.load(Ordering::Relaxed) {
                    for program in p.lock().expect("whole").iter() {
                        let pid = i32::try_from(*program).expect("a pid");
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    *d.lock().expect("whole") = Some(Instant::now());
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            stop: Some(stop),
            ends,
            broken,
            down,
            programs,
            threads: vec![server, guard],
        }
    }

    fn down(&self) -> Option<Instant> {
        *self.down.lock().expect("whole")
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Cluster {
    pool: Pool,
    below: Vec<Below>,
}

fn ids(host: &Host) -> Vec<u32> {
    let programs = host.corosync.iter().chain(&host.pool);
    programs.map(std::process::Child::id).collect()
}

impl Cluster {
    /// Three hosts, each of which promises to be down without quorum, or not.
    fn start(name: &str, promises: bool) -> Self {
        let mut pool = Pool::start(name);
        let mut below = Vec::new();
        for host in &mut pool.hosts {
            let conf = format!("fence_without_quorum = {promises}\n{}", host.pool_conf());
            fs::write(host.directory.join("pool.conf"), conf).expect("written");
            below.push(Below::start(host));
            host.start_corosync();
            host.start_pool();
        }
        let cluster = Self { pool, below };
        cluster.pool.wait_until_whole();
        for (host, below) in cluster.pool.hosts.iter().zip(&cluster.below) {
            *below.programs.lock().expect("whole") = ids(host);
            wait_for("its lease is held", || {
                (!promises || lease(host) == State::Held).then_some(())
            });
        }
        for host in ["host1", "host2", "host3"] {
            wait_for("it is heard", || {
                (cluster.agent("status", host, 10).0 == 0).then_some(())
            });
            for one in &cluster.pool.hosts {
                wait_for("what it promises is known", || {
                    let told = one.ask(&format!("power {host}"))?;
                    let promised = told["hosts"][0]["promise_ms"].is_u64();
                    (promised == promises).then_some(())
                });
            }
        }
        cluster
    }

    fn agent(&self, action: &str, host: &str, timeout_s: u32) -> (i32, String, Instant) {
        let output = Command::new(env!("CARGO_BIN_EXE_fence_xenwarden"))
            .args(["-o", action, "-n", host])
            .arg(format!("--power-timeout={timeout_s}"))
            .arg("--socket-path")
            .arg(self.pool.hosts[0].socket())
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("a code"), said, Instant::now())
    }

    /// Host 3 hears nobody, and nobody hears it.
    fn cut_off_the_third(&self) {
        sh(&format!("ip link set {}v3 nomaster", self.pool.bridge));
    }

    fn join_the_third(&self) {
        let bridge = &self.pool.bridge;
        sh(&format!("ip link set {bridge}v3 master {bridge}"));
    }

    /// The other two know that it has left.
    fn wait_until_left(&self) {
        wait_for("two members", || {
            (self.pool.hosts[0].members() == 2).then_some(())
        });
    }

    /// It was down before somebody was told so, and nobody else came to harm.
    fn assert_down(&self, told: Instant) {
        let down = self.below[2].down().expect("the third is down");
        assert!(down <= told, "told {:?} before", down - told);
        self.assert_the_others_are_up();
    }

    fn assert_the_others_are_up(&self) {
        assert!(self.below[0].down().is_none() && self.below[1].down().is_none());
    }
}

fn lease(host: &Host) -> State {
    let page = Page::open(&host.directory.join("leases"), Access::Read).expect("a page");
    page.leases()[0].state(page.served(), Monotonic::now())
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_that_is_heard_withholds_and_is_down_before_the_agent_says_so() {
    let cluster = Cluster::start("fence-heard", false);
    for host in ["host1", "host2", "host3"] {
        let (code, said, _) = cluster.agent("status", host, 10);
        assert_eq!(code, 0, "{host}: {said}");
    }
    let (code, said, told) = cluster.agent("off", "host3", 60);
    assert_eq!(code, 0, "{said}");
    cluster.assert_down(told);
    let (code, said, _) = cluster.agent("status", "host3", 10);
    assert_eq!(code, 2, "{said}");
    let (code, said, _) = cluster.agent("monitor", "host3", 10);
    assert_eq!(code, 0, "{said}");
    let (code, said, _) = cluster.agent("off", "nobody", 10);
    assert_eq!(code, 1, "{said}");
    let (code, said, _) = cluster.agent("off", "host1", 10);
    assert_eq!(code, 1, "itself: {said}");
    cluster.assert_the_others_are_up();
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_that_is_cut_off_goes_down_by_itself_and_is_fenced_by_what_it_promised() {
    let cluster = Cluster::start("fence-cut", true);
    cluster.cut_off_the_third();
    cluster.wait_until_left();
    let (code, said, told) = cluster.agent("off", "host3", 90);
    assert_eq!(code, 0, "{said}");
    cluster.assert_down(told);
    let (code, said, _) = cluster.agent("status", "host3", 10);
    assert_eq!(code, 2, "{said}");
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_silent_host_that_promised_nothing_is_never_said_to_be_down() {
    let cluster = Cluster::start("fence-none", false);
    cluster.cut_off_the_third();
    cluster.wait_until_left();
    let (code, said, _) = cluster.agent("off", "host3", 15);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("fence_without_quorum"), "{said}");
    assert!(cluster.below[2].down().is_none(), "it runs on");
    let (code, said, _) = cluster.agent("status", "host3", 10);
    assert_eq!(code, 1, "{said}");
    // Nobody waits for that order any more: back again, the host is left alone, and another order reaches it.
    cluster.join_the_third();
    cluster.pool.wait_until_whole();
    wait_for("it is on", || {
        (cluster.agent("status", "host3", 10).0 == 0).then_some(())
    });
    assert!(cluster.below[2].down().is_none(), "it runs on");
    let (code, said, told) = cluster.agent("off", "host3", 60);
    assert_eq!(code, 0, "{said}");
    cluster.assert_down(told);
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_pool_that_is_restarted_keeps_the_lease_and_one_that_is_stopped_gives_it_back() {
    let mut cluster = Cluster::start("fence-stop", true);
    // Killed and started again, within the lease.
    cluster.pool.hosts[2].kill_pool();
    cluster.pool.hosts[2].start_pool();
    cluster.pool.wait_until_whole();
    let renewals = |host: &Host| {
        let page = Page::open(&host.directory.join("leases"), Access::Read).expect("a page");
        page.leases()[0].renewals
    };
    let before = renewals(&cluster.pool.hosts[2]);
    wait_for("it renews", || {
        (renewals(&cluster.pool.hosts[2]) > before + 2).then_some(())
    });
    assert!(cluster.below[2].down().is_none());
    let pid = cluster.pool.hosts[2].pool.as_ref().expect("it runs").id();
    kill(
        Pid::from_raw(i32::try_from(pid).expect("a pid")),
        Signal::SIGTERM,
    )
    .expect("sent");
    wait_for("it is given back", || {
        (lease(&cluster.pool.hosts[2]) == State::Released).then_some(())
    });
    cluster.pool.hosts[2].kill_pool();
    // Whoever has promised nothing any more is not said to be down.
    cluster.cut_off_the_third();
    let (code, said, _) = cluster.agent("off", "host3", 20);
    assert_eq!(code, 1, "{said}");
    assert!(cluster.below[2].down().is_none(), "it runs on");
    cluster.assert_the_others_are_up();
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_whose_watchdog_does_not_fire_is_not_said_to_be_down() {
    let cluster = Cluster::start("fence-broken", false);
    cluster.below[2].broken.store(true, Ordering::Relaxed);
    let (code, said, _) = cluster.agent("off", "host3", 60);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("still") || said.contains("heard after"),
        "{said}"
    );
    cluster.assert_the_others_are_up();
}

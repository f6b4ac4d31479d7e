// SPDX-License-Identifier: GPL-2.0-only
//! Hosts that may promise to be down without quorum: the leases are the real ones, with their page and their server; played is what is
//! below: a guard that kicks while nothing is against it, and a host watchdog that ends all that runs on its host 5 s after the
//! last kick.
#![allow(dead_code)] // not every test uses all of it

use crate::pool_ring::{Host, NOBODY, Pool, sh};
use crate::pool_stage::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
pub struct Below {
    stop: Option<UnixStream>,
    ends: Arc<AtomicBool>,
    /// It does not fire, whatever comes.
    pub broken: Arc<AtomicBool>,
    down: Arc<Mutex<Option<Instant>>>,
    /// What runs on the host.
    programs: Arc<Mutex<Vec<u32>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Below {
    pub fn start(host: &Host) -> Self {
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

    pub fn down(&self) -> Option<Instant> {
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

pub struct Cluster {
    pub pool: Pool,
    pub below: Vec<Below>,
}

fn ids(host: &Host) -> Vec<u32> {
    let programs = host.corosync.iter().chain(&host.pool);
    programs.map(std::process::Child::id).collect()
}

impl Cluster {
    /// Three hosts, each of which promises to be down without quorum, or not.
    pub fn start(name: &str, promises: bool) -> Self {
        let cluster = Self::begin(Pool::start(name), promises, "");
        cluster.wait_until_known(promises);
        cluster
    }

    /// Those of the hosts that are nodes are started, with more lines in pool.conf.
    pub fn begin(mut pool: Pool, promises: bool, more: &str) -> Self {
        let mut below = Vec::new();
        let nodes = pool.nodes;
        for host in pool.hosts.iter_mut().take(nodes) {
            let conf = format!(
                "fence_without_quorum = {promises}\n{more}{}",
                host.pool_conf()
            );
            fs::write(host.directory.join("pool.conf"), conf).expect("written");
            below.push(Below::start(host));
            host.start_corosync();
            host.start_pool();
        }
        let cluster = Self { pool, below };
        for (host, below) in cluster.pool.hosts.iter().zip(&cluster.below) {
            *below.programs.lock().expect("whole") = ids(host);
        }
        cluster
    }

    /// All are there, hold their leases if they promise, and each knows what each promises.
    pub fn wait_until_known(&self, promises: bool) {
        let cluster = self;
        cluster.pool.wait_until_whole();
        for (host, below) in cluster.pool.hosts.iter().zip(&cluster.below) {
            *below.programs.lock().expect("whole") = ids(host);
            wait_for("its lease is held", || {
                (!promises || lease(host) == State::Held).then_some(())
            });
        }
        let nodes = cluster.pool.nodes;
        for host in ["host1", "host2", "host3"].into_iter().take(nodes) {
            wait_for("it is heard", || {
                (cluster.agent("status", host, 10).0 == 0).then_some(())
            });
            for one in cluster.pool.hosts.iter().take(nodes) {
                wait_for("what it promises is known", || {
                    let told = one.ask(&format!("power {host}"))?;
                    let told = &told["hosts"][0];
                    // One that has not heard it knows of no promise either.
                    let heard = told["power"] == "on";
                    let promised = told["promise_ms"].is_u64();
                    (heard && promised == promises).then_some(())
                });
            }
        }
    }

    /// The third is started after the others were.
    pub fn begin_the_third(&mut self) {
        let host = &mut self.pool.hosts[2];
        let conf = format!("fence_without_quorum = true\n{}", host.pool_conf());
        fs::write(host.directory.join("pool.conf"), conf).expect("written");
        let below = Below::start(host);
        host.start_corosync();
        host.start_pool();
        *below.programs.lock().expect("whole") = ids(host);
        self.below.push(below);
    }

    pub fn agent(&self, action: &str, host: &str, timeout_s: u32) -> (i32, String, Instant) {
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
    pub fn cut_off_the_third(&self) {
        sh(&format!("ip link set {}v3 nomaster", self.pool.bridge));
    }

    pub fn join_the_third(&self) {
        let bridge = &self.pool.bridge;
        sh(&format!("ip link set {bridge}v3 master {bridge}"));
    }

    /// The other two know that it has left.
    pub fn wait_until_left(&self) {
        wait_for("two members", || {
            (self.pool.hosts[0].members() == 2).then_some(())
        });
    }

    /// The third is told to be down, after it was.
    pub fn fence_the_third(&self, timeout_s: u32) {
        let (code, said, told) = self.agent("off", "host3", timeout_s);
        assert_eq!(code, 0, "{said}");
        self.assert_down(told);
    }

    /// It was down before somebody was told so, and nobody else came to harm.
    fn assert_down(&self, told: Instant) {
        let down = self.below[2].down().expect("the third is down");
        assert!(down <= told, "told {:?} before", down - told);
        self.assert_the_others_are_up();
    }

    pub fn assert_the_others_are_up(&self) {
        assert!(self.below[0].down().is_none() && self.below[1].down().is_none());
    }
}

pub fn lease(host: &Host) -> State {
    let page = Page::open(&host.directory.join("leases"), Access::Read).expect("a page");
    page.leases()[0].state(page.served(), Monotonic::now())
}

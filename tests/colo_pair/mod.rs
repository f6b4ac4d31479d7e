// SPDX-License-Identifier: GPL-2.0-only
//! Two stock QEMUs in COLO, each with a xenwarden-pulse beside it, as two hosts have them.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod host;
mod link;
mod vmm;

pub use host::{Host, Lease};
pub use link::{Link, Way};

use nix::sys::signal::Signal;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For what must come at some time.
pub const LONG: Duration = Duration::from_secs(60);

/// What QEMU's human monitor is told when a peer is lost.
pub const FAIL_OVER: &str = "x_colo_lost_heartbeat\n";

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Since 1970: QEMU's events have this clock.
pub fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970")
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Primary,
    Secondary,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    /// An address of its own on the machine: in the letter 3.3.3.3 and 3.3.3.8.
    pub fn address(self) -> &'static str {
        match self {
            Self::Primary => "127.0.0.3",
            Self::Secondary => "127.0.0.8",
        }
    }

    /// An address of its own with a port that nobody has.
    pub fn free(self) -> SocketAddr {
        let listener = TcpListener::bind((self.address(), 0)).expect("a port");
        listener.local_addr().expect("an address")
    }
}

/// How late this machine is, for as long as this is there: what a test allows for.
pub struct Machine {
    worst_us: Arc<AtomicU64>,
}

impl Machine {
    pub fn watch() -> Self {
        let worst_us = Arc::new(AtomicU64::new(0));
        let noted = Arc::downgrade(&worst_us);
        thread::spawn(move || {
            let nap = Duration::from_millis(10);
            while let Some(noted) = noted.upgrade() {
                let began = Instant::now();
                thread::sleep(nap);
                let late = began.elapsed().saturating_sub(nap).as_micros();
                noted.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { worst_us }
    }

    /// The latest that a sleeper awoke until now.
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Ordering::Relaxed))
    }
}

/// Two hosts whose guest runs in COLO.
pub struct Pair {
    pub primary: Host,
    pub secondary: Host,
    pub machine: Machine,
}

impl Pair {
    /// QEMUs alone, in COLO. `link` is the network between them.
    pub fn start(name: &str, link: &Link) -> Self {
        let directory = fresh(name);
        let host = |side: Side, more: &[&str]| Host::start(side, &directory, more);
        let incoming = Side::Secondary.free();
        let waits = format!("tcp:{incoming}");
        let secondary = host(Side::Secondary, &["-incoming", &waits]);
        let mut primary = host(Side::Primary, &[]);
        // The primary connects: its way there is the way back of who connects to it.
        let way = link.reversed().add(incoming);
        let uri = json!({"uri": format!("tcp:{way}")});
        primary.vmm.execute("migrate", uri);
        let mut pair = Self {
            primary,
            secondary,
            machine: Machine::watch(),
        };
        for side in [Side::Primary, Side::Secondary] {
            let mode = format!("{side:?}").to_lowercase();
            let host = pair.host(side);
            let began = || host.vmm.mode() == mode && host.vmm.runs();
            eventually("both are in COLO", began);
        }
        pair
    }

    pub fn host(&mut self, side: Side) -> &mut Host {
        match side {
            Side::Primary => &mut self.primary,
            Side::Secondary => &mut self.secondary,
        }
    }

    /// Once both hear each other.
    pub fn armed(&self) {
        for host in [&self.primary, &self.secondary] {
            eventually("a heartbeat is armed", || {
                host.beat().is_some_and(|beat| beat["state"] == "armed")
            });
        }
    }

    /// QEMU and pulse of a side end, or stand still, as they do with their host.
    pub fn strike(&mut self, side: Side, signal: Signal) -> Duration {
        let at = now();
        self.host(side).signal(signal);
        at
    }

    /// Waits until this side's guest runs on by itself. `least` and `most`, from `since`, are what is promised of it.
    pub fn runs_alone(&mut self, side: Side, since: Duration, least: Duration, most: Duration) {
        let mut found = None;
        let host = self.host(side);
        eventually("the guest runs on by itself", || {
            found = host.vmm.failed_over();
            found.is_some()
        });
        let resumed = found.expect("found");
        let mut stops = host.vmm.events.iter().rev();
        let asked = stops.find(|event| event.name == "STOP").expect("a stop").at;
        let took = resumed.saturating_sub(since);
        // QEMU's own part, and what the machine was late by: neither is pulse's.
        let late = self.machine.worst();
        let allowed = resumed.saturating_sub(asked) * 4 + late * 20;
        println!(
            "{side:?}: {took:?} of {most:?}, allowed {allowed:?} more; machine late by {late:?}"
        );
        assert!(took + allowed >= least, "{took:?} < {least:?}");
        assert!(took <= most + allowed, "{took:?} > {most:?} + {allowed:?}");
    }
}

/// A directory that is empty now, and stays for who wants to know what was said.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("colo")
        .join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}

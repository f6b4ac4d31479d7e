// SPDX-License-Identifier: GPL-2.0-only
//! fence_xenwarden against xenwarden-pool on three real corosyncs: `make pool`.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_cluster;
mod pool_ring;
mod pool_stage;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_cluster::{Cluster, lease};
use pool_ring::Host;
use pool_stage::wait_for;
use std::sync::atomic::Ordering;
use xenwarden::guard::leases::page::{Access, Page, State};

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_host_that_is_heard_withholds_and_is_down_before_the_agent_says_so() {
    let cluster = Cluster::start("fence-heard", false);
    for host in ["host1", "host2", "host3"] {
        let (code, said, _) = cluster.agent("status", host, 10);
        assert_eq!(code, 0, "{host}: {said}");
    }
    cluster.fence_the_third(60);
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
    cluster.fence_the_third(90);
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
    cluster.fence_the_third(60);
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

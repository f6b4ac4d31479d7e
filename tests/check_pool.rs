// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden check` says what of the pool and of fencing is weak or wrong, with how to mend it, and is silent where no pool
//! is meant.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod check_host;

use check_host::{CONFIG, Case, Host, each};
use std::fs;
use xenwarden::check::Area::Pool;
use xenwarden::check::Level::{self, Fine, Unknown, Weak, Wrong};
use xenwarden::config::leases::{Lease, LeaseName, Leases};
use xenwarden::event::Coverage;
use xenwarden::guard::leases::page::Page;
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const POOL_CONF: &str = "/etc/xenwarden/pool.conf";
const COROSYNC: &str = "/etc/corosync/corosync.conf";
const UIDGID: &str = "/etc/corosync/uidgid.d/xenwarden-pool";
const UNIT: &str = "/etc/systemd/system/multi-user.target.wants/xenwarden-pool.service";
const LEASES: &str = "/run/xenwarden/leases";
const CIB: &str = "/var/lib/pacemaker/cib/cib.xml";
const UID: u32 = 970;

/// A lease of the guard's page, of the pool's user and of 12 s unless changed.
fn guard_goes_by(host: &Host, change: fn(&mut Lease)) -> Page {
    let mut lease = Lease {
        name: LeaseName::new("pool").expect("a name"),
        uid: UID,
        timeout_ns: 12 * NS_PER_S,
        required: false,
        strict: true,
    };
    change(&mut lease);
    let policy = Leases {
        leases: vec![lease],
        begin_ns: 600 * NS_PER_S,
        unserved_ns: 300 * NS_PER_S,
        mux: None,
    };
    let _ = fs::remove_file(host.at(LEASES));
    let page = Page::create(&host.at(LEASES), &policy, Monotonic::now()).expect("a page");
    page.renew(0, Monotonic::now().plus_ns(1_000 * NS_PER_S));
    page
}

fn configured(lease: &str) -> String {
    format!("[[lease]]\nname = \"pool\"\nuser = \"{UID}\"\n{lease}")
}

/// Token 1000 and three nodes: 9.26 s for a new ring.
fn corosync(totem: &str, quorum: &str, nodes: usize) -> String {
    let nodes = " node {\n  ring0_addr: 10.0.0.1\n }\n".repeat(nodes);
    format!(
        "# ours\ntotem {{\n version: 2\n token: 1000\n{totem}\n}}\nquorum {{\n provider: corosync_votequorum\n{quorum}\n}}\nnodelist {{\n{nodes}}}\n"
    )
}

const SEALED: &str = " crypto_hash: sha256\n crypto_cipher: aes256";

fn agent(timeout_s: u32) -> String {
    let set = |name| format!("<nvpair id=\"{name}\" name=\"{name}\" value=\"{timeout_s}\"/>");
    let set = ["power_timeout", "pcmk_off_timeout", "pcmk_reboot_timeout"].map(set);
    format!(
        "<cib><primitive id=\"f\" class=\"stonith\" type=\"fence_xenwarden\"><instance_attributes id=\"a\">{}</instance_attributes></primitive></cib>",
        set.concat()
    )
}

/// A host of files whose pool is as it should be.
fn with_pool(host: &Host) {
    let account = format!("xenwarden-pool:x:{UID}:{UID}:::\n");
    host.put("/etc/passwd", &account);
    host.put("/etc/group", &account);
    host.put(UIDGID, "uidgid {\n uid: xenwarden-pool\n}\n");
    host.put(COROSYNC, &corosync(SEALED, "", 3));
    host.put(POOL_CONF, "fence_without_quorum = true");
    host.put(CONFIG, &configured("strict = true\ntimeout_s = 12"));
    host.put(CIB, &agent(300));
    host.process(300, "xenwarden-pool", 0, 0);
    guard_goes_by(host, |_| {});
}

fn said(host: &Host) -> Vec<(Level, String)> {
    let findings = host.check().findings.into_iter();
    let of_pool = findings.filter(|finding| finding.area == Pool);
    of_pool
        .map(|finding| (finding.level, finding.text))
        .collect()
}

#[test]
fn the_example_of_a_cluster_is_as_the_check_wants_it() {
    let example = |name: &str| {
        let path = format!("{}/doc/examples/cluster/{name}", env!("CARGO_MANIFEST_DIR"));
        fs::read_to_string(path).expect("it is there")
    };
    let host = Host::new("pool-example");
    with_pool(&host);
    host.put(COROSYNC, &example("corosync.conf"));
    host.put(CIB, &example("cib.xml"));
    let (_, lease) = example("xenwarden.conf")
        .split_once("[[lease]]")
        .map(|(before, lease)| (before.to_owned(), lease.to_owned()))
        .expect("a lease");
    let lease = lease.replace("\"xenwarden-pool\"", &format!("\"{UID}\""));
    let lease = format!("[[lease]]\n{lease}");
    host.put(CONFIG, &lease);
    guard_goes_by(&host, |lease| lease.timeout_ns = 16 * NS_PER_S);
    let said = said(&host);
    let wrong: Vec<_> = said.iter().filter(|(level, _)| *level == Wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(said.iter().any(|(level, _)| *level == Fine), "{said:?}");
    // The same with the lease that it once had.
    host.put(CONFIG, &lease.replace("= 16", "= 14"));
    guard_goes_by(&host, |lease| lease.timeout_ns = 14 * NS_PER_S);
    let said = crate::said(&host);
    let is_short = |(level, text): &(Level, String)| *level == Wrong && text.contains("new ring");
    assert!(said.iter().any(is_short), "{said:?}");
}

#[test]
fn where_no_pool_is_meant_nothing_is_said_of_it() {
    let host = Host::new("no-pool");
    assert_eq!(said(&host), []);
    host.put(COROSYNC, "");
    assert_eq!(said(&host), [], "corosync is another's");
    host.link(UNIT, "/usr/lib/systemd/system/xenwarden-pool.service");
    assert!(!said(&host).is_empty(), "it is enabled");
    host.remove(COROSYNC);
    assert_eq!(said(&host), [], "its unit starts nothing without corosync");
    host.put(POOL_CONF, "");
    assert!(!said(&host).is_empty(), "it is configured");
    host.remove(POOL_CONF);
    host.process(300, "xenwarden-pool", 0, 0);
    assert!(!said(&host).is_empty(), "it runs");
}

#[test]
fn a_pool_that_is_as_it_should_be_is_fine_and_the_time_of_a_silent_host_is_a_number() {
    let host = Host::new("pool-fine");
    with_pool(&host);
    let [(Fine, runs), (Fine, sum)] = &said(&host)[..] else {
        panic!("{:?}", said(&host));
    };
    assert!(runs.contains("it runs (pid 300)"), "{runs}");
    // The guard looks once a minute: 10 s of the hardware, and 121.5 s of evidence. (12 + 131.5) * 1.01 + 0.5 + 2.5.
    assert!(sum.contains("certainly down 148 s after"), "{sum}");
    assert!(
        sum.contains("fence bound 132 s by the running guard"),
        "{sum}"
    );
    // Without a guard it is what one would promise: (12 + 62) * 1.01 + 0.5 + 2.5.
    host.remove("/run/xenwarden/guard");
    let text = configured("strict = true\ntimeout_s = 12\n[host-watchdog]\ntimeout_s = 30");
    host.put(CONFIG, &text);
    host.put(
        POOL_CONF,
        "fence_without_quorum = true\nquorum_device_s = 1",
    );
    let all = said(&host);
    let sum = all.iter().find(|(_, text)| text.contains("certainly down"));
    let (level, sum) = sum.expect("a number");
    assert_eq!(*level, Fine, "{sum}");
    assert!(
        sum.contains("fence bound 62 s by the configuration"),
        "{sum}"
    );
    assert!(sum.contains("certainly down 78 s after"), "{sum}");
}

#[test]
fn a_pool_that_promises_nothing_needs_no_lease() {
    let host = Host::new("pool-without-fencing");
    with_pool(&host);
    for path in [POOL_CONF, CIB, LEASES] {
        host.remove(path);
    }
    host.put(CONFIG, "");
    let quorum = " two_node: 1";
    host.put(COROSYNC, &corosync(SEALED, quorum, 2));
    assert_eq!(said(&host), [(Fine, "it runs (pid 300)".to_owned())]);
}

/// A name, what is done to a host whose pool is fine, and what must be said.
macro_rules! amiss {
    ($(($name:literal, $change:expr, $level:expr, $part:literal)),* $(,)?) => {
        [$((
            concat!("pool-", $name),
            |host| {
                with_pool(host);
                let change: fn(&mut Host) = $change;
                change(host);
            },
            Pool,
            $level,
            $part,
        )),*]
    };
}

#[test]
fn what_keeps_the_pool_from_its_work_is_said() {
    let cases: &[Case] = &amiss![
        (
            "off",
            |host| host.remove("/proc/300"),
            Weak,
            "xenwarden-pool does not run"
        ),
        (
            "conf",
            |host| host.put(POOL_CONF, "keep = 1"),
            Wrong,
            "keep = 1"
        ),
        (
            "syntax",
            |host| host.put(POOL_CONF, "lease ="),
            Wrong,
            "pool.conf"
        ),
        (
            "fifo",
            |host| {
                host.remove(POOL_CONF);
                fs::create_dir(host.at(POOL_CONF)).expect("made");
            },
            Wrong,
            "not a plain file"
        ),
        (
            "no-ring",
            |host| host.remove(COROSYNC),
            Weak,
            "there is no /etc/corosync/corosync.conf"
        ),
        (
            "dark",
            |host| {
                host.remove(COROSYNC);
                fs::create_dir(host.at(COROSYNC)).expect("made");
            },
            Unknown,
            "corosync.conf cannot be read"
        ),
        (
            "cib",
            |host| {
                host.remove(CIB);
                host.system.as_root = false;
            },
            Unknown,
            "whether fence_xenwarden is in use"
        ),
        (
            "uidgid",
            |host| host.remove(UIDGID),
            Wrong,
            "speak to corosync"
        ),
        (
            "uidgid-of-another",
            |host| host.put(UIDGID, "uidgid {\n uid: hacluster\n gid: 9\n}\n"),
            Wrong,
            "speak to corosync"
        ),
        (
            "open",
            |host| host.put(COROSYNC, &corosync("", "", 3)),
            Weak,
            "no crypto_hash"
        ),
        (
            "hash-none",
            |host| host.put(
                COROSYNC,
                &corosync(" crypto_hash: none\n crypto_cipher: none", "", 3)
            ),
            Weak,
            "messages are not authenticated"
        ),
        (
            "udpu",
            |host| host.put(COROSYNC, &corosync(" transport: udpu", "", 3)),
            Weak,
            "transport: udpu"
        ),
    ];
    each(cases);
}

#[test]
fn corosync_conf_may_let_the_pool_speak_to_it_by_name_or_number_of_user_or_group() {
    let host = Host::new("pool-uidgid");
    with_pool(&host);
    host.remove(UIDGID);
    let sections = [
        "uid: xenwarden-pool",
        "uid: 970",
        "gid: xenwarden-pool",
        "gid: 970",
    ];
    for section in sections {
        let uidgid = format!("uidgid {{\n {section}\n}}\n");
        host.put(COROSYNC, &(corosync(SEALED, "", 3) + &uidgid));
        assert!(
            said(&host).iter().all(|(level, _)| *level == Fine),
            "{section}"
        );
    }
}

#[test]
fn a_lease_that_the_pool_cannot_go_by_is_said() {
    let cases: &[Case] = &amiss![
        (
            "no-lease",
            |host| host.put(CONFIG, ""),
            Wrong,
            "no [[lease]] of the name pool"
        ),
        (
            "agent-alone",
            |host| {
                host.put(POOL_CONF, "");
                host.put(CONFIG, "");
            },
            Wrong,
            "no [[lease]] of the name pool"
        ),
        (
            "other-name",
            |host| host.put(POOL_CONF, "fence_without_quorum = true\nlease = \"quorum\""),
            Wrong,
            "no [[lease]] of the name quorum"
        ),
        (
            "not-strict",
            |host| host.put(CONFIG, &configured("timeout_s = 12")),
            Wrong,
            "is not strict"
        ),
        (
            "of-root",
            |host| host.put(
                CONFIG,
                "[[lease]]\nname = \"pool\"\nstrict = true\ntimeout_s = 12"
            ),
            Wrong,
            "xenwarden-pool may not renew it"
        ),
        (
            "no-user",
            |host| host.put("/etc/passwd", ""),
            Wrong,
            "no user xenwarden-pool"
        ),
        (
            "required",
            |host| host.put(
                CONFIG,
                &configured("strict = true\ntimeout_s = 12\nrequired = true")
            ),
            Weak,
            "goes down after 600 s"
        ),
        (
            "no-page",
            |host| host.remove(LEASES),
            Wrong,
            "the guard does not go by the lease pool"
        ),
        (
            "old-page",
            |host| drop(guard_goes_by(host, |lease| lease.strict = false)),
            Wrong,
            "the guard does not go by the lease pool"
        ),
        (
            "old-timeout",
            |host| drop(guard_goes_by(host, |lease| lease.timeout_ns = 60 * NS_PER_S)),
            Wrong,
            "the guard does not go by the lease pool"
        ),
    ];
    each(cases);
}

#[test]
fn a_host_that_nobody_renews_the_lease_of_promises_nothing_and_that_is_said() {
    let host = Host::new("pool-waits");
    with_pool(&host);
    let policy = Leases {
        leases: vec![Lease {
            name: LeaseName::new("pool").expect("a name"),
            uid: UID,
            timeout_ns: 12 * NS_PER_S,
            required: false,
            strict: true,
        }],
        ..Leases::default()
    };
    host.remove(LEASES);
    let _page = Page::create(&host.at(LEASES), &policy, Monotonic::now()).expect("a page");
    let all = said(&host);
    let waits = |(level, text): &(Level, String)| {
        *level == Weak && text.contains("nobody renews the lease pool")
    };
    assert!(all.iter().any(waits), "{all:?}");
}

#[test]
fn a_quorum_with_which_the_pool_promises_nothing_is_said() {
    let cases: &[Case] = &amiss![
        (
            "two-node",
            |host| host.put(COROSYNC, &corosync(SEALED, " two_node: 1", 2)),
            Wrong,
            "fence_without_quorum is not done: corosync.conf has two_node"
        ),
        (
            "tie",
            |host| host.put(COROSYNC, &corosync(SEALED, " auto_tie_breaker: 1", 4)),
            Wrong,
            "fence_without_quorum is not done: corosync.conf has auto_tie_breaker"
        ),
        (
            "last-man",
            |host| host.put(COROSYNC, &corosync(SEALED, " last_man_standing: 1", 3)),
            Wrong,
            "fence_without_quorum is not done: corosync.conf has last_man_standing"
        ),
        (
            "downscale",
            |host| host.put(COROSYNC, &corosync(SEALED, " allow_downscale: 1", 3)),
            Wrong,
            "fence_without_quorum is not done: corosync.conf has allow_downscale"
        ),
        (
            "sleep",
            |host| host.put("/sys/power/state", "freeze mem disk\n"),
            Wrong,
            "fence_without_quorum is not done: this host can be suspended"
        ),
        (
            "pair",
            |host| host.put(COROSYNC, &corosync(SEALED, "", 2)),
            Weak,
            "two nodes and no quorum device"
        ),
        (
            "silent",
            |host| host.put(POOL_CONF, ""),
            Weak,
            "silent, it is never known to be down"
        ),
    ];
    each(cases);
    let host = Host::new("pool-device");
    with_pool(&host);
    let device = " wait_for_all: 1\n two_node: 0\n device {\n  model: net\n  votes: 1\n }";
    host.put(COROSYNC, &corosync(SEALED, device, 2));
    assert!(
        said(&host).iter().all(|(level, _)| *level == Fine),
        "{:?}",
        said(&host)
    );
}

#[test]
fn times_that_do_not_fit_together_are_said() {
    let cases: &[Case] = &amiss![
        // Three nodes: 2 * (3650 + 4380) + 2000 ms.
        (
            "short-lease",
            |host| {
                let text = corosync(SEALED, "", 3).replace("token: 1000", "token: 3000");
                host.put(COROSYNC, &text);
            },
            Wrong,
            "the lease pool is good for 12 s, and corosync may need 19 s"
        ),
        (
            "consensus",
            |host| host.put(
                COROSYNC,
                &corosync(&format!("{SEALED}\n consensus: 5000"), "", 3)
            ),
            Wrong,
            "corosync may need 16 s"
        ),
        (
            "agents-default",
            |host| {
                let cib = agent(300).replace("pcmk_off_timeout", "delay");
                host.put(CIB, &cib);
            },
            Weak,
            "pcmk_off_timeout and pcmk_reboot_timeout (60 s unless set)"
        ),
        (
            "agents-time",
            |host| host.put(CIB, &agent(140)),
            Weak,
            "certainly down 148 s after"
        ),
        (
            "no-bound",
            |host| host.page("", Coverage::Partial, Monotonic::now()),
            Weak,
            "no fence bound, so it promises nothing: its evidence is partial"
        ),
        (
            "inhibited",
            |host| {
                let now = Monotonic::now();
                host.page_until("", Coverage::Full, now, Some(now.plus_ns(3_600 * NS_PER_S)));
            },
            Weak,
            "no fence bound, so it promises nothing: the guard is inhibited"
        ),
        (
            "history",
            |host| host.put("/var/lib/xenwarden/resets.json", "junk"),
            Unknown,
            "what a drill has measured of the fence bound is not known"
        ),
    ];
    each(cases);
}

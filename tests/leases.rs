// SPDX-License-Identifier: GPL-2.0-only
//! Leases from end to end: datagrams in, deadlines on the page, and what the guard makes of them.
//! Time is the test's own: none of this waits for any.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use nix::unistd::geteuid;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use xenwarden::config::leases::{Lease, LeaseName, Leases as Policy, MOST};
use xenwarden::event::Kind;
use xenwarden::guard::gate::Reason;
use xenwarden::guard::leases::Leases;
use xenwarden::guard::leases::page::{
    Access, Deadline, Page, State, View, set_deadline, socket_of,
};
use xenwarden::guard::work::Unknown;
use xenwarden::monitor::leases::{Fronts, Server, run};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

/// The test's clock: no moment of the machine's.
const T: u64 = 1_000_000;

fn at(s: u64) -> Monotonic {
    Monotonic((T + s) * NS_PER_S)
}

/// A place of its own for a page and its sockets.
struct Place(PathBuf);

impl Place {
    fn make(name: &str) -> Self {
        // A socket's path is short.
        let name = format!("xwl-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // One that was killed may have had the same number.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("made");
        Self(directory)
    }

    fn page(&self) -> PathBuf {
        self.0.join("leases")
    }

    /// A guard starts at so many seconds.
    fn guard(&self, policy: &Policy, s: u64) -> Page {
        Page::create(&self.page(), policy, at(s)).expect("a page")
    }

    fn say(&self, lease: &str, message: &str) {
        let socket = UnixDatagram::unbound().expect("a socket");
        let path = socket_of(&self.page(), &name(lease));
        socket.send_to(message.as_bytes(), path).expect("sent");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name(name: &str) -> LeaseName {
    LeaseName::new(name).expect("a name")
}

fn lease(called: &str, required: bool) -> Lease {
    Lease {
        name: name(called),
        uid: 0,
        timeout_ns: 10 * NS_PER_S,
        required,
        strict: false,
    }
}

fn policy(leases: &[Lease]) -> Policy {
    Policy {
        leases: leases.to_vec(),
        begin_ns: 600 * NS_PER_S,
        unserved_ns: 300 * NS_PER_S,
        mux: None,
    }
}

/// What the monitor told.
#[derive(Default)]
struct Told(Mutex<Vec<Kind>>);

impl Told {
    fn publish(&self, kind: Kind) {
        self.0.lock().expect("whole").push(kind);
    }

    fn kinds(&self) -> Vec<&'static str> {
        let mut told = self.0.lock().expect("whole");
        std::mem::take(&mut *told).iter().map(Kind::kind).collect()
    }
}

fn against(page: &Page, s: u64) -> Option<Reason> {
    Leases::new(page.words(), at(0)).against(at(s))
}

fn lapsed(called: &str, s: u64) -> Option<Reason> {
    Some(Reason::Lease {
        name: name(called),
        overdue_ns: s * NS_PER_S,
    })
}

fn state(page: &Page, s: u64) -> State {
    page.leases()[0].state(page.served(), at(s))
}

#[test]
fn a_lease_counts_from_its_first_renewal_and_until_it_is_released() {
    let place = Place::make("life");
    let page = place.guard(&policy(&[lease("a", false), lease("b", false)]), 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(0));
    server.turn(at(50));
    assert_eq!(
        (state(&page, 50), against(&page, 50)),
        (State::Waiting, None)
    );
    place.say("a", "READY=1\nWATCHDOG=1");
    server.turn(at(60));
    assert_eq!((state(&page, 70), against(&page, 70)), (State::Held, None));
    // Others' turns come and go, and each renewal is good for its timeout.
    place.say("a", "WATCHDOG=1\n");
    server.turn(at(69));
    server.turn(at(79));
    assert_eq!(against(&page, 79), None);
    server.turn(at(80));
    assert_eq!(state(&page, 80), State::Lapsed);
    assert_eq!(against(&page, 81), lapsed("a", 2));
    // Nothing latches.
    place.say("a", "STATUS=late\nWATCHDOG=1");
    server.turn(at(82));
    assert_eq!(against(&page, 82), None);
    place.say("a", "STOPPING=1");
    server.turn(at(83));
    server.turn(at(500));
    assert_eq!(
        (state(&page, 500), against(&page, 500)),
        (State::Released, None)
    );
    place.say("a", "WATCHDOG=1");
    server.turn(at(501));
    server.turn(at(512));
    assert_eq!(against(&page, 512), lapsed("a", 1));
    let expected = [
        "lease.held",
        "lease.lapsed",
        "lease.held",
        "lease.released",
        "lease.held",
        "lease.lapsed",
    ];
    assert_eq!(told.kinds(), expected);
}

#[test]
fn a_required_lease_that_never_comes_lapses_after_its_time_for_that() {
    let place = Place::make("never");
    let page = place.guard(&policy(&[lease("a", true)]), 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(0));
    server.turn(at(600));
    assert_eq!(
        (state(&page, 600), against(&page, 600)),
        (State::Waiting, None)
    );
    server.turn(at(601));
    assert_eq!(against(&page, 601), lapsed("a", 1));
    let events = told.0.lock().expect("whole").clone();
    assert!(
        matches!(&events[..], [Kind::LeaseLapsed { never: true, .. }]),
        "{events:?}"
    );
}

#[test]
fn what_a_client_says_of_itself_lapses_its_lease_at_once() {
    let place = Place::make("trigger");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    place.say("a", "WATCHDOG=trigger");
    server.turn(at(2));
    assert!(matches!(against(&page, 2), Some(Reason::Lease { .. })));
    // Whatever becomes of the monitor.
    drop(server);
    drop(Server::new(
        &place.page(),
        Fronts::default(),
        &|_| (),
        at(3),
    ));
    assert!(matches!(against(&page, 3), Some(Reason::Lease { .. })));
}

#[test]
fn a_renewal_is_good_no_longer_than_its_client_says_however_late_it_is_heard() {
    let place = Place::make("until");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    let renew = |until: Monotonic| {
        place.say("a", &format!("WATCHDOG=1\nX_XENWARDEN_UNTIL={}", until.0));
    };
    renew(at(15));
    server.turn(at(12));
    server.turn(at(15));
    assert_eq!(against(&page, 15), None);
    server.turn(at(17));
    assert_eq!(against(&page, 17), lapsed("a", 2));
    // Heard when it has passed, it renews nothing, and tells of no later end than its own.
    renew(at(20));
    server.turn(at(30));
    server.turn(at(31));
    assert_eq!(against(&page, 31), lapsed("a", 11));
    // It prolongs nothing.
    renew(at(1_000));
    server.turn(at(40));
    server.turn(at(51));
    assert_eq!(against(&page, 51), lapsed("a", 1));
    place.say("a", "WATCHDOG=1\nX_XENWARDEN_UNTIL=never");
    server.turn(at(52));
    server.turn(at(53));
    assert!(matches!(against(&page, 53), Some(Reason::Lease { .. })));
}

#[test]
fn only_strict_leases_are_strictly_against_a_kick() {
    let place = Place::make("strictly");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    server.turn(at(12));
    assert_eq!(against(&page, 12), lapsed("a", 1));
    let leases = Leases::new(page.words(), at(0));
    assert_eq!(leases.strictly_against(at(12)), None);
    assert_eq!(
        leases.strictly_against(at(1_000)),
        None,
        "nor is an absent monitor"
    );
}

#[test]
fn a_strict_lease_lapses_at_its_deadline_whoever_is_away_and_no_restart_grants_it_anything() {
    let place = Place::make("strict");
    let strict = Lease {
        strict: true,
        ..lease("a", false)
    };
    let policy = policy(&[strict]);
    let page = place.guard(&policy, 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(0));
    assert_eq!(against(&page, 500), None, "before anybody renewed it");
    assert!(!Leases::new(page.words(), at(0)).is_promised());
    place.say("a", "WATCHDOG=1");
    server.turn(at(10));
    drop(server);
    assert_eq!(against(&page, 20), None);
    assert_eq!(state(&page, 21), State::Lapsed);
    assert_eq!(against(&page, 21), lapsed("a", 1));
    assert!(Leases::new(page.words(), at(0)).is_promised());
    let strictly = |page: &Page, s| Leases::new(page.words(), at(0)).strictly_against(at(s));
    assert_eq!(strictly(&page, 20), None);
    assert_eq!(strictly(&page, 21), lapsed("a", 1));
    // A guard and a monitor that start now.
    let page = place.guard(&policy, 22);
    assert_eq!(against(&page, 22), lapsed("a", 2));
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(23));
    assert_eq!(against(&page, 23), lapsed("a", 3));
    place.say("a", "WATCHDOG=1");
    server.turn(at(24));
    assert_eq!(against(&page, 34), None);
    // A monitor that comes back in time grants nothing either.
    drop(server);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(30));
    server.turn(at(35));
    assert_eq!(against(&page, 35), lapsed("a", 1));
}

#[test]
fn a_monitor_that_is_away_lapses_nothing_for_a_while_and_then_everything_is_unknown() {
    let place = Place::make("away");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(10));
    drop(server);
    for s in [20, 21, 310] {
        assert_eq!(against(&page, s), None, "at {s}");
    }
    assert_eq!(state(&page, 21), State::Unknown);
    let age_ns = 301 * NS_PER_S;
    let unknown = Some(Reason::Unknown(Unknown::Leases { age_ns }));
    assert_eq!(against(&page, 311), unknown);
    // A lease that nobody holds asks for no monitor.
    let page = place.guard(&policy(&[lease("b", false)]), 400);
    assert_eq!(against(&page, 10_000), None);
}

#[test]
fn a_monitor_that_comes_back_grants_each_lease_its_timeout_but_not_one_that_had_lapsed() {
    let place = Place::make("back");
    let page = place.guard(&policy(&[lease("a", false), lease("b", false)]), 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(0));
    for lease in ["a", "b"] {
        place.say(lease, "WATCHDOG=1");
    }
    server.turn(at(10));
    place.say("b", "WATCHDOG=1");
    server.turn(at(15));
    server.turn(at(21));
    assert_eq!(against(&page, 21), lapsed("a", 1));
    drop(server);
    assert_eq!(against(&page, 26), lapsed("a", 6), "and b is not known");
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(27));
    assert_eq!(against(&page, 27), lapsed("a", 7));
    place.say("a", "WATCHDOG=1");
    server.turn(at(28));
    server.turn(at(37));
    assert_eq!(against(&page, 37), None);
    server.turn(at(38));
    assert_eq!(against(&page, 38), lapsed("b", 1), "granted until 37");
    // What the one before had told is not told again.
    let expected = ["lease.held", "lease.held", "lease.lapsed", "lease.held"];
    assert_eq!(told.kinds()[..4], expected);
}

#[test]
fn a_guard_that_is_started_anew_renews_nothing_and_takes_over_what_is_held() {
    let place = Place::make("anew");
    let both = policy(&[lease("a", false), lease("b", true)]);
    place.guard(&both, 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(10));
    // The order of the leases is another's matter.
    let turned = policy(&[lease("c", false), lease("b", true), lease("a", false)]);
    let page = place.guard(&turned, 15);
    server.turn(at(16));
    assert_eq!(against(&page, 16), None);
    server.turn(at(21));
    assert_eq!(against(&page, 21), lapsed("a", 1));
    // And so is one after which the monitor had told the old page alone.
    place.say("a", "WATCHDOG=1");
    let page = place.guard(&turned, 22);
    assert_eq!(
        against(&page, 22),
        lapsed("a", 2),
        "as the last guard had it"
    );
    server.turn(at(23));
    assert_eq!(against(&page, 23), None);
    // What is no lease any more asks for nothing.
    let page = place.guard(&policy(&[lease("b", true)]), 24);
    server.turn(at(599));
    assert_eq!(against(&page, 599), None);
    assert!(!socket_of(&place.page(), &name("a")).exists());
    server.turn(at(601));
    assert_eq!(
        against(&page, 601),
        lapsed("b", 1),
        "its time is that of the first guard"
    );
}

#[test]
fn the_one_that_is_overdue_longest_is_named() {
    let place = Place::make("longest");
    let page = place.guard(&policy(&[lease("a", false), lease("b", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("b", "WATCHDOG=1");
    server.turn(at(10));
    place.say("a", "WATCHDOG=1");
    server.turn(at(12));
    server.turn(at(30));
    assert_eq!(against(&page, 30), lapsed("b", 10));
}

/// Says `WATCHDOG=1` as another user, on a socket that root connected for it: what a mode
/// cannot keep out.
fn says_as(uid: u32, path: &Path) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(path).expect("connected");
    let mut printf = Command::new("printf");
    let printf = printf
        .arg("WATCHDOG=1")
        .uid(uid)
        .stdout(OwnedFd::from(socket));
    assert!(printf.status().expect("run").success(), "user {uid}");
}

#[test]
fn nobody_but_its_user_and_root_can_renew_a_lease() {
    if !geteuid().is_root() {
        return;
    }
    let place = Place::make("users");
    let owned = Lease {
        uid: 65_534,
        ..lease("a", false)
    };
    let page = place.guard(&policy(&[owned]), 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), Fronts::default(), &publish, at(0));
    let path = socket_of(&place.page(), &name("a"));
    let found = fs::metadata(&path).expect("a socket");
    assert_eq!((found.mode() & 0o777, found.uid()), (0o600, 65_534));
    says_as(65_534, &path);
    server.turn(at(1));
    assert_eq!(state(&page, 1), State::Held);
    assert_eq!(told.kinds(), ["lease.held"]);
    for s in 2..6 {
        says_as(1_234, &path);
        server.turn(at(s));
    }
    server.turn(at(12));
    assert_eq!(against(&page, 12), lapsed("a", 1));
    // The refusals of a minute are told once.
    assert_eq!(told.kinds(), ["lease.refused", "lease.lapsed"]);
    place.say("a", "WATCHDOG=1");
    server.turn(at(13));
    assert_eq!(against(&page, 13), None, "root may");
}

#[test]
fn a_second_monitor_takes_no_socket_from_one_that_serves() {
    let place = Place::make("second");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    let mut second = Server::new(&place.page(), Fronts::default(), &|_| (), at(1));
    place.say("a", "WATCHDOG=1");
    second.turn(at(2));
    assert_eq!(page.served(), at(0), "it does not serve");
    server.turn(at(3));
    assert_eq!(state(&page, 3), State::Held);
    drop(server);
    second.turn(at(4));
    assert_eq!(page.served(), at(4), "now it does");
}

#[test]
fn a_socket_that_somebody_removed_is_there_again_and_nothing_is_served_where_it_cannot_be() {
    let place = Place::make("removed");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    let path = socket_of(&place.page(), &name("a"));
    fs::remove_file(&path).expect("removed");
    server.turn(at(2));
    place.say("a", "WATCHDOG=1");
    server.turn(at(3));
    assert_eq!(page.leases()[0].renewals, 2);
    // What is no socket is left alone: the client cannot speak, so nobody knows.
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "mine").expect("written");
    server.turn(at(20));
    assert_eq!(
        (state(&page, 20), against(&page, 20)),
        (State::Unknown, None)
    );
    fs::remove_file(&path).expect("removed");
    server.turn(at(21));
    assert_eq!(against(&page, 21), lapsed("a", 8));
}

#[test]
fn monitors_that_come_and_go_do_not_keep_a_dead_clients_lease() {
    let place = Place::make("loop");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let monitor = |s| Server::new(&place.page(), Fronts::default(), &|_| (), at(s));
    let mut server = monitor(0);
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    drop(server);
    // Each grants less than the one before: first ten seconds, then three quarters of what was left.
    for s in [6, 11, 17] {
        drop(monitor(s));
        assert_eq!(against(&page, s + 1), None, "at {s}");
    }
    for n in 0..20 {
        drop(monitor(22 + 5 * n));
    }
    let Some(Reason::Lease { .. }) = against(&page, 122) else {
        panic!("a dead client's lease is held for ever");
    };
    // Who renews is granted again.
    let mut server = monitor(130);
    place.say("a", "WATCHDOG=1");
    server.turn(at(131));
    drop(server);
    drop(monitor(137));
    assert_eq!(against(&page, 145), None, "granted until 147");
}

#[test]
fn a_timeout_that_is_made_shorter_holds_with_the_next_guard() {
    let place = Place::make("shorter");
    let long = Lease {
        timeout_ns: 3_600 * NS_PER_S,
        ..lease("a", false)
    };
    place.guard(&policy(&[long]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    let page = place.guard(&policy(&[lease("a", false)]), 5);
    drop(server);
    assert_eq!(page.leases()[0].deadline, Deadline::At(at(15)));
}

#[test]
fn any_bytes_and_any_length_neither_renew_nor_hold_anything_up() {
    let place = Place::make("bytes");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    let long = "WATCHDOG=0 ".repeat(10_000);
    for message in ["", "WATCHDOG=11", "\0", "WATCHDOG = 1", &long] {
        place.say("a", message);
        server.turn(at(1));
    }
    assert_eq!(state(&page, 1), State::Waiting);
}

/// So many leases for clients of watchdog-mux's socket, and no other.
fn with_mux(path: &Path, clients: u32) -> Policy {
    Policy {
        mux: Some((path.to_owned(), clients)),
        ..policy(&[])
    }
}

fn fronts(mux: &Path) -> Fronts {
    Fronts {
        mux: Some(mux.to_owned()),
        ..Fronts::default()
    }
}

/// Ends a connection, also where a child that another test is starting has a copy of it.
fn end(stream: &UnixStream) {
    stream.shutdown(Shutdown::Both).expect("it was open");
}

#[test]
fn clients_of_watchdog_mux_outlive_a_monitor_or_lapse() {
    let place = Place::make("kept");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 3);
    let page = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let connect = || UnixStream::connect(&path).expect("connected");
    let clients = [connect(), connect()];
    server.turn(at(1));
    drop(server);
    // The next monitor is given the first connection: its far end stands for what a service manager
    // keeps, with what was sent meanwhile.
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.write_all(&[0]).expect("sent");
    let mut again = fronts(&path);
    again.kept.insert("watchdog-mux-1".to_owned(), theirs);
    let mut server = Server::new(&place.page(), again, &|_| (), at(30));
    assert_eq!(page.leases()[0].deadline, Deadline::At(at(90)));
    // Nobody else is given what nobody renews.
    let third = connect();
    server.turn(at(31));
    assert_eq!(page.leases()[2].deadline, Deadline::At(at(91)));
    server.turn(at(62));
    assert_eq!(against(&page, 62), lapsed("watchdog-mux-2", 1));
    // It stops in order, and the monitor ends between its two last words.
    ours.write_all(b"V").expect("sent");
    server.turn(at(63));
    drop(server);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    end(&ours);
    let mut again = fronts(&path);
    again.kept.insert("watchdog-mux-1".to_owned(), theirs);
    let mut server = Server::new(&place.page(), again, &|_| (), at(64));
    server.turn(at(65));
    assert_eq!(page.leases()[0].deadline, Deadline::Released);
    drop((clients, third));
}

#[test]
fn a_socket_of_watchdog_mux_that_another_serves_is_left_to_it() {
    let place = Place::make("theirs");
    let path = place.0.join("mux.sock");
    let theirs = UnixListener::bind(&path).expect("bound");
    let with = with_mux(&path, 1);
    place.guard(&with, 0);
    drop(Server::new(&place.page(), fronts(&path), &|_| (), at(0)));
    let _client = UnixStream::connect(&path).expect("connected");
    assert!(theirs.accept().is_ok());
}

#[test]
fn the_socket_of_watchdog_mux_has_leases_again_once_the_guard_has() {
    let place = Place::make("again");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 2);
    place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    place.guard(&policy(&[]), 1);
    server.turn(at(2));
    let page = place.guard(&with, 3);
    server.turn(at(4));
    let client = UnixStream::connect(&path).expect("connected");
    server.turn(at(5));
    assert_eq!(page.leases()[0].deadline, Deadline::At(at(65)));
    drop(client);
}

#[test]
fn clients_of_watchdog_mux_hold_a_lease_each() {
    let place = Place::make("mux");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 2);
    let page = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let connect = || UnixStream::connect(&path).expect("connected");
    let (mut one, mut other) = (connect(), connect());
    server.turn(at(1));
    assert_eq!(page.leases().iter().filter(|l| l.renewals > 0).count(), 2);
    one.write_all(&[0]).expect("sent");
    server.turn(at(50));
    server.turn(at(61));
    assert_eq!(against(&page, 61), None);
    server.turn(at(62));
    assert_eq!(against(&page, 62), lapsed("watchdog-mux-2", 1));
    other.write_all(&[0]).expect("sent");
    server.turn(at(63));
    assert_eq!(against(&page, 63), None);
    // One ends in order, and its place is another's.
    other.write_all(b"V").expect("sent");
    end(&other);
    server.turn(at(64));
    server.turn(at(65));
    server.turn(at(105));
    assert_eq!(against(&page, 105), None);
    let third = connect();
    server.turn(at(106));
    // One dies: its lease runs out, and nobody can renew it.
    end(&one);
    server.turn(at(107));
    let fourth = connect();
    server.turn(at(108));
    server.turn(at(111));
    assert_eq!(against(&page, 111), lapsed("watchdog-mux-1", 1));
    drop((third, fourth));
}

#[test]
fn the_names_of_leases_are_file_names_and_nothing_else() {
    let good = ["a", "quorum", "0", "pulse_db-2", "0123456789abcdef"];
    for called in good {
        let name = LeaseName::new(called).expect("a name");
        assert_eq!(name.as_str(), called);
        assert_eq!(LeaseName::from_words(name.words()), Some(name));
    }
    let long = "0123456789abcdefg";
    for called in [
        "", ".", "..", "a/b", "-a", "A", "a b", "a\0", "\u{e9}", long,
    ] {
        assert_eq!(LeaseName::new(called), None, "{called:?}");
    }
    assert_eq!(LeaseName::from_words([0, 0]), None);
    assert_eq!(LeaseName::from_words([u64::MAX, 0x61]), None);
    assert_eq!(LeaseName::from_words([0x61, 0x62]), None, "a gap");
}

#[test]
fn what_is_no_page_is_none_and_harmless() {
    let place = Place::make("none");
    let path = place.page();
    assert!(Page::open(&path, Access::Write).is_err());
    fs::write(&path, vec![0xff; 3 * 4096]).expect("written");
    assert!(Page::open(&path, Access::Write).is_err());
    // Nor does a server mind; and a guard puts its own in that place.
    let mut server = Server::new(&path, Fronts::default(), &|_| (), at(0));
    server.turn(at(1));
    let page = place.guard(&policy(&[lease("a", false)]), 2);
    server.turn(at(3));
    assert_eq!(page.served(), at(3));
}

#[test]
fn a_healthy_client_outlives_two_restarts_of_the_monitor() {
    let place = Place::make("twice");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    drop(server);
    // Upgraded: there from 3 to 5, and again from 20 on; the client renews each 5 s, if it can.
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(3));
    server.turn(at(5));
    drop(server);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(20));
    server.turn(at(21));
    assert_eq!(against(&page, 21), None);
}

#[test]
fn what_one_user_gave_back_another_has_not() {
    let place = Place::make("others");
    let page = place.guard(&policy(&[lease("a", true)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    place.say("a", "STOPPING=1");
    server.turn(at(2));
    drop(page);
    let other = Lease {
        uid: 65_534,
        ..lease("a", true)
    };
    let page = place.guard(&policy(&[other]), 10);
    server.turn(at(11));
    server.turn(at(700));
    assert_eq!(against(&page, 700), lapsed("a", 90));
}

#[test]
fn what_a_client_gave_back_as_the_guard_was_restarted_stays_so() {
    let place = Place::make("gave-back");
    let with = policy(&[lease("a", true)]);
    let before = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    server.turn(at(1));
    // The guard copies, and the monitor writes to the page before.
    let copy = place.guard(&with, 2);
    set_deadline(before.words(), 0, Deadline::Released);
    server.turn(at(3));
    server.turn(at(700));
    assert_eq!(against(&copy, 700), None);
}

#[test]
fn kept_connections_are_served_where_the_socket_cannot_be_made() {
    let place = Place::make("unmade");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 2);
    let page = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let _client = UnixStream::connect(&path).expect("connected");
    server.turn(at(1));
    drop(server);
    let _ = fs::remove_file(&path);
    fs::write(&path, "no socket").expect("written");
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.write_all(&[0]).expect("sent");
    let mut again = fronts(&path);
    again.kept.insert("watchdog-mux-1".to_owned(), theirs);
    let mut server = Server::new(&place.page(), again, &|_| (), at(30));
    let _ = ours.write_all(&[0]);
    server.turn(at(100));
    assert_eq!(against(&page, 100), None);
}

#[test]
fn what_was_written_to_the_old_page_alone_is_carried() {
    let place = Place::make("carried");
    let with = policy(&[lease("a", false)]);
    let before = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    let copy = place.guard(&with, 2);
    before.renew(0, at(19));
    server.turn(at(12));
    assert_eq!(against(&copy, 12), None);
}

#[test]
fn who_dies_before_its_first_word_has_not_given_back_what_the_last_one_did() {
    let place = Place::make("no-word");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 1);
    let page = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let mut client = UnixStream::connect(&path).expect("connected");
    server.turn(at(1));
    client.write_all(b"V").expect("sent");
    server.turn(at(2));
    drop(server);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    drop(ours);
    let mut again = fronts(&path);
    again.kept.insert("watchdog-mux-1".to_owned(), theirs);
    let mut server = Server::new(&place.page(), again, &|_| (), at(3));
    server.turn(at(4));
    assert_eq!(page.leases()[0].deadline, Deadline::Released);
    let dies = UnixStream::connect(&path).expect("connected");
    server.turn(at(5));
    end(&dies);
    server.turn(at(6));
    assert_ne!(page.leases()[0].deadline, Deadline::Released);
}

#[test]
fn a_last_v_alone_is_a_stop_in_order_and_root_alone_may_connect() {
    let place = Place::make("last");
    let path = place.0.join("mux.sock");
    let with = with_mux(&path, 1);
    let page = place.guard(&with, 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let mode = fs::metadata(&path).expect("a socket").mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).expect("connected");
    client.write_all(b"V\0").expect("sent");
    server.turn(at(1));
    end(&client);
    server.turn(at(2));
    server.turn(at(62));
    assert_eq!(against(&page, 62), lapsed("watchdog-mux-1", 1));
}

#[test]
fn the_last_that_a_client_says_counts() {
    let place = Place::make("order");
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(0));
    place.say("a", "STOPPING=1");
    place.say("a", "WATCHDOG=1");
    server.turn(at(1));
    assert_eq!(state(&page, 1), State::Held);
    place.say("a", "WATCHDOG=1");
    place.say("a", "STOPPING=1");
    server.turn(at(2));
    assert_eq!(state(&page, 2), State::Released);
}

#[test]
fn a_lease_that_becomes_required_is_waited_for() {
    let place = Place::make("becomes");
    place.guard(&policy(&[lease("a", false)]), 0);
    let page = place.guard(&policy(&[lease("a", true)]), 10);
    let mut server = Server::new(&place.page(), Fronts::default(), &|_| (), at(11));
    server.turn(at(611));
    assert_eq!(against(&page, 611), lapsed("a", 1));
}

#[test]
fn a_client_of_watchdog_mux_beyond_its_leases_is_refused_and_told() {
    let place = Place::make("full");
    let path = place.0.join("mux.sock");
    let page = place.guard(&with_mux(&path, 16), 0);
    let told = Told::default();
    let publish = |kind| told.publish(kind);
    let mut server = Server::new(&place.page(), fronts(&path), &publish, at(0));
    let connect = || UnixStream::connect(&path).expect("connected");
    let held: Vec<UnixStream> = (0..16).map(|_| connect()).collect();
    server.turn(at(1));
    assert_eq!(told.kinds(), ["lease.held"; 16]);
    for (s, expected) in [(2, 1), (30, 0), (62, 2)] {
        let mut one_more = connect();
        server.turn(at(s));
        let mut byte = [0];
        assert_eq!(one_more.read(&mut byte).expect("its end"), 0, "at {s}");
        for mut client in &held {
            client.write_all(&[0]).expect("sent");
        }
        server.turn(at(s));
        let events = std::mem::take(&mut *told.0.lock().expect("whole"));
        let counts: Vec<u64> = events
            .iter()
            .map(|event| match event {
                Kind::LeaseRefused { lease, count, uid } => {
                    let who = (lease.as_str(), *uid);
                    assert_eq!(who, ("watchdog-mux", geteuid().as_raw()));
                    *count
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(counts.iter().sum::<u64>(), expected, "once a minute: {s}");
    }
    assert_eq!(against(&page, 90), None, "and those that are held stay so");
}

/// What a process of pve-ha-manager does at watchdog-mux's socket: PVE::HA::Env::PVE2.
struct HaDaemon<'a> {
    path: &'a Path,
    connection: Option<UnixStream>,
}

impl<'a> HaDaemon<'a> {
    /// One that has got its lock: it connects, and sends nothing.
    fn start(path: &'a Path) -> Self {
        let mut daemon = Self {
            path,
            connection: None,
        };
        daemon.open();
        daemon
    }

    fn open(&mut self) {
        assert!(self.connection.is_none(), "watchdog already open");
        self.connection = Some(UnixStream::connect(self.path).expect("connected"));
    }

    /// Whether its NUL could be sent; if not it goes on all the same, and connects no more.
    fn update(&mut self) -> bool {
        let connection = self.connection.as_mut().expect("open");
        connection.write(&[0]).is_ok_and(|sent| sent == 1)
    }

    /// First the `V`, then the end, without waiting for anything between them.
    fn close(&mut self) {
        let mut connection = self.connection.take().expect("open");
        assert_eq!(connection.write(b"V").expect("sent"), 1);
    }

    /// A worker of pve-ha-lrm has its connection, too.
    fn fork(&self) -> UnixStream {
        self.connection
            .as_ref()
            .expect("open")
            .try_clone()
            .expect("a copy")
    }
}

#[test]
fn the_daemons_of_proxmox_ha_open_renew_close_and_are_missed() {
    let place = Place::make("pve");
    let path = place.0.join("mux.sock");
    let page = place.guard(&with_mux(&path, 4), 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let (mut lrm, mut crm) = (HaDaemon::start(&path), HaDaemon::start(&path));
    server.turn(at(1));
    // A round takes ten seconds or so, and up to a minute where a lock is waited for.
    for s in [11, 21, 80, 90] {
        assert!(lrm.update() && crm.update());
        server.turn(at(s));
        assert_eq!(against(&page, s), None, "at {s}");
    }
    // pve-ha-crm loses its lock, and gets it again: the same process, another connection.
    crm.close();
    server.turn(at(91));
    crm.open();
    server.turn(at(100));
    assert!(lrm.update() && crm.update());
    server.turn(at(101));
    // It closes and opens before anybody has looked.
    crm.close();
    crm.open();
    server.turn(at(102));
    // An upgrade stops pve-ha-lrm with its services frozen, and another one starts.
    lrm.close();
    drop(lrm);
    let mut lrm = HaDaemon::start(&path);
    server.turn(at(110));
    let running = page.leases().into_iter().filter(|lease| lease.is_running());
    assert_eq!(running.count(), 2, "what was closed is no condition");
    for s in [120, 130] {
        assert!(lrm.update() && crm.update());
        server.turn(at(s));
    }
    // pve-ha-lrm has lost its lock and waits for it: no byte, and the host goes down for that.
    for s in [140, 190] {
        assert!(crm.update());
        server.turn(at(s));
        assert_eq!(against(&page, s), None, "at {s}");
    }
    server.turn(at(191));
    assert!(matches!(against(&page, 191), Some(Reason::Lease { .. })));
    // It has it back just in time.
    assert!(lrm.update());
    server.turn(at(192));
    assert_eq!(against(&page, 192), None);
    // A V that is not the last that is said means nothing.
    let connection = crm.connection.as_mut().expect("open");
    assert_eq!(connection.write(b"V\0").expect("sent"), 2);
    drop(crm);
    // It was killed: nobody who connects anew keeps its lease.
    server.turn(at(200));
    let mut crm = HaDaemon::start(&path);
    for s in [210, 240, 260] {
        assert!(lrm.update() && crm.update());
        server.turn(at(s));
    }
    server.turn(at(261));
    assert!(matches!(against(&page, 261), Some(Reason::Lease { .. })));
}

#[test]
fn a_worker_that_holds_the_connection_on_keeps_the_lease_until_it_ends() {
    let place = Place::make("worker");
    let path = place.0.join("mux.sock");
    let page = place.guard(&with_mux(&path, 1), 0);
    let mut server = Server::new(&place.page(), fronts(&path), &|_| (), at(0));
    let mut lrm = HaDaemon::start(&path);
    server.turn(at(1));
    let worker = lrm.fork();
    lrm.close();
    server.turn(at(2));
    server.turn(at(30));
    assert_eq!(
        state(&page, 30),
        State::Held,
        "the connection has no end yet"
    );
    drop(worker);
    server.turn(at(31));
    assert_eq!(state(&page, 31), State::Released);
    // Its daemon is killed while a worker lives: nobody renews it.
    let mut lrm = HaDaemon::start(&path);
    server.turn(at(40));
    assert!(lrm.update());
    server.turn(at(41));
    let _worker = lrm.fork();
    drop(lrm);
    server.turn(at(101));
    assert_eq!(against(&page, 101), None);
    server.turn(at(102));
    assert_eq!(against(&page, 102), lapsed("watchdog-mux-1", 1));
}

#[test]
fn a_page_of_another_version_is_none() {
    let place = Place::make("version");
    drop(place.guard(&policy(&[lease("a", false)]), 0));
    let path = place.page();
    let mut bytes = fs::read(&path).expect("a page");
    assert_eq!(
        bytes[..8],
        *b"XWLP\x01\0\0\0",
        "each change of its words counts it up"
    );
    let open = || Page::open(&path, Access::Read).map(drop);
    open().expect("it is one");
    for (at, byte) in [(4, 0), (4, 2), (7, 1), (0, b'x')] {
        let before = std::mem::replace(&mut bytes[at], byte);
        fs::write(&path, &bytes).expect("written");
        let error = open().expect_err("it is none");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{at}");
        bytes[at] = before;
    }
}

#[test]
fn what_a_monitor_has_granted_and_what_a_client_has_released_outlive_a_guard() {
    let place = Place::make("outlive");
    let policy = policy(&[lease("a", false), lease("b", true)]);
    let page = place.guard(&policy, 0);
    let monitor = |s| Server::new(&place.page(), Fronts::default(), &|_| (), at(s));
    let mut server = monitor(0);
    for lease in ["a", "b"] {
        place.say(lease, "WATCHDOG=1");
    }
    server.turn(at(1));
    place.say("b", "STOPPING=1");
    server.turn(at(2));
    drop(server);
    // It is granted its ten seconds anew, once.
    drop(monitor(6));
    let granted = |page: &Page| {
        page.leases()
            .iter()
            .map(|one| one.granted)
            .collect::<Vec<_>>()
    };
    let deadlines = |page: &Page| {
        page.leases()
            .iter()
            .map(|one| one.deadline)
            .collect::<Vec<_>>()
    };
    let expected = [Deadline::At(at(16)), Deadline::Released];
    assert_eq!(
        (deadlines(&page), granted(&page)),
        (expected.to_vec(), vec![true, false])
    );
    // Another guard, and another monitor.
    let page = place.guard(&policy, 7);
    assert_eq!(
        (deadlines(&page), granted(&page)),
        (expected.to_vec(), vec![true, false])
    );
    drop(monitor(8));
    assert_eq!(deadlines(&page), expected, "not a whole timeout again");
    // A monitor that serves on while the guard is started again keeps both.
    let mut server = monitor(9);
    let page = place.guard(&policy, 10);
    server.turn(at(10));
    assert_eq!(
        (deadlines(&page)[1], granted(&page)),
        (Deadline::Released, vec![true, false])
    );
    place.say("a", "WATCHDOG=1");
    server.turn(at(11));
    assert_eq!(granted(&page), [false, false], "it was renewed");
    let renewals: Vec<u64> = page.leases().iter().map(|one| one.renewals).collect();
    assert_eq!(renewals, [2, 1]);
}

fn strict(called: &str) -> Lease {
    Lease {
        strict: true,
        ..lease(called, false)
    }
}

#[test]
fn a_strict_lease_that_was_given_before_a_sleep_is_over_when_it_is_by_the_clocks_of_others() {
    let place = Place::make("sleep");
    let page = place.guard(&policy(&[strict("pool"), lease("other", false)]), 0);
    let guard = Leases::new(page.words(), at(0));
    let against = |slept_s: u64, s: u64| {
        guard.slept(slept_s * NS_PER_S, at(s));
        guard.strictly_against(at(s)).is_some()
    };
    page.renew(0, at(10));
    page.renew(1, at(10));
    // It may have slept before this guard was there.
    assert!(!against(500, 1));
    // Three seconds, with which the lease is not over; two seconds sooner than its own clock says it is.
    assert!(!against(503, 2));
    assert!(!against(503, 6));
    assert!(against(503, 8));
    // Given after it woke it lasts its timeout.
    page.renew(0, at(13));
    assert!(!against(503, 12));
    assert!(against(503, 14));
    // A minute: over at the first look, and held again once somebody says so who knows of it.
    page.renew(0, at(25));
    assert!(!against(503, 15));
    assert!(against(563, 16));
    page.renew(0, at(26));
    assert!(!against(563, 17));
    // One that is not strict is its client's own matter.
    assert_eq!(guard.against(at(9)), None);
}

#[test]
fn two_sleeps_within_a_lease_are_more_than_the_second() {
    let place = Place::make("sleeps");
    let page = place.guard(&policy(&[strict("pool")]), 0);
    let guard = Leases::new(page.words(), at(0));
    let against = |slept_s: u64, s: u64| {
        guard.slept(slept_s * NS_PER_S, at(s));
        guard.strictly_against(at(s)).is_some()
    };
    page.renew(0, at(10));
    assert!(!against(0, 1));
    assert!(!against(5, 2));
    assert!(against(10, 3), "13 s by the clocks of others");
}

#[test]
fn a_guard_without_leases_that_finds_no_room_leaves_no_page_that_it_does_not_go_by() {
    let place = Place::make("full");
    let none = policy(&[]);
    let of_policy = |policy: &Policy, s| Page::of_policy(&place.page(), policy, at(s));
    let page = place.guard(&policy(&[lease("a", false)]), 0);
    page.renew(0, at(10));
    // As on a full /run: the new page cannot be made.
    fs::create_dir_all(place.page().with_extension("new").join("in the way")).expect("made");
    assert!(of_policy(&policy(&[lease("a", false)]), 1).is_err());
    assert!(place.page().exists());
    assert!(of_policy(&none, 2).expect("may do without").is_none());
    assert!(!place.page().exists(), "nobody is to believe in it");
    // One that others count on.
    fs::remove_dir_all(place.page().with_extension("new")).expect("removed");
    let page = place.guard(&policy(&[strict("pool")]), 3);
    page.renew(0, at(13));
    fs::create_dir_all(place.page().with_extension("new").join("in the way")).expect("made");
    let page = of_policy(&none, 4).expect("goes on").expect("by that page");
    let guard = Leases::new(page.words(), at(4));
    assert!(guard.is_promised() && guard.strictly_against(at(14)).is_some());
    set_deadline(page.words(), 0, Deadline::Released);
    assert!(of_policy(&none, 15).expect("may do without").is_none());
}

#[test]
fn a_strict_lease_that_runs_stays_so_whatever_is_configured_until_it_is_given_back() {
    let place = Place::make("kept");
    let page = place.guard(&policy(&[lease("a", false), strict("pool")]), 0);
    page.renew(1, at(10));
    // Not strict any more, then not there at all.
    let page = place.guard(&policy(&[lease("pool", false)]), 1);
    assert!(page.leases()[0].strict);
    let page = place.guard(&policy(&[lease("b", false)]), 2);
    let names: Vec<String> = page
        .leases()
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(names, ["b", "pool"]);
    let guard = Leases::new(page.words(), at(2));
    assert!(guard.strictly_against(at(9)).is_none());
    assert!(guard.strictly_against(at(11)).is_some());
    set_deadline(page.words(), 1, Deadline::Released);
    assert_eq!(
        place.guard(&policy(&[lease("b", false)]), 3).leases().len(),
        1
    );
}

/// How often this thread has waited and was woken.
fn wakeups(thread: &Path) -> u64 {
    let status = fs::read_to_string(thread.join("status")).expect("a thread");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("counted").trim().parse().expect("a number")
}

#[test]
fn a_monitor_sleeps_while_nobody_has_a_lease_and_serves_the_first() {
    let place = Place::make("idle");
    let _none = place.guard(&policy(&[]), 0);
    let (stop, woken) = UnixStream::pair().expect("a pair");
    let (says, id) = std::sync::mpsc::channel();
    let page = place.page();
    let server = std::thread::spawn(move || {
        says.send(nix::unistd::gettid()).expect("heard");
        run(&page, None, &|_| (), &woken);
    });
    let id = id.recv().expect("its id");
    let thread = PathBuf::from(format!("/proc/self/task/{id}"));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    // As it begins it turns once or twice more.
    loop {
        let before = wakeups(&thread);
        std::thread::sleep(Duration::from_secs(4));
        match wakeups(&thread) - before {
            0..=3 => break,
            woken => assert!(std::time::Instant::now() < deadline, "{woken} times in 4 s"),
        }
    }
    let _page = place.guard(&policy(&[lease("first", false)]), 0);
    let socket = socket_of(&place.page(), &name("first"));
    while !socket.exists() {
        assert!(std::time::Instant::now() < deadline, "it has no socket");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(stop);
    server.join().expect("it ends");
}

#[test]
fn strict_leases_that_run_all_have_room_in_a_page_that_is_full_without_them() {
    let place = Place::make("crowded");
    let others: Vec<Lease> = (0..MOST).map(|n| lease(&format!("l{n}"), false)).collect();
    let page = place.guard(&policy(&[strict("a"), strict("b"), strict("c")]), 0);
    (0..3).for_each(|n| page.renew(n, at(10)));
    // One of them is the last that is configured, before and after it another that is strict, which nobody counts on yet.
    let mut crowd = others.clone();
    crowd.truncate(MOST - 3);
    crowd.extend([strict("new"), strict("c"), strict("newer")]);
    let page = place.guard(&policy(&crowd), 1);
    let all = page.leases();
    assert_eq!(all.len(), MOST);
    let runs = |one: &&View| one.strict && one.is_running();
    let names: BTreeSet<String> = all
        .iter()
        .filter(runs)
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(names, names_of_three());
    let strict = all.iter().filter(|one| one.strict).count();
    assert_eq!(strict, 5, "those that are not strict make room");
    let guard = Leases::new(page.words(), at(1));
    assert!(guard.strictly_against(at(11)).is_some());
    // A page that is full of them.
    let crowd: Vec<Lease> = others
        .iter()
        .map(|one| self::strict(one.name.as_str()))
        .collect();
    for page in [
        place.guard(&policy(&crowd), 2),
        place.guard(&policy(&others), 3),
    ] {
        let all = page.leases();
        let names = all.iter().filter(runs).map(|v| v.name.to_string());
        assert_eq!((names.collect(), all.len()), (names_of_three(), MOST));
    }
}

fn names_of_three() -> BTreeSet<String> {
    ["a", "b", "c"].map(str::to_owned).into()
}

#[test]
fn a_strict_lease_that_runs_is_its_users_until_it_is_given_back_whoever_is_configured() {
    let place = Place::make("user");
    let page = place.guard(&policy(&[strict("pool")]), 0);
    page.renew(0, at(10));
    let mut another = strict("pool");
    another.uid = 65_534;
    let uids = |page: &Page| {
        let all = page.leases();
        all.iter().map(|lease| lease.uid).collect::<Vec<_>>()
    };
    let page = place.guard(&policy(&[another.clone()]), 1);
    assert_eq!(uids(&page), [0], "one socket, and who holds it");
    set_deadline(page.words(), 0, Deadline::Released);
    let page = place.guard(&policy(&[another]), 2);
    assert_eq!(uids(&page), [65_534]);
}

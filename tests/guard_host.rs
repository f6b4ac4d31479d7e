// SPDX-License-Identifier: GPL-2.0-only
//! The operating system as the kick path meets it: what the service manager hears and when, what
//! stops the guard, and what it does last.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

mod guard_told;

use guard_told::Folder;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use xenwarden::guard::deadlines::{Deadlines, INHIBIT, Setting};
use xenwarden::guard::host::Host;
use xenwarden::guard::request::Request;
use xenwarden::guard::run::World;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::sys::notify::Notifier;
use xenwarden::watchdog::Ends;

/// A guard's world, what stops it, and the manager that it tells.
fn world(folder: &Folder) -> (Host, Request, UnixDatagram) {
    let path = folder.0.join("manager");
    let manager = UnixDatagram::bind(&path).expect("bound");
    manager.set_nonblocking(true).expect("set");
    let request = Request::default();
    let host = Host::new(request.clone(), Notifier::to(path.as_os_str()));
    (host, request, manager)
}

/// All that it has heard since.
fn heard(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 64];
    let next = || {
        manager
            .recv(&mut buffer)
            .ok()
            .map(|len| buffer[..len].to_vec())
    };
    let all = std::iter::from_fn(next);
    all.map(|bytes| String::from_utf8(bytes).expect("text"))
        .collect()
}

#[test]
fn the_service_manager_hears_once_that_the_guard_is_ready_and_once_that_it_stops() {
    let folder = Folder::new("ready");
    let (mut host, request, manager) = world(&folder);
    assert!(heard(&manager).is_empty() && host.ends().is_none());
    host.looked();
    host.looked();
    assert_eq!(heard(&manager), ["READY=1"]);
    request.end(Ends::Stopped);
    assert_eq!(host.ends(), Some(Ends::Stopped));
    host.looked();
    host.looked();
    assert_eq!(heard(&manager), ["STOPPING=1"]);
    // One that is to stop before it was ready never is.
    let folder = Folder::new("never-ready");
    let (mut host, request, manager) = world(&folder);
    request.end(Ends::Shutdown);
    // Whatever else comes, as systemd's SIGTERM after ExecStop.
    request.end(Ends::Stopped);
    assert_eq!(host.ends(), Some(Ends::Shutdown));
    host.looked();
    assert_eq!(heard(&manager), ["STOPPING=1"]);
}

#[test]
fn a_signal_says_what_the_guard_ends_for_and_a_shutdown_stays_one() {
    use nix::sys::signal::{Signal, raise};
    let asked = |signals: &[Signal]| {
        let request = Request::by_signals().expect("caught");
        signals
            .iter()
            .for_each(|signal| raise(*signal).expect("raised"));
        request.ends()
    };
    let (term, power) = (Signal::SIGTERM, Signal::SIGPWR);
    assert_eq!(asked(&[Signal::SIGHUP]), None);
    assert_eq!(asked(&[term]), Some(Ends::Stopped));
    assert_eq!(asked(&[Signal::SIGINT]), Some(Ends::Stopped));
    for signals in [
        &[power][..],
        &[power, power],
        &[power, term],
        &[term, power],
    ] {
        assert_eq!(asked(signals), Some(Ends::Shutdown), "{signals:?}");
    }
}

#[test]
fn an_operator_inhibits_the_guard_until_his_time_is_over() {
    let folder = Folder::new("inhibits");
    let path = folder.0.join("deadlines");
    let deadlines = Deadlines::open(&path, NS_PER_S).expect("a file");
    let (host, ..) = world(&folder);
    let now = host.now();
    assert_eq!(host.inhibited(now), None);
    let host = host.heeding(deadlines);
    assert_eq!(host.inhibited(now), None);
    let until = now.plus_ns(NS_PER_S / 2);
    let setting = Setting::open(&path).expect("the file");
    setting.set(INHIBIT.1, Some(until)).expect("set");
    assert_eq!(host.inhibited(now), Some(until));
    assert_eq!(host.inhibited(until), None);
}

#[test]
fn it_sleeps_until_the_moment_and_resorts_to_what_it_was_given() {
    let folder = Folder::new("resorts");
    let (mut host, ..) = world(&folder);
    let when = Monotonic::now().plus_ns(20 * NS_PER_MS);
    host.sleep_until(when);
    assert!(Monotonic::now() >= when);
    host.last_resort();
    let path = folder.0.join("sysrq");
    let mut host = host.resorting_to(Some(File::create(&path).expect("made")));
    host.last_resort();
    assert_eq!(fs::read(&path).expect("read"), b"b");
}

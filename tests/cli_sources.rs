// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden guests` and `xenwarden ack` where guests are known by more than the monitor.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod fake_monitor;

use fake_monitor::program::{error_line, finish, text};
use fake_monitor::{FakeMonitor, alarmed, guest, own_group, report};
use std::fs;
use std::path::{Path, PathBuf};
use xenwarden::event::{NO_DOMAIN, Uuid};
use xenwarden::guests::report::{GuestReport, GuestsReport};

/// A host's /run, and a configuration that says so.
struct Host {
    run: PathBuf,
    config: String,
}

impl Host {
    fn new(name: &str) -> Self {
        let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sources-{name}"));
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(run.join("xenwarden")).expect("a directory");
        let config = run.join("xenwarden.conf");
        let socket = run.join("xenwarden/control.sock");
        let socket = socket.display();
        fs::write(&config, format!("[control]\nsocket = \"{socket}\"\n")).expect("written");
        let config = config.display().to_string();
        Self { run, config }
    }

    /// Who answers at a socket below.
    fn serve(&self, socket: &str, guests: Vec<GuestReport>) -> FakeMonitor {
        let path = self.run.join(socket);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        let monitor = FakeMonitor::start_at(path, 0, own_group());
        monitor.set_guests(report(guests));
        monitor
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let output = finish(&[&["--config", &self.config], words].concat());
        let code = output.status.code().expect("not killed");
        (code, text(&output.stdout), text(&output.stderr))
    }
}

fn vm(uuid: u128, name: &str) -> GuestReport {
    GuestReport {
        slots: Vec::new(),
        ..guest(uuid, NO_DOMAIN, name)
    }
}

fn alarmed_vm(uuid: u128, name: &str) -> GuestReport {
    alarmed(uuid, NO_DOMAIN, name)
}

#[test]
fn the_alarm_of_a_vm_is_shown_beside_the_guests_of_the_monitor() {
    let host = Host::new("beside");
    let _monitor = host.serve("xenwarden/control.sock", vec![guest(1, 1, "xen-guest")]);
    let _qemu = host.serve(
        "xenwarden-qemu/all.sock",
        vec![alarmed_vm(2, "vm"), vm(3, "other")],
    );
    let (code, shown, said) = host.run(&["guests"]);
    assert_eq!((code, said.as_str()), (1, ""), "{shown}");
    assert!(shown.starts_with("1 ALARM OPEN, 3 guests"), "{shown}");
    let line = shown
        .lines()
        .find(|line| line.starts_with("vm "))
        .expect("a line");
    assert!(
        line.contains(" - ") && line.contains("RAISED"),
        "no domain: {line}"
    );
    let (_, json, _) = host.run(&["guests", "--json"]);
    let report: GuestsReport = serde_json::from_str(&json).expect("JSON");
    assert_eq!(report.guests.len(), 3);
}

#[test]
fn a_host_without_xen_needs_no_monitor() {
    if Path::new("/sys/hypervisor/type").exists() {
        return;
    }
    let host = Host::new("no-xen");
    let qemu = host.serve("xenwarden-qemu/all.sock", vec![vm(2, "vm")]);
    assert_eq!(host.run(&["guests"]).0, 0);
    qemu.set_guests(report(vec![alarmed_vm(2, "vm")]));
    assert_eq!(host.run(&["guests"]).0, 1);
    assert_eq!(host.run(&["ack", "vm"]).0, 0);
}

#[test]
fn a_source_that_is_silent_is_said_and_never_fine_and_hides_no_alarm() {
    let host = Host::new("silent");
    let monitor = host.serve("xenwarden/control.sock", vec![guest(1, 1, "xen-guest")]);
    // As a killed process leaves it.
    fs::create_dir_all(host.run.join("xenwarden-qemu")).expect("made");
    let dead = host.run.join("xenwarden-qemu/dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("bound"));
    let (code, shown, _) = host.run(&["guests"]);
    assert_eq!(code, 2, "{shown}");
    assert!(
        shown.contains("dead.sock") && shown.contains("is xenwarden-qemu running"),
        "{shown}"
    );
    monitor.set_guests(report(vec![alarmed(1, 1, "xen-guest")]));
    assert_eq!(host.run(&["guests"]).0, 1);
}

#[test]
fn an_order_goes_to_whoever_has_the_alarm_and_to_both_where_both_have_one() {
    let host = Host::new("orders");
    let monitor = host.serve(
        "xenwarden/control.sock",
        vec![alarmed(1, 1, "both"), guest(2, 2, "vm")],
    );
    let qemu = host.serve(
        "xenwarden-qemu/all.sock",
        vec![alarmed_vm(1, "both"), alarmed_vm(2, "vm")],
    );
    let of = |at: &FakeMonitor| {
        let orders = at.registry.orders.lock().expect("whole");
        orders
            .iter()
            .map(|(what, uuid, _)| (*what, *uuid))
            .collect::<Vec<_>>()
    };
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(host.run(&["ack", "vm"]).0, 0);
    assert_eq!((of(&monitor), of(&qemu)), (vec![], vec![("ack", two)]));
    let (code, shown, _) = host.run(&["ack", "--close", "both"]);
    assert_eq!((code, shown.lines().count()), (0, 2), "{shown}");
    assert_eq!(of(&monitor), [("close", one)]);
    assert_eq!(of(&qemu), [("ack", two), ("close", one)]);
    assert_eq!(host.run(&["ack", &two.to_string()]).0, 0);
    let output = finish(&["--config", &host.config, "ack", "nobody"]);
    let (code, line) = error_line(&output);
    assert_eq!(code, 1, "{line}");
    // No domain has the number that stands for none.
    assert_eq!(host.run(&["ack", &NO_DOMAIN.to_string()]).0, 1);
}

#[test]
fn a_socket_that_is_named_is_the_only_one_that_is_asked() {
    let host = Host::new("named");
    let monitor = host.serve("xenwarden/control.sock", vec![guest(1, 1, "xen-guest")]);
    let _qemu = host.serve("xenwarden-qemu/all.sock", vec![alarmed_vm(2, "vm")]);
    let socket = monitor.path.display().to_string();
    let output = finish(&["--socket", &socket, "guests"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden check` says what of leases may bring the host down though all is well.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod check_host;

use check_host::{CONFIG, Host};
use xenwarden::check::Area::Leases;
use xenwarden::check::Level::{Fine, Weak, Wrong};
use xenwarden::config::leases::{Lease, LeaseName, Leases as Policy};
use xenwarden::guard::leases::page::{Page, serve};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

#[test]
fn what_of_leases_may_bring_the_host_down_is_said() {
    let host = Host::new("leases");
    let said = || {
        let findings = host.check().findings.into_iter();
        let leases = findings.filter(|finding| finding.area == Leases);
        let said = leases.map(|finding| (finding.level, finding.text));
        said.collect::<Vec<_>>()
    };
    assert_eq!(said(), [], "there are none");
    host.put(CONFIG, "[[lease]]\nname = \"a\"\nrequired = true");
    let [(Weak, text)] = &said()[..] else {
        panic!("{:?}", said());
    };
    assert!(text.contains("a: the guard does not go by it"), "{text}");
    let policy = Policy {
        leases: vec![Lease {
            name: LeaseName::new("a").expect("a name"),
            uid: 0,
            timeout_ns: 1_000 * NS_PER_S,
            required: true,
            strict: false,
        }],
        begin_ns: 600 * NS_PER_S,
        unserved_ns: 300 * NS_PER_S,
        mux: None,
    };
    let now = Monotonic::now();
    let page = Page::create(&host.at("/run/xenwarden/leases"), &policy, now).expect("a page");
    let [(Weak, text)] = &said()[..] else {
        panic!("{:?}", said());
    };
    assert!(text.contains("nobody has renewed it"), "{text}");
    page.renew(0, now.plus_ns(1_000 * NS_PER_S));
    assert_eq!(said(), [(Fine, "a (held)".to_owned())]);
    page.renew(0, Monotonic(1));
    let [(Weak, text)] = &said()[..] else {
        panic!("{:?}", said());
    };
    assert!(text.contains("no monitor looks"), "{text}");
    serve(page.words(), now);
    let [(Wrong, text)] = &said()[..] else {
        panic!("{:?}", said());
    };
    assert!(text.contains("it has lapsed"), "{text}");
}

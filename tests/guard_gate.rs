// SPDX-License-Identifier: GPL-2.0-only
//! The gate: what is kicked for, and what is said where it is not.
#![allow(clippy::panic)] // how tests fail

use xenwarden::config::leases::LeaseName;
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::gate::{Decision, Reason, decide, overrule};
use xenwarden::sys::clock::NS_PER_MS;

const LAG: Verdict = Verdict::Lagging {
    work: Work::PcpuTimers(3),
    overdue_ns: 508 * NS_PER_MS,
};
const SERVED: Verdict = Verdict::Served { excused: None };

#[test]
fn only_fresh_and_served_evidence_kicks() {
    let unknown = Verdict::Unknown(Unknown::NoPcpu);
    let cases = [
        (SERVED, 0, true),
        (SERVED, 250, true),
        (SERVED, 251, false),
        (LAG, 0, false),
        (unknown, 0, false),
    ];
    for (verdict, age_ns, kicks) in cases {
        let decision = decide(verdict, age_ns, 250);
        assert_eq!(decision == Decision::Kick, kicks, "{verdict:?} {age_ns}");
    }
}

#[test]
fn a_reason_names_the_work_and_its_age() {
    let Decision::Withhold(reason) = decide(LAG, 0, 250) else {
        panic!("kicked");
    };
    let text = "timers of pcpu 3 not serviced for 508 ms";
    assert_eq!(reason.to_string(), text);
}

#[test]
fn only_who_is_inhibited_kicks_against_the_evidence() {
    let withhold = decide(LAG, 0, 250);
    assert_eq!(overrule(withhold, false, None), withhold);
    assert_eq!(overrule(withhold, true, None), Decision::Kick);
    assert_eq!(overrule(Decision::Kick, false, None), Decision::Kick);
    // But not against a strict lease, which is named then.
    let name = LeaseName::new("pool").expect("a name");
    let lapsed = Reason::Lease {
        name,
        overdue_ns: 1,
    };
    let by_lease = Decision::Withhold(lapsed);
    assert_eq!(overrule(by_lease, true, Some(lapsed)), by_lease);
    assert_eq!(overrule(withhold, true, Some(lapsed)), by_lease);
    assert_eq!(overrule(by_lease, true, None), Decision::Kick);
}

// SPDX-License-Identifier: GPL-2.0-only
//! What is written down of the host watchdog while the host runs.
#![allow(clippy::expect_used)] // how tests fail

use xenwarden::event::{Coverage, Kind, Unkicked};
use xenwarden::guard::evidence::Work;
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{Counters, Info, Phase, Status, View};
use xenwarden::monitor::host_state::{of_event, of_page};
use xenwarden::state::reset_reason::HostState;
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const LOOKED: Monotonic = Monotonic(100 * NS_PER_S);

fn view(phase: Phase, decision: Decision) -> View {
    View {
        info: Info {
            pid: 7,
            started: Monotonic(5),
            device: "/dev/watchdog0".into(),
            identity: String::new(),
            timeout_ns: 5 * NS_PER_S,
            latest_ns: 5 * NS_PER_S,
            period_ns: NS_PER_S / 4,
            coverage: Coverage::Full,
            xen_slot: false,
            weakness: String::new(),
        },
        status: Status {
            phase,
            looked: LOOKED,
            decision,
            since: LOOKED,
            last_kick: LOOKED,
            served: Monotonic(0),
            answered: Monotonic(0),
            excused: None,
            inhibited: None,
            ignored: None,
            entries: 2,
            counters: Counters::default(),
        },
    }
}

#[test]
fn a_guard_that_is_back_and_withholds_still_says_why() {
    let reason = Reason::Lagging {
        work: Work::PcpuTimers(3),
        overdue_ns: 700_000_000,
    };
    let back = Kind::HostGuardBack { silent_ms: 1_200 };
    let withheld = HostState::Withholding {
        reason: reason.to_string(),
        cause: Unkicked::Withheld,
    };
    let withholds = of_page(&view(Phase::Armed, Decision::Withhold(reason)), LOOKED);
    assert_eq!(of_event(&back, Some(withholds.clone())), Some(withheld));
    let kicks = of_page(&view(Phase::Armed, Decision::Kick), LOOKED);
    assert_eq!(of_event(&back, Some(kicks)), Some(HostState::Armed));
    assert_eq!(of_event(&back, None), None);
    // Nor does it matter that the guard which withheld has been silent since.
    let later = view(Phase::Armed, Decision::Withhold(reason));
    let now = of_page(&later, LOOKED.plus_ns(9 * NS_PER_S));
    assert_eq!(now, withholds);
    let silent = Kind::HostGuardSilent { silent_ms: 9_000 };
    assert_eq!(of_event(&silent, Some(now)), Some(withholds));
}

#[test]
fn a_page_on_which_no_kick_arrives_any_more_is_not_that_of_a_kicked_host() {
    let armed = view(Phase::Armed, Decision::Kick);
    assert_eq!(of_page(&armed, LOOKED), HostState::Armed);
    let shutdown = view(Phase::Shutdown, Decision::Kick);
    assert_eq!(
        of_page(&shutdown, LOOKED.plus_ns(9 * NS_PER_S)),
        HostState::Shutdown
    );
    let told = Kind::HostShutdown {
        resets_within_ms: 600_000,
    };
    assert_eq!(of_event(&told, None), Some(HostState::Shutdown));
    let mut refused = armed.clone();
    refused.status.last_kick = Monotonic(LOOKED.0 - 3 * NS_PER_S);
    let cases = [
        (
            armed,
            LOOKED.plus_ns(3 * NS_PER_S),
            "hangs or is gone",
            Unkicked::GuardSilent,
        ),
        (refused, LOOKED, "kicks do not reach", Unkicked::KickRefused),
        (
            view(Phase::StillArmed, Decision::Kick),
            LOOKED.plus_ns(3 * NS_PER_S),
            "without disarming",
            Unkicked::DisarmFailed,
        ),
    ];
    for (view, now, expected, why) in cases {
        match of_page(&view, now) {
            HostState::Withholding { reason, cause } => {
                assert!(reason.contains(expected), "{reason}");
                assert_eq!(cause, why, "{reason}");
            }
            state => panic!("{state:?}, not {expected}"),
        }
    }
}

#[test]
fn each_way_in_which_kicks_end_is_told_apart() {
    let error = || "EIO".to_owned();
    let cases = [
        (
            Kind::HostWithhold {
                reason: "timers of pcpu 1".to_owned(),
                last_kick_age_ms: 0,
                left_ms: 0,
            },
            Unkicked::Withheld,
        ),
        (
            Kind::HostKickRefused {
                error: error(),
                count: 1,
            },
            Unkicked::KickRefused,
        ),
        (
            Kind::HostDisarmFailed {
                error: error(),
                within_ms: None,
            },
            Unkicked::DisarmFailed,
        ),
        (
            Kind::HostGuardSilent { silent_ms: 1_100 },
            Unkicked::GuardSilent,
        ),
    ];
    for (what, why) in cases {
        let state = of_event(&what, None);
        assert!(
            matches!(state, Some(HostState::Withholding { cause, .. }) if cause == why),
            "{what:?}: {state:?}"
        );
    }
}

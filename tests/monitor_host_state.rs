// SPDX-License-Identifier: GPL-2.0-only
//! What is written down of the host while it runs, and what the next boot makes of it.
#![allow(clippy::expect_used)] // how tests fail

use xenwarden::event::{Coverage, Kind, Timestamp};
use xenwarden::guard::evidence::Work;
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{Counters, Info, Phase, Status, View};
use xenwarden::monitor::host_state::{of_event, of_page};
use xenwarden::state::reset_reason::{HostRecord, HostState, UNANNOUNCED};
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
            weakness: String::new(),
        },
        status: Status {
            phase,
            looked: LOOKED,
            decision,
            since: LOOKED,
            last_kick: LOOKED,
            served: Monotonic(0),
            excused: None,
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
    let mut refused = armed.clone();
    refused.status.last_kick = Monotonic(LOOKED.0 - 3 * NS_PER_S);
    let cases = [
        (armed, LOOKED.plus_ns(3 * NS_PER_S), "hangs or is gone"),
        (refused, LOOKED, "kicks do not reach"),
        (
            view(Phase::StillArmed, Decision::Kick),
            LOOKED,
            "without disarming",
        ),
    ];
    for (view, now, expected) in cases {
        match of_page(&view, now) {
            HostState::Withholding { reason } => assert!(reason.contains(expected), "{reason}"),
            state => panic!("{state:?}, not {expected}"),
        }
    }
}

#[test]
fn a_reset_is_explained_unless_the_watchdog_was_disarmed_or_the_boot_is_the_same() {
    let withheld = HostState::Withholding {
        reason: "pCPU 3 is not serviced".to_owned(),
    };
    let cases = [
        (HostState::Armed, "old", Some(UNANNOUNCED)),
        (withheld.clone(), "old", Some("pCPU 3 is not serviced")),
        (HostState::Disarmed, "old", None),
        (HostState::Armed, "new", None),
        (withheld, "new", None),
        (HostState::Armed, "", None),
    ];
    for (state, boot, expected) in cases {
        let time = Timestamp(1_000);
        let words = HostRecord::new(boot, time, state);
        let json = serde_json::to_string(&words).expect("JSON");
        let read: HostRecord = serde_json::from_str(&json).expect("as written");
        assert_eq!(read, words);
        let told = read.reset_reason("new", Some(true));
        let expected = expected.map(|reason| Kind::HostResetReason {
            reason: reason.to_owned(),
            last_seen: time,
            watchdog_fired: Some(true),
        });
        assert_eq!(told, expected, "{words:?}");
    }
}

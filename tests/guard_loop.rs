// SPDX-License-Identifier: GPL-2.0-only
//! The kick path seen from the device and from the guard page, in virtual time: which kicks
//! arrive, and what is told, when the hypervisor, the device or a stop change the story.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod guard_stage;

use guard_stage::{Device, EIO, Handle, PERIOD_NS, START_NS, Stage, Turn, play};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use xenwarden::event::Coverage;
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{EntryKind, Phase, Status, Writer};
use xenwarden::guard::run::{next_tick, run};
use xenwarden::guard::sight::Sight;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo};
use xenwarden::xen::simulation::Simulation;

#[test]
fn a_wedge_stops_the_kicks_and_its_end_resumes_them() {
    let mut kicks = Vec::new();
    let outcome = play(|turn, _, device| {
        kicks.push(device.kicks.get());
        match turn {
            100..120 => Turn::Wedged,
            140.. => Turn::Stop,
            _ => Turn::Served,
        }
    });
    // The canary's period and the slack, in looks; then not a kick until it is served.
    assert_eq!(kicks[104], kicks[103] + 1);
    assert_eq!(kicks[119], kicks[107], "kicked while withheld");
    assert_eq!(kicks[125], kicks[119] + 6);
    let kinds = outcome.kinds();
    assert!(
        matches!(
            kinds[..],
            [
                EntryKind::Withhold(Reason::Lagging {
                    work: Work::PcpuTimers(_),
                    ..
                }),
                EntryKind::Resume,
                EntryKind::Disarmed
            ]
        ),
        "one entry a change, not one a look: {kinds:?}"
    );
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.counters.kicks, outcome.device.kicks.get());
    assert_eq!(
        status.counters.withholds, 2,
        "the first looks, and the wedge"
    );
    let counted = [99, 115, 125].map(|turn: usize| outcome.statuses[turn].counters.withholds);
    assert_eq!(counted, [1, 2, 2], "when it begins, not when it ends");
    assert_eq!(status.counters.looks, 141);
    let gap_ns = status.counters.max_gap_ns;
    assert!((13..=20).contains(&(gap_ns / PERIOD_NS)), "{gap_ns}");
    let [.., withhold, resume, _] = outcome.entries[..] else {
        panic!("entries");
    };
    assert_eq!(
        outcome.statuses[119].since, withhold.at,
        "through the wedge"
    );
    assert_eq!(status.since, resume.at, "and from its end on");
}

#[test]
fn a_resume_tells_the_kick_before_it() {
    let outcome = play(|turn, _, _| match turn {
        100..115 => Turn::Wedged,
        130.. => Turn::Stop,
        _ => Turn::Served,
    });
    let last = outcome.entries.iter().rev();
    let resume = last.skip_while(|entry| entry.kind != EntryKind::Resume);
    let resume = resume.take(1).next().expect("resumed");
    let gap_ns = resume.at.since_ns(resume.last_kick);
    assert!((8..=15).contains(&(gap_ns / PERIOD_NS)), "{gap_ns}");
}

#[test]
fn a_stop_disarms_a_served_host() {
    let outcome = play(|turn, _, _| if turn > 20 { Turn::Stop } else { Turn::Served });
    assert!(outcome.device.disarmed.get() && matches!(outcome.ended, LetGo::Disarmed));
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.phase, Phase::Disarmed);
}

#[test]
fn a_stop_does_not_disarm_a_host_that_is_withheld() {
    let mut disarmed = Vec::new();
    let outcome = play(|turn, _, device| {
        disarmed.push(device.disarmed.get());
        match turn {
            50..60 => Turn::Wedged,
            60..90 => Turn::StopWedged,
            _ => Turn::Served,
        }
    });
    let phases: Vec<Phase> = outcome.statuses.iter().map(|s| s.phase).collect();
    assert!(phases[..60].iter().all(|phase| *phase == Phase::Armed));
    assert!(phases[60..].iter().all(|phase| *phase == Phase::Stopping));
    assert!(disarmed.len() >= 90, "it waits until the host is served");
    assert!(disarmed.iter().all(|disarmed| !disarmed), "while withheld");
    assert!(outcome.device.disarmed.get(), "once served");
}

#[test]
fn a_shutdown_leaves_the_device_to_reset_what_hangs_but_not_on_a_host_that_is_withheld() {
    let mut ended = Vec::new();
    let outcome = play(|turn, _, device| {
        ended.push(device.ended.get());
        match turn {
            50..60 => Turn::Wedged,
            // Asked for once, it stays a shutdown.
            60 => Turn::ShutdownWedged,
            61..90 => Turn::Wedged,
            _ => Turn::Served,
        }
    });
    assert!(ended.len() >= 90, "it waits until the host is served");
    assert!(ended.iter().all(Option::is_none), "while withheld");
    assert_eq!(outcome.device.ended.get(), Some(Ends::Shutdown));
    assert!(!outcome.device.disarmed.get());
    let within_s = 600;
    assert!(matches!(outcome.ended, LetGo::Shutdown { .. }));
    let last = outcome.kinds().pop();
    assert_eq!(last, Some(EntryKind::Shutdown { within_s }));
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.phase, Phase::Shutdown);
}

#[test]
fn refused_kicks_are_told_when_they_begin_each_minute_and_when_they_end() {
    let outcome = play(|turn, _, device| {
        device.refuses.set((100..600).contains(&turn));
        if turn > 700 { Turn::Stop } else { Turn::Served }
    });
    let refused = |count| EntryKind::Refused { errno: EIO, count };
    let expected = [
        refused(1),
        refused(241),
        refused(481),
        EntryKind::Taken { refused: 500 },
        EntryKind::Disarmed,
    ];
    assert_eq!(outcome.kinds(), expected);
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.counters.refused, 500);
    assert_eq!(status.counters.max_gap_ns, 501 * PERIOD_NS);
    assert_eq!(status.counters.kicks, outcome.device.kicks.get());
    let last_kick = |turn: usize| outcome.statuses[turn].last_kick;
    assert_eq!(last_kick(98).0, START_NS + 98 * PERIOD_NS);
    assert_eq!(last_kick(599), last_kick(99), "none was taken since");
    let taken = outcome.entries.iter().rev().nth(1).expect("an entry");
    assert_eq!(taken.last_kick, last_kick(99));
}

#[test]
fn a_device_that_cannot_be_disarmed_is_told_and_is_an_error() {
    let outcome = play(|turn, _, device| {
        device.refuses.set(turn > 20);
        if turn > 20 { Turn::Stop } else { Turn::Served }
    });
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.phase, Phase::StillArmed);
    let LetGo::Runs { error, .. } = &outcome.ended else {
        panic!("refused");
    };
    assert_eq!(error.raw_os_error(), Some(EIO));
    let last = outcome.kinds().pop();
    assert_eq!(
        last,
        Some(EntryKind::DisarmFailed {
            errno: EIO,
            within_s: 0
        })
    );
}

#[test]
fn a_guard_held_up_between_looking_and_kicking_does_not_kick() {
    use xenwarden::guard::gate::decide;
    let served = Verdict::Served { excused: None };
    assert_eq!(decide(served, PERIOD_NS, PERIOD_NS), Decision::Kick);
    assert_ne!(decide(served, PERIOD_NS + 1, PERIOD_NS), Decision::Kick);
}

#[test]
fn ticks_that_were_missed_are_not_made_up_for() {
    let next = |now| next_tick(Monotonic(1_000), Monotonic(now), 250).0;
    assert_eq!([1_000, 1_100, 1_250].map(next), [1_250; 3]);
    assert_eq!([1_251, 9_000].map(next), [1_251, 9_000]);
    // A kick that took ten periods is followed by one look, not by ten.
    let outcome = play(|turn, _, device| {
        device
            .kick_takes
            .set(if turn == 30 { 10 * PERIOD_NS } else { 0 });
        if turn > 40 { Turn::Stop } else { Turn::Served }
    });
    let looked: Vec<u64> = outcome.statuses.iter().map(|s| s.looked.0).collect();
    assert_eq!(looked[31] - looked[30], 10 * PERIOD_NS);
    assert_eq!(looked[32] - looked[31], PERIOD_NS);
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.counters.max_kick_ns, 10 * PERIOD_NS);
}

#[test]
fn the_clock_is_read_as_a_look_begins_as_it_ends_and_after_the_kick() {
    let outcome = play(|turn, _, device| {
        // Each reading takes a nanosecond, and nothing else any time.
        device.reading_takes.set(1);
        if turn > 20 { Turn::Stop } else { Turn::Served }
    });
    let kicked = |status: &&Status| status.decision == Decision::Kick;
    let statuses: Vec<&Status> = outcome.statuses.iter().skip(2).filter(kicked).collect();
    assert!(statuses.len() > 10);
    for status in statuses {
        assert_eq!(status.served.since_ns(status.looked), 1);
        assert_eq!(status.answered.since_ns(status.looked), 2);
    }
}

#[test]
fn the_longest_look_and_kick_are_kept() {
    const MS: u64 = NS_PER_MS;
    let outcome = play(|turn, _, device| {
        device
            .reading_takes
            .set(if turn == 20 { 3 * MS } else { 0 });
        device.kick_takes.set(if turn == 30 { 7 * MS } else { MS });
        if turn > 40 { Turn::Stop } else { Turn::Served }
    });
    let counters = outcome.page.status().expect("a status").counters;
    // The clock is read as a look begins, and as it ends and is decided on.
    assert_eq!(counters.max_look_ns, 3 * MS);
    assert_eq!(counters.max_kick_ns, 7 * MS);
    let took = counters.kick_took;
    assert_eq!(took.counts.iter().sum::<u64>(), counters.kicks);
    // One of 7 ms, one in which reading the clock took 3 ms, the others of one or none.
    let [at_once, _, of_one, of_four, of_seven, ..] = took.counts;
    assert_eq!((of_four, of_seven), (1, 1));
    assert_eq!(at_once + of_one, counters.kicks - 2);
    assert_eq!(took.sum_ns, (of_one + 4 + 7) * MS);
    assert_eq!(counters.late.counts.iter().sum::<u64>(), counters.looks);
}

#[test]
fn a_scheduler_that_is_excused_is_told_once_and_shown_for_as_long_as_it_is() {
    let outcome = play(|turn, xen, _| {
        xen.excuse(u32::from(matches!(turn, 20..30 | 50..60)));
        match turn {
            20..30 | 50..60 => Turn::Undecided,
            80.. => Turn::Stop,
            _ => Turn::Served,
        }
    });
    let excused = EntryKind::Excused(Work::PcpuScheduler(0));
    assert_eq!(outcome.kinds(), [excused, excused, EntryKind::Disarmed]);
    let shown = |turn: usize| outcome.statuses[turn].excused;
    assert_eq!(shown(22), None, "within the slack");
    assert_eq!([23, 29].map(shown), [Some(Work::PcpuScheduler(0)); 2]);
    assert_eq!(shown(30), None);
    let kicks = outcome.page.status().expect("a status").counters.kicks;
    assert_eq!(kicks, outcome.device.kicks.get());
}

#[test]
fn another_cause_is_told_and_the_same_is_not() {
    let outcome = play(|turn, xen, _| match turn {
        106 => {
            xen.request(0);
            Turn::Wedged
        }
        // Timers run again, and the scheduler owes an answer still.
        115..120 => {
            (0..2).for_each(|cpu| xen.canary(cpu));
            Turn::Wedged
        }
        100..115 => Turn::Wedged,
        150.. => Turn::Stop,
        _ => Turn::Served,
    });
    let told = outcome.kinds().into_iter().map_while(|kind| match kind {
        EntryKind::Withhold(Reason::Lagging { work, .. }) => Some(work),
        _ => None,
    });
    let expected = [Work::PcpuTimers(0), Work::PcpuScheduler(0)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let withholds = outcome.page.status().expect("a status").counters.withholds;
    assert_eq!(withholds, 2, "the first looks, and this one");
    let stale = |age_ns| Reason::Unknown(Unknown::Stale { age_ns });
    assert!(stale(1).same_cause(&stale(2)), "whatever its age");
    assert!(!stale(1).same_cause(&Reason::Unknown(Unknown::NoPcpu)));
    let lagging = |work, overdue_ns| Reason::Lagging { work, overdue_ns };
    let timers = Work::PcpuTimers;
    assert!(lagging(timers(1), 1).same_cause(&lagging(timers(1), 2)));
    assert!(!lagging(timers(1), 1).same_cause(&lagging(timers(2), 1)));
}

/// Evidence that stays away for as long as the test says: whatever hangs in it.
struct Holds<'a> {
    looks: u64,
    hold: &'a dyn Fn(u64),
}

impl Sight for Holds<'_> {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        let began = clock();
        self.looks += 1;
        (self.hold)(self.looks);
        (Verdict::Served { excused: None }, began)
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial
    }
}

#[test]
fn a_look_that_does_not_return_ends_the_kicks_and_what_it_says_when_it_does_is_too_old() {
    let xen = Simulation::new(1);
    let device = Rc::new(Device::default());
    device.now.set(START_NS);
    let mut page = Writer::private().expect("a page");
    let reader = page.reader();
    let held = Cell::new(0);
    let hold = |look| {
        if look == 10 {
            // Nothing else in the process kicks meanwhile, and the page shows the look before.
            held.set(device.kicks.get());
            let status = reader.status().expect("a status");
            assert_eq!((status.counters.looks, status.phase), (9, Phase::Armed));
            device.now.set(device.now.get() + 60_000 * NS_PER_MS);
        }
    };
    let mut kicks = Vec::new();
    let mut script = |turn, _: &Simulation, device: &Device| {
        kicks.push(device.kicks.get());
        if turn < 20 { Turn::Served } else { Turn::Stop }
    };
    let mut stage = Stage::new(&xen, &device, &mut script);
    let mut sight = Holds {
        looks: 0,
        hold: &hold,
    };
    let armed = Monotonic(START_NS);
    let watchdog = Handle(Rc::clone(&device));
    let ended = run(
        watchdog, &mut sight, &mut stage, &mut page, armed, PERIOD_NS,
    );
    assert!(matches!(ended, LetGo::Disarmed));
    assert_eq!(held.get(), 9, "one kick a look until then");
    assert_eq!(kicks[9..11], [9, 10], "none for what is a minute old");
    let entries: Vec<_> = reader.entries(0).entries.iter().map(|e| e.kind).collect();
    let stale = |kind: &EntryKind| {
        matches!(
            kind,
            EntryKind::Withhold(Reason::Unknown(Unknown::Stale { .. }))
        )
    };
    assert!(stale(&entries[1]), "{entries:?}");
    assert_eq!(entries[2..], [EntryKind::Resume, EntryKind::Disarmed]);
}

#[test]
fn what_was_served_last_is_told_whether_or_not_the_device_takes_kicks() {
    let outcome = play(|turn, _, device| {
        device.refuses.set((50..60).contains(&turn));
        match turn {
            100..120 => Turn::Wedged,
            140.. => Turn::Stop,
            _ => Turn::Served,
        }
    });
    let Status {
        served, last_kick, ..
    } = outcome.statuses[55];
    assert_eq!(
        served.since_ns(last_kick),
        6 * PERIOD_NS,
        "the gate said kick"
    );
    let [begun, wedged] = [103, 119].map(|turn: usize| outcome.statuses[turn].served);
    let served_ns = wedged.since_ns(begun);
    assert!(
        served_ns < 6 * PERIOD_NS,
        "not while it is withheld: {served_ns}"
    );
    let resumed = outcome.statuses[130];
    assert_eq!(resumed.served, resumed.last_kick);
}

/// A device that shows, in the midst of a kick, what the page tells then.
struct Slow<'a> {
    device: Handle,
    during: &'a dyn Fn(),
}

impl HostWatchdog for Slow<'_> {
    fn kick(&mut self) -> io::Result<()> {
        (self.during)();
        self.device.kick()
    }

    fn disarm(self) -> io::Result<()> {
        self.device.disarm()
    }
}

#[test]
fn a_kick_is_told_before_it_and_once_the_device_has_answered() {
    let xen = Simulation::new(1);
    let device = Rc::new(Device::default());
    device.now.set(START_NS);
    device.kick_takes.set(100 * NS_PER_MS);
    let mut page = Writer::private().expect("a page");
    let reader = page.reader();
    let before = Cell::new(Monotonic(0));
    let during = || {
        let Some(status) = reader.status() else {
            panic!("nothing told");
        };
        assert_eq!(status.served.0, device.now.get(), "the gate has said kick");
        assert!(
            status.answered < status.served,
            "the device has not answered"
        );
        before.set(status.served);
    };
    let mut kicked = 0;
    let mut script = |turn, _: &Simulation, _: &Device| {
        let Status {
            served, answered, ..
        } = reader.status().expect("a status");
        assert_eq!(served, before.get());
        assert_eq!(answered.since_ns(served), 100 * NS_PER_MS);
        kicked += 1;
        if turn < 5 { Turn::Served } else { Turn::Stop }
    };
    let mut stage = Stage::new(&xen, &device, &mut script);
    let mut sight = Holds {
        looks: 0,
        hold: &|_| {},
    };
    let watchdog = Slow {
        device: Handle(Rc::clone(&device)),
        during: &during,
    };
    let armed = Monotonic(START_NS - 1);
    run(
        watchdog, &mut sight, &mut stage, &mut page, armed, PERIOD_NS,
    );
    assert_eq!(kicked, 5);
}

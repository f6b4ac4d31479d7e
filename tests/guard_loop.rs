// SPDX-License-Identifier: GPL-2.0-only
//! The kick path seen from the device and from the guard page, in virtual time: which kicks
//! arrive, and what is told, when the hypervisor, the device or a stop change the story.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use xenwarden::guard::evidence::Work;
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{Entry, EntryKind, Phase, Reader, Writer};
use xenwarden::guard::run::{World, run};
use xenwarden::guard::sight::Patched;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::watchdog::HostWatchdog;
use xenwarden::xen::simulation::Simulation;

const PERIOD_NS: u64 = 250 * NS_PER_MS;
const EIO: i32 = 5;

/// What the device sees, and how it answers.
#[derive(Default)]
struct Device {
    kicks: Cell<u64>,
    disarmed: Cell<bool>,
    refuses: Cell<bool>,
}

struct Handle(Rc<Device>);

impl HostWatchdog for Handle {
    fn kick(&mut self) -> io::Result<()> {
        if self.0.refuses.get() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.0.kicks.set(self.0.kicks.get() + 1);
        Ok(())
    }

    fn disarm(self) -> io::Result<()> {
        if self.0.refuses.get() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.0.disarmed.set(true);
        Ok(())
    }
}

/// Time that passes only when the guard sleeps; then the script has its turn.
struct Stage<'a> {
    xen: &'a Simulation,
    device: Rc<Device>,
    now: Cell<Monotonic>,
    turn: u64,
    stop: bool,
    looked: u64,
    /// What a turn does; a host that ticks is the rule.
    script: &'a mut dyn FnMut(u64, &Simulation, &Device) -> Turn,
}

#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Served,
    /// No pCPU runs a timer.
    Wedged,
    /// Everything is served, and somebody asks the guard to stop.
    Stop,
    /// Nothing is, likewise.
    StopWedged,
}

impl World for Stage<'_> {
    fn now(&self) -> Monotonic {
        self.now.get()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        self.now.set(when);
        self.turn += 1;
        assert!(self.turn < 100_000, "the guard never ends");
        let turn = (self.script)(self.turn, self.xen, &self.device);
        if matches!(turn, Turn::Served | Turn::Stop) {
            self.xen.tick_all();
        }
        self.stop |= matches!(turn, Turn::Stop | Turn::StopWedged);
    }

    fn stops(&self) -> bool {
        self.stop
    }

    fn looked(&mut self) {
        self.looked += 1;
    }
}

struct Outcome {
    device: Rc<Device>,
    page: Reader,
    entries: Vec<Entry>,
    ended: io::Result<()>,
}

/// Runs a guard over a host that was seen to make progress, as the script says.
fn play(mut script: impl FnMut(u64, &Simulation, &Device) -> Turn) -> Outcome {
    let xen = Simulation::new(2);
    let device = Rc::new(Device::default());
    let mut page = Writer::private().expect("a page");
    let reader = page.reader();
    let collected = RefCell::new((Vec::new(), 0));
    let collect = |reader: &Reader| {
        let (entries, next) = &mut *collected.borrow_mut();
        let new = reader.entries(*next);
        entries.extend(new.entries);
        assert_eq!(new.lost, 0);
        *next = new.next;
    };
    let mut collecting = |turn, xen: &Simulation, device: &Device| {
        collect(&reader);
        script(turn, xen, device)
    };
    let mut stage = Stage {
        xen: &xen,
        device: Rc::clone(&device),
        now: Cell::new(Monotonic(1_000_000 * NS_PER_MS)),
        turn: 0,
        stop: false,
        looked: 0,
        script: &mut collecting,
    };
    let mut sight = Patched::new(xen.table());
    let armed = stage.now();
    let ended = run(
        Handle(Rc::clone(&device)),
        &mut sight,
        &mut stage,
        &mut page,
        armed,
        PERIOD_NS,
    );
    assert_eq!(
        stage.looked, stage.turn,
        "the service manager is told after each look"
    );
    collect(&reader);
    let entries = collected.take().0;
    Outcome {
        device,
        page: reader,
        entries,
        ended,
    }
}

impl Outcome {
    /// What was told after the arming and the first looks, which prove nothing yet.
    fn kinds(&self) -> Vec<EntryKind> {
        let kinds = self.entries.iter().map(|entry| entry.kind);
        let told = kinds.skip_while(|kind| *kind != EntryKind::Resume).skip(1);
        told.collect()
    }
}

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
    assert!(outcome.device.disarmed.get() && outcome.ended.is_ok());
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
    assert!(disarmed.iter().all(|disarmed| !disarmed), "while withheld");
    assert!(outcome.device.disarmed.get(), "once served");
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
    assert!(status.counters.max_gap_ns >= 500 * PERIOD_NS);
}

#[test]
fn a_device_that_cannot_be_disarmed_is_told_and_is_an_error() {
    let outcome = play(|turn, _, device| {
        device.refuses.set(turn > 20);
        if turn > 20 { Turn::Stop } else { Turn::Served }
    });
    let status = outcome.page.status().expect("a status");
    assert_eq!(status.phase, Phase::StillArmed);
    let refused = outcome.ended.as_ref().expect_err("refused");
    assert_eq!(refused.raw_os_error(), Some(EIO));
    let last = outcome.kinds().pop();
    assert_eq!(last, Some(EntryKind::DisarmFailed { errno: EIO }));
}

#[test]
fn a_guard_held_up_between_looking_and_kicking_does_not_kick() {
    use xenwarden::guard::evidence::Verdict;
    use xenwarden::guard::gate::decide;
    let served = Verdict::Served { excused: None };
    assert_eq!(decide(served, PERIOD_NS, PERIOD_NS), Decision::Kick);
    assert_ne!(decide(served, PERIOD_NS + 1, PERIOD_NS), Decision::Kick);
}

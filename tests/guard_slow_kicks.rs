// SPDX-License-Identifier: GPL-2.0-only
//! A device that takes its time for a kick (a BMC): whoever reads the guard page meanwhile sees a guard that
//! lives and kicks, and one that hangs in a kick is not taken for such a device.
#![allow(clippy::expect_used)] // how tests fail

mod guard_stage;
mod guard_told;

use guard_stage::{Device, Handle, PERIOD_NS, START_NS, Stage, Turn};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use xenwarden::control::status::{decision, is_silent};
use xenwarden::guard::page::{Info, Reader, Writer};
use xenwarden::guard::run::run;
use xenwarden::guard::sight::Patched;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::watchdog::HostWatchdog;
use xenwarden::xen::simulation::Simulation;

/// What somebody sees on the page, with how long a kick has gone on by then, ms.
type Seen = (u64, bool, Option<String>);

/// A device whose kicks take so long, and somebody who looks at the page all the while.
struct Slow {
    handle: Handle,
    takes_ms: u64,
    page: Reader,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Slow {
    fn look(&self, kicking_ms: u64) {
        let view = self.page.view().expect("a page");
        let now = Monotonic(self.handle.0.now.get());
        let told = decision(&view, now);
        let seen = (kicking_ms, is_silent(&view, now), told.reason);
        self.seen.borrow_mut().push(seen);
    }
}

impl HostWatchdog for Slow {
    fn kick(&mut self) -> io::Result<()> {
        let now = &self.handle.0.now;
        for passed_ms in 0..self.takes_ms {
            if passed_ms % 50 == 0 {
                self.look(passed_ms);
            }
            now.set(now.get() + NS_PER_MS);
        }
        self.look(self.takes_ms);
        self.handle.kick()
    }

    fn disarm(self) -> io::Result<()> {
        self.handle.disarm()
    }
}

/// What is seen while a guard kicks such a device forty times.
fn watched(takes_ms: u64) -> Vec<Seen> {
    let xen = Simulation::new(1);
    let device = Rc::new(Device::default());
    device.now.set(START_NS);
    device.reading_takes.set(1);
    let mut page = Writer::private().expect("a page");
    page.info(&Info {
        timeout_ns: 5 * NS_PER_S,
        period_ns: PERIOD_NS,
        ..guard_told::info()
    });
    let seen = Rc::new(RefCell::new(Vec::new()));
    let slow = Slow {
        handle: Handle(Rc::clone(&device)),
        takes_ms,
        page: page.reader(),
        seen: Rc::clone(&seen),
    };
    // Between two turns, too.
    let between = Slow {
        handle: Handle(Rc::clone(&device)),
        takes_ms,
        page: page.reader(),
        seen: Rc::clone(&seen),
    };
    let mut script = |turn, _: &Simulation, device: &Device| {
        if device.kicks.get() != 0 {
            between.look(0);
        }
        if turn < 40 { Turn::Served } else { Turn::Stop }
    };
    let mut stage = Stage::new(&xen, &device, &mut script);
    let mut sight = Patched::new(xen.table());
    run(
        slow,
        &mut sight,
        &mut stage,
        &mut page,
        Monotonic(START_NS),
        PERIOD_NS,
    );
    // From the first kick that was taken on: before it the guard had proved nothing.
    let all = seen.take();
    let first = all.iter().position(|seen| seen.0 == takes_ms);
    all.into_iter().skip(first.expect("a kick") + 1).collect()
}

#[test]
fn a_guard_whose_kicks_take_long_is_neither_silent_nor_said_not_to_kick() {
    for takes_ms in [0, 50, 600, 1_000, 1_800, 2_400] {
        let seen = watched(takes_ms);
        assert!(seen.len() > 30);
        let strange = seen.iter().find(|seen| seen.1 || seen.2.is_some());
        assert_eq!(strange, None, "kicks take {takes_ms} ms");
    }
}

#[test]
fn a_kick_that_does_not_return_is_told_well_before_the_device_fires() {
    let seen = watched(4_500);
    let told = |seen: &&Seen| seen.1 && seen.2.is_some();
    let first = seen.iter().find(told).expect("told");
    assert!((2_500..=2_600).contains(&first.0), "{first:?}");
    let late = seen.iter().filter(|seen| seen.0 > first.0);
    assert!(late.clone().count() > 10 && late.clone().all(|seen| told(&seen)));
}

// SPDX-License-Identifier: GPL-2.0-only
//! The kick path on a stage: virtual time, a device and a hypervisor that a script moves.
#![allow(dead_code)] // each program plays on a part of it

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use xenwarden::guard::page::{Entry, EntryKind, Reader, Status, Writer};
use xenwarden::guard::run::{World, run};
use xenwarden::guard::sight::Patched;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo};
use xenwarden::xen::simulation::Simulation;

pub const PERIOD_NS: u64 = 250 * NS_PER_MS;
pub const START_NS: u64 = 1_000_000 * NS_PER_MS;
pub const EIO: i32 = 5;

/// What the device sees, and how it answers.
#[derive(Default)]
pub struct Device {
    pub kicks: Cell<u64>,
    pub disarmed: Cell<bool>,
    pub refuses: Cell<bool>,
    pub now: Cell<u64>,
    /// How long each reading of the clock, and each kick, takes from now on, ns.
    pub reading_takes: Cell<u64>,
    pub kick_takes: Cell<u64>,
    /// Until when an operator inhibits the guard, or 0.
    pub inhibited: Cell<u64>,
    /// A strict lease runs.
    pub promised: Cell<bool>,
    /// For what it was let go of.
    pub ended: Cell<Option<Ends>>,
}

pub struct Handle(pub Rc<Device>);

impl HostWatchdog for Handle {
    fn kick(&mut self) -> io::Result<()> {
        self.0.now.set(self.0.now.get() + self.0.kick_takes.get());
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

    fn let_go(self, why: Ends) -> LetGo {
        self.0.ended.set(Some(why));
        match (why, self.0.refuses.get()) {
            (Ends::Shutdown, false) => LetGo::Shutdown { within_s: 600 },
            _ => self.disarm().into(),
        }
    }
}

/// Time that passes only when the guard sleeps; then the script has its turn.
pub struct Stage<'a> {
    pub xen: &'a Simulation,
    pub device: Rc<Device>,
    pub turn: u64,
    pub ends: Option<Ends>,
    pub looked: u64,
    /// What a turn does; a host that ticks is the rule.
    pub script: &'a mut dyn FnMut(u64, &Simulation, &Device) -> Turn,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Turn {
    Served,
    /// No pCPU runs a timer.
    Wedged,
    /// Timers run, and no scheduler decides.
    Undecided,
    /// Everything is served, and somebody asks the guard to stop.
    Stop,
    /// Nothing is, likewise.
    StopWedged,
    /// Nothing is, as the host shuts down.
    ShutdownWedged,
}

impl<'a> Stage<'a> {
    /// Before its first turn.
    pub fn new(
        xen: &'a Simulation,
        device: &Rc<Device>,
        script: &'a mut dyn FnMut(u64, &Simulation, &Device) -> Turn,
    ) -> Self {
        Self {
            xen,
            device: Rc::clone(device),
            turn: 0,
            ends: None,
            looked: 0,
            script,
        }
    }
}

impl World for Stage<'_> {
    fn now(&self) -> Monotonic {
        let Device {
            now, reading_takes, ..
        } = &*self.device;
        Monotonic(now.replace(now.get() + reading_takes.get()))
    }

    fn sleep_until(&mut self, when: Monotonic) {
        self.device.now.set(when.0);
        self.turn += 1;
        assert!(self.turn < 100_000, "the guard never ends");
        let turn = (self.script)(self.turn, self.xen, &self.device);
        if matches!(turn, Turn::Served | Turn::Stop) {
            self.xen.tick_all();
        }
        if turn == Turn::Undecided {
            for cpu in 0..2 {
                self.xen.canary(cpu);
                self.xen.request(cpu);
            }
        }
        self.ends = match turn {
            Turn::Stop | Turn::StopWedged => Some(Ends::Stopped),
            Turn::ShutdownWedged => Some(Ends::Shutdown),
            _ => self.ends,
        };
    }

    fn ends(&self) -> Option<Ends> {
        self.ends
    }

    fn inhibited(&self, now: Monotonic) -> Option<Monotonic> {
        let until = Monotonic(self.device.inhibited.get());
        (now < until).then_some(until)
    }

    fn is_promised(&self) -> bool {
        self.device.promised.get()
    }

    fn looked(&mut self) {
        self.looked += 1;
    }
}

pub struct Outcome {
    pub device: Rc<Device>,
    pub page: Reader,
    pub entries: Vec<Entry>,
    /// After each look but the last.
    pub statuses: Vec<Status>,
    pub ended: LetGo,
}

/// Runs a guard over a host that was seen to make progress, as the script says.
pub fn play(mut script: impl FnMut(u64, &Simulation, &Device) -> Turn) -> Outcome {
    let xen = Simulation::new(2);
    let device = Rc::new(Device::default());
    let mut page = Writer::private().expect("a page");
    let reader = page.reader();
    let collected = RefCell::new((Vec::new(), 0));
    let mut statuses = Vec::new();
    let collect = |reader: &Reader| {
        let (entries, next) = &mut *collected.borrow_mut();
        let new = reader.entries(*next);
        entries.extend(new.entries);
        assert_eq!(new.lost, 0);
        *next = new.next;
    };
    let mut collecting = |turn, xen: &Simulation, device: &Device| {
        collect(&reader);
        statuses.push(reader.status().expect("a status"));
        script(turn, xen, device)
    };
    device.now.set(START_NS);
    let mut stage = Stage::new(&xen, &device, &mut collecting);
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
        statuses,
        ended,
    }
}

impl Outcome {
    /// What was told after the arming and the first looks, which prove nothing yet.
    pub fn kinds(&self) -> Vec<EntryKind> {
        let kinds = self.entries.iter().map(|entry| entry.kind);
        let told = kinds.skip_while(|kind| *kind != EntryKind::Resume).skip(1);
        told.collect()
    }
}

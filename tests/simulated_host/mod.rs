// SPDX-License-Identifier: GPL-2.0-only
//! A host in virtual time, and a guard on it: hypervisor, guests, devices, processes and clocks as
//! a schedule says. All that decides is the guard's own code; what is simulated is what it meets.
//!
//! Time passes where the guard sleeps, looks or kicks, and while none runs. A process that is
//! killed, and a host that is reset, unwind the guard where it stands.

pub mod device;
mod eyes;
pub mod plan;
mod random;

use eyes::Eyes;
use plan::{Act, Ailment, Event, GUESTS, PCPUS, Plan, Sleep};
use random::Random;
use std::cell::RefCell;
use std::panic::resume_unwind;
use uuid::Uuid;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS as MS, NS_PER_S as S};
use xenwarden::xen::simulation::Simulation;

/// The guard's clock when the host's time begins.
const START: u64 = 1_000_000 * MS;
const NEVER: u64 = u64::MAX;

/// What is due at what time: a place in the host's agenda for each.
const CANARY: usize = 0;
const DECIDES: usize = CANARY + PCPUS;
const GUEST: usize = DECIDES + PCPUS;
const HANDLER: usize = GUEST + GUESTS;
const FIRES: usize = HANDLER + GUESTS;
const AILS: usize = FIRES + 2;
const HEALS: usize = AILS + 1;
const KEYS: usize = HEALS + 1;
const KEYS_END: usize = KEYS + 1;
const OFFLINE: usize = KEYS_END + 1;
const ONLINE: usize = OFFLINE + 1;
const RESUMES: usize = ONLINE + 1;
const DUE: usize = RESUMES + 1;

/// Why a guard does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed.
    Killed,
    /// The host was reset.
    Reset,
    /// The schedule is at its end, or a promise is broken.
    Over,
}

/// A guest with one watchdog.
#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    timeout_s: u32,
    there: bool,
    armed: bool,
}

/// The host.
pub struct Host {
    pub plan: Plan,
    pub xen: Simulation,
    state: RefCell<State>,
}

struct State {
    now: u64,
    due: [u64; DUE],
    random: Random,
    online: [bool; PCPUS],
    guests: [Guest; GUESTS],
    timeout_s: [u32; 2],
    /// Devices that a sleep has stopped: no kick starts them.
    forgot: [bool; 2],
    asleep: Option<Sleep>,
    slept: u64,
    /// Starts after that which fail.
    failing_starts: usize,
    /// Kicks that were asked for while a guard guards.
    asked: u64,
    guards: bool,
    /// It guarded when the ailment began.
    guarded_when_ill: bool,
    ails: bool,
    keys: bool,
    event: Option<Event>,
    stops: bool,
    reset: Option<u64>,
    pinged: u64,
    /// It must not be reset from now on.
    must_live: bool,
    eyes: Eyes,
    sample: u64,
    broken: Option<String>,
    latest: Latest,
    story: Option<Vec<String>>,
}

/// How late the guard was, at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latest {
    looked_at: u64,
    pub between_looks: u64,
    pub look: u64,
    pub kick: u64,
}

impl Host {
    pub fn new(plan: Plan, with_story: bool) -> Self {
        let xen = Simulation::sized(plan.pcpus, GUESTS + 1);
        let mut random = Random::new(!plan.seed);
        let mut due = [NEVER; DUE];
        let mut online = [false; PCPUS];
        for cpu in 0..plan.pcpus {
            due[CANARY + cpu] = random.below(S);
            online[cpu] = true;
        }
        for guest in 0..GUESTS {
            due[GUEST + guest] = random.below(S);
        }
        if let Some(trouble) = plan.trouble {
            (due[AILS], due[HEALS]) = (trouble.at, trouble.ends.unwrap_or(NEVER));
        }
        let from_to = |window: Option<(u64, u64)>| {
            window.map_or((NEVER, NEVER), |(at, long)| (at, at + long))
        };
        (due[KEYS], due[KEYS_END]) = from_to(plan.keys);
        (due[OFFLINE], due[ONLINE]) = from_to(plan.offline);
        let state = State {
            now: 0,
            due,
            random,
            online,
            guests: [Guest::default(); GUESTS],
            timeout_s: [0, 1].map(|n| plan.devices.get(n).map_or(0, |ways| ways.runs_s)),
            forgot: [false; 2],
            asleep: plan.sleep,
            slept: 0,
            failing_starts: 0,
            asked: 0,
            guards: false,
            guarded_when_ill: false,
            ails: false,
            keys: false,
            event: plan.event,
            stops: false,
            reset: None,
            pinged: 0,
            must_live: plan.healthy,
            eyes: Eyes::default(),
            sample: plan::SAMPLE,
            broken: None,
            latest: Latest::default(),
            story: with_story.then(Vec::new),
        };
        Self {
            plan,
            xen,
            state: RefCell::new(state),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.borrow_mut())
    }

    pub fn reset(&self) -> Option<u64> {
        self.with(|state| state.reset)
    }

    /// A promise that was broken.
    pub fn broken(&self) -> Option<String> {
        self.with(|state| state.broken.take())
    }

    pub fn latest(&self) -> Latest {
        self.with(|state| state.latest)
    }

    pub fn guarded_when_ill(&self) -> bool {
        self.with(|state| state.guarded_when_ill)
    }

    pub fn pinged_at(&self) -> u64 {
        self.with(|state| state.pinged)
    }

    pub fn story(&self) -> Vec<String> {
        self.with(|state| state.story.take()).unwrap_or_default()
    }

    pub fn tell(&self, what: impl FnOnce() -> String) {
        self.with(|state| state.tell(what));
    }

    /// Breaks a promise, and ends the schedule.
    pub fn breaks(&self, what: String) -> ! {
        self.with(|state| state.break_promise(what));
        resume_unwind(Box::new(End::Over))
    }

    /// Lets time pass where no guard runs; says whether the host lives on.
    pub fn lives_for(&self, ns: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let to = state.now.saturating_add(ns);
        self.advance(&mut state, to);
        state.reset.is_none() && state.broken.is_none()
    }

    /// Lets time pass while a guard runs.
    fn pass(&self, ns: u64) {
        let alive = self.lives_for(ns);
        let end = self.with(|state| match state.reset {
            _ if state.broken.is_some() => Some(End::Over),
            Some(_) => Some(End::Reset),
            None => (state.now >= self.plan.horizon + 60 * S).then_some(End::Over),
        });
        debug_assert!(alive || end.is_some());
        if let Some(end) = end {
            resume_unwind(Box::new(end));
        }
    }

    /// The guard's process does something: this is where something may be done to it.
    pub fn acts(&self) {
        self.with(State::sleeps);
        let act = self.with(|state| {
            let now = state.now;
            let event = state.event.as_mut().filter(|event| event.at <= now)?;
            if event.calls > 0 {
                event.calls -= 1;
                return None;
            }
            let act = event.act;
            state.event = None;
            state.tell(|| format!("{act:?}"));
            Some(act)
        });
        match act {
            None => {}
            Some(Act::Kill) => resume_unwind(Box::new(End::Killed)),
            Some(Act::Stop) => self.with(|state| state.stops = true),
            Some(Act::Hold(ns)) => self.pass(ns),
        }
    }

    fn delay(&self, most: u64) -> u64 {
        self.with(|state| state.random.delay(most))
    }

    /// The guard's clock.
    pub fn clock(&self) -> Monotonic {
        self.with(|state| Monotonic(START + drift(state.now, self.plan.ppm)))
    }

    /// The guard reads its clock: no two readings are the same.
    pub fn reads_clock(&self) -> Monotonic {
        self.acts();
        self.with(|state| {
            state.now += 2;
            state.eyes.reads_clock(state.now);
        });
        self.clock()
    }

    /// The guard sleeps.
    pub fn sleeps_until(&self, when: Monotonic) {
        self.acts();
        let late = self.delay(self.plan.sleep_late);
        let ns = when.since_ns(self.clock());
        self.pass(drift(ns, -self.plan.ppm) + late);
        self.acts();
    }

    pub fn stops(&self) -> bool {
        self.acts();
        self.with(|state| {
            // A host that has lived through it all lets its guard stop.
            state.stops |= state.guards && state.now >= self.plan.horizon && state.event.is_none();
            state.stops
        })
    }

    /// A look begins.
    pub fn begins_look(&self) {
        self.with(|state| {
            let since = state.now - state.latest.looked_at;
            state.latest.between_looks = state.latest.between_looks.max(since);
            state.latest.looked_at = state.now;
        });
    }

    /// It has read its clock, and reads the table.
    pub fn reads_table(&self) {
        self.acts();
        let late = self.delay(self.plan.look_late);
        self.pass(late);
        self.with(|state| state.eyes.read(state.now, &state.online));
    }

    /// It has read the table, and reads its clock again.
    pub fn has_read_table(&self) {
        let late = self.delay(self.plan.look_late);
        self.acts();
        self.pass(late);
    }

    /// The look has ended.
    pub fn has_looked(&self) {
        self.with(|state| {
            let took = state.now - state.latest.looked_at;
            state.tell(|| format!("looked for {} ms", took / MS));
            state.latest.look = state.latest.look.max(took);
            state.eyes.looked(state.now);
        });
    }

    /// Another guard begins. `told`: for whose watchdog the last one withheld.
    pub fn guard_begins(&self, told: Option<u16>) {
        self.with(|state| {
            state.tell(|| format!("a guard starts; told: {told:?}"));
            state.stops = false;
            state.guards = false;
            state.sample = plan::SAMPLE;
            state.latest.looked_at = state.now;
            let guest = told.map(|domid| usize::from(domid) - 1);
            state.eyes.begin(guest);
        });
    }

    /// It has armed, and looks so often from now on.
    pub fn guards(&self, sample: u64) {
        self.with(|state| {
            state.tell(|| "armed".to_owned());
            state.guards = true;
            state.sample = sample;
        });
    }

    /// That guard is no more; says whether it had armed.
    pub fn guard_ends(&self) -> bool {
        self.with(|state| std::mem::take(&mut state.guards))
    }

    /// A guard that opens, kicks or disarms must not know of anything that is not served.
    pub fn must_be_served(&self, does: &str) {
        let unserved = self.with(|state| {
            let unserved = state.eyes.unserved(state.sample, state.keys);
            let unproven = || (!state.eyes.proven()).then(|| "a pCPU not seen to run".to_owned());
            unserved.or_else(unproven)
        });
        if let Some(unserved) = unserved {
            self.breaks(format!("it {does} with {unserved}"));
        }
    }

    /// Half of a kick passes.
    pub fn kick_takes(&self) {
        let late = self.delay(self.plan.kick_late);
        self.pass(late);
        self.with(|state| state.latest.kick = state.latest.kick.max(2 * late));
    }

    /// Whether the devices take the kick that was asked for.
    pub fn takes_kick(&self) -> bool {
        self.with(|state| {
            if !state.guards {
                return true;
            }
            state.asked += 1;
            // Of several devices each has its turn.
            let turn = state.asked / self.plan.devices.len() as u64;
            let refuses = state.ails && self.ailment() == Some(Ailment::Refuses);
            let refuses = refuses || self.plan.takes_every_second && turn % 2 == 1;
            !refuses
        })
    }

    fn ailment(&self) -> Option<Ailment> {
        self.plan.trouble.map(|trouble| trouble.what)
    }

    /// A device has taken a kick of the guard.
    pub fn kicked(&self, n: usize) {
        self.pinged(n);
        self.with(|state| {
            state.due[RESUMES] = NEVER;
        });
    }

    /// Its countdown begins anew.
    pub fn pinged(&self, n: usize) {
        self.with(|state| {
            let later = match self.plan.early {
                true => 0,
                false => state.random.below(self.plan.devices[n].later),
            };
            state.pinged = state.now;
            if state.forgot[n] {
                return;
            }
            state.due[FIRES + n] = state.now + u64::from(state.timeout_s[n]) * S + later;
        });
    }

    pub fn disarmed(&self, n: usize) {
        self.with(|state| {
            state.tell(|| format!("disarmed {n}"));
            state.due[FIRES + n] = NEVER;
        });
    }

    pub fn runs(&self, n: usize) -> bool {
        self.with(|state| state.reset.is_none() && state.due[FIRES + n] != NEVER)
    }

    /// It is started again, after a sleep; says whether it does.
    pub fn starts_again(&self, n: usize) -> bool {
        let starts = self.with(|state| {
            let fails = state.failing_starts > 0;
            state.failing_starts -= usize::from(fails);
            state.forgot[n] = fails;
            state.tell(|| format!("device {n} is started again: {}", !fails));
            if fails {
                state.due[FIRES + n] = NEVER;
            }
            !fails
        });
        if starts {
            self.pinged(n);
        }
        starts
    }

    pub fn slept(&self) -> u64 {
        self.with(|state| state.slept)
    }

    pub fn timeout_s(&self, n: usize) -> u32 {
        self.with(|state| state.timeout_s[n])
    }

    /// The kernel kicks a device that runs when its timeout is set.
    pub fn set_timeout(&self, n: usize, timeout_s: u32) {
        self.with(|state| state.timeout_s[n] = timeout_s);
        if self.runs(n) {
            self.pinged(n);
        }
    }
}

/// A time as another clock counts it.
fn drift(ns: u64, ppm: i64) -> u64 {
    let part = ns / 1_000_000 * ppm.unsigned_abs();
    if ppm < 0 { ns - part } else { ns + part }
}

impl State {
    /// An armed host sleeps, once it is to: of all that there is the devices alone go on.
    fn sleeps(&mut self) {
        let now = self.now;
        let due = |sleep: &Sleep| self.guards && sleep.at <= now;
        let Some(sleep) = self.asleep.filter(due) else {
            return;
        };
        self.tell(|| format!("{sleep:?}"));
        self.asleep = None;
        self.slept += sleep.ns;
        for n in 0..2 {
            if self.due[FIRES + n] == NEVER {
                continue;
            }
            self.failing_starts += usize::from(sleep.start_fails);
            self.forgot[n] = !sleep.counts_on;
            self.due[FIRES + n] = match sleep.counts_on {
                true => self.due[FIRES + n].saturating_sub(sleep.ns),
                false => NEVER,
            };
        }
        self.pinged = self.pinged.saturating_sub(sleep.ns);
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>8.3} s  {}", now as f64 / S as f64, what()));
        }
    }

    fn break_promise(&mut self, what: String) {
        self.tell(|| format!("BROKEN: {what}"));
        self.broken = self.broken.take().or(Some(what));
    }
}

mod hypervisor;

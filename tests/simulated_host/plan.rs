// SPDX-License-Identifier: GPL-2.0-only
//! What is to happen to a simulated host: a schedule, drawn from a seed.
//!
//! Times are the host's own, ns. How late things are is drawn so that the host is healthy unless
//! something ails it: what is said under [`Plan::cycle_ns`] holds for each schedule.

use super::device::{DEVICES, Ways};
use super::random::Random;
use xenwarden::sys::clock::{NS_PER_MS as MS, NS_PER_S as S};

pub const PCPUS: usize = 3;
pub const GUESTS: usize = 2;
/// The hypervisor serves within this: the slack, less the 20 ms within which a look counts as a moment, and what the clocks may
/// differ by.
const SERVED_WITHIN: u64 = 475 * MS;
/// The guard's sample, as configured.
pub const SAMPLE: u64 = 250 * MS;

/// What ails a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// A pCPU runs no timer.
    Timers(usize),
    /// A pCPU's scheduler decides nothing.
    Scheduler(usize),
    /// The first guest feeds no more, and its handler does not run.
    Handler,
    /// The devices refuse kicks.
    Refuses,
}

/// From when to when.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub what: Ailment,
    pub at: u64,
    /// None: for ever.
    pub ends: Option<u64>,
}

/// What happens to the guard's process.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGSTOP, and SIGCONT after so long.
    Hold(u64),
}

/// When.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub act: Act,
    /// At the so-many-th thing that the guard does after this moment.
    pub at: u64,
    pub calls: u64,
    /// The next guard starts so long after this one has ended, and so does each after it.
    pub restart: Option<u64>,
}

/// The host sleeps (S3): no time passes on it, nor on its guard's clock.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    pub at: u64,
    pub ns: u64,
    /// The devices count on; or they forget that they ran.
    pub counts_on: bool,
    /// The first start after it fails, and stops the device.
    pub start_fails: bool,
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// How much faster the guard's clock is than the host's.
    pub ppm: i64,
    pub pcpus: usize,
    pub devices: Vec<&'static Ways>,
    /// They take only every second kick.
    pub takes_every_second: bool,
    /// They reset as early as they may.
    pub early: bool,
    /// How late the hypervisor is at most.
    pub canary_late: u64,
    pub decide_late: u64,
    pub handler_late: u64,
    /// How late the guard wakes up, how long a look takes on each side of its reading, and how
    /// long a kick takes on each side of the device's taking it; each at most.
    pub sleep_late: u64,
    pub look_late: u64,
    pub kick_late: u64,
    /// Debug keys print, from when and for how long.
    pub keys: Option<(u64, u64)>,
    /// The last pCPU is offline, from when and for how long.
    pub offline: Option<(u64, u64)>,
    pub sleep: Option<Sleep>,
    pub trouble: Option<Trouble>,
    pub event: Option<Event>,
    /// It must never be reset.
    pub healthy: bool,
    /// The guard is later than a host can be that must live.
    pub wild: bool,
    /// Then the guard is asked to stop.
    pub horizon: u64,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut plan = Self::host(seed, &mut random);
        if random.one_in(2) {
            plan.stay_healthy(&mut random);
        } else {
            plan.fall_ill(&mut random);
        }
        plan
    }

    /// A host and how late it is, and nothing that ails it.
    fn host(seed: u64, random: &mut Random) -> Self {
        let mut devices = vec![draw_device(random)];
        if random.one_in(8) {
            devices.push(draw_device(random));
        }
        let mut late = |most| {
            if random.one_in(3) {
                0
            } else {
                random.below(most)
            }
        };
        let mut plan = Self {
            seed,
            canary_late: late(SERVED_WITHIN),
            decide_late: late(SERVED_WITHIN),
            handler_late: late(SERVED_WITHIN),
            ppm: 0,
            pcpus: 0,
            devices,
            takes_every_second: random.one_in(8),
            early: random.one_in(2),
            sleep_late: 0,
            look_late: 0,
            kick_late: 0,
            keys: None,
            offline: None,
            sleep: None,
            trouble: None,
            event: None,
            healthy: true,
            wild: false,
            horizon: 0,
        };
        plan.ppm = [0, -500, 500][usize::try_from(random.below(3)).unwrap_or(0)];
        plan.pcpus = 1 + usize::try_from(random.below(PCPUS as u64)).unwrap_or(0);
        // What is left of the timeout goes to the three in turn.
        let left = (plan.timeout_ns() / plan.kicks()).saturating_sub(plan.period_ns() + 100 * MS);
        let left = random.below(left);
        let count = plan.devices.len() as u64;
        plan.kick_late = random.below((left / 6 / count).min(500 * MS));
        plan.look_late = random.below((left / 8).min((plan.period_ns() - 10 * MS) / 2));
        plan.sleep_late = left.saturating_sub(4 * plan.look_late + 4 * count * plan.kick_late);
        plan
    }

    /// The first of the devices resets no earlier than so long after a kick.
    pub fn timeout_ns(&self) -> u64 {
        let all = self.devices.iter().map(|ways| u64::from(ways.runs_s));
        all.min().unwrap_or(0) * S
    }

    /// What the guard makes of its sample.
    fn period_ns(&self) -> u64 {
        SAMPLE.min(self.timeout_ns() / 20)
    }

    /// Kicks of which one is taken.
    fn kicks(&self) -> u64 {
        if self.takes_every_second { 2 } else { 1 }
    }

    /// Two kicks that a device takes are no further apart, if nothing else happens to the guard:
    /// less than its timeout, with a tenth of a second to spare.
    pub fn cycle_ns(&self) -> u64 {
        let kick = 2 * self.kick_late * self.devices.len() as u64;
        self.kicks() * (self.period_ns() + self.sleep_late + 4 * self.look_late + 2 * kick)
    }

    /// From the start of a guard to its first kick on a host that is well, at most.
    fn start_ns(&self) -> u64 {
        let look = SAMPLE + self.sleep_late + 2 * self.look_late;
        let kick = 2 * self.kick_late * self.devices.len() as u64;
        2 * look + S + self.canary_late + self.decide_late + kick
    }

    /// Something that a healthy host lives through.
    fn stay_healthy(&mut self, random: &mut Random) {
        let at = random.between(2 * S, 7 * S);
        self.horizon = at + random.between(3 * S, 9 * S);
        let spare = |needs: u64| self.timeout_ns().saturating_sub(needs + 100 * MS);
        let calls = random.below(8);
        let event = |act, restart| {
            Some(Event {
                act,
                at,
                calls,
                restart,
            })
        };
        match random.below(7) {
            6 => self.fall_asleep(random, at),
            0 => self.keys = Some((at, random.below(8 * S))),
            1 if self.pcpus > 1 => self.offline = Some((at, random.below(6 * S))),
            2 => {
                // A look that is held up kicks for nothing.
                let one_more = self.cycle_ns() + self.cycle_ns() / self.kicks();
                let spare = spare(one_more);
                self.event = event(Act::Hold(random.below(spare)), None);
            }
            3 => {
                let spare = spare(self.start_ns());
                if spare > 0 {
                    self.event = event(Act::Kill, Some(random.below(spare)));
                }
            }
            4 => {
                let disarms = self.devices.iter().all(|ways| !ways.nowayout);
                let spare = spare(self.start_ns());
                let spare = if disarms { 4 * S } else { spare };
                if spare > 0 {
                    self.event = event(Act::Stop, Some(random.below(spare)));
                }
            }
            _ => {}
        }
    }

    /// Not for so long that what counts on would reset it.
    fn fall_asleep(&mut self, random: &mut Random, at: u64) {
        let most = self.timeout_ns().saturating_sub(self.cycle_ns() + 100 * MS);
        let least = 600 * MS;
        if most > least {
            self.sleep = Some(Sleep {
                at,
                ns: random.between(least, most),
                counts_on: random.one_in(2),
                start_fails: random.one_in(4),
            });
        }
    }

    /// Something that brings it down, or may.
    fn fall_ill(&mut self, random: &mut Random) {
        self.healthy = false;
        let at = random.between(0, 8 * S);
        let ends = random.one_in(2).then(|| at + random.below(7 * S));
        self.horizon = ends.map_or(at + 60 * S, |ends| ends + 3 * S);
        let cpu = usize::try_from(random.below(self.pcpus as u64)).unwrap_or(0);
        let what = match random.below(8) {
            0 | 1 => Some(Ailment::Timers(cpu)),
            2 | 3 => Some(Ailment::Scheduler(cpu)),
            4 | 5 => Some(Ailment::Handler),
            6 => Some(Ailment::Refuses),
            _ => None,
        };
        self.trouble = what.map(|what| Trouble { what, at, ends });
        if what.is_none() || random.one_in(2) {
            let restart = random.one_in(2).then(|| random.below(6 * S));
            let act = match random.below(4) {
                0 | 1 => Act::Kill,
                2 if what.is_some() => Act::Stop,
                _ => Act::Hold(random.below(10 * S)),
            };
            self.event = Some(Event {
                act,
                at: (at + random.below(9 * S)).saturating_sub(S),
                calls: random.below(8),
                restart,
            });
        }
        // Long enough before that the guard has kicked after it.
        let awake = 2 * self.cycle_ns() + 2 * S;
        if at > awake && random.one_in(2) {
            let asleep = random.below(at - awake);
            self.fall_asleep(random, asleep);
        }
        // The bound holds however late the guard is.
        if self.sleep.is_none() && random.one_in(4) {
            self.wild = true;
            self.sleep_late = random.below(6 * S);
            self.look_late = random.below(S);
            self.kick_late = random.below(2 * S);
        }
    }
}

fn draw_device(random: &mut Random) -> &'static Ways {
    let n = usize::try_from(random.below(DEVICES.len() as u64)).unwrap_or(0);
    &DEVICES[n]
}

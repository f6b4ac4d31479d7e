// SPDX-License-Identifier: GPL-2.0-only
//! A host in virtual time: a simulated table, looked at every 250 ms, and what the registry
//! tells of it.
#![allow(dead_code)] // each of the tests uses its part

use xenwarden::event::{Kind, Timestamp, Uuid};
use xenwarden::guests::GuestEvent;
use xenwarden::guests::alarm::{Moment, Rules};
use xenwarden::guests::registry::{Registry, Saved};
use xenwarden::guests::report::{AlarmPhase, GuestReport};
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Shutdown;

pub const SAMPLE_MS: i64 = 250;
pub const TIMEOUT_S: u32 = 10;
pub const NOTHING: [&str; 0] = [];
pub const HOUR_MS: i64 = 3_600_000;

pub struct World {
    pub xen: Simulation,
    pub registry: Registry,
    pub rules: Rules,
    pub at: Moment,
    boot: &'static str,
    /// What was told since it was last asked for.
    told: Vec<GuestEvent>,
}

pub fn uuid(n: u16) -> Uuid {
    Uuid::from_u128(0xabcd_0000 + u128::from(n))
}

impl World {
    pub fn new() -> Self {
        Self::with(Rules::default())
    }

    /// A host with dom0, which the monitor has looked at.
    pub fn with(rules: Rules) -> Self {
        let xen = Simulation::new(1);
        xen.create(0, Uuid::nil());
        let at = Moment {
            ns: 1_000_000_000_000,
            wall: Timestamp(1_800_000_000_000_000),
        };
        let registry = Registry::new(rules);
        let mut world = Self {
            xen,
            registry,
            rules,
            at,
            boot: "first",
            told: Vec::new(),
        };
        world.sample();
        world
    }

    /// With guest 1 as domain 1, whose first slot is armed and was fed.
    pub fn with_a_fed_guest() -> Self {
        Self::with_one_fed(Rules::default())
    }

    pub fn with_one_fed(rules: Rules) -> Self {
        let mut world = Self::with(rules);
        world.start(1, 1);
        world.feeds(1);
        assert_eq!(world.kinds(), ["guest.armed", "guest.first_fed"]);
        world
    }

    /// The same, expired.
    pub fn with_an_alarm() -> Self {
        let mut world = Self::with_a_fed_guest();
        world.expire(1);
        assert_eq!(world.kinds(), ["guest.expired", "alarm.raised"]);
        world
    }

    /// The toolstack starts a guest as a domain: that is created paused.
    pub fn start(&mut self, domid: u16, guest: u16) {
        self.create_paused(domid, guest);
        self.xen.pause(domid, false);
        self.sample();
    }

    pub fn create_paused(&mut self, domid: u16, guest: u16) {
        self.xen.create(domid, uuid(guest));
        self.xen.pause(domid, true);
    }

    /// A guest arms its first slot, is looked at, feeds it, and is looked at.
    pub fn feeds(&mut self, domid: u16) {
        self.xen.arm(domid, 0, TIMEOUT_S);
        self.sample();
        self.feed(domid);
    }

    pub fn feed(&mut self, domid: u16) {
        self.xen.feed(domid, 0);
        self.sample();
    }

    /// The handler of a domain's first slot runs.
    pub fn expire(&mut self, domid: u16) {
        self.xen.expire(domid, 0);
        self.sample();
    }

    /// A domain shuts down for a reason, and is destroyed.
    pub fn end(&mut self, domid: u16, why: Shutdown) {
        self.xen.shut_down(domid, why);
        self.xen.destroy(domid);
        self.sample();
    }

    pub fn destroy(&mut self, domid: u16) {
        self.xen.destroy(domid);
        self.sample();
    }

    pub fn pass(&mut self, ms: i64) {
        self.at.ns += ms * 1_000_000;
        self.at.wall = Timestamp(self.at.wall.0 + ms * 1_000);
    }

    pub fn look(&mut self) {
        let told = self.registry.turn(self.at, &self.xen.table());
        self.told.extend(told);
    }

    pub fn sample(&mut self) {
        self.pass(SAMPLE_MS);
        self.look();
    }

    pub fn samples(&mut self, seconds: i64) {
        for _ in 0..seconds * 1_000 / SAMPLE_MS {
            self.sample();
        }
    }

    /// Looks that are further apart, but not too far.
    pub fn seconds(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.pass(1_000);
            self.look();
        }
    }

    pub fn take(&mut self) -> Vec<GuestEvent> {
        std::mem::take(&mut self.told)
    }

    pub fn kinds(&mut self) -> Vec<&'static str> {
        self.take().iter().map(|h| h.what.kind()).collect()
    }

    /// The one thing that was told.
    pub fn only(&mut self) -> Kind {
        let mut told = self.take();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0).what
    }

    pub fn saved(&self) -> Saved {
        let saved = self.registry.saved(self.boot, self.at);
        let json = serde_json::to_vec(&saved).expect("JSON");
        serde_json::from_slice(&json).expect("as written")
    }

    /// The monitor is gone and comes again, with what it last saved.
    pub fn restart(&mut self) {
        let saved = self.saved();
        self.begin_with(saved);
    }

    pub fn begin_with(&mut self, saved: Saved) {
        self.registry = Registry::restore(self.rules, saved, self.boot, self.at);
    }

    /// The host goes down for a minute and comes again; the monitor begins with what it saved.
    pub fn reset_host(&mut self) {
        let saved = self.saved();
        self.boot = "second";
        self.pass(60_000);
        self.xen = Simulation::new(1);
        self.xen.create(0, Uuid::nil());
        self.at.ns = 40_000_000_000;
        self.begin_with(saved);
    }

    pub fn guest(&self, n: u16) -> GuestReport {
        self.of(uuid(n)).expect("in the report")
    }

    pub fn of(&self, uuid: Uuid) -> Option<GuestReport> {
        let guests = self.registry.report(self.at.ns).guests;
        guests.into_iter().find(|g| g.uuid == Some(uuid))
    }

    pub fn phase(&self, n: u16) -> Option<AlarmPhase> {
        self.guest(n).alarm.map(|a| a.phase)
    }
}

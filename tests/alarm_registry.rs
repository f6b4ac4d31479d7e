// SPDX-License-Identifier: GPL-2.0-only
//! What the registry tells of guests, seen from outside, in virtual time: a scene is
//! painted, looked at in the real format every 250 ms, and the kinds of events compared.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use xenwarden::event::{Cause, Gap, Kind, Timestamp, Uuid};
use xenwarden::guests::Happening;
use xenwarden::guests::alarm::Rules;
use xenwarden::guests::registry::{Registry, Saved};
use xenwarden::guests::report::{AlarmPhase, DomainState, GuestReport};
use xenwarden::monitor::domains::{DomainInfo, DomainTable};
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::liveness::{Doing, Shutdown};
use xenwarden::xen::simulated::Scene;

const SAMPLE_MS: u64 = 250;
const TIMEOUT_S: u32 = 10;

struct World {
    scene: Scene,
    registry: Registry,
    table: DomainTable,
    now: Monotonic,
    wall: Timestamp,
    boot: &'static str,
    /// What was told since it was last asked for.
    told: Vec<Happening>,
    xenstored: bool,
}

fn uuid(n: u16) -> Uuid {
    Uuid::from_u128(0xabcd_0000 + u128::from(n))
}

impl World {
    fn new() -> Self {
        Self {
            scene: Scene::empty(),
            registry: Registry::new(Rules::default()),
            table: DomainTable::default(),
            now: Monotonic(1_000_000_000_000),
            wall: Timestamp(1_800_000_000_000_000),
            boot: "first",
            told: Vec::new(),
            xenstored: true,
        }
    }

    /// A world that has been looked at, with guest 1 as domain 1, fed.
    fn with_a_fed_guest() -> Self {
        let mut world = Self::new();
        world.sample();
        world.create(1, 1);
        world.sample();
        world.poke(1);
        world.sample();
        world.poke(1);
        world.sample();
        assert_eq!(world.kinds(), ["guest.armed", "guest.first_fed"]);
        world
    }

    fn create(&mut self, domid: u16, guest: u16) {
        self.scene.create(domid);
        if self.xenstored {
            self.know(domid, guest);
        }
    }

    /// xenstore tells the UUID of a domain.
    fn know(&mut self, domid: u16, guest: u16) {
        let timers = self.scene.timers.iter();
        let mut first = timers.filter(|t| t.used && t.domid == domid && t.slot == 1);
        let generation = first.next_back().expect("the domain").generation;
        let info = DomainInfo {
            uuid: Some(uuid(guest)),
            name: Some(format!("guest{guest}").into()),
        };
        self.table.domains.insert(domid, (generation, info));
    }

    fn poke(&mut self, domid: u16) {
        self.scene.poke(domid, 1, TIMEOUT_S);
    }

    fn pass(&mut self, ms: u64) {
        self.scene.pass_ms(ms);
        self.now = self.now.plus_ns(ms * 1_000_000);
        self.wall = Timestamp(self.wall.0 + i64::try_from(ms).expect("short") * 1_000);
    }

    fn look(&mut self) {
        let snapshot = self.scene.snapshot(self.now);
        let told = self
            .registry
            .turn(self.now, self.wall, Some(&snapshot), &self.table);
        self.told.extend(told);
    }

    fn sample(&mut self) {
        self.pass(SAMPLE_MS);
        self.look();
    }

    fn samples(&mut self, seconds: u64) {
        for _ in 0..seconds * 1_000 / SAMPLE_MS {
            self.sample();
        }
    }

    /// A sampler that is slow.
    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(1_000);
            self.look();
        }
    }

    /// Every sample for so long, domain `domid` feeds each second.
    fn fed_samples(&mut self, domid: u16, seconds: u64) {
        for _ in 0..seconds {
            self.poke(domid);
            self.samples(1);
        }
    }

    fn take(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.told)
    }

    fn kinds(&mut self) -> Vec<&'static str> {
        self.take().iter().map(|h| h.what.kind()).collect()
    }

    fn saved(&self) -> Saved {
        let saved = self.registry.saved(self.boot, self.now, self.wall);
        let json = serde_json::to_vec(&saved).expect("JSON");
        serde_json::from_slice(&json).expect("as written")
    }

    /// The daemon is gone and comes again, with what it last saved.
    fn restart(&mut self) {
        let saved = self.saved();
        self.begin_with(saved);
    }

    fn begin_with(&mut self, saved: Saved) {
        let rules = Rules::default();
        self.registry = Registry::restore(rules, saved, self.boot, self.now, self.wall);
    }

    /// The host goes down and comes again.
    fn reset_host(&mut self) {
        self.boot = "second";
        self.pass(60_000);
        self.scene = Scene::empty();
        self.table = DomainTable::default();
        self.now = Monotonic(40_000_000_000);
    }

    fn guest(&self, n: u16) -> GuestReport {
        let report = self.registry.report(self.now);
        let mut guests = report.guests.into_iter();
        guests
            .find(|g| g.uuid == Some(uuid(n)))
            .expect("in the report")
    }

    /// Domain 1 stops feeding until it has expired.
    fn expire(&mut self) {
        self.samples(u64::from(TIMEOUT_S) + 1);
        let expired = ["guest.expired", "alarm.raised"];
        assert_eq!(self.kinds(), expired);
    }
}

fn doing(paused: bool) -> Option<Doing> {
    Some(Doing {
        paused,
        ..Doing::default()
    })
}

#[test]
fn a_reboot_does_not_clear_and_the_first_feed_does_exactly_once() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.destroy(1);
    w.sample();
    w.create(2, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    assert_eq!(
        w.guest(1).alarm.map(|a| a.phase),
        Some(AlarmPhase::Rebooted)
    );
    w.seconds(301);
    let failed = w.take();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        matches!(failed[0].what, Kind::GuestBootFailed { waited_ms } if (300_000..301_000).contains(&waited_ms))
    );
    w.scene.destroy(2);
    w.scene.set_doing(2, None);
    w.sample();
    // The toolstack gave it up while it ran: an operator's decision, or another start.
    let closed = w.kinds();
    assert_eq!(closed, ["guest.gone", "alarm.closed"]);
}

#[test]
fn a_good_boot_after_a_failed_one_clears_with_the_times() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.destroy(1);
    w.create(2, 1);
    w.seconds(301);
    let kinds = ["guest.gone", "guest.rebooted", "guest.boot_failed"];
    assert_eq!(w.kinds(), kinds);
    w.scene.shut_down(2, Shutdown::Crash);
    w.scene.destroy(2);
    w.create(3, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    w.poke(3);
    w.sample();
    assert_eq!(w.kinds(), ["guest.armed"], "an arm clears nothing");
    w.poke(3);
    w.sample();
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    assert_eq!(kinds, ["guest.first_fed", "alarm.cleared"]);
    let Kind::AlarmCleared {
        open_ms,
        expiries,
        reboots,
        feeds,
    } = told[1].what
    else {
        panic!("{told:?}");
    };
    assert_eq!((expiries, reboots, feeds), (1, 2, 1));
    assert!((301_000..304_000).contains(&open_ms), "{open_ms}");
    w.fed_samples(3, 20);
    assert_eq!(w.kinds(), [""; 0], "exactly once");
}

#[test]
fn what_a_domain_did_when_it_went_decides_whether_its_alarm_ends() {
    let cases = [
        (None, "alarm.closed", Cause::Destroyed),
        (Some(Shutdown::Poweroff), "alarm.closed", Cause::Poweroff),
        (Some(Shutdown::Reboot), "", Cause::Reboot),
        (Some(Shutdown::Crash), "", Cause::Crash),
        (Some(Shutdown::Suspend), "", Cause::Suspend),
        (Some(Shutdown::Watchdog), "", Cause::Watchdog),
        (Some(Shutdown::SoftReset), "", Cause::Reboot),
        (Some(Shutdown::Other(77)), "", Cause::Unknown),
    ];
    for (shutdown, ends, cause) in cases {
        let mut w = World::with_a_fed_guest();
        w.expire();
        w.scene.destroy(1);
        w.create(2, 1);
        w.sample();
        w.take();
        if let Some(why) = shutdown {
            w.scene.shut_down(2, why);
        }
        w.scene.destroy(2);
        w.sample();
        let told = w.take();
        assert_eq!(told[0].what, Kind::GuestGone { cause });
        let ended = told.get(1).map_or("", |h| h.what.kind());
        assert_eq!(ended, ends, "{shutdown:?}");
        assert_eq!(w.guest(1).alarm.is_none(), ends == "alarm.closed");
        assert_eq!(w.guest(1).state, DomainState::Gone(cause));
    }
}

/// Xen releases one record of a domain before the other.
fn release(w: &mut World, domid: u16, slot: u8) {
    let timers = w.scene.timers.iter_mut();
    for t in timers.filter(|t| t.used && t.domid == domid && t.slot == slot) {
        t.seq += 2;
        (t.used, t.armed) = (false, false);
    }
}

#[test]
fn a_domain_of_which_one_record_is_released_is_still_the_same() {
    // (released first, expired slot, a restart of the daemon in between)
    for (first, slot) in [(1, 2), (1, 1), (2, 1), (2, 2)] {
        for restart in [false, true] {
            let mut w = World::new();
            w.sample();
            w.create(1, 1);
            // The records had other numbers of owners before.
            for t in w.scene.timers.iter_mut().filter(|t| t.slot == 2) {
                t.generation = 7;
            }
            w.sample();
            for _ in 0..2 {
                w.scene.poke(1, slot, TIMEOUT_S);
                w.sample();
            }
            w.samples(11);
            let kinds = w.kinds();
            assert_eq!(kinds.last(), Some(&"alarm.raised"));
            release(&mut w, 1, first);
            if restart {
                w.restart();
            }
            w.samples(3);
            assert_eq!(w.kinds(), [""; 0], "{first} {slot}");
            w.scene.destroy(1);
            w.table = DomainTable::default();
            w.samples(3);
            assert_eq!(w.kinds(), ["guest.gone"], "{first} {slot}");
            w.create(2, 1);
            w.sample();
            w.fed_samples(2, 3);
            let back = [
                "guest.rebooted",
                "guest.armed",
                "guest.first_fed",
                "alarm.cleared",
            ];
            assert_eq!(w.kinds(), back);
            let guests = w.registry.report(w.now).guests;
            assert_eq!(guests.len(), 1, "{guests:?}");
        }
    }
}

#[test]
fn a_dying_domain_that_its_guest_has_left_raises_nothing_as_its_records_go() {
    let mut w = World::with_a_fed_guest();
    for t in w.scene.timers.iter_mut().filter(|t| t.slot == 2) {
        t.generation = 7;
    }
    w.expire();
    w.create(2, 1);
    w.sample();
    w.scene.set_doing(
        1,
        Some(Doing {
            dying: true,
            shutdown: Some(Shutdown::Watchdog),
            paused: false,
        }),
    );
    w.sample();
    w.take();
    release(&mut w, 1, 1);
    w.samples(2);
    w.scene.destroy(1);
    w.samples(2);
    assert_eq!(w.kinds(), [""; 0]);
    assert_eq!(w.registry.report(w.now).guests.len(), 1);
}

#[test]
fn a_domain_whose_end_nobody_saw_keeps_its_alarm() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.set_doing(1, None);
    w.scene.timers.clear();
    w.sample();
    let gone = w.take();
    // The expiry was seen: it brought the domain down.
    let cause = Cause::Watchdog;
    assert_eq!(gone[0].what, Kind::GuestGone { cause });
    w.create(2, 1);
    w.sample();
    w.scene.timers.clear();
    w.sample();
    let kinds = w.kinds();
    assert_eq!(kinds, ["guest.rebooted", "guest.gone"]);
    assert!(w.guest(1).alarm.is_some());
    assert_eq!(w.guest(1).state, DomainState::Gone(Cause::Unknown));
}

#[test]
fn fifty_guests_that_expire_and_are_destroyed_within_one_sample_lose_no_event() {
    let mut w = World::new();
    w.sample();
    for n in 1..=50 {
        w.create(n, n);
        w.poke(n);
    }
    w.sample();
    for n in 1..=50 {
        w.poke(n);
    }
    w.sample();
    w.take();
    // To 10 ms before the deadline, then past it and the destruction without a look.
    for _ in 0..38 {
        w.sample();
    }
    w.pass(240);
    assert_eq!(w.kinds(), [""; 0]);
    w.pass(20);
    for n in 1..=50 {
        w.scene.destroy(n);
    }
    w.pass(50);
    w.look();
    let told = w.take();
    assert_eq!(told.len(), 150);
    for n in 1..=50 {
        let mine = told
            .iter()
            .filter(|h| h.guest.as_ref().is_some_and(|g| g.domid == n));
        let mine: Vec<_> = mine.collect();
        let kinds: Vec<_> = mine.iter().map(|h| h.what.kind()).collect();
        assert_eq!(kinds, ["guest.expired", "alarm.raised", "guest.gone"]);
        let guest = mine[0].guest.as_ref().expect("a guest");
        assert_eq!(guest.uuid, Some(uuid(n)));
        assert_eq!(guest.name.as_deref(), Some(format!("guest{n}").as_str()));
        assert!(mine[0].xen_ns.is_some());
        let cause = Cause::Watchdog;
        assert_eq!(mine[2].what, Kind::GuestGone { cause });
    }
}

#[test]
fn a_feed_and_the_expiry_after_it_within_one_sample_are_told_in_that_order() {
    let mut w = World::new();
    w.sample();
    w.create(1, 1);
    w.scene.poke(1, 1, 1);
    w.pass(500);
    w.scene.poke(1, 1, 1);
    w.pass(1_500);
    w.look();
    w.scene.destroy(1);
    w.sample();
    let kinds = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
    ];
    assert_eq!(w.kinds(), kinds);
}

#[test]
fn a_feed_that_races_with_the_expiry_that_brings_the_domain_down_clears_nothing() {
    let mut w = World::with_a_fed_guest();
    w.pass(11_000);
    w.poke(1);
    w.pass(1);
    w.look();
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
    assert!(w.guest(1).alarm.is_some());
    // Where the domain demonstrably went on (it was resumed), it is a feed.
    let mut w = World::with_a_fed_guest();
    w.pass(11_000);
    w.scene.set_doing(1, doing(false));
    w.poke(1);
    w.pass(1);
    w.look();
    let kinds = [
        "guest.expired",
        "alarm.raised",
        "guest.fed_again",
        "alarm.cleared",
    ];
    assert_eq!(w.kinds(), kinds);
}

#[test]
fn a_domain_that_is_down_already_does_not_expire() {
    for why in [Shutdown::Poweroff, Shutdown::Crash, Shutdown::Suspend] {
        let mut w = World::with_a_fed_guest();
        w.scene.shut_down(1, why);
        w.samples(15);
        assert_eq!(w.kinds(), [""; 0], "{why:?}");
    }
    // Being destroyed for long, likewise.
    let mut w = World::with_a_fed_guest();
    let dying = Doing {
        dying: true,
        ..Doing::default()
    };
    w.scene.set_doing(1, Some(dying));
    w.pass(11_000);
    w.scene.set_doing(1, Some(dying));
    w.scene.destroy(1);
    w.look();
    assert_eq!(w.kinds(), ["guest.gone"]);
}

#[test]
fn the_second_slot_of_a_guest_that_expired_raises_nothing_more() {
    let mut w = World::with_a_fed_guest();
    w.scene.poke(1, 2, TIMEOUT_S);
    w.sample();
    assert_eq!(w.kinds(), ["guest.armed"]);
    // A hypervisor that does not tell whether the handler did anything.
    w.scene.set_doing(1, None);
    w.samples(11);
    let kinds = ["guest.expired", "alarm.raised", "guest.expired"];
    assert_eq!(w.kinds(), kinds);
    assert_eq!(w.guest(1).alarm.map(|a| a.expiries), Some(1));
    // Where it is told, the second one's handler does nothing.
    let mut w = World::with_a_fed_guest();
    w.scene.poke(1, 2, TIMEOUT_S);
    w.sample();
    w.samples(11);
    let kinds = ["guest.armed", "guest.expired", "alarm.raised"];
    assert_eq!(w.kinds(), kinds);
}

#[test]
fn a_shutdown_code_that_was_set_in_advance_hides_no_expiry() {
    let codes = [
        Shutdown::Poweroff,
        Shutdown::Reboot,
        Shutdown::Suspend,
        Shutdown::Crash,
        Shutdown::SoftReset,
        Shutdown::Other(77),
    ];
    let cause = Cause::Watchdog;
    for code in codes {
        // Seen while it is down, or only when it is destroyed.
        for seen in [true, false] {
            let mut w = World::with_a_fed_guest();
            w.scene.codes.insert(1, code);
            w.samples(9);
            assert_eq!(w.kinds(), [""; 0]);
            w.pass(1_000);
            if seen {
                w.look();
                assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"], "{code:?}");
                assert_eq!(w.guest(1).state, DomainState::ShutDown(cause));
            }
            w.scene.destroy(1);
            w.sample();
            let told = w.take();
            let last = told.last().expect("gone");
            assert_eq!(last.what, Kind::GuestGone { cause }, "{code:?}");
            assert_eq!(told.len(), if seen { 1 } else { 3 });
            assert!(w.guest(1).alarm.is_some(), "{code:?}");
            w.create(2, 1);
            w.sample();
            assert_eq!(w.kinds(), ["guest.rebooted"], "{code:?}");
        }
    }
}

#[test]
fn a_guest_that_is_resumed_and_expires_again_raises_again() {
    for fed in [false, true] {
        let mut w = World::with_a_fed_guest();
        w.expire();
        w.scene.set_doing(1, doing(false));
        w.poke(1);
        if fed {
            w.sample();
            assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"]);
        }
        w.pass(11_000);
        w.look();
        let told = w.take();
        let last = &told.last().expect("raised").what;
        let expiries = Kind::AlarmRaised { expiries: 1 };
        assert_eq!(*last, expiries);
        let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
        let between = ["guest.fed_again", "alarm.cleared"];
        let again = ["guest.expired", "alarm.raised"];
        if fed {
            assert_eq!(kinds, again);
        } else {
            // The feed came between the two, unseen.
            assert_eq!(kinds, [between, again].concat());
        }
    }
}

#[test]
fn what_other_vcpus_do_after_the_watchdog_shut_the_domain_down_is_no_sign_of_life() {
    // Seen in the look after the expiry, in the same one, or when the domain is destroyed;
    // with the watchdog's shutdown code or one set in advance.
    for (code, same_look, destroyed) in [
        (None, false, false),
        (None, true, false),
        (None, true, true),
        (Some(Shutdown::Poweroff), false, false),
        (Some(Shutdown::Poweroff), true, true),
    ] {
        let mut w = World::with_a_fed_guest();
        w.scene.codes.extend(code.map(|code| (1, code)));
        w.samples(9);
        w.pass(1_000);
        if !same_look {
            w.look();
        }
        w.pass(1);
        w.poke(1);
        w.scene.disarm(1, 2);
        w.scene.poke(1, 2, TIMEOUT_S);
        w.scene.poke(1, 2, TIMEOUT_S);
        if destroyed {
            w.scene.destroy(1);
        }
        w.sample();
        let told = w.kinds();
        assert!(!told.contains(&"alarm.cleared"), "{told:?}");
        assert!(!told.contains(&"guest.fed_again"), "{told:?}");
        assert!(told.contains(&"alarm.raised"), "{told:?}");
        assert!(w.guest(1).alarm.is_some());
        if !destroyed {
            // Resumed: what it feeds then is one.
            w.scene.set_doing(1, doing(false));
            w.sample();
            assert_eq!(w.kinds(), [""; 0]);
            w.poke(1);
            w.sample();
            assert_eq!(w.kinds(), ["guest.fed_again", "alarm.cleared"]);
        }
    }
}

#[test]
fn pauses_and_saves_are_no_missed_feeds() {
    let mut w = World::with_a_fed_guest();
    w.scene.set_doing(1, doing(true));
    w.samples(5);
    assert_eq!(w.guest(1).state, DomainState::Paused);
    w.scene.set_doing(1, doing(false));
    w.poke(1);
    w.sample();
    let told = w.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(
        told[0].what,
        Kind::GuestFedAgain { after: Gap::Paused, gap_ms: Some(gap), .. } if gap >= 5_000
    ));
    // Saved for two hours, then restored.
    w.scene.shut_down(1, Shutdown::Suspend);
    w.sample();
    assert_eq!(w.guest(1).state, DomainState::Suspended);
    w.scene.destroy(1);
    w.pass(7_200_000);
    w.samples(1);
    w.create(2, 1);
    w.sample();
    w.poke(2);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.armed"]);
    w.poke(2);
    w.sample();
    let told = w.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(
        told[0].what,
        Kind::GuestFedAgain {
            after: Gap::Suspended,
            gap_ms: None,
            ..
        }
    ));
}

#[test]
fn a_local_migration_is_followed_from_domain_to_domain_and_back_if_it_fails() {
    for fails in [false, true] {
        let mut w = World::with_a_fed_guest();
        w.create(2, 1);
        w.scene.set_doing(2, doing(true));
        w.fed_samples(1, 3);
        w.scene.shut_down(1, Shutdown::Suspend);
        w.samples(1);
        assert_eq!(w.kinds(), [""; 0]);
        let (live, dead) = if fails { (1, 2) } else { (2, 1) };
        w.scene.set_doing(live, doing(false));
        w.sample();
        w.scene.destroy(dead);
        w.poke(live);
        w.sample();
        w.poke(live);
        w.sample();
        let told = w.kinds();
        if fails {
            assert_eq!(told, ["guest.fed_again"]);
        } else {
            assert_eq!(told, ["guest.gone", "guest.armed", "guest.fed_again"]);
        }
        w.samples(11);
        assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"], "{fails}");
    }
}

#[test]
fn late_feeds_are_told_once_a_minute_with_their_count() {
    let mut w = World::with_a_fed_guest();
    let mut told = Vec::new();
    for _ in 0..15 {
        for _ in 0..37 {
            w.sample();
        }
        w.poke(1);
        w.sample();
        told.extend(w.take());
    }
    let late: Vec<u32> = told
        .iter()
        .map(|h| match h.what {
            Kind::GuestLate {
                count,
                margin_ms: 0..2_000,
                ..
            } => count,
            _ => panic!("{h:?}"),
        })
        .collect();
    assert_eq!(late, [1, 7, 7]);
}

#[test]
fn a_disarm_is_told_and_an_arm_after_it_is_no_feed() {
    let mut w = World::with_a_fed_guest();
    w.scene.disarm(1, 1);
    w.sample();
    w.poke(1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.disarmed", "guest.armed"]);
    w.poke(1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.fed_again"]);
    // Both within one sample.
    w.scene.disarm(1, 1);
    w.poke(1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.disarmed", "guest.armed"]);
}

#[test]
fn a_restart_in_the_middle_of_anything_tells_nothing_twice_and_loses_nothing() {
    // One life, with a restart of the daemon after each of its steps in turn: always the
    // same events, but for those that tell when a domain was first seen.
    type Act = fn(&mut World);
    let life: [Act; 14] = [
        |w| w.create(1, 1),
        |w| w.poke(1),
        |w| w.poke(1),
        |w| w.pass(11_000),
        |w| w.scene.destroy(1),
        |w| w.create(2, 1),
        |w| w.poke(2),
        |w| w.pass(11_000),
        |w| w.scene.destroy(2),
        |w| w.create(3, 1),
        |w| w.seconds(301),
        |w| w.poke(3),
        |w| w.poke(3),
        |w| w.scene.set_doing(3, doing(true)),
    ];
    let live = |restart_at: Option<usize>, blind: bool| {
        let mut w = World::new();
        w.sample();
        for (n, act) in life.iter().enumerate() {
            let saved = w.saved();
            act(&mut w);
            if restart_at == Some(n) && blind {
                // It died before the step, and comes back after it.
                w.begin_with(saved);
            }
            w.sample();
            if restart_at == Some(n) && !blind {
                w.restart();
            }
            w.sample();
        }
        w.kinds()
    };
    let undisturbed = live(None, false);
    assert_eq!(
        undisturbed.iter().filter(|k| **k == "alarm.raised").count(),
        2
    );
    assert_eq!(undisturbed.last(), Some(&"alarm.cleared"));
    for n in 0..life.len() {
        assert_eq!(live(Some(n), false), undisturbed, "after step {n}");
        if n != 10 {
            // (The boot deadline is looked at, not slept through.)
            assert_eq!(live(Some(n), true), undisturbed, "over step {n}");
        }
    }
}

#[test]
fn alarms_outlive_a_reset_of_the_host_and_clear_there() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    let saved = w.saved();
    w.reset_host();
    w.begin_with(saved);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone"]);
    w.create(1, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.rebooted"]);
    w.poke(1);
    w.sample();
    w.poke(1);
    w.sample();
    let told = w.take();
    let kinds: Vec<_> = told.iter().map(|h| h.what.kind()).collect();
    assert_eq!(kinds, ["guest.armed", "guest.first_fed", "alarm.cleared"]);
    let Kind::AlarmCleared { open_ms, .. } = told[2].what else {
        panic!("{told:?}");
    };
    assert!((60_000..65_000).contains(&open_ms), "{open_ms}");
}

#[test]
fn a_uuid_is_waited_for_a_second_and_then_done_without() {
    let mut w = World::new();
    w.xenstored = false;
    w.sample();
    w.create(1, 1);
    w.poke(1);
    w.samples(1);
    assert_eq!(w.kinds(), [""; 0], "held back");
    w.sample();
    let told = w.take();
    assert_eq!(told[0].what.kind(), "guest.armed");
    assert_eq!(told[0].guest.as_ref().expect("a guest").uuid, None);
    w.samples(11);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
    w.know(1, 1);
    w.sample();
    assert_eq!(
        w.guest(1).alarm.map(|a| a.expiries),
        Some(1),
        "it is the same"
    );
    // A second one is known in time: its events carry the UUID.
    w.create(2, 2);
    w.poke(2);
    w.sample();
    w.know(2, 2);
    w.sample();
    let told = w.take();
    assert_eq!(told[0].guest.as_ref().expect("a guest").uuid, Some(uuid(2)));
}

#[test]
fn a_guest_that_was_followed_without_its_uuid_becomes_one_with_its_alarm() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.destroy(1);
    w.xenstored = false;
    w.create(2, 1);
    w.samples(2);
    w.poke(2);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.armed"]);
    w.know(2, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.rebooted"]);
    assert!(w.guest(1).alarm.is_some());
    w.poke(2);
    w.sample();
    assert_eq!(w.kinds(), ["guest.first_fed", "alarm.cleared"]);
}

#[test]
fn two_running_domains_of_one_uuid_are_both_watched() {
    let mut w = World::with_a_fed_guest();
    w.create(2, 1);
    for _ in 0..2 {
        w.poke(2);
        w.sample();
    }
    assert_eq!(w.kinds(), ["guest.armed", "guest.first_fed"]);
    w.fed_samples(1, 11);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
    w.samples(11);
    assert_eq!(w.kinds(), ["guest.expired", "alarm.raised"]);
}

#[test]
fn a_domain_that_dies_slowly_is_not_followed_anew_by_a_daemon_that_restarts() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    let dying = Doing {
        dying: true,
        shutdown: Some(Shutdown::Watchdog),
        paused: false,
    };
    w.scene.set_doing(1, Some(dying));
    w.create(2, 1);
    w.sample();
    assert_eq!(w.kinds(), ["guest.gone", "guest.rebooted"]);
    w.restart();
    w.samples(5);
    w.scene.destroy(1);
    w.samples(5);
    assert_eq!(w.kinds(), [""; 0]);
    assert_eq!(w.guest(1).domid, 2);
}

/// A guest whose UUID xenstore never told, with its alarm raised, gone.
fn gone_without_a_uuid() -> World {
    let mut w = World::new();
    w.xenstored = false;
    w.sample();
    w.create(1, 1);
    w.samples(2);
    for _ in 0..2 {
        w.poke(1);
        w.sample();
    }
    w.samples(11);
    assert_eq!(w.kinds().last(), Some(&"alarm.raised"));
    w
}

/// How the alarm ended; there is to be no other event.
fn closed(w: &mut World) -> Option<Cause> {
    let mut closed = None;
    for happening in w.take() {
        match happening.what {
            Kind::AlarmClosed { cause, .. } if closed.is_none() => closed = Some(cause),
            Kind::GuestGone { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    closed
}

#[test]
fn an_alarm_of_which_nobody_can_tell_the_guest_ends_after_a_day() {
    let mut w = gone_without_a_uuid();
    w.pass(2 * 86_400_000);
    w.look();
    assert_eq!(closed(&mut w), None, "the domain is still there");
    w.scene.destroy(1);
    w.sample();
    w.pass(86_399_000);
    w.look();
    assert_eq!(closed(&mut w), None);
    w.pass(2_000);
    w.look();
    assert_eq!(closed(&mut w), Some(Cause::Unknown));
    w.restart();
    w.samples(2);
    assert_eq!(closed(&mut w), None, "once");
    // One with a UUID stays open for as long as it takes.
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.destroy(1);
    w.sample();
    w.pass(30 * 86_400_000);
    w.look();
    assert_eq!(closed(&mut w), None);
    assert!(w.guest(1).alarm.is_some());
}

#[test]
fn an_alarm_of_which_nobody_can_tell_the_guest_ends_with_the_hosts_boot() {
    for gone_before in [false, true] {
        let mut w = gone_without_a_uuid();
        if gone_before {
            w.scene.destroy(1);
            w.sample();
        }
        // A second one had the same domid.
        w.scene.destroy(1);
        w.sample();
        w.create(1, 2);
        for t in w.scene.timers.iter_mut().filter(|t| t.used) {
            t.generation = 5;
        }
        w.samples(2);
        w.poke(1);
        w.samples(11);
        w.take();
        let saved = w.saved();
        let open = saved.guests.iter().filter(|g| g.lifecycle.alarm.is_some());
        assert_eq!(open.count(), 2);
        w.reset_host();
        w.begin_with(saved);
        w.samples(2);
        let told = w.take();
        let closed = told.iter().filter(
            |h| matches!(h.what, Kind::AlarmClosed { cause, .. } if cause == Cause::Unknown),
        );
        assert_eq!(closed.count(), 2, "{told:?}");
        let report = w.registry.report(w.now);
        assert!(report.guests.iter().all(|g| g.alarm.is_none()));
    }
}

#[test]
fn a_boot_that_failed_without_an_alarm_is_reported_until_the_guest_feeds_or_is_gone() {
    for (ends, cause) in [
        (None, Cause::Unknown),
        (Some(Shutdown::Poweroff), Cause::Poweroff),
        (Some(Shutdown::Crash), Cause::Crash),
    ] {
        let mut w = World::with_a_fed_guest();
        w.scene.shut_down(1, Shutdown::Reboot);
        w.scene.destroy(1);
        w.sample();
        w.create(2, 1);
        w.seconds(299);
        assert!(!w.guest(1).boot_failed);
        w.seconds(3);
        assert_eq!(w.kinds().last(), Some(&"guest.boot_failed"));
        assert!(w.guest(1).boot_failed && w.guest(1).alarm.is_none());
        w.restart();
        w.sample();
        assert!(w.guest(1).boot_failed, "also after a restart");
        w.poke(2);
        w.sample();
        assert!(w.guest(1).boot_failed, "an arm is no feed");
        if let Some(why) = ends {
            w.scene.shut_down(2, why);
            w.scene.destroy(2);
            w.sample();
            assert_eq!(w.guest(1).state, DomainState::Gone(cause));
            assert_eq!(w.guest(1).boot_failed, why == Shutdown::Crash);
        } else {
            w.poke(2);
            w.sample();
            assert!(!w.guest(1).boot_failed);
        }
    }
}

#[test]
fn a_guest_that_toggles_its_slots_is_told_of_twenty_times_a_minute_and_slot() {
    let mut w = World::with_a_fed_guest();
    let (mut told, mut left_out) = (0, 0);
    let mut count = |w: &mut World| {
        for happening in w.take() {
            told += 1;
            left_out += match happening.what {
                Kind::GuestArmed { left_out, .. }
                | Kind::GuestDisarmed { left_out, .. }
                | Kind::GuestFedAgain { left_out, .. } => left_out,
                other => panic!("{other:?}"),
            };
        }
        (told, left_out)
    };
    let storm = |w: &mut World| {
        for slot in [1, 2] {
            w.scene.disarm(1, slot);
            w.scene.poke(1, slot, TIMEOUT_S);
            w.scene.poke(1, slot, TIMEOUT_S);
        }
        w.sample();
    };
    for _ in 0..59 * 4 {
        storm(&mut w);
    }
    // The first arm of the first slot was told before.
    assert_eq!(count(&mut w), (39, 0));
    let before = w.registry.changes();
    storm(&mut w);
    assert_eq!(w.registry.changes(), before, "nothing to save");
    w.samples(2);
    storm(&mut w);
    let (told, left_out) = count(&mut w);
    assert_eq!(told, 39 + 6);
    // Three a sample and slot, but for the second slot's first arm, which was no toggle.
    let all = 238 * 3 * 2 - 2;
    assert_eq!(left_out + told, all);
    // What matters is told all the same, and the alarm clears with a feed after an arm.
    for _ in 0..100 {
        storm(&mut w);
    }
    w.take();
    w.samples(12);
    let kinds = w.kinds();
    assert_eq!(kinds, ["guest.expired", "alarm.raised"]);
    w.scene.destroy(1);
    w.create(2, 1);
    for _ in 0..2 {
        w.poke(2);
        w.sample();
    }
    assert_eq!(w.kinds().last(), Some(&"alarm.cleared"));
}

#[test]
fn pages_that_are_not_shown_are_reported() {
    let mut w = World::new();
    w.sample();
    assert_eq!(w.registry.report(w.now).pages_left_out, 0);
    w.pass(SAMPLE_MS);
    let mut snapshot = w.scene.snapshot(w.now);
    snapshot.pages_left_out = 3;
    w.registry.turn(w.now, w.wall, Some(&snapshot), &w.table);
    assert_eq!(w.registry.report(w.now).pages_left_out, 3);
}

#[test]
fn stale_evidence_neither_feeds_nor_fails() {
    let mut w = World::with_a_fed_guest();
    w.expire();
    w.scene.destroy(1);
    w.create(2, 1);
    w.sample();
    w.take();
    for _ in 0..600 {
        w.pass(1_000);
        let told = w.registry.turn(w.now, w.wall, None, &w.table);
        assert_eq!(told, []);
    }
    assert_eq!(w.guest(1).state, DomainState::Unknown);
    assert!(w.guest(1).alarm.is_some());
    w.samples(290);
    assert_eq!(w.kinds(), [""; 0], "that time does not count");
    w.samples(15);
    assert_eq!(w.kinds(), ["guest.boot_failed"]);
}

#[test]
fn an_operator_acknowledges_and_closes() {
    let mut w = World::with_a_fed_guest();
    assert!(w.registry.acknowledge(uuid(1), 0, w.now).is_err());
    assert!(w.registry.close(uuid(7), w.now, w.wall).is_err());
    w.expire();
    let told = w.registry.acknowledge(uuid(1), 7, w.now).expect("open");
    assert_eq!(told[0].what, Kind::AlarmAcknowledged { uid: 7 });
    let again = w.registry.acknowledge(uuid(1), 7, w.now).expect("open");
    assert_eq!(again, []);
    assert!(w.guest(1).alarm.is_some_and(|a| a.acknowledged));
    let told = w.registry.close(uuid(1), w.now, w.wall).expect("open");
    assert_eq!(told[0].what.kind(), "alarm.closed");
    assert!(w.guest(1).alarm.is_none());
}

#[test]
fn guests_that_are_gone_without_an_alarm_are_forgotten() {
    let mut w = World::with_a_fed_guest();
    w.scene.shut_down(1, Shutdown::Poweroff);
    w.scene.destroy(1);
    w.sample();
    assert_eq!(w.saved().guests.len(), 1);
    w.seconds(601);
    assert_eq!(w.saved().guests, []);
}

#[test]
fn alarms_of_guests_that_are_gone_are_bounded() {
    let most = xenwarden::guests::registry::MOST_GONE;
    let mut w = World::new();
    w.sample();
    let mut seen = 0;
    for round in 0..48u16 {
        let domids = (0..100).map(|n| round * 100 + n + 1);
        w.scene = Scene {
            timers: Vec::new(),
            ..w.scene
        };
        w.table = DomainTable::default();
        for n in domids.clone() {
            w.create(n, n);
            w.poke(n);
        }
        w.sample();
        w.pass(11_000);
        w.sample();
        seen += w.kinds().iter().filter(|k| **k == "alarm.raised").count();
        domids.for_each(|n| w.scene.destroy(n));
        w.sample();
    }
    assert_eq!(seen, 4_800);
    let left = w.saved().guests;
    assert_eq!(left.len(), most);
    let newest = left.iter().map(|g| g.incarnation.domid).max();
    assert_eq!(newest, Some(4_800), "the oldest go");
}

#[test]
fn dom0s_own_watchdog_is_no_guests() {
    let mut w = World::new();
    w.create(0, 0);
    w.poke(0);
    w.sample();
    w.poke(0);
    w.samples(2);
    assert_eq!(w.kinds(), [""; 0]);
}

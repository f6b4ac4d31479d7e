// SPDX-License-Identifier: GPL-2.0-only
//! The watchdog devices of QEMU, as far as a guest's writes show them.
//!
//! In: [`Sighting`]s in their order, expiries, resets, time. Out: what the guest did: armed,
//! disarmed, fed. Pure.
//!
//! # What counts as a feed
//!
//! A write that restarts the countdown of a device that is armed. So:
//! - **i6300esb** (hw/watchdog/wdt_i6300esb.c): 0x80 then 0x86 then a value with bit 8 set to
//!   offset 0xc, in this order and with nothing else between, while bit 1 of the lock register is
//!   set. Drivers write the same while they arm it, before they set that bit: this is no feed.
//! - **ib700** (hw/watchdog/wdt_ib700.c): a write to port 0x443 arms it; each after that is a feed.
//! - Both are off after a reset of the machine, and after they expired, whatever QEMU did then:
//!   what a guest writes to an i6300esb that is off restarts nothing, and is no feed.
//!
//! # Where nobody looked
//!
//! A guest may have armed its i6300esb before the trace was on. Then two restarts that are
//! [`APART_NS`] apart, neither of them part of an arming (no write to the lock register until
//! [`SETTLED_NS`] after the second), are a feed: a driver restarts it no more than a few times
//! within milliseconds as long as nobody feeds. An ib700 that was not seen takes two writes: the
//! first may arm it.

use super::trace::Sighting;
use crate::guests::alarm::Nanoseconds;

/// Time between two restarts of a device that is not known to be armed that show it is.
pub const APART_NS: Nanoseconds = 1_000_000_000;
/// Time after the second within which an arming would end.
pub const SETTLED_NS: Nanoseconds = 1_000_000_000;

/// `ESB_WDT_RELOAD`.
const RELOAD: u64 = 0x100;
/// The register that the unlocking and the reload go to.
const RELOAD_REGISTER: u8 = 0xc;
/// `ESB_WDT_LOCK` and `ESB_WDT_ENABLE` of the lock register.
const LOCK: u64 = 1;
const ENABLE: u64 = 2;

/// What a guest did to its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It armed it.
    Armed,
    /// It disarmed it.
    Disarmed,
    /// It fed it.
    Fed,
    /// It wrote what would be a feed, but the device is off: nothing watches the guest.
    FedInVain,
}

/// Whether a device is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Armed {
    Yes,
    No,
    /// Nobody looked. `first_ns`: a restart that was seen since; `second_ns`: one that came long
    /// enough after it.
    Unknown {
        first_ns: Option<Nanoseconds>,
        second_ns: Option<Nanoseconds>,
    },
}

impl Armed {
    const UNKNOWN: Self = Self::Unknown {
        first_ns: None,
        second_ns: None,
    };
}

/// How far the guest is in unlocking an i6300esb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unlock {
    No,
    Half,
    Open,
}

/// What is known of a VM's watchdog device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    armed: Armed,
    unlock: Unlock,
    /// Writes to the lock register are ignored.
    locked: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self::unseen()
    }
}

impl Device {
    /// One that nobody has looked at.
    #[must_use]
    pub fn unseen() -> Self {
        Self {
            armed: Armed::UNKNOWN,
            unlock: Unlock::No,
            locked: false,
        }
    }

    /// One that has expired, or whose machine was reset, just now.
    #[must_use]
    pub fn off() -> Self {
        Self {
            armed: Armed::No,
            ..Self::unseen()
        }
    }

    /// Whether it is known to be off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.armed == Armed::No
    }

    /// Takes a write.
    pub fn see(&mut self, now: Nanoseconds, seen: Sighting) -> Option<Act> {
        match seen {
            Sighting::I6300esb { offset, value } => self.written(now, offset, value),
            Sighting::I6300esbLock(value) => self.lock_written(value),
            Sighting::Ib700Enable => {
                let act = if self.armed == Armed::Yes {
                    Act::Fed
                } else {
                    Act::Armed
                };
                self.armed = Armed::Yes;
                Some(act)
            }
            Sighting::Ib700Disable => Some(self.disarmed()),
            Sighting::Loaded | Sighting::Gap => {
                *self = Self::unseen();
                None
            }
        }
    }

    /// Time went by. What could have been part of an arming was none.
    pub fn tick(&mut self, now: Nanoseconds) -> Option<Act> {
        let Armed::Unknown {
            second_ns: Some(second),
            ..
        } = self.armed
        else {
            return None;
        };
        if now.saturating_sub(second) < SETTLED_NS {
            return None;
        }
        self.armed = Armed::Yes;
        Some(Act::Fed)
    }

    fn disarmed(&mut self) -> Act {
        self.armed = Armed::No;
        Act::Disarmed
    }

    fn written(&mut self, now: Nanoseconds, offset: u8, value: u64) -> Option<Act> {
        let before = std::mem::replace(&mut self.unlock, Unlock::No);
        if offset != RELOAD_REGISTER {
            return None;
        }
        match (before, value) {
            (_, 0x80) => self.unlock = Unlock::Half,
            (Unlock::Half, 0x86) => self.unlock = Unlock::Open,
            (Unlock::Open, value) if value & RELOAD != 0 => return self.restarted(now),
            _ => {}
        }
        None
    }

    fn restarted(&mut self, now: Nanoseconds) -> Option<Act> {
        match &mut self.armed {
            Armed::Yes => Some(Act::Fed),
            Armed::No => Some(Act::FedInVain),
            Armed::Unknown {
                first_ns: Some(first),
                second_ns,
            } => {
                if now.saturating_sub(*first) >= APART_NS {
                    second_ns.get_or_insert(now);
                }
                None
            }
            Armed::Unknown { first_ns, .. } => {
                *first_ns = Some(now);
                None
            }
        }
    }

    fn lock_written(&mut self, value: u64) -> Option<Act> {
        if self.locked {
            return None;
        }
        self.locked = value & LOCK != 0;
        let was = self.armed;
        match value & ENABLE {
            0 if was == Armed::No => None,
            0 => Some(self.disarmed()),
            _ if was == Armed::Yes => None,
            _ => {
                self.armed = Armed::Yes;
                Some(Act::Armed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanoseconds = 1_000_000;
    const UNLOCK: [Sighting; 2] = [
        Sighting::I6300esb {
            offset: 12,
            value: 0x80,
        },
        Sighting::I6300esb {
            offset: 12,
            value: 0x86,
        },
    ];
    const RESTART: Sighting = Sighting::I6300esb {
        offset: 12,
        value: 0x100,
    };
    const TIMER: Sighting = Sighting::I6300esb {
        offset: 0,
        value: 0x1400,
    };

    fn see(device: &mut Device, now: Nanoseconds, seen: &[Sighting]) -> Vec<Act> {
        seen.iter()
            .filter_map(|seen| device.see(now, *seen))
            .collect()
    }

    fn restart(device: &mut Device, now: Nanoseconds) -> Vec<Act> {
        let [first, second] = UNLOCK;
        see(device, now, &[first, second, RESTART])
    }

    #[test]
    fn a_restart_while_it_is_armed_is_a_feed_and_before_it_is_none() {
        let mut device = Device::off();
        assert_eq!(restart(&mut device, 0), [Act::FedInVain]);
        assert_eq!(see(&mut device, 0, &[Sighting::I6300esbLock(0)]), []);
        assert_eq!(
            see(&mut device, 0, &[Sighting::I6300esbLock(2)]),
            [Act::Armed]
        );
        assert_eq!(see(&mut device, 0, &[UNLOCK[0], UNLOCK[1], TIMER]), []);
        assert_eq!(restart(&mut device, 0), [Act::Fed]);
        assert_eq!(restart(&mut device, 0), [Act::Fed]);
        assert_eq!(
            see(&mut device, 0, &[Sighting::I6300esbLock(0)]),
            [Act::Disarmed]
        );
        assert_eq!(restart(&mut device, 0), [Act::FedInVain]);
    }

    #[test]
    fn a_restart_without_the_whole_unlocking_is_none() {
        let [first, second] = UNLOCK;
        for seen in [
            vec![RESTART],
            vec![first, RESTART],
            vec![second, RESTART],
            vec![second, first, RESTART],
            vec![first, second, TIMER, RESTART],
            vec![first, TIMER, second, RESTART],
        ] {
            let mut device = Device::off();
            let _ = device.see(0, Sighting::I6300esbLock(2));
            assert_eq!(see(&mut device, 0, &seen), [], "{seen:?}");
        }
    }

    #[test]
    fn a_locked_device_stays_armed_until_a_reset() {
        let mut device = Device::off();
        assert_eq!(
            see(&mut device, 0, &[Sighting::I6300esbLock(3)]),
            [Act::Armed]
        );
        assert_eq!(see(&mut device, 0, &[Sighting::I6300esbLock(0)]), []);
        assert_eq!(restart(&mut device, 0), [Act::Fed]);
    }

    #[test]
    fn an_unseen_device_is_fed_by_two_restarts_apart_that_no_arming_follows() {
        let mut device = Device::unseen();
        assert_eq!(restart(&mut device, 0), []);
        assert_eq!(restart(&mut device, 999 * MS), []);
        assert_eq!(
            device.tick(5_000 * MS),
            None,
            "they were too near each other"
        );
        assert_eq!(restart(&mut device, 6_000 * MS), []);
        assert_eq!(device.tick(6_999 * MS), None);
        assert_eq!(device.tick(7_000 * MS), Some(Act::Fed));
        assert_eq!(restart(&mut device, 8_000 * MS), [Act::Fed]);
    }

    #[test]
    fn an_unseen_device_that_is_then_armed_was_not_fed() {
        let mut device = Device::unseen();
        assert_eq!(restart(&mut device, 0), [], "a driver is loaded");
        assert_eq!(restart(&mut device, 9_000 * MS), [], "and arms");
        assert_eq!(
            see(&mut device, 9_001 * MS, &[Sighting::I6300esbLock(2)]),
            [Act::Armed]
        );
        assert_eq!(device.tick(60_000 * MS), None);
        assert_eq!(restart(&mut device, 61_000 * MS), [Act::Fed]);
    }

    #[test]
    fn an_ib700_is_armed_by_its_first_write_and_fed_by_the_second() {
        for mut device in [Device::off(), Device::unseen()] {
            assert_eq!(device.see(0, Sighting::Ib700Enable), Some(Act::Armed));
            assert_eq!(device.see(0, Sighting::Ib700Enable), Some(Act::Fed));
            assert_eq!(device.see(0, Sighting::Ib700Disable), Some(Act::Disarmed));
            assert_eq!(device.see(0, Sighting::Ib700Enable), Some(Act::Armed));
        }
    }

    #[test]
    fn what_was_known_of_a_device_does_not_outlive_a_gap() {
        let mut device = Device::off();
        let _ = device.see(0, Sighting::I6300esbLock(2));
        assert_eq!(device.see(0, Sighting::Gap), None);
        assert_eq!(restart(&mut device, 0), []);
    }
}

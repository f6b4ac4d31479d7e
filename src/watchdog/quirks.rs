// SPDX-License-Identifier: GPL-2.0-only
//! What single drivers do otherwise than the kernel's interface says: one table, each row with
//! its source. A driver without a row does what it says.
//!
//! In: a driver's identity or its module's name. Out: what to ask of it, and what it then does.
//!
//! No driver is known to reset at half of what was set: a search through all of Linux 6.1's
//! drivers/watchdog, and ipmi_watchdog, found none. Hardware that counts in two stages resets after the second, and its driver
//! sets each to half: i6300esb, ie6xx_wdt, sp805_wdt, rzg2l_wdt, mtk_wdt, dw_wdt with a pretimeout, and
//! iTCO_wdt where it knows that the first does nothing. One that did would be kicked in time all
//! the same, as twenty looks go into a timeout.

use std::fs;
use std::path::Path;

/// A driver's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// What it calls itself (WDIOC_GETSUPPORT, and sysfs where it is there).
    pub identity: &'static str,
    /// Its module.
    pub module: &'static str,
    /// Why it is not hardware.
    pub not_hardware: Option<&'static str>,
    /// It has /dev/watchdog alone: no /dev/watchdogN and nothing in sysfs' class.
    pub legacy: bool,
    /// It resets after so many timeouts at the most, and after one at the least.
    pub countdowns: u32,
    /// It knows multiples of this alone, seconds, and takes others for the next.
    pub step_s: u32,
    /// A parameter of its module with a value at which it takes kicks and never resets.
    pub toothless: Option<(&'static str, &'static str)>,
}

/// What ipmi_watchdog calls itself.
pub const IPMI: &str = "IPMI";

/// A driver that does what it says.
const PLAIN: Quirk = Quirk {
    identity: "",
    module: "",
    not_hardware: None,
    legacy: false,
    countdowns: 1,
    step_s: 1,
    toothless: None,
};

/// The table. Sources: the drivers of Linux 6.1 by these names, and what they were seen to do on
/// the emulated devices of QEMU 7.2 (tests/lab has each but softdog).
pub const QUIRKS: &[Quirk] = &[
    // drivers/watchdog/iTCO_wdt.c: the first time that the counter runs out raises an SMI, the
    // second resets. The driver halves the timeout where it sees that firmware has SMIs off;
    // where it has them on and they do nothing, the reset comes at 2T.
    Quirk {
        identity: "iTCO_wdt",
        module: "iTCO_wdt",
        countdowns: 2,
        ..PLAIN
    },
    // drivers/watchdog/sbsa_gwdt.c: with action=1 the first stage is a panic of dom0's, and the
    // reset comes at 2T; on MediaTek's hardware the driver holds a kick back for T/2 and 1 s, and
    // takes no T below 3 s. Neither is to be read anywhere.
    Quirk {
        identity: "SBSA Generic Watchdog",
        module: "sbsa_gwdt",
        countdowns: 2,
        ..PLAIN
    },
    // drivers/watchdog/ib700wdt.c: 16 times of 0 to 30 s in steps of 2 s. It reports the one
    // that was asked for, and 0 resets at once.
    Quirk {
        identity: "IB700 WDT",
        module: "ib700wdt",
        legacy: true,
        step_s: 2,
        ..PLAIN
    },
    // drivers/char/ipmi/ipmi_watchdog.c: announces no options and does them all; its action is
    // a parameter, and with "none" kicks succeed and nothing ever happens.
    Quirk {
        identity: IPMI,
        module: "ipmi_watchdog",
        legacy: true,
        toothless: Some(("action", "none")),
        ..PLAIN
    },
    Quirk {
        identity: "xen_wdt",
        module: "xen_wdt",
        not_hardware: Some("Xen's own timer, run by the hypervisor that is to be watched"),
        ..PLAIN
    },
    Quirk {
        identity: "Software Watchdog",
        module: "softdog",
        not_hardware: Some(
            "a kernel timer of dom0 (softdog), run by the hypervisor that is to be watched",
        ),
        ..PLAIN
    },
];

impl Quirk {
    /// The ways of the driver that calls itself so.
    #[must_use]
    pub fn of(identity: &str) -> &'static Self {
        let known = QUIRKS.iter().find(|quirk| quirk.identity == identity);
        known.unwrap_or(&PLAIN)
    }

    /// The ways of the driver with this module.
    #[must_use]
    pub fn of_module(module: &str) -> Option<&'static Self> {
        QUIRKS.iter().find(|quirk| quirk.module == module)
    }

    /// The driver without an entry in sysfs' class that is loaded, of those that are known.
    #[must_use]
    pub fn of_legacy(sysfs: &Path) -> Option<&'static Self> {
        let modules = sysfs.join("module");
        let loaded = |quirk: &&Self| quirk.legacy && modules.join(quirk.module).exists();
        QUIRKS.iter().find(loaded)
    }

    /// The timeouts to ask for, in turn, so that the host is reset within `promised_s` if the
    /// device can do that, seconds.
    pub fn tries(&self, promised_s: u32) -> impl Iterator<Item = u32> + use<> {
        let (step, most) = (self.step_s, promised_s);
        let first = (promised_s / self.countdowns / step * step).max(step);
        // What it does not take may be too short for it. Never 0: some drivers reset at once.
        (first..=most.max(first)).step_by(usize::try_from(step).unwrap_or(1))
    }

    /// When it resets at the latest with this timeout, seconds after a kick.
    #[must_use]
    pub fn latest_s(&self, timeout_s: u32) -> u32 {
        let real_s = timeout_s.div_ceil(self.step_s).saturating_mul(self.step_s);
        real_s.saturating_mul(self.countdowns)
    }

    /// A parameter of its module, as sysfs has it; none where it cannot be read.
    #[must_use]
    pub fn parameter(&self, sysfs: &Path, name: &str) -> Option<String> {
        let file = sysfs.join("module").join(self.module);
        let text = fs::read_to_string(file.join("parameters").join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Whether its module was told that it must not be disarmed.
    #[must_use]
    pub fn nowayout(&self, sysfs: &Path) -> Option<bool> {
        let text = self.parameter(sysfs, "nowayout")?;
        Some(matches!(text.as_str(), "Y" | "1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_a_driver_makes_the_promised_time_true() {
        let tries =
            |identity, promised_s| -> Vec<u32> { Quirk::of(identity).tries(promised_s).collect() };
        assert_eq!(tries("i6300ESB timer", 5), [5]);
        assert_eq!(tries("iTCO_wdt", 5), [2, 3, 4, 5]);
        assert_eq!(tries("iTCO_wdt", 1), [1]);
        assert_eq!(tries("SBSA Generic Watchdog", 5), [2, 3, 4, 5]);
        assert_eq!(tries("IB700 WDT", 5), [4]);
        assert_eq!(tries("IB700 WDT", 1), [2], "never 0, which resets at once");
        assert_eq!(tries("IPMI", 300), [300]);
    }

    /// A kick of MediaTek's may wait for half of the timeout and 1 s before it is one.
    #[test]
    fn a_kick_that_a_driver_holds_back_is_within_two_countdowns() {
        let quirk = Quirk::of("SBSA Generic Watchdog");
        let taken = |timeout_s: &u32| *timeout_s >= 3;
        for promised_s in 5..120 {
            let set_s = quirk.tries(promised_s).find(taken).expect("a timeout");
            let held_back_ms = 500 * set_s + 1000;
            assert!(1000 * set_s + held_back_ms <= 1000 * quirk.latest_s(set_s));
        }
    }

    #[test]
    fn the_reset_is_expected_when_it_comes_at_the_latest() {
        assert_eq!(Quirk::of("iTCO_wdt").latest_s(3), 6);
        let sbsa = Quirk::of("SBSA Generic Watchdog");
        assert_eq!([2, 3].map(|set_s| sbsa.latest_s(set_s)), [4, 6]);
        assert_eq!(Quirk::of("IB700 WDT").latest_s(5), 6);
        assert_eq!(Quirk::of("anything else").latest_s(5), 5);
    }
}

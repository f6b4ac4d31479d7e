// SPDX-License-Identifier: GPL-2.0-only
//! Phases of the timers: when, within the second in which all periodic work recurs, a scenario acts.

use crate::layout::cache_key;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest period of what the guard and the hypervisor do over and over: the canary's.
const PERIOD: Duration = Duration::from_secs(1);
/// 2^64 divided by the golden ratio.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Phases that lie about evenly in the period, however many there are, and of which no two are the same for long: the fractions of the
/// multiples of the golden ratio, from some place on.
pub struct Even {
    /// The place, of 2^64.
    begin: u64,
}

impl Even {
    /// Those of a row, from a place of its own on, which comes of its name and of a number.
    pub fn of(seed: u64, name: &str) -> Self {
        let hash = cache_key([name.as_bytes(), &seed.to_le_bytes()]);
        Even {
            begin: u64::from_str_radix(&hash, 16).unwrap_or_default(),
        }
    }

    /// The n-th, in whole milliseconds.
    pub fn nth(&self, n: u64) -> Duration {
        let fraction = self.begin.wrapping_add(n.wrapping_mul(GOLDEN));
        let phase_ms = (u128::from(fraction) * PERIOD.as_millis()) >> 64;
        Duration::from_millis(phase_ms as u64)
    }
}

/// A source of phases: Marsaglia's xorshift, which is random enough to land anywhere.
pub struct Phases(u64);

impl Phases {
    /// Different at each call.
    pub fn from_clock() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Phases(now.as_nanos() as u64 | 1)
    }

    /// A random phase in the `part`-th of `parts` equal parts of the period.
    pub fn next(&mut self, part: u32, parts: u32) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let width = PERIOD / parts;
        width * part + width.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::Phases;
    use std::time::Duration;

    #[test]
    fn three_phases_lie_in_three_different_thirds() {
        let mut phases = Phases::from_clock();
        for part in 0..3 {
            let phase = phases.next(part, 3);
            let third = Duration::from_secs(1) / 3;
            assert!(
                phase >= third * part && phase <= third * (part + 1),
                "{phase:?}"
            );
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Phases of the timers: when, within the second in which all periodic work recurs, a scenario acts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest period of what the guard and the hypervisor do over and over: the canary's.
const PERIOD: Duration = Duration::from_secs(1);

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

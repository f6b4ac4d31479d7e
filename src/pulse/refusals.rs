// SPDX-License-Identifier: GPL-2.0-only
//! Refused pulses, told seldom: whoever floods a node must not flood the journal.
//!
//! In: refusals. Out: how many to tell of, at the first and then at most once a minute for each reason. Pure.

use crate::event::Refused;
use crate::sys::clock::NS_PER_S;

const SHORTEST_NS: u64 = 60 * NS_PER_S;

/// Those of one heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Vec<Noted>);

#[derive(Clone, Debug)]
struct Noted {
    reason: Refused,
    untold: u64,
    told_at: u64,
}

impl Refusals {
    /// Notes one; how many to tell of now, if it is time to.
    pub fn note(&mut self, reason: Refused, now: u64) -> Option<u64> {
        let Some(noted) = self.0.iter_mut().find(|noted| noted.reason == reason) else {
            self.0.push(Noted {
                reason,
                untold: 0,
                told_at: now,
            });
            return Some(1);
        };
        noted.untold = noted.untold.saturating_add(1);
        if now.saturating_sub(noted.told_at) < SHORTEST_NS {
            return None;
        }
        noted.told_at = now;
        Some(std::mem::take(&mut noted.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_once_a_minute_with_its_number() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.note(Refused::Seal, 5), Some(1));
        for now in 6..1_000 {
            assert_eq!(refusals.note(Refused::Seal, now), None);
        }
        assert_eq!(
            refusals.note(Refused::Role, 1_000),
            Some(1),
            "another reason"
        );
        assert_eq!(refusals.note(Refused::Seal, 5 + SHORTEST_NS), Some(995));
    }
}

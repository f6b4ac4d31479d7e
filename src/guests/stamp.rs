// SPDX-License-Identifier: GPL-2.0-only
//! A moment of a guest's that may be none, in no more memory than one that is. Pure.

use super::alarm::Nanoseconds;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// Nanoseconds, in such a form that `Option<Stamp>` has eight bytes; written as the number. The least of all counts as
/// the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Nanoseconds", into = "Nanoseconds")]
pub struct Stamp(NonZeroU64);

const SIGN: u64 = 1 << 63;

impl From<Nanoseconds> for Stamp {
    fn from(ns: Nanoseconds) -> Self {
        let bits = u64::from_ne_bytes(ns.to_ne_bytes()) ^ SIGN;
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Stamp> for Nanoseconds {
    fn from(stamp: Stamp) -> Self {
        Self::from_ne_bytes((stamp.0.get() ^ SIGN).to_ne_bytes())
    }
}

impl Stamp {
    /// The moment.
    #[must_use]
    pub fn ns(self) -> Nanoseconds {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_is_kept_and_written_as_its_number() {
        assert_eq!(size_of::<Option<Stamp>>(), 8);
        for ns in [0, 1, -1, 1_000_000_007, -5_000, i64::MAX, i64::MIN + 1] {
            let stamp = Stamp::from(ns);
            assert_eq!(stamp.ns(), ns);
            let text = serde_json::to_string(&Some(stamp)).expect("a number");
            assert_eq!(text, ns.to_string());
            let read: Option<Stamp> = serde_json::from_str(&text).expect("a number");
            assert_eq!(read, Some(stamp));
        }
        assert_eq!(Stamp::from(i64::MIN).ns(), i64::MIN + 1);
    }
}

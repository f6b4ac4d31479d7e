// SPDX-License-Identifier: GPL-2.0-only
//! How often: attempts to connect to a QEMU, and lines of the log about it. Pure.
//!
//! In: what happened, and when. Out: how long to wait, or whether to say it. Promises: a peer that
//! floods or talks nonsense takes less and less of this process and of the log, whatever it does
//! between; one that behaves for [`PEACE`] is a new one.

use crate::qmp::{CallError, Stopped};
use std::time::{Duration, Instant};

/// Between two attempts to connect, at first.
const FIRST: Duration = Duration::from_millis(100);
/// And at last, to a QEMU that is not there or ends connections.
const LAST: Duration = Duration::from_secs(2);
/// And to one that floods, or says what is no QMP.
const LAST_WILD: Duration = Duration::from_secs(120);
/// A connection that lasts so long is forgiven what was before.
pub const PEACE: Duration = Duration::from_secs(300);
/// For how long lines are counted together.
const SECOND: Duration = Duration::from_secs(1);

/// Attempts to connect.
#[derive(Debug)]
pub struct Attempts {
    next: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Attempts {
    /// How long to wait after an attempt, or a connection that lasted so long, ended by `why`.
    pub fn wait(&mut self, why: &CallError, lasted: Duration) -> Duration {
        if lasted >= PEACE {
            self.next = FIRST;
        }
        let wait = self.next;
        let most = if is_wild(why) { LAST_WILD } else { LAST };
        // One that was wild is not let in sooner because it then just hangs up.
        self.next = (wait * 2).min(most).max(wait);
        wait
    }
}

fn is_wild(why: &CallError) -> bool {
    matches!(
        why,
        CallError::Stopped(Stopped::TooMuch | Stopped::Garbage(_))
    )
}

/// Lines of one sort: so many in a second, the others counted.
#[derive(Debug)]
pub struct Lines {
    most: u32,
    since: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Lines {
    /// At most `most` a second.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            since: None,
            said: 0,
            left_out: 0,
        }
    }

    /// Whether one may be said at `now`; if not, it is counted.
    pub fn may_say(&mut self, now: Instant) -> bool {
        if self.is_new(now) {
            (self.since, self.said) = (Some(now), 0);
        }
        let may = self.said < self.most;
        if may {
            self.said += 1;
        } else {
            self.left_out += 1;
        }
        may
    }

    /// How many were left out, to be said at `now`; zero while their second lasts.
    pub fn left_out(&mut self, now: Instant) -> u64 {
        if self.is_new(now) {
            std::mem::take(&mut self.left_out)
        } else {
            0
        }
    }

    fn is_new(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) >= SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stopped: Stopped) -> CallError {
        CallError::Stopped(stopped)
    }

    #[test]
    fn a_peer_that_floods_waits_longer_each_time_until_it_behaves_for_minutes() {
        let mut attempts = Attempts::default();
        let mut before = Duration::ZERO;
        for n in 0..20 {
            let wait = attempts.wait(&of(Stopped::TooMuch), Duration::from_secs(n % 2));
            assert!(wait > before || wait == LAST_WILD, "{wait:?}");
            before = wait;
        }
        assert_eq!(before, LAST_WILD);
        // Whatever it does between.
        let wait = attempts.wait(&of(Stopped::Ended), Duration::from_secs(9));
        assert_eq!(wait, LAST_WILD);
        assert_eq!(
            attempts.wait(&of(Stopped::Garbage(String::new())), PEACE),
            FIRST
        );
    }

    #[test]
    fn a_peer_that_is_not_there_or_hangs_up_is_tried_again_within_seconds() {
        let mut attempts = Attempts::default();
        for _ in 0..20 {
            let wait = attempts.wait(&of(Stopped::Ended), Duration::ZERO);
            assert!(wait <= LAST, "{wait:?}");
        }
    }

    #[test]
    fn lines_beyond_those_of_a_second_are_counted_and_told_once() {
        let mut lines = Lines::new(2);
        let start = Instant::now();
        let said = (0..100).filter(|_| lines.may_say(start)).count();
        assert_eq!((said, lines.left_out(start)), (2, 0));
        let later = start + SECOND;
        assert_eq!((lines.left_out(later), lines.left_out(later)), (98, 0));
        assert!(lines.may_say(later));
    }
}

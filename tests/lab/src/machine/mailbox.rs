// SPDX-License-Identifier: GPL-2.0-only
//! Where a reading thread leaves what arrives and where others wait for it, with a time-out.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    letters: Vec<T>,
    closed: bool,
}

/// A shared list of what has arrived and was not yet taken.
pub struct Mailbox<T>(Arc<Inner<T>>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox(Arc::clone(&self.0))
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let state = Mutex::new(State {
            letters: Vec::new(),
            closed: false,
        });
        Mailbox(Arc::new(Inner {
            state,
            changed: Condvar::new(),
        }))
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a letter.
    pub fn put(&self, letter: T) {
        self.lock().letters.push(letter);
        self.0.changed.notify_all();
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Looks at all letters at once.
    pub fn with<R>(&self, look: impl FnOnce(&mut Vec<T>) -> R) -> R {
        look(&mut self.lock().letters)
    }

    /// Waits until `pick` finds what it wants among the letters. `None` when the time is over or nothing more will come.
    pub fn wait<R>(
        &self,
        limit: Duration,
        mut pick: impl FnMut(&mut Vec<T>) -> Option<R>,
    ) -> Option<R> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = pick(&mut state.letters) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the first letter that `wanted` accepts and takes it out.
    pub fn take(&self, limit: Duration, wanted: impl Fn(&T) -> bool) -> Option<T> {
        self.wait(limit, |letters| {
            let at = letters.iter().position(&wanted)?;
            Some(letters.remove(at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Mailbox;
    use std::time::Duration;

    #[test]
    fn who_waits_gets_the_letter_it_wants_and_learns_of_the_end() {
        let mailbox = Mailbox::default();
        let writer = mailbox.clone();
        let thread = std::thread::spawn(move || {
            writer.put(1);
            writer.put(2);
            writer.close();
        });
        assert_eq!(
            mailbox.take(Duration::from_secs(5), |letter| *letter == 2),
            Some(2)
        );
        thread.join().unwrap();
        assert_eq!(
            mailbox.take(Duration::from_secs(5), |letter| *letter == 3),
            None
        );
        assert_eq!(mailbox.with(|letters| letters.clone()), [1]);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The liveness table, which may not be there yet, or never.
//!
//! In: attempts to map it. Out: the table. The monitor does without it what it can, and
//! tries again; it tells why the table is missing once, and again when the reason changes.

use crate::sys::privcmd::Privcmd;
use crate::xen;
use crate::xen::table::Table;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts.
pub const AGAIN: Duration = Duration::from_secs(10);
/// How often the order to stop is looked at meanwhile.
const POLL: Duration = Duration::from_millis(250);

/// Maps the hypervisor's table.
///
/// # Errors
/// Why not.
pub fn map() -> Result<Table<'static>, String> {
    let privcmd = Privcmd::open().map_err(|error| format!("/dev/xen/privcmd: {error}"))?;
    xen::map_table(&privcmd).map_err(|why| why.to_string())
}

/// The table that `attempt` gives, tried anew `every` so often; none once `stop` is set.
/// `missing` is told why it is not there, whenever that changes.
pub fn wait<T>(
    attempt: impl Fn() -> Result<T, String>,
    every: Duration,
    stop: &AtomicBool,
    missing: impl Fn(&str),
) -> Option<T> {
    let mut told = None;
    while !stop.load(Ordering::Acquire) {
        match attempt() {
            Ok(table) => return Some(table),
            Err(why) if told.as_ref() == Some(&why) => {}
            Err(why) => missing(told.insert(why)),
        }
        let again = Instant::now() + every;
        while Instant::now() < again && !stop.load(Ordering::Acquire) {
            thread::sleep(POLL.min(every));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_table_that_comes_later_is_found_and_each_reason_is_told_once() {
        let answers = [Err("no device"), Err("no device"), Err("no table"), Ok(7)];
        let left = RefCell::new(answers.into_iter());
        let told = RefCell::new(Vec::new());
        let attempt = || {
            let next = left.borrow_mut().next().expect("no more than it takes");
            next.map_err(str::to_owned)
        };
        let missing = |why: &str| told.borrow_mut().push(why.to_owned());
        let stop = AtomicBool::new(false);
        let table = wait(attempt, Duration::ZERO, &stop, missing);
        assert_eq!(table, Some(7));
        assert_eq!(*told.borrow(), ["no device", "no table"]);
    }

    #[test]
    fn an_order_to_stop_ends_the_wait() {
        let stop = AtomicBool::new(false);
        let attempt = || {
            stop.store(true, Ordering::Release);
            Err::<(), _>("never".to_owned())
        };
        assert_eq!(wait(attempt, AGAIN, &stop, |_| {}), None);
    }
}

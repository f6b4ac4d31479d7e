// SPDX-License-Identifier: GPL-2.0-only
//! What the guest has on its disk: numbers, each with the boot that wrote it.
//!
//! In: the disk's lines, and what the guest said that it had. Out: an error where something that was acknowledged is missing, or where two
//! boots wrote at a time.

use crate::error::{Context, Error, Result};
use std::collections::BTreeSet;

/// The last number that the guest said it had, in a host's log.
pub fn acknowledged(lines: &[String]) -> Option<u64> {
    let said = lines
        .iter()
        .filter_map(|line| line.split_once("guest: has "));
    let mut numbers = said.filter_map(|(_, number)| number.trim().parse().ok());
    numbers.next_back()
}

/// Looks at the disk; `acknowledged` was said by the boot before the last one. Returns how many numbers there are.
pub fn check(disk: &str, acknowledged: u64) -> Result<u64> {
    let mut expected = 0;
    let (mut boots, mut boot) = (BTreeSet::new(), "");
    // Of the boot before the last one, or of the only one.
    let mut last_before = 0;
    for line in disk.lines() {
        let (number, by) = line
            .split_once(' ')
            .context(|| format!("not a number and a boot on the disk: {line}"))?;
        expected += 1;
        if number.parse() != Ok(expected) {
            return Err(Error::new(format!(
                "{number} on the disk where {expected} belongs"
            )));
        }
        if by != boot && !boot.is_empty() {
            last_before = expected - 1;
        }
        if by != boot && !boots.insert(by) {
            return Err(Error::new(format!(
                "boot {by} wrote {number} after another one had begun"
            )));
        }
        boot = by;
    }
    if boots.len() < 2 {
        last_before = expected;
    }
    if last_before < acknowledged {
        return Err(Error::new(format!(
            "{acknowledged} was acknowledged, and the disk has {last_before} of that boot"
        )));
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::{acknowledged, check};

    #[test]
    fn what_is_lost_torn_or_written_by_two_is_told() {
        assert_eq!(check("1 a\n2 a\n3 b\n", 2).unwrap(), 3);
        assert_eq!(check("1 a\n2 b\n3 b\n4 c\n", 3).unwrap(), 4);
        assert!(check("1 a\n2 b\n3 b\n4 c\n", 4).is_err());
        assert!(check("1 a\n2 a\n3 b\n", 3).is_err());
        assert!(check("1 a\n3 a\n", 1).is_err());
        assert!(check("1 a\n2 b\n3 a\n", 1).is_err());
        assert!(check("1 a\n2\n", 1).is_err());
    }

    #[test]
    fn the_last_number_that_was_said_counts() {
        let lines = [
            "web: guest: has 1",
            "x",
            "web: guest: has 12\r",
            "web: guest: lost 13",
        ];
        assert_eq!(acknowledged(&lines.map(str::to_owned)), Some(12));
        assert_eq!(acknowledged(&[]), None);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What is wrong with a configuration: collected, so that all of it is told at once.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What is wrong, a line for each.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    pub(crate) fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    pub(crate) fn note(&mut self, outcome: Result<(), String>) {
        self.0.extend(outcome.err());
    }

    /// The path given for a key, or its default.
    pub(crate) fn absolute(&mut self, key: &str, given: Option<PathBuf>, default: &str) -> PathBuf {
        let path = given.unwrap_or_else(|| PathBuf::from(default));
        let plain = !path.to_string_lossy().chars().any(char::is_control);
        if !path.is_absolute() || !plain {
            self.add(format!(
                "{key} = {path:?}: must be an absolute path without control characters"
            ));
        }
        path
    }

    /// The number given for a key, or its default.
    pub(crate) fn within(
        &mut self,
        key: &str,
        given: Option<u32>,
        range: RangeInclusive<u32>,
        default: u32,
        unit: &str,
    ) -> u32 {
        let value = given.unwrap_or(default);
        if range.contains(&value) {
            return value;
        }
        let (low, high) = (range.start(), range.end());
        self.add(format!("{key} = {value}: must be {low} to {high}{unit}"));
        default
    }

    /// All of them, if there are any.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.0
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The configuration: whether it is one, and what it names.

use super::{Area, Finding, System};
use crate::config::check::check_below;
use crate::config::file::File;
use crate::config::{self, Policy};
use std::path::Path;

const AREA: Area = Area::Configuration;

/// What is said of it, and the policy: the defaults' where there is none. None only if the
/// defaults were at fault.
pub fn look(system: &System, path: &Path) -> (Option<Policy>, Vec<Finding>) {
    let policy = match config::load(&system.at(path)) {
        Ok(policy) => policy,
        Err(error) => {
            let text = error.to_string();
            let wrong = |line: &str| {
                let mend = "mend it: until then neither the guard nor the monitor starts; all \
                            below goes by the defaults";
                Finding::wrong(AREA, line, mend)
            };
            let defaults = Policy::from_file(File::default()).ok();
            return (defaults, text.lines().map(wrong).collect());
        }
    };
    let wrong = check_below(&policy, &system.root);
    let mut findings: Vec<Finding> = wrong
        .iter()
        .map(|line| {
            let mend = "mend what it names, or the key; xenwarden.conf(5)";
            Finding::wrong(AREA, line.as_str(), mend)
        })
        .collect();
    if findings.is_empty() {
        let text = format!("{}: all that it names is as it must be", path.display());
        findings.push(Finding::fine(AREA, text));
    }
    (Some(policy), findings)
}

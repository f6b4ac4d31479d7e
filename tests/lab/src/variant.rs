// SPDX-License-Identifier: GPL-2.0-only
//! Broken variants: each takes one rule away from the programs, and a scenario must notice.
//!
//! In: this tree, copied, and a line of it changed. Out: an error for each variant that its scenario does not turn red for, or
//! turns red for another reason than the one expected.

use crate::command::{logged, output, say};
use crate::error::{Context, Error, Result};
use crate::laboratory::Laboratory;
use crate::layout::{Layout, fresh_dir, read_text, write};
use crate::provision::Arch;
use crate::scenario::Scenario;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What cargo needs of this tree, to build the programs.
const TREE: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    "src",
    "benches",
    "tests",
];
/// The programs that a variant may change.
const PROGRAMS: &[&str] = &[
    "xenwardend",
    "xenwarden-monitor",
    "xenwarden",
    "xenwarden-pulse",
];
/// When in the timers' period the scenarios act.
const PHASE: Duration = Duration::from_millis(300);

/// A program with a rule taken away.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    /// What no longer holds, for people.
    what: &'static str,
    file: &'static str,
    /// The text that is there once, and what replaces it.
    text: &'static str,
    instead: &'static str,
    scenario: &'static str,
    /// Part of what the scenario says of it.
    fails: &'static str,
}

#[rustfmt::skip]
const VARIANTS: &[Variant] = &[
    Variant {
        name: "gate-always-kicks", what: "the gate says kick, whatever the evidence",
        file: "src/guard/gate.rs", text: "    Decision::Withhold(match verdict {", instead: "    if age_ns < u64::MAX {\n        return Decision::Kick;\n    }\n    Decision::Withhold(match verdict {",
        scenario: "wedge/timer-lost-2", fails: "has not fired",
    },
    Variant {
        name: "pcpus-ignored", what: "pCPUs are no evidence",
        file: "src/guard/evidence.rs", text: "\n            progress.see(&record, now, proved_ns.min(unlooked_ns));\n", instead: "\n            progress.see(&record, now, proved_ns.min(unlooked_ns));\n            if progress.proven {\n                continue;\n            }\n",
        scenario: "wedge/sched-lost-3", fails: "has not fired",
    },
    Variant {
        name: "guests-ignored", what: "guest watchdogs are no evidence",
        file: "src/guard/evidence.rs", text: "        self.judge_guests(table, now, &mut lagging);\n", instead: "",
        scenario: "wedge/guest-handler-lost", fails: "has not fired",
    },
    Variant {
        name: "starved-ignored", what: "starved vCPUs are no evidence, though they were asked for",
        file: "src/guard/evidence.rs", text: "        lagging.add(work, proved_ns);\n", instead: "",
        scenario: "wedge/idle-only-2", fails: "has not fired",
    },
    Variant {
        name: "unknown-kicks", what: "what is unknown counts as served",
        file: "src/guard/gate.rs", text: "        Verdict::Unknown(why) => Reason::Unknown(why),\n", instead: "        Verdict::Unknown(_) => return Decision::Kick,\n",
        scenario: "survive/start-on-a-wedge", fails: "",
    },
    Variant {
        name: "stale-page-trusted", what: "a guard page that nobody writes any more is taken for a guard at work",
        file: "src/monitor/reporter.rs", text: "    is_armed && status::is_silent(view, now)\n", instead: "    is_armed && status::is_silent(view, now) && false\n",
        scenario: "down/guard-stopped", fails: "nobody said: the guard has told nothing for",
    },
    Variant {
        name: "leases-ignored", what: "leases are no evidence",
        file: "src/guard/gate.rs", text: "        (Decision::Kick, Some(reason)) => Decision::Withhold(reason),\n", instead: "",
        scenario: "down/lease-killed", fails: "has not fired",
    },
    Variant {
        name: "absence-lapses", what: "a lease that nobody looked after counts as lapsed",
        file: "src/guard/leases/mod.rs", text: "            if served <= deadline && !is_strict {\n", instead: "            if served <= deadline && overdue_ns == 0 {\n",
        scenario: "survive/lease-monitor-away", fails: "the host watchdog has fired",
    },
    Variant {
        name: "lost-renews", what: "a heartbeat that is lost goes on renewing its lease",
        file: "src/pulse/lease.rs", text: "        if holds {\n", instead: "        if holds || now > 0 {\n",
        scenario: "down/lease-pulse", fails: "has not fired",
    },
    Variant {
        name: "creation-ignored", what: "the next domain of a domid is taken for the one before",
        file: "src/guard/evidence.rs", text: "            if progress.created != created {\n", instead: "            if progress.created == 0 {\n",
        scenario: "survive/domid-reused", fails: "the host watchdog has fired",
    },
];

/// Builds each variant whose name contains `wanted`, and runs its scenario.
pub fn run(wanted: &str) -> Result<()> {
    let folder = Layout::of_this_tree().lab("variants");
    let chosen = VARIANTS.iter().filter(|v| v.name.contains(wanted));
    let mut passed = Vec::new();
    for variant in chosen {
        let programs = folder.join("programs");
        build(variant, &folder, &programs)?;
        let layout = Layout::of_this_tree().with_programs(programs);
        let laboratory = Laboratory::provide_parts_of(layout)?;
        let mut all = Scenario::all(Arch::Amd64).into_iter();
        let scenario = all.find(|scenario| scenario.name() == variant.scenario);
        let scenario = scenario.context(|| format!("no scenario {}", variant.scenario))?;
        let failure = scenario.run(&laboratory, PHASE).failure;
        let red = failure.as_ref().is_some_and(|f| f.contains(variant.fails));
        println!(
            "{:<20} {:<28} {}: {}",
            variant.name,
            variant.scenario,
            if red {
                "red, as it must be"
            } else {
                "NOT NOTICED"
            },
            failure.as_deref().unwrap_or("green")
        );
        if !red {
            passed.push(format!("{} ({})", variant.name, variant.what));
        }
    }
    match passed[..] {
        [] => Ok(()),
        _ => Err(Error::new(format!("not noticed: {}", passed.join(", ")))),
    }
}

/// Builds a variant's programs in a copy of this tree.
fn build(variant: &Variant, folder: &Path, programs: &Path) -> Result<()> {
    let (tree, target) = (folder.join("tree"), folder.join("target"));
    let layout = Layout::of_this_tree();
    // Anew each time: cargo goes by the files' times, and must not take the last variant for this one.
    fresh_dir(&tree)?;
    for part in TREE {
        let from = layout.project(part);
        output(Command::new("cp").arg("-r").arg(from).arg(&tree))?;
    }
    let file = tree.join(variant.file);
    let sound = read_text(&layout.project(variant.file))?;
    if sound.matches(variant.text).count() != 1 {
        let (name, file) = (variant.name, variant.file);
        let text = format!("{name}: the text to be replaced is not there once in {file}");
        return Err(Error::new(text));
    }
    write(&file, sound.replace(variant.text, variant.instead))?;
    say(format!("building {}: {}", variant.name, variant.what));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "-p", "xenwarden"]);
    cargo.arg("--target-dir").arg(&target).current_dir(&tree);
    logged(&mut cargo, &folder.join("build.log"))?;
    fresh_dir(programs)?;
    for name in PROGRAMS {
        let from = target.join("release").join(name);
        std::fs::copy(&from, programs.join(name))
            .context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::VARIANTS;
    use crate::layout::{Layout, read_text};
    use crate::provision::Arch;
    use crate::scenario::Scenario;

    #[test]
    fn each_variant_changes_a_line_that_is_there_and_names_a_scenario() {
        let layout = Layout::of_this_tree();
        for variant in VARIANTS {
            let text = read_text(&layout.project(variant.file)).expect("a source file");
            assert_eq!(text.matches(variant.text).count(), 1, "{}", variant.name);
            let scenarios = Scenario::all(Arch::Amd64);
            assert!(scenarios.iter().any(|s| s.name() == variant.scenario));
        }
    }
}

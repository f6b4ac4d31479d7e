// SPDX-License-Identifier: GPL-2.0-only
//! Runs that were published and are taken up again: a checkout that has no `target/lab` goes on where another was.
//!
//! In: `doc/bench/soak.json`, the versions of what is tested here, and the rows. Promise: runs of other versions are not taken, nor any
//! if one of them is not the row and phase that its number stands for. The laboratory's own program may be another than theirs.

use super::kept::Run;
use super::page::SoakRow;
use super::plan::Plan;
use crate::bench::data::Results;
use crate::error::{Context, Error, Result};
use std::collections::BTreeMap;

/// The seed of the published runs and the runs themselves, if today's rows with these names and versions would make the same.
pub fn runs_of(
    published: &Results<SoakRow>,
    versions: &BTreeMap<String, String>,
    names: &[String],
) -> Result<(u64, Vec<Run>)> {
    let differs = |(part, version): (&String, &String)| {
        let theirs = published.versions.get(part).map_or("none", String::as_str);
        (theirs != version).then(|| format!("{part} was {theirs} and is {version}"))
    };
    if let Some(other) = versions.iter().find_map(differs) {
        return Err(Error::new(format!(
            "the published soak tested something else: {other}; begin one anew: make soak"
        )));
    }
    let seed = published.runs.first().context(|| "no run was published")?;
    let (seed, plan) = (seed.seed, Plan::new(seed.seed, names));
    let runs: Vec<Run> = published.runs.iter().flat_map(SoakRow::as_runs).collect();
    for run in &runs {
        let (row, phase) = plan.nth(run.n);
        let (name, phase_ms) = (&names[row], phase.as_millis());
        let figures = &run.figures;
        if (name, phase_ms) != (&figures.scenario, figures.phase_ms.into()) {
            return Err(Error::new(format!(
                "run {} of seed {seed} was {} --phase {} and would be {name} --phase {phase_ms}: the rows are others now; begin a soak \
                 anew: make soak",
                run.n, figures.scenario, figures.phase_ms
            )));
        }
    }
    Ok((seed, runs))
}

#[cfg(test)]
mod tests {
    use super::runs_of;
    use crate::bench::data::Results;
    use crate::scenario::figures::Figures;
    use crate::soak::kept::{Head, Run, Soak};
    use crate::soak::page::{SoakRow, rows_of};
    use crate::soak::plan::Plan;
    use std::collections::BTreeMap;

    fn names() -> Vec<String> {
        (0..3).map(|n| format!("wedge/{n}")).collect()
    }

    fn versions(own: &str) -> BTreeMap<String, String> {
        let both = [("xen", "4.17"), ("xenwarden", own)];
        both.map(|(part, version)| (part.to_owned(), version.to_owned()))
            .into()
    }

    /// What a soak of seven runs has made, of which the fifth failed.
    fn made() -> Soak {
        let plan = Plan::new(9, &names());
        let run = |n| {
            let (row, phase) = plan.nth(n);
            let figures = Figures {
                scenario: names()[row].clone(),
                phase_ms: phase.as_millis() as u64,
                fired_s: (n % 3 != 0).then_some(5.25),
                bound_s: Some(6.0),
                failure: (n == 4).then(|| "late".to_owned()),
                ..Figures::default()
            };
            Run { n, figures }
        };
        Soak {
            head: Head {
                key: String::new(),
                seed: 9,
                versions: versions("1"),
            },
            runs: (0..7).map(run).collect(),
        }
    }

    fn published() -> Results<SoakRow> {
        Results {
            versions: versions("1"),
            runs: rows_of(&made()),
        }
    }

    fn refusal(published: &Results<SoakRow>, own: &str, names: &[String]) -> String {
        let taken = runs_of(published, &versions(own), names);
        taken.expect_err("refused").to_string()
    }

    #[test]
    fn what_was_made_is_taken_up() {
        let (seed, mut runs) = runs_of(&published(), &versions("1"), &names()).unwrap();
        runs.sort_by_key(|run| run.n);
        assert_eq!((seed, runs), (9, made().runs));
    }

    #[test]
    fn what_tested_something_else_is_refused_and_named() {
        let said = refusal(&published(), "2", &names());
        assert!(said.contains("xenwarden was 1 and is 2"), "{said}");
        let mut unknown = published();
        unknown.versions.remove("xen");
        let said = refusal(&unknown, "1", &names());
        assert!(said.contains("xen was none and is 4.17"), "{said}");
    }

    #[test]
    fn a_row_more_makes_other_runs() {
        let mut more = names();
        more.push("wedge/3".to_owned());
        let said = refusal(&published(), "1", &more);
        assert!(said.contains("the rows are others now"), "{said}");
    }

    #[test]
    fn another_phase_than_the_numbers_is_refused() {
        let mut other = published();
        other.runs[0].runs[0].1 += 1;
        let said = refusal(&other, "1", &names());
        assert!(said.contains("the rows are others now"), "{said}");
    }

    #[test]
    fn nothing_published_is_nothing_to_take_up() {
        let mut none = published();
        none.runs.clear();
        let said = refusal(&none, "1", &names());
        assert!(said.contains("no run was published"), "{said}");
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What a soak says of each row: how long the host stayed up, against the bound, and what is out of the common.

use super::kept::Run;
use crate::scenario::figures::Figures;
use std::collections::BTreeMap;
use std::fmt::Write;

/// So many median absolute deviations above the median is out of the common.
const DEVIATIONS: f64 = 5.0;
/// What the deviation counts for at least, s: a fifth of the guard's sample. A row whose runs are alike has next to none.
const LEAST_DEVIATION_S: f64 = 0.05;
/// As few runs have no deviation to speak of.
const ENOUGH: usize = 5;

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary<'a> {
    /// Its name.
    pub row: &'a str,
    /// All runs.
    pub runs: usize,
    /// Runs that did not end as the row says.
    pub failed: usize,
    /// Seconds until the reset, of the runs that ended with one; none: none did.
    pub seconds: Option<Spread>,
    /// Until when it had to be reset, s, in all runs that say so.
    pub bound_s: Option<f64>,
    /// Runs that are out of the common, and why.
    pub outliers: Vec<(&'a Run, String)>,
}

/// How some values lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// Half of them are no greater.
    pub median: f64,
    /// Of a hundred 99 are no greater.
    pub p99: f64,
    /// The greatest.
    pub most: f64,
}

impl Spread {
    /// Of values in order; none of no values.
    fn of(sorted: &[f64]) -> Option<Self> {
        Some(Spread {
            least: *sorted.first()?,
            median: rank(sorted, 50)?,
            p99: rank(sorted, 99)?,
            most: *sorted.last()?,
        })
    }
}

/// The least value that this percentage of all are not above.
fn rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Above this a row's value is out of the common; none: too few to say.
fn common_until(sorted_values: &[f64]) -> Option<f64> {
    if sorted_values.len() < ENOUGH {
        return None;
    }
    let median = rank(sorted_values, 50)?;
    let deviations = sorted(sorted_values.iter().map(|value| (value - median).abs()));
    Some(median + DEVIATIONS * rank(&deviations, 50)?.max(LEAST_DEVIATION_S))
}

/// A summary of each row, by name.
pub fn summaries(runs: &[Run]) -> Vec<Summary<'_>> {
    let mut rows: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        rows.entry(&run.figures.scenario).or_default().push(run);
    }
    rows.into_iter()
        .map(|(row, runs)| summary(row, &runs))
        .collect()
}

fn summary<'a>(row: &'a str, runs: &[&'a Run]) -> Summary<'a> {
    let seconds = sorted(runs.iter().filter_map(|run| run.figures.fired_s));
    let until = common_until(&seconds);
    let odd = |figures: &Figures| match (&figures.failure, figures.fired_s, until) {
        (Some(failure), _, _) => Some(failure.clone()),
        (None, Some(fired_s), Some(until)) if fired_s > until => Some(format!(
            "later than the median and {DEVIATIONS} deviations, {until:.2} s"
        )),
        _ => None,
    };
    Summary {
        row,
        runs: runs.len(),
        failed: runs
            .iter()
            .filter(|run| run.figures.failure.is_some())
            .count(),
        seconds: Spread::of(&seconds),
        bound_s: runs.iter().find_map(|run| run.figures.bound_s),
        outliers: runs
            .iter()
            .filter_map(|run| Some((*run, odd(&run.figures)?)))
            .collect(),
    }
}

impl Summary<'_> {
    /// Its columns behind the name, as they are shown: runs, failed, least, median, p99, most, bound, margin.
    pub fn cells(&self) -> [String; 8] {
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let of = |value: fn(&Spread) -> f64| cell(self.seconds.as_ref().map(value));
        [
            self.runs.to_string(),
            self.failed.to_string(),
            of(|seconds| seconds.least),
            of(|seconds| seconds.median),
            of(|seconds| seconds.p99),
            of(|seconds| seconds.most),
            cell(self.bound_s),
            cell(self.margin_s()),
        ]
    }

    /// What is between the slowest reset and the bound, s; below 0 it came too late.
    pub fn margin_s(&self) -> Option<f64> {
        Some(self.bound_s? - self.seconds?.most)
    }
}

/// A table for people, and behind it all that is out of the common, so that it can be repeated.
pub fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "{:<34}{:>6}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}\n",
        "row", "runs", "failed", "min s", "med s", "p99 s", "max s", "bound", "margin"
    );
    let summaries = summaries(runs);
    for one in &summaries {
        let [runs, rest @ ..] = one.cells();
        let rest = rest.map(|cell| format!("{cell:>8}")).concat();
        let _ = writeln!(text, "{:<34}{runs:>6}{rest}", one.row);
    }
    for (run, why) in summaries.iter().flat_map(|one| &one.outliers) {
        let figures = &run.figures;
        let _ = writeln!(text, "\n{}: {why}\n  {}", run.n, figures.line());
        let _ = writeln!(
            text,
            "  again: lab run {} --phase {}",
            figures.scenario, figures.phase_ms
        );
        for said in &figures.said {
            let _ = writeln!(text, "  said: {said}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Run, Spread, common_until, summaries, table};
    use crate::scenario::figures::Figures;

    fn run(n: u64, name: &str, fired_s: Option<f64>, failure: Option<&str>) -> Run {
        let figures = Figures {
            scenario: name.to_owned(),
            phase_ms: 100 + n,
            fired_s,
            bound_s: Some(6.0),
            said: vec!["withhold: x".to_owned()],
            failure: failure.map(str::to_owned),
            ..Figures::default()
        };
        Run { n, figures }
    }

    #[test]
    fn median_and_p99_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        let spread = Spread {
            least: 1.0,
            median: 100.0,
            p99: 198.0,
            most: 200.0,
        };
        assert_eq!(Spread::of(&values), Some(spread));
        let one = Spread {
            least: 5.0,
            median: 5.0,
            p99: 5.0,
            most: 5.0,
        };
        assert_eq!(Spread::of(&[5.0]), Some(one));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_margin_is_that_of_the_slowest() {
        let runs = [run(0, "a", Some(5.0), None), run(1, "a", Some(5.75), None)];
        let all = summaries(&runs);
        assert_eq!(
            (all[0].runs, all[0].failed, all[0].margin_s()),
            (2, 0, Some(0.25))
        );
    }

    #[test]
    fn a_run_far_above_the_median_is_out_of_the_common_and_one_below_is_not() {
        let late = |value: f64| {
            let times = [5.0, 5.1, 5.2, 5.3, 5.4, value];
            let runs: Vec<Run> = times
                .iter()
                .zip(0..)
                .map(|(at, n)| run(n, "a", Some(*at), None))
                .collect();
            summaries(&runs)[0]
                .outliers
                .iter()
                .map(|(run, _)| run.n)
                .collect::<Vec<_>>()
        };
        assert_eq!(late(5.9), [5]);
        assert!(late(5.6).is_empty() && late(1.0).is_empty());
    }

    #[test]
    fn rows_that_are_alike_have_no_outliers_by_a_hair_and_few_runs_none_at_all() {
        let until = common_until(&[5.0; 20]).unwrap();
        assert!((until - 5.25).abs() < 1e-9, "{until}");
        assert_eq!(common_until(&[5.0, 5.0, 5.0, 9.0]), None);
    }

    #[test]
    fn what_failed_is_told_with_what_repeats_it_and_what_was_said() {
        let runs = [
            run(0, "b", Some(5.0), None),
            run(1, "a", Some(7.0), Some("fired after 7.000 s")),
            run(2, "c", None, Some("the host does not come up")),
        ];
        let text = table(&runs);
        assert!(
            text.contains("lab run a --phase 101\n  said: withhold: x"),
            "{text}"
        );
        assert!(text.contains("lab run c --phase 102"), "{text}");
        assert!(!text.contains("lab run b"), "{text}");
        let rows: Vec<&str> = text
            .lines()
            .skip(1)
            .take(3)
            .map(|line| &line[..1])
            .collect();
        assert_eq!(rows, ["a", "b", "c"]);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What of a soak is committed, and the part of `doc/bench.md` that is made of it.

use super::kept::{Run, Soak};
use super::summary::{Summary, summaries};
use crate::bench::data::Record;
use crate::scenario::figures::Figures;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// All runs of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoakRow {
    /// Its name.
    pub row: String,
    /// What order and phases come of.
    pub seed: u64,
    /// Until when the host had to be reset, s.
    pub bound_s: Option<f64>,
    /// Of each run which of the soak it was, its phase in ms, and after how many seconds the host was reset.
    pub runs: Vec<(u64, u64, Option<f64>)>,
    /// Which runs did not end as the row says, and what went wrong.
    pub failed: Vec<(u64, String)>,
    /// How those came to their ends that are out of the common.
    #[serde(default)]
    pub courses: Vec<Course>,
}

/// How a run came to its end, in seconds as those of its reset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Which of the soak it was.
    pub run: u64,
    /// The last kick, where the row sees it.
    pub last_kick_s: Option<f64>,
    /// For how long each of dom0's virtual processors still ran.
    pub dom0_ran_s: Option<[f64; 2]>,
    /// When the guard withheld, if it still ran and could say so.
    pub withheld_s: Option<f64>,
    /// Why it withheld.
    pub reason: Option<String>,
}

impl Course {
    fn of(run: &Run) -> Self {
        let figures = &run.figures;
        Course {
            run: run.n,
            last_kick_s: figures.last_kick_s.map(to_ms),
            dom0_ran_s: figures.dom0_ran_s.map(|both| both.map(to_ms)),
            withheld_s: figures.withheld_s.map(to_ms),
            reason: figures.reason.clone(),
        }
    }

    /// For people, to be put behind what else is said of the run.
    fn told(figures: &Figures) -> String {
        let reason = figures.reason.as_ref();
        let kick = figures.last_kick_s.map(|at| match figures.fired_s {
            Some(reset) => format!(
                "last kick at {at:.2} s, the reset {:.2} s behind it",
                reset - at
            ),
            None => format!("last kick at {at:.2} s"),
        });
        let parts = [
            kick,
            figures
                .withheld_s
                .map(|at| format!("withheld at {at:.2} s")),
            reason.map(|reason| format!("for {reason}")),
            figures
                .dom0_ran_s
                .map(|[one, other]| format!("dom0's vCPUs ran for {one:.1} and {other:.1} s")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => String::new(),
            false => format!("; {}", parts.join(", ")),
        }
    }
}

fn to_ms(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

impl Record for SoakRow {
    fn id(&self) -> String {
        self.row.clone()
    }

    fn shown(&self) -> String {
        format!("{} runs", self.runs.len())
    }
}

/// What of a soak is committed, row by row.
pub fn rows_of(soak: &Soak) -> Vec<SoakRow> {
    let row = |one: Summary<'_>| {
        let of_row = || {
            soak.runs
                .iter()
                .filter(|run| run.figures.scenario == one.row)
        };
        SoakRow {
            row: one.row.to_owned(),
            seed: soak.head.seed,
            bound_s: of_row().find_map(|run| run.figures.bound_s),
            runs: of_row()
                .map(|run| (run.n, run.figures.phase_ms, run.figures.fired_s.map(to_ms)))
                .collect(),
            failed: of_row()
                .filter_map(|run| {
                    let failure = run.figures.failure.as_ref()?;
                    // What dom0 and the console said is long.
                    let first = failure.lines().next().unwrap_or_default();
                    Some((run.n, first.to_owned()))
                })
                .collect(),
            courses: one
                .outliers
                .iter()
                .map(|(run, _)| Course::of(run))
                .collect(),
        }
    };
    summaries(&soak.runs).into_iter().map(row).collect()
}

impl SoakRow {
    /// The runs, as far as they are committed.
    pub fn as_runs(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().map(|(n, phase_ms, fired_s)| {
            let failure = self.failed.iter().find(|(failed, _)| failed == n);
            let course = self.courses.iter().find(|course| course.run == *n);
            let course = course.cloned().unwrap_or_default();
            let figures = Figures {
                scenario: self.row.clone(),
                phase_ms: *phase_ms,
                fired_s: *fired_s,
                bound_s: self.bound_s,
                failure: failure.map(|(_, failure)| failure.clone()),
                last_kick_s: course.last_kick_s,
                dom0_ran_s: course.dom0_ran_s,
                withheld_s: course.withheld_s,
                reason: course.reason,
                ..Figures::default()
            };
            Run { n: *n, figures }
        })
    }
}

/// What the rows say; nothing of none.
pub fn page(rows: &[SoakRow]) -> String {
    let runs: Vec<Run> = rows.iter().flat_map(SoakRow::as_runs).collect();
    let Some(first) = rows.first() else {
        return String::new();
    };
    let failed: usize = rows.iter().map(|row| row.failed.len()).sum();
    let mut text = format!(
        "\n## The long soak\n\n`make soak N=10000` injects what the rows say, over and over, at phases of the timers that lie evenly in the second in \
         which all periodic work recurs. What is here: **{} runs of {} rows**, seed {}, of which {failed} did not end as the row says. Seconds from the \
         injection (or from a guest's deadline, or from what was done to the guard) to the reset, against the bound; `-`: the host lives, as it should.\n\n\
         | row | runs | failed | least | median | p99 | most | bound | margin |\n|---|---|---|---|---|---|---|---|---|\n",
        runs.len(),
        rows.len(),
        first.seed,
    );
    let all = summaries(&runs);
    for one in &all {
        let _ = writeln!(text, "| {} | {} |", one.row, one.cells().join(" | "));
    }
    let odd: Vec<_> = all.iter().flat_map(|one| &one.outliers).collect();
    if !odd.is_empty() {
        text += "\nOut of the common: what failed, and what came later than the row's median and five median absolute deviations. `lab run ROW --phase MS` \
                 comes near it again. A host watchdog fires its timeout after the last kick, so what is late is the last kick: many wedges have two courses. \
                 Where a wedge stops the vCPU that the guard runs on, or what dom0's kernel waits for, the last kick was before it; where the guard runs on, it goes by its evidence. \
                 That has a limit of its own: half a second and the sample for the patches' counters, `silent_s` for the probes of hosts without patches (`-stock`), and a wedge that \
                 lets the guard run now and then is in between.\n\n";
    }
    for (run, why) in odd {
        let Figures {
            scenario,
            phase_ms,
            fired_s,
            ..
        } = &run.figures;
        let at = fired_s.map_or(String::new(), |at| format!(", {at:.2} s"));
        let _ = writeln!(
            text,
            "- {scenario} --phase {phase_ms} (run {}{at}): {why}{}",
            run.n,
            Course::told(&run.figures)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Figures, Run, Soak, page, rows_of};
    use crate::soak::kept::Head;

    #[test]
    fn the_page_says_what_the_runs_say() {
        let figures = |name: &str, fired_s, failure: Option<&str>| Figures {
            scenario: name.to_owned(),
            phase_ms: 17,
            fired_s,
            bound_s: Some(7.75),
            failure: failure.map(str::to_owned),
            ..Figures::default()
        };
        let all = [
            figures("wedge/b", Some(5.0), None),
            figures("wedge/a", Some(8.0), Some("fired after 8.000 s\nand more")),
            figures("wedge/b", Some(6.0), None),
        ];
        let runs = all
            .into_iter()
            .zip(0..)
            .map(|(figures, n)| Run { n, figures });
        let head = Head {
            key: String::new(),
            seed: 3,
            versions: [].into(),
        };
        let soak = Soak {
            head,
            runs: runs.collect(),
        };
        let text = page(&rows_of(&soak));
        assert!(
            text.contains("**3 runs of 2 rows**, seed 3, of which 1 did not"),
            "{text}"
        );
        assert!(
            text.contains("| wedge/b | 2 | 0 | 5.00 | 5.00 | 6.00 | 6.00 | 7.75 | 1.75 |"),
            "{text}"
        );
        assert!(
            text.contains("| wedge/a | 1 | 1 | 8.00 | 8.00 | 8.00 | 8.00 | 7.75 | -0.25 |"),
            "{text}"
        );
        assert!(
            text.contains("- wedge/a --phase 17 (run 1, 8.00 s): fired after 8.000 s\n"),
            "{text}"
        );
    }

    #[test]
    fn of_a_run_out_of_the_common_it_is_said_how_it_came_to_its_end() {
        let run = |n: u64| {
            let figures = Figures {
                scenario: "wedge/a".to_owned(),
                fired_s: Some(if n == 5 { 15.0404 } else { 5.0 }),
                last_kick_s: Some(if n == 5 { 10.0064 } else { 0.0 }),
                dom0_ran_s: (n == 5).then_some([10.2, 0.0]),
                reason: (n == 5).then(|| "probe of pcpu 0".to_owned()),
                ..Figures::default()
            };
            Run { n, figures }
        };
        let head = Head {
            key: String::new(),
            seed: 3,
            versions: [].into(),
        };
        let runs = (0..6).map(run).collect();
        let rows = rows_of(&Soak { head, runs });
        let of: Vec<u64> = rows[0].courses.iter().map(|course| course.run).collect();
        assert_eq!(of, [5], "of the others nothing more is kept");
        let taken: Vec<Run> = rows[0].as_runs().collect();
        assert_eq!(taken[5].figures.last_kick_s, Some(10.006));
        let text = page(&rows);
        assert!(
            text.contains("deviations, 5.25 s; last kick at 10.01 s, the reset 5.03 s behind it, for probe of pcpu 0, dom0's vCPUs ran for 10.2 and 0.0 s\n"),
            "{text}"
        );
    }

    #[test]
    fn no_soak_is_no_section() {
        assert_eq!(page(&[]), "");
    }
}

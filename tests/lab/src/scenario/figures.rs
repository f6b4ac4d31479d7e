// SPDX-License-Identifier: GPL-2.0-only
//! What was measured: one record a scenario, kept as a line of JSON, and summed up as a table.

use crate::error::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What one scenario measured. Seconds count from the moment that the bound counts from; negative ones lie before it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The scenario's name.
    pub scenario: String,
    /// When in the timers' period it acted, in milliseconds.
    pub phase_ms: u64,
    /// The last kick, by when the host watchdog fired.
    pub last_kick_s: Option<f64>,
    /// For how long each of dom0's virtual processors still ran.
    pub dom0_ran_s: Option<[f64; 2]>,
    /// When the guard withheld, if it still ran and could say so.
    pub withheld_s: Option<f64>,
    /// Why it withheld.
    pub reason: Option<String>,
    /// When the host watchdog fired.
    pub fired_s: Option<f64>,
    /// Until when it had to, if it had to.
    pub bound_s: Option<f64>,
    /// Other figures, in words.
    pub notes: Vec<String>,
    /// What the guard said.
    pub said: Vec<String>,
    /// What went wrong, if anything.
    pub failure: Option<String>,
}

impl Figures {
    /// Of a scenario that ended with these notes, or failed; `said` is what the guard said.
    pub fn of(outcome: Result<Vec<String>>, said: Vec<String>) -> Self {
        let (notes, failure) = match outcome {
            Ok(notes) => (notes, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Figures {
            notes,
            said,
            failure,
            ..Figures::default()
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let seconds = |name: &str, value: Option<f64>| {
            value.map_or(String::new(), |value| format!(" {name} {value:.3}"))
        };
        format!(
            "{:<30} phase {:>3} ms:{}{}{}{}{}{}{}",
            self.scenario,
            self.phase_ms,
            seconds("last kick", self.last_kick_s),
            seconds("withheld", self.withheld_s),
            self.reason
                .as_ref()
                .map_or(String::new(), |reason| format!(" ({reason})")),
            seconds("fired", self.fired_s),
            self.dom0_ran_s
                .map_or(String::new(), |[a, b]| format!(" dom0 ran {a:.1} {b:.1}")),
            self.notes
                .iter()
                .fold(String::new(), |all, note| all + " " + note),
            self.failure
                .as_ref()
                .map_or(String::new(), |failure| format!(" FAILED: {failure}")),
        )
    }
}

/// All records of one run.
pub struct Ledger {
    inner: Mutex<(File, Vec<Figures>)>,
}

impl Ledger {
    /// An empty ledger that keeps its records in `path`, one line of JSON each.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path);
        let file = file.context(|| format!("cannot create {}", path.display()))?;
        Ok(Ledger {
            inner: Mutex::new((file, Vec::new())),
        })
    }

    /// Keeps and shows a record.
    pub fn record(&self, figures: Figures) -> Result<()> {
        let line = serde_json::to_string(&figures).context(|| "cannot describe figures")?;
        eprintln!("  {}", figures.line());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(inner.0, "{line}").context(|| "cannot keep figures")?;
        inner.1.push(figures);
        Ok(())
    }

    /// How many records tell of a failure.
    pub fn failures(&self) -> usize {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .1
            .iter()
            .filter(|figures| figures.failure.is_some())
            .count()
    }

    /// The table: for each scenario that ended with a reset, the fastest, median and slowest. What failed comes last, and why:
    /// the end is what is kept of a long run.
    pub fn table(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: BTreeMap<&str, Vec<&Figures>> = BTreeMap::new();
        inner
            .1
            .iter()
            .for_each(|figures| rows.entry(&figures.scenario).or_default().push(figures));
        let head = format!(
            "{:<30}{:>5}{:>8}{:>9}{:>8}{:>8}{:>9}\n",
            "scenario", "runs", "failed", "withheld", "min s", "med s", "max s"
        );
        let table = rows
            .iter()
            .fold(head, |table, (name, figures)| table + &row(name, figures));
        let failed = inner.1.iter().filter(|figures| figures.failure.is_some());
        failed.fold(table, |table, figures| table + &figures.line() + "\n")
    }
}

fn row(name: &str, figures: &[&Figures]) -> String {
    let mut fired: Vec<f64> = figures
        .iter()
        .filter_map(|figures| figures.fired_s)
        .collect();
    fired.sort_by(f64::total_cmp);
    let at = |index: Option<usize>| {
        index
            .and_then(|index| fired.get(index))
            .map_or("-".to_owned(), |seconds| format!("{seconds:.2}"))
    };
    let count =
        |wanted: fn(&Figures) -> bool| figures.iter().filter(|figures| wanted(figures)).count();
    format!(
        "{name:<30}{:>5}{:>8}{:>9}{:>8}{:>8}{:>9}\n",
        figures.len(),
        count(|figures| figures.failure.is_some()),
        count(|figures| figures.withheld_s.is_some()),
        at(Some(0)),
        at(fired.len().checked_sub(1).map(|last| last / 2)),
        at(fired.len().checked_sub(1)),
    )
}

#[cfg(test)]
mod tests {
    use super::{Figures, Ledger};
    use crate::layout::fresh_dir;

    #[test]
    fn what_failed_is_the_end_of_the_table() {
        let folder = std::env::temp_dir().join(format!("figures-{}", std::process::id()));
        fresh_dir(&folder).unwrap();
        let ledger = Ledger::create(&folder.join("figures")).unwrap();
        for (name, failure) in [("a", Some("nobody said why")), ("z", None)] {
            let figures = Figures {
                scenario: name.to_owned(),
                failure: failure.map(str::to_owned),
                ..Figures::default()
            };
            ledger.record(figures).unwrap();
        }
        let table = ledger.table();
        let last = table.lines().last().unwrap();
        assert!(
            last.starts_with("a ") && last.ends_with("FAILED: nobody said why"),
            "{table}"
        );
    }
}

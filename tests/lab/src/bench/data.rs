// SPDX-License-Identifier: GPL-2.0-only
//! What is measured, as it is kept: while a bench runs, lines of JSON that the next run goes on from; then `doc/bench/NAME.json`, with
//! the versions of all parts.

use crate::error::{Context, Result};
use crate::layout::{read_text, write};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One wedge of one run with one daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WedgeRun {
    /// The row of the table of wedges.
    pub wedge: String,
    /// The daemon.
    pub peer: String,
    /// Which run it is, from 1.
    pub run: u32,
    /// When in the timers' period the wedge was injected; none: at a moment of chance.
    pub phase_ms: Option<u64>,
    /// Seconds of the emulated host's time from the injection (or from a guest's deadline, where the wedge is about these) to the
    /// reset; none: there was none while it was watched.
    pub reset_s: Option<f64>,
    /// It was the host watchdog that reset it.
    pub by_host_watchdog: bool,
}

/// What one program costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Processes and threads.
    pub processes: u64,
    /// See above.
    pub threads: u64,
    /// Processor time of all threads, ns; an instruction of the emulated host takes 8.
    pub cpu_ns: u64,
    /// How often a thread waited and was woken.
    pub wakeups: u64,
    /// In memory, KiB: all pages of each process.
    pub resident_kib: u64,
    /// The same where pages that several processes share are divided among them.
    pub proportional_kib: u64,
    /// Locked in memory, KiB, of the address space.
    pub locked_kib: u64,
}

/// What one daemon costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostRun {
    /// The daemon.
    pub peer: String,
    /// Guests that feed.
    pub guests: u32,
    /// Which run it is, from 1.
    pub run: u32,
    /// For how long it was measured, in seconds of the emulated host's time.
    pub over_s: f64,
    /// Its programs.
    pub programs: Vec<Program>,
}

/// The gaps between one daemon's kicks under one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KickRun {
    /// The daemon.
    pub peer: String,
    /// What dom0 is kept busy with.
    pub load: String,
    /// Which run it is, from 1.
    pub run: u32,
    /// For how long it was measured, in seconds of the emulated host's time.
    pub over_s: u64,
    /// Gaps between one kick and the next, ms, in order.
    pub gaps_ms: Vec<f64>,
    /// The host went down, which no load may do.
    pub reset: bool,
}

/// What is told apart by a name: a run that is there already is not done again.
pub trait Record: Serialize + DeserializeOwned {
    /// The name.
    fn id(&self) -> String;
    /// What was measured, for people.
    fn shown(&self) -> String;
}

impl Record for WedgeRun {
    fn id(&self) -> String {
        format!("{} {} {}", self.wedge, self.peer, self.run)
    }

    fn shown(&self) -> String {
        match self.reset_s {
            Some(at) => format!("reset after {at:.2} s"),
            None => "no reset".to_owned(),
        }
    }
}

impl Record for CostRun {
    fn id(&self) -> String {
        format!("{} {} {}", self.guests, self.peer, self.run)
    }

    fn shown(&self) -> String {
        let programs = self.programs.iter().map(|program| {
            let (name, ns, kib) = (&program.name, program.cpu_ns, program.resident_kib);
            format!("{name} {} us of CPU, {kib} KiB", ns / 1_000)
        });
        programs.collect::<Vec<_>>().join("; ")
    }
}

impl Record for KickRun {
    fn id(&self) -> String {
        format!("{} {} {}", self.load, self.peer, self.run)
    }

    fn shown(&self) -> String {
        let longest = self.gaps_ms.iter().copied().fold(0.0, f64::max);
        let count = self.gaps_ms.len();
        match self.reset {
            true => "RESET".to_owned(),
            false => format!("{count} gaps, the longest {longest:.1} ms"),
        }
    }
}

/// The records of a bench that may not be through yet.
pub struct Kept<R> {
    path: PathBuf,
    records: Vec<R>,
}

impl<R: Record> Kept<R> {
    /// What is there already. A last line that was cut off when a run was interrupted is dropped.
    pub fn open(path: &Path) -> Result<Self> {
        let text = if path.exists() {
            read_text(path)?
        } else {
            String::new()
        };
        let records: Vec<R> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let kept = Kept {
            path: path.to_path_buf(),
            records,
        };
        let whole: Result<String> = kept.records.iter().map(line).collect();
        let whole = whole?;
        if whole != text {
            write(&kept.path, whole)?;
        }
        Ok(kept)
    }

    /// Whether this run was done.
    pub fn has(&self, id: &str) -> bool {
        self.records.iter().any(|record| record.id() == id)
    }

    /// Keeps one more.
    pub fn add(&mut self, record: R) -> Result<()> {
        let what = || format!("cannot keep a result in {}", self.path.display());
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(&self.path)
            .context(what)?;
        file.write_all(line(&record)?.as_bytes()).context(what)?;
        self.records.push(record);
        Ok(())
    }

    /// All of them.
    pub fn records(&self) -> &[R] {
        &self.records
    }

    /// The same.
    pub fn into_records(self) -> Vec<R> {
        self.records
    }
}

/// One line of JSON.
pub fn line(record: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(record).context(|| "cannot describe a result")?;
    Ok(text + "\n")
}

/// What begins a file of data: JSON knows no other comment.
const LICENCE: &str = "SPDX-License-Identifier: GPL-2.0-only";

/// All records of one bench, and what they were measured with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results<R> {
    /// Versions of all parts, by their names.
    pub versions: BTreeMap<String, String>,
    /// The records.
    pub runs: Vec<R>,
}

impl<R: Record> Results<R> {
    /// Reads `doc/bench/NAME.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        serde_json::from_str(&text).context(|| format!("cannot read {}", path.display()))
    }

    /// Writes it: one record a line, so that a difference is one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let versions =
            serde_json::to_string_pretty(&self.versions).context(|| "cannot describe versions")?;
        let versions = versions.replace('\n', "\n  ");
        let lines: Result<Vec<String>> = self
            .runs
            .iter()
            .map(|run| Ok(format!("    {}", line(run)?.trim_end())))
            .collect();
        let runs = lines?.join(",\n");
        write(
            path,
            format!(
                "{{\n  \"$comment\": \"{LICENCE}\",\n  \"versions\": {versions},\n  \"runs\": [\n{runs}\n  ]\n}}\n"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Results, WedgeRun};
    use crate::layout::{fresh_dir, read_text, write};
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        fresh_dir(&folder).unwrap();
        folder
    }

    fn record(run: u32) -> WedgeRun {
        WedgeRun {
            wedge: "a".to_owned(),
            peer: "b".to_owned(),
            run,
            phase_ms: Some(7),
            reset_s: Some(5.25),
            by_host_watchdog: true,
        }
    }

    #[test]
    fn an_interrupted_bench_goes_on_where_it_was() {
        let folder = folder("kept");
        let path = folder.join("runs.jsonl");
        let mut kept = Kept::open(&path).unwrap();
        kept.add(record(1)).unwrap();
        kept.add(record(2)).unwrap();
        let text = read_text(&path).unwrap();
        write(&path, &text[..text.len() - 9]).unwrap();
        let mut kept = Kept::<WedgeRun>::open(&path).unwrap();
        assert_eq!([kept.has("a b 1"), kept.has("a b 2")], [true, false]);
        kept.add(record(2)).unwrap();
        let kept = Kept::<WedgeRun>::open(&path).unwrap();
        assert_eq!(kept.into_records(), [record(1), record(2)]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let folder = folder("results");
        let path = folder.join("wedges.json");
        let results = Results {
            versions: [("xen".to_owned(), "4.17".to_owned())].into(),
            runs: vec![record(1), record(2)],
        };
        results.write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

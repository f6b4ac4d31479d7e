// SPDX-License-Identifier: GPL-2.0-only
//! What a soak keeps, so that it can be ended at any moment and go on: `target/lab/soak/runs.jsonl`, whose first line says what is
//! tested and by which seed, and in which each further line is a run.
//!
//! In: lines of JSON. Promise: a run counts when its whole line is there; a run that was under way when a soak was ended is a hole,
//! which the next soak fills. Never: results of two things that are tested in one file, nor two of one number.

use crate::bench::data::line;
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::layout::{make_dir, read};
use crate::scenario::figures::Figures;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The runs of the soak that is under way.
const RUNS: &str = "runs.jsonl";
/// Who has it is the one soak there may be.
const LOCK: &str = "lock";

/// What is tested, and in which order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// A hash of all that the results depend on: hypervisors, programs, QEMU, and the laboratory's own program.
    pub key: String,
    /// Makes the order and the phases.
    pub seed: u64,
    /// Versions of all parts, by their names.
    pub versions: BTreeMap<String, String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which it is, from 0.
    pub n: u64,
    /// What came of it.
    #[serde(flatten)]
    pub figures: Figures,
}

/// All that is there of a soak.
#[derive(Debug, Clone, PartialEq)]
pub struct Soak {
    /// What is tested.
    pub head: Head,
    /// The runs, in the order of their numbers. Some may be missing: several are under way at a time, and each is kept when it is through.
    pub runs: Vec<Run>,
}

impl Soak {
    /// Reads what is there, also while a soak is under way; none: no soak was begun. A last line that has no end yet does not count.
    pub fn read(folder: &Path) -> Result<Option<Soak>> {
        let path = folder.join(RUNS);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read(&path)?;
        let mut lines = whole(&bytes).split_inclusive(|byte| *byte == b'\n');
        let Some(first) = lines.next() else {
            return Ok(None);
        };
        let damaged = |number: u64, why: &str| {
            let path = path.display();
            format!("{path}, line {number}: {why}; move the file away to begin anew")
        };
        let no_result = |number| damaged(number, "no result of a soak");
        let head = serde_json::from_slice(first).context(|| no_result(1))?;
        let mut soak = Soak {
            head,
            runs: Vec::new(),
        };
        for (line, number) in lines.zip(2..) {
            let run: Run = serde_json::from_slice(line).context(|| no_result(number))?;
            let twice = format!("run {} is there twice", run.n);
            if !soak.put(run) {
                return Err(Error::new(damaged(number, &twice)));
            }
        }
        Ok(Some(soak))
    }

    /// Where the run of this number is, or would be.
    fn place(&self, n: u64) -> std::result::Result<usize, usize> {
        self.runs.binary_search_by_key(&n, |run| run.n)
    }

    /// Whether the run of this number is there.
    pub fn has(&self, n: u64) -> bool {
        self.place(n).is_ok()
    }

    /// Puts a run in its place, unless there is one.
    fn put(&mut self, run: Run) -> bool {
        let place = self.place(run.n);
        if let Err(place) = place {
            self.runs.insert(place, run);
        }
        place.is_err()
    }

    /// How many runs there are.
    pub fn count(&self) -> u64 {
        self.runs.len() as u64
    }

    /// The numbers that are missing until there are `count` runs in all, the least first: holes, then what comes behind.
    pub fn missing(&self, count: u64) -> Vec<u64> {
        let to_come = count.saturating_sub(self.count());
        let free = (0..).filter(|n| !self.has(*n));
        free.zip(0..to_come).map(|(n, _)| n).collect()
    }
}

/// The lines that have an end. What is behind them may end within a character.
fn whole(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    &bytes[..end.map_or(0, |end| end + 1)]
}

/// A soak that goes on; while it is there no other is begun.
pub struct Kept {
    file: File,
    path: PathBuf,
    soak: Soak,
    /// A line was not written to its end: nothing may come behind it.
    torn: bool,
    _lock: Flock<File>,
}

impl Kept {
    /// Goes on with the soak that is there, if it tests what `head` says; else it begins one, and keeps the results of the other under
    /// the name of its key. `seed`: the order that was asked for, which must be that of the soak that goes on.
    pub fn open(folder: &Path, head: Head, seed: Option<u64>) -> Result<Self> {
        make_dir(folder)?;
        let lock = only_one(folder)?;
        let path = folder.join(RUNS);
        let soak = match Soak::read(folder)? {
            Some(soak) if soak.head.key == head.key => {
                if seed.is_some_and(|seed| seed != soak.head.seed) {
                    return Err(Error::new(format!(
                        "{} is of seed {}: go on with that, or move the file away to begin anew",
                        path.display(),
                        soak.head.seed
                    )));
                }
                soak
            }
            other => {
                if let Some(other) = other {
                    set_aside(folder, &other.head)?;
                }
                let begun = taken_up(folder, &head, seed)?;
                begun.unwrap_or(Soak {
                    head,
                    runs: Vec::new(),
                })
            }
        };
        let file = rewritten(&path, &soak.head)?;
        Ok(Kept {
            file,
            path,
            soak,
            torn: false,
            _lock: lock,
        })
    }

    /// What is there.
    pub fn soak(&self) -> &Soak {
        &self.soak
    }

    /// Keeps the run of this number. After an error nothing more is kept: what is behind a torn line would be damage.
    pub fn add(&mut self, n: u64, figures: Figures) -> Result<()> {
        let what = || format!("cannot keep run {n} in {}", self.path.display());
        if self.torn || self.soak.has(n) {
            return Err(Error::new(what()));
        }
        let run = Run { n, figures };
        let line = line(&run)?;
        self.torn = true;
        self.file.write_all(line.as_bytes()).context(what)?;
        self.torn = false;
        self.soak.put(run);
        Ok(())
    }
}

/// What a soak of this key and seed is called while it is not the one that goes on.
fn aside(folder: &Path, key: &str, seed: u64) -> PathBuf {
    folder.join(format!("runs-{key}-{seed}.jsonl"))
}

/// Goes on with a soak of what is tested now that was set aside; with one of any seed where none was asked for.
fn taken_up(folder: &Path, head: &Head, seed: Option<u64>) -> Result<Option<Soak>> {
    let seeds = match seed {
        Some(seed) => vec![seed],
        None => seeds_of(folder, &head.key)?,
    };
    let all = seeds.into_iter().map(|seed| aside(folder, &head.key, seed));
    let Some(kept) = all.into_iter().find(|path| path.exists()) else {
        return Ok(None);
    };
    let path = folder.join(RUNS);
    std::fs::rename(&kept, &path).context(|| format!("cannot rename {}", kept.display()))?;
    say(format!("{} goes on", kept.display()));
    Soak::read(folder)
}

/// The seeds of the soaks of this key that were set aside.
fn seeds_of(folder: &Path, key: &str) -> Result<Vec<u64>> {
    let what = || format!("cannot read {}", folder.display());
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(folder).context(what)? {
        let name = entry.context(what)?.file_name();
        let name = name.to_string_lossy();
        let seed = name.strip_prefix(&format!("runs-{key}-"));
        let seed = seed.and_then(|name| name.strip_suffix(".jsonl"));
        seeds.extend(seed.and_then(|seed| seed.parse::<u64>().ok()));
    }
    seeds.sort_unstable();
    Ok(seeds)
}

/// Keeps the results of a soak that tested something else under the name of its key.
fn set_aside(folder: &Path, of_other: &Head) -> Result<()> {
    let path = folder.join(RUNS);
    let kept = aside(folder, &of_other.key, of_other.seed);
    if kept.exists() {
        return Err(Error::new(format!(
            "{} is there already: move it or {} away",
            kept.display(),
            path.display()
        )));
    }
    std::fs::rename(&path, &kept).context(|| format!("cannot rename {}", path.display()))?;
    say(format!(
        "what is tested has changed: a soak is begun anew, the other's results are {}",
        kept.display()
    ));
    Ok(())
}

/// The lock, unless somebody has it.
fn only_one(folder: &Path) -> Result<Flock<File>> {
    let path = folder.join(LOCK);
    let file = File::create(&path).context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        Error::new(format!(
            "another soak is under way ({}: {error})",
            path.display()
        ))
    })
}

/// The file, its torn end cut off, to be written on; with its first line if it is new.
fn rewritten(path: &Path, head: &Head) -> Result<File> {
    let what = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(false).open(path);
    let mut file = file.context(what)?;
    let end = whole(&read(path)?).len() as u64;
    file.set_len(end).context(what)?;
    file.seek(SeekFrom::End(0)).context(what)?;
    if end == 0 {
        file.write_all(line(head)?.as_bytes()).context(what)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{Head, Kept, Run, Soak};
    use crate::layout::{fresh_dir, read, read_text, write};
    use crate::scenario::figures::Figures;
    use std::path::{Path, PathBuf};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("soak-{name}-{}", std::process::id()));
        fresh_dir(&folder).unwrap();
        folder
    }

    fn head(key: &str) -> Head {
        Head {
            key: key.to_owned(),
            seed: 7,
            versions: [("xen".to_owned(), "4.17".to_owned())].into(),
        }
    }

    fn figures(name: &str) -> Figures {
        Figures {
            scenario: name.to_owned(),
            phase_ms: 5,
            fired_s: Some(5.25),
            dom0_ran_s: Some([0.5, 1.0]),
            said: vec!["a \"b\" – 5 µs".to_owned()],
            ..Figures::default()
        }
    }

    fn run(n: u64, name: &str) -> Run {
        let figures = figures(name);
        Run { n, figures }
    }

    fn refusal(result: crate::error::Result<Kept>) -> String {
        result.err().expect("refused").to_string()
    }

    /// The file of a soak of two runs.
    fn of_two_runs(folder: &Path) -> String {
        let mut kept = Kept::open(folder, head("k"), None).unwrap();
        kept.add(0, figures("a")).unwrap();
        kept.add(1, figures("b")).unwrap();
        drop(kept);
        read_text(&folder.join("runs.jsonl")).unwrap()
    }

    #[test]
    fn a_soak_that_was_ended_goes_on_where_it_was() {
        let folder = folder("goes-on");
        let mut kept = Kept::open(&folder, head("k"), None).unwrap();
        kept.add(0, figures("a")).unwrap();
        drop(kept);
        let mut kept = Kept::open(
            &folder,
            Head {
                seed: 8,
                ..head("k")
            },
            None,
        )
        .unwrap();
        assert_eq!(
            kept.soak().head,
            head("k"),
            "the seed is that of the beginning"
        );
        kept.add(1, figures("b")).unwrap();
        let runs = [run(0, "a"), run(1, "b")];
        assert_eq!(Soak::read(&folder).unwrap().unwrap().runs, runs);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let folder = folder("torn");
        let path = folder.join("runs.jsonl");
        // What is said has characters of several bytes.
        let bytes = of_two_runs(&folder).into_bytes();
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for end in 0..bytes.len() {
            let torn = &bytes[..end];
            write(&path, torn).unwrap();
            let ends = torn.iter().filter(|byte| **byte == b'\n').count() as u64;
            let runs = ends.saturating_sub(1);
            let read = Soak::read(&folder).unwrap();
            assert_eq!(read.map_or(0, |soak| soak.count()), runs, "{end}");
            let mut kept = Kept::open(&folder, head("k"), None).unwrap();
            assert_eq!(kept.soak().count(), runs, "{end}");
            kept.add(runs, figures("c")).unwrap();
            drop(kept);
            let soak = Soak::read(&folder).unwrap().unwrap();
            assert_eq!(soak.count(), runs + 1);
            assert_eq!(soak.runs.last(), Some(&run(runs, "c")));
            assert!(end < first || read_text(&path).unwrap().as_bytes()[..first] == bytes[..first]);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn lines_come_in_any_order_and_what_is_missing_is_known() {
        let folder = folder("order");
        let mut kept = Kept::open(&folder, head("k"), None).unwrap();
        for n in [3, 0, 1, 6] {
            kept.add(n, figures("a")).unwrap();
        }
        drop(kept);
        let soak = Soak::read(&folder).unwrap().unwrap();
        assert!(soak.runs.iter().map(|run| run.n).eq([0, 1, 3, 6]));
        let kept = Kept::open(&folder, head("k"), None).unwrap();
        assert!(kept.soak().missing(4).is_empty());
        assert_eq!(kept.soak().missing(6), [2, 4]);
        assert_eq!(kept.soak().missing(8), [2, 4, 5, 7]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_run_is_kept_once() {
        let folder = folder("once");
        let mut kept = Kept::open(&folder, head("k"), None).unwrap();
        kept.add(4, figures("a")).unwrap();
        assert!(kept.add(4, figures("b")).is_err());
        let soak = Soak::read(&folder).unwrap().unwrap();
        assert_eq!(soak.runs, [run(4, "a")]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_line_that_is_damaged_is_named_and_nothing_is_written() {
        let folder = folder("damaged");
        let path = folder.join("runs.jsonl");
        let text = of_two_runs(&folder);
        let lines: Vec<&str> = text.lines().collect();
        let of = |lines: &[&str]| (lines.join("\n") + "\n").into_bytes();
        let no_text = [of(&[lines[0], lines[1]]).as_slice(), b"\xc3\n"].concat();
        for (damaged, said_line, why) in [
            (of(&[lines[0], "no", lines[2]]), "line 2", "no result"),
            (of(&["no", lines[2]]), "line 1", "no result"),
            (of(&[lines[0], lines[1], ""]), "line 3", "no result"),
            (no_text, "line 3", "no result"),
            (
                of(&[lines[0], lines[2], lines[1], lines[2]]),
                "line 4",
                "run 1 is there twice",
            ),
        ] {
            write(&path, &damaged).unwrap();
            let said = refusal(Kept::open(&folder, head("k"), None));
            for part in ["runs.jsonl", said_line, why, "move the file away"] {
                assert!(said.contains(part), "{said}");
            }
            assert_eq!(read(&path).unwrap(), damaged);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_tested_anew_is_kept_apart() {
        let folder = folder("anew");
        let mut kept = Kept::open(&folder, head("old"), None).unwrap();
        kept.add(0, figures("a")).unwrap();
        drop(kept);
        let kept = Kept::open(&folder, head("new"), None).unwrap();
        assert!(kept.soak().runs.is_empty());
        drop(kept);
        let old = read_text(&folder.join("runs-old-7.jsonl")).unwrap();
        assert_eq!(old.lines().count(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_soak_that_was_set_aside_goes_on_when_what_it_tests_is_back() {
        let folder = folder("back");
        for (turn, key) in ["old", "new", "old", "new", "old"].into_iter().enumerate() {
            let mut kept = Kept::open(&folder, head(key), None).unwrap();
            let before = turn as u64 / 2;
            assert_eq!(kept.soak().runs.len() as u64, before, "{turn}");
            kept.add(before, figures(key)).unwrap();
        }
        let other = Head {
            seed: 8,
            ..head("new")
        };
        let kept = Kept::open(&folder, other, Some(8)).unwrap();
        assert!(kept.soak().runs.is_empty(), "another seed was asked for");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_seed_than_that_of_the_soak_is_refused() {
        let folder = folder("seed");
        drop(Kept::open(&folder, head("k"), Some(7)).unwrap());
        drop(Kept::open(&folder, head("k"), Some(7)).unwrap());
        let said = refusal(Kept::open(&folder, head("k"), Some(9)));
        assert!(said.contains("is of seed 7"), "{said}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn two_soaks_at_once_are_refused() {
        let folder = folder("two");
        let first = Kept::open(&folder, head("k"), None).unwrap();
        let said = refusal(Kept::open(&folder, head("k"), None));
        assert!(said.contains("another soak is under way"), "{said}");
        drop(first);
        assert!(Kept::open(&folder, head("k"), None).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

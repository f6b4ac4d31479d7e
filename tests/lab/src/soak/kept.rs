// SPDX-License-Identifier: GPL-2.0-only
//! What a soak keeps, so that it can be ended at any moment and go on: `target/lab/soak/runs.jsonl`, whose first line says what is
//! tested and by which seed, and in which each further line is a run.
//!
//! In: lines of JSON. Promise: a run counts when its whole line is there. Never: results of two things that are tested in one file.

use crate::bench::data::line;
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::layout::{make_dir, read_text};
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
    /// A hash of all that the results depend on: hypervisors, programs, the table of rows and their bounds.
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
    /// The runs, in order.
    pub runs: Vec<Run>,
}

impl Soak {
    /// Reads what is there, also while a soak is under way; none: no soak was begun. A last line that has no end yet does not count.
    pub fn read(folder: &Path) -> Result<Option<Soak>> {
        let path = folder.join(RUNS);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        let whole = whole(&text);
        let mut lines = whole.lines();
        let Some(first) = lines.next() else {
            return Ok(None);
        };
        let damaged = |number: usize| {
            format!(
                "{}, line {number}: no result of a soak; move the file away to begin anew",
                path.display()
            )
        };
        let head = serde_json::from_str(first).context(|| damaged(1))?;
        let mut runs: Vec<Run> = Vec::new();
        for (line, number) in lines.zip(2..) {
            let run: Run = serde_json::from_str(line).context(|| damaged(number))?;
            if run.n != runs.len() as u64 {
                return Err(Error::new(damaged(number)));
            }
            runs.push(run);
        }
        Ok(Some(Soak { head, runs }))
    }
}

/// The lines that have an end.
fn whole(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

/// A soak that goes on; while it is there no other is begun.
pub struct Kept {
    file: File,
    path: PathBuf,
    soak: Soak,
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
                Soak {
                    head,
                    runs: Vec::new(),
                }
            }
        };
        let file = rewritten(&path, &soak.head)?;
        Ok(Kept {
            file,
            path,
            soak,
            _lock: lock,
        })
    }

    /// What is there.
    pub fn soak(&self) -> &Soak {
        &self.soak
    }

    /// Keeps the next run.
    pub fn add(&mut self, figures: Figures) -> Result<()> {
        let run = Run {
            n: self.soak.runs.len() as u64,
            figures,
        };
        let what = || format!("cannot keep a result in {}", self.path.display());
        self.file.write_all(line(&run)?.as_bytes()).context(what)?;
        self.soak.runs.push(run);
        Ok(())
    }
}

/// Keeps the results of a soak that tested something else under the name of its key.
fn set_aside(folder: &Path, of_other: &Head) -> Result<()> {
    let path = folder.join(RUNS);
    let kept = folder.join(format!("runs-{}-{}.jsonl", of_other.key, of_other.seed));
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
    let end = whole(&read_text(path)?).len() as u64;
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
    use crate::layout::{fresh_dir, read_text, write};
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
            said: vec!["a \"b\"".to_owned()],
            ..Figures::default()
        }
    }

    fn refusal(result: crate::error::Result<Kept>) -> String {
        result.err().expect("refused").to_string()
    }

    /// The file of a soak of two runs.
    fn of_two_runs(folder: &Path) -> String {
        let mut kept = Kept::open(folder, head("k"), None).unwrap();
        kept.add(figures("a")).unwrap();
        kept.add(figures("b")).unwrap();
        drop(kept);
        read_text(&folder.join("runs.jsonl")).unwrap()
    }

    #[test]
    fn a_soak_that_was_ended_goes_on_where_it_was() {
        let folder = folder("goes-on");
        let mut kept = Kept::open(&folder, head("k"), None).unwrap();
        kept.add(figures("a")).unwrap();
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
        kept.add(figures("b")).unwrap();
        let runs = [
            Run {
                n: 0,
                figures: figures("a"),
            },
            Run {
                n: 1,
                figures: figures("b"),
            },
        ];
        assert_eq!(Soak::read(&folder).unwrap().unwrap().runs, runs);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let folder = folder("torn");
        let path = folder.join("runs.jsonl");
        let text = of_two_runs(&folder);
        let first = text.find('\n').unwrap() + 1;
        for end in 0..text.len() {
            write(&path, &text[..end]).unwrap();
            let runs = text[..end].matches('\n').count().saturating_sub(1);
            let mut kept = Kept::open(&folder, head("k"), None).unwrap();
            assert_eq!(kept.soak().runs.len(), runs, "{end}");
            kept.add(figures("c")).unwrap();
            drop(kept);
            let soak = Soak::read(&folder).unwrap().unwrap();
            assert_eq!(soak.runs.len(), runs + 1);
            assert_eq!(soak.runs[runs].figures, figures("c"));
            assert!(end < first || text.starts_with(&read_text(&path).unwrap()[..first]));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_line_that_is_damaged_is_named_and_nothing_is_written() {
        let folder = folder("damaged");
        let path = folder.join("runs.jsonl");
        let text = of_two_runs(&folder);
        let lines: Vec<&str> = text.lines().collect();
        for damaged in [
            format!("{}\n{}\n", lines[0], lines[2]),
            format!("{}\nno\n{}\n", lines[0], lines[2]),
        ] {
            write(&path, &damaged).unwrap();
            let said = refusal(Kept::open(&folder, head("k"), None));
            assert!(
                said.contains("line 2") && said.contains("move the file away"),
                "{said}"
            );
            assert_eq!(read_text(&path).unwrap(), damaged);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_tested_anew_is_kept_apart() {
        let folder = folder("anew");
        let mut kept = Kept::open(&folder, head("old"), None).unwrap();
        kept.add(figures("a")).unwrap();
        drop(kept);
        let kept = Kept::open(&folder, head("new"), None).unwrap();
        assert_eq!(kept.soak().runs, []);
        drop(kept);
        let old = read_text(&folder.join("runs-old-7.jsonl")).unwrap();
        assert_eq!(old.lines().count(), 2);
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

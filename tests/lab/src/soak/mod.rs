// SPDX-License-Identifier: GPL-2.0-only
//! The long soak: every row that ends with a reset, and every wedge that a host must live through, over phases of the timers.
//!
//! In: how many runs there shall be in all. Out: `target/lab/soak/runs.jsonl`, and what it says of each row. Several hosts run at a
//! time, each with a time of its own. It can be ended at any moment, also by SIGKILL, and then goes on where it was. Promise: which
//! row and phase is the n-th depends on n and the seed alone, however many run at a time and wherever it was ended. A run is what was
//! tested: where no host can be had, on a disk that is full or without QEMU, the soak ends and counts nothing.
//!
//! Hypervisors, programs, QEMU and the laboratory's own program are what is tested: a change of any of them begins a soak anew. One
//! that takes many sittings is run by a copy of `target/release/lab` with copies of the programs (`XENWARDEN_LAB_PROGRAMS`), so that a
//! build between two of them changes nothing.

pub mod kept;
pub mod page;
pub mod plan;
pub mod summary;
mod taken;
mod work;

use crate::bench::data::Results;
use crate::bench::data_file;
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::laboratory::{Laboratory, hosts_at_a_time};
use crate::layout::Layout;
use crate::provision::{Arch, Release};
use crate::scenario::Scenario;
use kept::{Head, Kept, Soak};
use plan::Plan;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

const NONE: &str = "no soak was begun: make soak N=10000";
/// How often it is said how far it is.
const SAY_EVERY: u64 = 50;

/// Runs until there are `count` runs in all. `seed`: the order; none: one of this moment, or that of the soak that goes on. `jobs`: how
/// many hosts run at a time; none: as many as there are processors, at most two.
pub fn run(count: u64, seed: Option<u64>, jobs: Option<usize>) -> Result<()> {
    until(|_| count, seed, jobs)
}

/// Makes so many more.
pub fn more(count: u64, jobs: Option<usize>) -> Result<()> {
    until(|done| done.saturating_add(count), None, jobs)
}

/// Runs until there are as many in all as `wanted` makes of those that are there; judges those that it makes.
fn until(wanted: impl Fn(u64) -> u64, seed: Option<u64>, jobs: Option<usize>) -> Result<()> {
    let rows = rows()?;
    let names: Vec<String> = rows.iter().map(Scenario::name).collect();
    let laboratory = Laboratory::provide_parts()?;
    let (key, versions) = laboratory.tested()?;
    let head = Head {
        key,
        seed: seed.unwrap_or_else(of_this_moment),
        versions,
    };
    let mut kept = Kept::open(&folder()?, head, seed)?;
    let plan = Plan::new(kept.soak().head.seed, &names);
    let done = kept.soak().count();
    let missing = kept.soak().missing(wanted(done));
    let jobs = jobs.unwrap_or_else(hosts_at_a_time);
    say(format!(
        "a soak of {} rows, seed {}: {done} runs are there, {} are to come, {jobs} at a time",
        rows.len(),
        kept.soak().head.seed,
        missing.len()
    ));
    let all = done + missing.len() as u64;
    let run = |n| {
        let (row, phase) = plan.nth(n);
        let figures = rows[row].run(&laboratory, phase);
        if let Some(why) = laboratory.why_no_host() {
            let (name, phase_ms) = (&figures.scenario, figures.phase_ms);
            return Err(Error::new(format!(
                "run {n}, {name} --phase {phase_ms}, could not be made: there is no host: {why}"
            )));
        }
        eprintln!("  {n}: {}", figures.line());
        Ok(figures)
    };
    let failed = work::through(&mut kept, missing, jobs, run, |count| {
        if count % SAY_EVERY == 0 {
            say(format!("{count} of {all} runs"));
        }
    })?;
    told(kept.soak());
    match failed {
        0 => Ok(()),
        failed => Err(Error::new(format!("{failed} runs failed"))),
    }
}

/// Says what is there, also while a soak is under way.
pub fn report() -> Result<()> {
    match Soak::read(&folder()?)? {
        Some(soak) => {
            told(&soak);
            Ok(())
        }
        None => Err(Error::new(NONE)),
    }
}

/// Takes the runs of `doc/bench/soak.json` for runs of the soak here, if it tests the same; those that are there already stay.
pub fn take_up() -> Result<()> {
    let names: Vec<String> = rows()?.iter().map(Scenario::name).collect();
    let (key, versions) = Laboratory::provide_parts()?.tested()?;
    let published = Results::read(&data_file("soak")?)?;
    let (seed, runs) = taken::runs_of(&published, &versions, &names)?;
    let head = Head {
        key,
        seed,
        versions,
    };
    let mut kept = Kept::open(&folder()?, head, Some(seed))?;
    let before = kept.soak().count();
    for run in runs {
        if !kept.soak().has(run.n) {
            kept.add(run.n, run.figures)?;
        }
    }
    let all = kept.soak().count();
    say(format!("{} runs taken up, {all} are there", all - before));
    Ok(())
}

/// Writes what is there to `doc/bench/soak.json`.
pub fn publish() -> Result<()> {
    let soak = Soak::read(&folder()?)?.context(|| NONE)?;
    let results = Results {
        versions: soak.head.versions.clone(),
        runs: page::rows_of(&soak),
    };
    results.write(&data_file("soak")?)
}

/// The folder of this laboratory's soak.
pub fn folder() -> Result<PathBuf> {
    let cache = Release::chosen()?.cache(Arch::chosen()?);
    Ok(Layout::of_this_tree().with_cache(cache, "").lab("soak"))
}

fn rows() -> Result<Vec<Scenario>> {
    let all = Scenario::all(Arch::chosen()?).into_iter();
    Ok(all.filter(Scenario::is_soaked).collect())
}

/// Shows the summary.
fn told(soak: &Soak) {
    println!("{} runs, seed {}", soak.runs.len(), soak.head.seed);
    println!("{}", summary::table(&soak.runs));
}

fn of_this_moment() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

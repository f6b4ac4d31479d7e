// SPDX-License-Identifier: GPL-2.0-only
//! The long soak: every row that ends with a reset, and every wedge that a host must live through, over phases of the timers.
//!
//! In: how many runs there shall be in all. Out: `target/lab/soak/runs.jsonl`, and what it says of each row. It can be ended at any
//! moment, also by SIGKILL, and then goes on where it was. Promise: which row and phase is the n-th depends on n and the seed alone.

pub mod kept;
pub mod page;
pub mod plan;
pub mod summary;

use crate::bench::data::Results;
use crate::bench::data_file;
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::laboratory::Laboratory;
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

/// Runs until there are `count` runs in all. `seed`: the order; none: one of this moment, or that of the soak that goes on.
pub fn run(count: u64, seed: Option<u64>) -> Result<()> {
    until(|done| count.max(done), seed)
}

/// Makes so many more.
pub fn more(count: u64) -> Result<()> {
    until(|done| done.saturating_add(count), None)
}

/// Runs until there are as many in all as `wanted` makes of those that are there; judges those that it makes.
fn until(wanted: impl Fn(u64) -> u64, seed: Option<u64>) -> Result<()> {
    let rows = rows()?;
    let names: Vec<String> = rows.iter().map(Scenario::name).collect();
    let laboratory = Laboratory::provide_parts()?;
    let (key, versions) = laboratory.tested(&rows)?;
    let head = Head {
        key,
        seed: seed.unwrap_or_else(of_this_moment),
        versions,
    };
    let mut kept = Kept::open(&folder()?, head, seed)?;
    let plan = Plan::new(kept.soak().head.seed, &names);
    let done = kept.soak().runs.len() as u64;
    let count = wanted(done);
    say(format!(
        "a soak of {} rows, seed {}: {done} runs are there, {} are to come",
        rows.len(),
        kept.soak().head.seed,
        count - done
    ));
    for n in done..count {
        let (row, phase) = plan.nth(n);
        let figures = rows[row].run(&laboratory, phase);
        eprintln!("  {n}: {}", figures.line());
        kept.add(figures)?;
        if (n + 1) % SAY_EVERY == 0 {
            say(format!("{} of {count} runs", n + 1));
        }
    }
    told(kept.soak());
    let made = kept.soak().runs.iter().filter(|run| run.n >= done);
    match made.filter(|run| run.figures.failure.is_some()).count() {
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

// SPDX-License-Identifier: GPL-2.0-only
//! Ours and other watchdog daemons compared, each in the same dom0, from the same saved state.
//!
//! In: the laboratory, the daemons' packages. Out: `doc/bench/*.json`, and of these alone `doc/bench.md` and `doc/figures/*.svg`. Never
//! a number that was not measured: what was not run yet is a gap.

pub mod busy;
pub mod cost;
pub mod data;
pub mod false_resets;
pub mod figure;
pub mod growth;
pub mod kicks;
pub mod peers;
pub mod report;
pub mod tables;
pub mod wedges;

use crate::command::say;
use crate::error::{Error, Result};
use crate::host::PROMPT;
use crate::laboratory::Laboratory;
use crate::laboratory::bench::BenchParts;
use crate::layout::{Layout, make_dir, write};
use crate::machine::Shape;
use crate::scenario::phase::Even;
use busy::BusyRun;
use data::{CostRun, Kept, KickRun, Record, Results, WedgeRun};
use false_resets::Part;
use peers::Peer;
use report::Data;
use std::path::PathBuf;

/// Where the data are in the project.
pub const DATA: &str = "doc/bench";

/// Where the phases of the timers begin.
const PHASES: u64 = 1;

/// What is compared.
struct Bench {
    laboratory: Laboratory,
    parts: BenchParts,
}

impl Bench {
    fn open() -> Result<Self> {
        let laboratory = Laboratory::provide_parts()?;
        let parts = laboratory.bench_parts()?;
        Ok(Bench { laboratory, parts })
    }

    /// The results so far of this bench with these parts.
    fn kept<R: Record>(&self, name: &str) -> Result<Kept<R>> {
        let folder = self.laboratory.bench_results()?;
        Kept::open(&folder.join(format!("{name}-{}.jsonl", self.parts.key)))
    }

    /// Measures each daemon in each of `cases`, `runs` times, but for what was measured before, and publishes all that is there.
    /// What cannot be measured is said, and tried again the next time.
    fn all<R: Record, C: Named>(
        &self,
        name: &str,
        runs: u32,
        cases: &[C],
        peers: &[Peer],
        mut measure: impl FnMut(&C, Peer, u32) -> Result<R>,
    ) -> Result<()> {
        let mut kept = self.kept(name)?;
        let mut failures = 0;
        for run in 1..=runs {
            for case in cases {
                for &peer in peers {
                    let id = format!("{} {} {run}", case.name(), peer.name());
                    if kept.has(&id) {
                        continue;
                    }
                    match measure(case, peer, run) {
                        Ok(record) => {
                            say(format!("{id}: {}", record.shown()));
                            kept.add(record)?;
                        }
                        Err(error) => {
                            failures += 1;
                            say(format!("{id}: NOT MEASURED: {error}"));
                        }
                    }
                }
            }
        }
        self.publish(name, kept)?;
        match failures {
            0 => Ok(()),
            count => Err(Error::new(format!("{count} could not be measured"))),
        }
    }

    /// Writes all that is there to `doc/bench`. Where nothing is, what was measured with other parts stays.
    fn publish<R: Record>(&self, name: &str, kept: Kept<R>) -> Result<()> {
        if kept.records().is_empty() {
            return Ok(());
        }
        let versions = self.laboratory.bench_versions(&self.parts)?;
        let results = Results {
            versions: versions.into_iter().collect(),
            runs: kept.into_records(),
        };
        results.write(&data_file(name)?)
    }
}

/// What is done to a host, by the name that results have it under.
trait Named {
    fn name(&self) -> String;
}

impl Named for wedges::Case {
    fn name(&self) -> String {
        self.name.to_owned()
    }
}

impl Named for kicks::Load {
    fn name(&self) -> String {
        self.name.to_owned()
    }
}

/// The only case of its bench.
impl Named for &str {
    fn name(&self) -> String {
        (*self).to_owned()
    }
}

/// A number of guests.
impl Named for u32 {
    fn name(&self) -> String {
        self.to_string()
    }
}

/// Where the data of this bench are, whose folder is made.
pub fn data_file(name: &str) -> Result<PathBuf> {
    let folder = Layout::of_this_tree().project(DATA);
    make_dir(&folder)?;
    Ok(folder.join(format!("{name}.json")))
}

/// Runs every case with every daemon, `runs` times; what was run before is not run again.
pub fn wedges(runs: u32) -> Result<()> {
    let bench = Bench::open()?;
    bench.all(
        "wedges",
        runs,
        &wedges::cases(),
        &Peer::ALL,
        |case, peer, run| {
            // One for all daemons, so that none is lucky; another in each run.
            let phase = Even::of(PHASES, case.name).nth(run.into());
            wedges::run(&bench.laboratory, &bench.parts, case, peer, run, phase)
        },
    )
}

/// Measures what each daemon costs with so many guests, `runs` times, likewise.
pub fn cost(runs: u32) -> Result<()> {
    let bench = Bench::open()?;
    bench.all(
        "cost",
        runs,
        &cost::GUESTS_IN_ALL,
        &Peer::ALL,
        |guests, peer, run| cost::run(&bench.laboratory, &bench.parts, peer, *guests, run),
    )
}

/// What ours cost with so many guests, thread by thread and mapping by mapping. Keeps nothing.
pub fn parts(guests: u32) -> Result<()> {
    let bench = Bench::open()?;
    let told = cost::in_parts(&bench.laboratory, &bench.parts, Peer::Xenwarden, guests)?;
    print!("{told}");
    Ok(())
}

/// Measures the gaps between each daemon's kicks under each load, `runs` times, likewise.
pub fn kicks(runs: u32) -> Result<()> {
    let bench = Bench::open()?;
    bench.all(
        "kicks",
        runs,
        &kicks::LOADS,
        &Peer::ALL,
        |load, peer, run| kicks::run(&bench.laboratory, &bench.parts, peer, load, run),
    )
}

/// Sees what each daemon does where the device is held, `runs` times, likewise.
pub fn busy(runs: u32) -> Result<()> {
    let bench = Bench::open()?;
    bench.all(
        busy::NAME,
        runs,
        &[busy::CASE],
        &busy::PEERS,
        |_, peer, run| busy::run(&bench.laboratory, &bench.parts, peer, run),
    )
}

/// Runs commands in dom0 of a host on which no daemon runs, and shows what they print.
pub fn dom0(commands: &[&str]) -> Result<()> {
    let bench = Bench::open()?;
    let mut host = bench
        .laboratory
        .bench_host(&bench.parts, Shape::Everywhere)?;
    for command in commands {
        let outcome = host.dom0(command, PROMPT)?;
        println!("{}[exit code {}]", outcome.output, outcome.code);
    }
    Ok(())
}

/// Writes what was measured so far, also by a bench that was interrupted, to `doc/bench`.
pub fn publish() -> Result<()> {
    let bench = Bench::open()?;
    bench.publish::<WedgeRun>("wedges", bench.kept("wedges")?)?;
    bench.publish::<CostRun>("cost", bench.kept("cost")?)?;
    bench.publish::<KickRun>("kicks", bench.kept("kicks")?)?;
    bench.publish::<Part>(false_resets::NAME, bench.kept(false_resets::NAME)?)?;
    bench.publish::<BusyRun>(busy::NAME, bench.kept(busy::NAME)?)
}

/// Makes the page and the figures of the data in `doc/bench`.
pub fn report() -> Result<()> {
    let layout = Layout::of_this_tree();
    make_dir(&layout.project("doc/figures"))?;
    for (path, text) in Data::read(&layout.project(DATA))?.files() {
        write(&layout.project(path), text)?;
        say(path);
    }
    Ok(())
}

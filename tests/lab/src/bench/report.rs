// SPDX-License-Identifier: GPL-2.0-only
//! `doc/bench.md` and the figures, made of the committed data and of nothing else, so that they can be made again and compared.

use super::busy::{self, BusyRun};
use super::data::{CostRun, KickRun, Record, Results, WedgeRun};
use super::false_resets::{self, Part};
use super::figure::{self, cpu_ms_a_minute, memory_mib};
use super::growth::{self, GrowthRun};
use super::peers::Peer;
use super::tables::{costs, kicks, peers_head, spread};
use super::wedges::{Act, Case, WATCHED, cases};
use crate::error::Result;
use crate::machine::Shape;
use crate::scenario::table::THOUSAND;
use crate::soak::page::{self, SoakRow};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Of each part its versions, and which of the data were measured with each.
type Versions = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// What was measured; a bench that was never run has no records.
pub struct Data {
    versions: Versions,
    wedges: Vec<WedgeRun>,
    cost: Vec<CostRun>,
    kicks: Vec<KickRun>,
    false_resets: Vec<Part>,
    busy: Vec<BusyRun>,
    soak: Vec<SoakRow>,
    growth: Vec<GrowthRun>,
}

impl Data {
    /// Reads what is there in a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut versions = Versions::new();
        let data = Data {
            wedges: records(folder, "wedges", &mut versions)?,
            cost: records(folder, "cost", &mut versions)?,
            kicks: records(folder, "kicks", &mut versions)?,
            false_resets: records(folder, false_resets::NAME, &mut versions)?,
            busy: records(folder, busy::NAME, &mut versions)?,
            soak: records(folder, "soak", &mut versions)?,
            growth: records(folder, "growth", &mut versions)?,
            versions: Versions::new(),
        };
        Ok(Data { versions, ..data })
    }

    /// The files, by their paths in the project.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        vec![
            ("doc/bench.md", self.page()),
            (
                "doc/figures/resets.svg",
                figure::resets(&cases(), &self.wedges),
            ),
            ("doc/figures/costs.svg", figure::costs(&self.cost)),
            ("doc/figures/growth.svg", figure::growth(&self.growth)),
        ]
    }

    fn page(&self) -> String {
        let mut page = INTRODUCTION.to_owned();
        page += "\n## What was measured\n\n| part | version |\n|---|---|\n";
        for (name, versions) in &self.versions {
            let all = versions.iter();
            let told: Vec<String> = match versions.len() {
                1 => all.map(|(version, _)| version.clone()).collect(),
                _ => all
                    .map(|(version, of)| format!("{}: {version}", of.join(", ")))
                    .collect(),
            };
            let _ = writeln!(page, "| {name} | {} |", told.join("; "));
        }
        page += "\n## In short\n\n";
        page += &self.summary();
        page += &resets(&self.wedges);
        page += &costs(&self.cost);
        page += &kicks(&self.kicks);
        page += &false_resets::page(&self.false_resets, &peers_head("dom0 is busy with"));
        page += &busy::page(&self.busy);
        page += &growth::page(&self.growth);
        page += &page::page(&self.soak);
        page
    }
}

impl Data {
    /// What the README says as well.
    fn summary(&self) -> String {
        let wedges = |shape: Shape| {
            let all = cases().into_iter();
            let is_wedge = |case: &Case| case.should_go_down && matches!(case.act, Act::Wedge(_));
            all.filter(|case| is_wedge(case) && case.shape == shape)
                .collect::<Vec<_>>()
        };
        let caught = |shape: Shape| {
            let wedges = wedges(shape);
            let wedges: Vec<&Case> = wedges.iter().collect();
            Peer::ALL.map(|peer| caught(&wedges, &self.wedges, peer))
        };
        let slowest = Peer::ALL.map(|peer| {
            let of_peer = self.wedges.iter().filter(|run| run.peer == peer.name());
            let last = of_peer.filter_map(|run| run.reset_s).fold(0.0, f64::max);
            format!("{last:.1}")
        });
        let cost = |guests: u32, value: fn(&CostRun) -> f64| {
            Peer::ALL.map(|peer| {
                let runs = self.cost.iter();
                let of_peer = runs.filter(|run| run.guests == guests && run.peer == peer.name());
                spread(of_peer.map(value))
            })
        };
        let mut text = peers_head("");
        let mut row = |what: &str, cells: [String; Peer::ALL.len()]| {
            let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
        };
        row(
            "wedges with dom0 on every pCPU that ended in a reset",
            caught(Shape::Everywhere),
        );
        row(
            "wedges of a pCPU without dom0 that did",
            caught(Shape::Apart),
        );
        row("the slowest of the resets that came, s", slowest);
        for guests in [0, 20, THOUSAND.into()] {
            let what = format!("CPU with {guests} guests, ms a minute");
            row(&what, cost(guests, cpu_ms_a_minute));
        }
        for guests in [0, THOUSAND.into()] {
            let what = format!("in memory with {guests} guests, shared pages divided, MiB");
            row(&what, cost(guests, memory_mib));
        }
        text
    }
}

fn records<R: Record>(folder: &Path, name: &str, versions: &mut Versions) -> Result<Vec<R>> {
    let path = folder.join(format!("{name}.json"));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let results = Results::read(&path)?;
    for (part, version) in results.versions {
        let of_part = versions.entry(part).or_default();
        of_part.entry(version).or_default().push(name.to_owned());
    }
    Ok(results.runs)
}

const INTRODUCTION: &str = "<!-- SPDX-License-Identifier: GPL-2.0-only; made by make bench of doc/bench/*.json -->
# Against other watchdog daemons

`make bench` runs xenwarden, sbd (with one disk, without Pacemaker), watchdog(8), busybox's watchdog and xenwatchdogd by turns in the same
dom0 of the nested Xen laboratory, each from the same saved state, with a timeout of 5 s and about a kick a second (xenwarden: four);
[peers.rs](../tests/lab/src/bench/peers.rs) has how each is started. All times are the emulated host's own. A bench that was interrupted
goes on where it was; [bench](bench) has the raw data.

Not compared: watchdogd, which Debian does not have; Xen's own NMI watchdog (`watchdog` on Xen's command line: it panics if a timer of its
own has not run on a pCPU for 5 s), which cannot be measured there, as the emulated processors have no performance counters to raise its
NMIs; and what the others can do besides, such as sbd's fencing by disk or watchdog(8)'s tests of load and files.
";

/// One cell of the table of resets.
fn came(runs: &[&WedgeRun]) -> String {
    let mut times: Vec<f64> = runs.iter().filter_map(|run| run.reset_s).collect();
    times.sort_by(f64::total_cmp);
    // Xen's own way to reset the host is told from the hardware's.
    let by_xen = runs
        .iter()
        .any(|run| run.reset_s.is_some() && !run.by_host_watchdog);
    let note = if by_xen { " (by Xen)" } else { "" };
    let alive = runs.len() - times.len();
    match (times.first(), times.last()) {
        _ if runs.is_empty() => "not run".to_owned(),
        (Some(first), Some(last)) if alive == 0 => format!("{}{note}", span(*first, *last)),
        (Some(first), Some(last)) => {
            format!(
                "{}{note}, no reset in {alive} of {}",
                span(*first, *last),
                runs.len()
            )
        }
        _ => "**no reset**".to_owned(),
    }
}

fn span(first: f64, last: f64) -> String {
    match format!("{first:.1}") == format!("{last:.1}") {
        true => format!("{first:.1}"),
        false => format!("{first:.1} to {last:.1}"),
    }
}

fn of<'a>(runs: &'a [WedgeRun], case: &Case, peer: Peer) -> Vec<&'a WedgeRun> {
    runs.iter()
        .filter(|run| run.wedge == case.name && run.peer == peer.name())
        .collect()
}

fn resets(runs: &[WedgeRun]) -> String {
    let all = cases();
    let most = runs.iter().map(|run| run.run).max().unwrap_or(0);
    let runs_told = match most {
        1 => "one run of each".to_owned(),
        _ => format!("least to most of up to {most} runs"),
    };
    let mut text = format!(
        "\n## Time to reset\n\n![Time to reset by wedge and daemon](figures/resets.svg)\n\nSeconds from the injection to the reset, or that there was \
         none in {} s; {runs_told}. Each run is at a phase of the timers of its own, which is {}: where a wedge stops \
         dom0 or not by chance, so may the numbers be. *No reset* is right only in the rows that should live.\n\n",
        WATCHED.as_secs(),
        pairing(runs),
    );
    text += &peers_head("wedge");
    let ran: Vec<&Case> = all.iter().collect();
    let right = |down: bool| ran.iter().filter(move |case| case.should_go_down == down);
    for case in right(true).chain(right(false)) {
        let cells = Peer::ALL.map(|peer| came(&of(runs, case, peer)));
        let _ = writeln!(
            text,
            "| {}: {}{} | {} |",
            case.name,
            case.what,
            if case.should_go_down {
                ""
            } else {
                " (should live)"
            },
            cells.join(" | ")
        );
    }
    let caught = Peer::ALL.map(|peer| caught(&ran, runs, peer));
    let _ = writeln!(
        text,
        "| **wedges that ended in a reset** | {} |",
        caught.join(" | ")
    );
    text + NOTES_ON_RESETS
}

/// Which runs had every daemon at the same phases.
fn pairing(runs: &[WedgeRun]) -> String {
    let mut phases: BTreeMap<(u32, &str), Vec<Option<u64>>> = BTreeMap::new();
    for run in runs {
        let of_case = phases.entry((run.run, &run.wedge)).or_default();
        of_case.push(run.phase_ms);
    }
    let differ = |of_case: &Vec<Option<u64>>| {
        of_case[0].is_none() || of_case.iter().any(|phase| *phase != of_case[0])
    };
    let unpaired = phases.iter().filter(|(_, of_case)| differ(of_case));
    let mut unpaired: Vec<String> = unpaired.map(|((run, _), _)| run.to_string()).collect();
    unpaired.dedup();
    let most = runs.iter().map(|run| run.run).max().unwrap_or(0);
    match unpaired.len() {
        0 => "the same for all daemons".to_owned(),
        all if all as u32 == most => "not the same for all daemons".to_owned(),
        _ => format!(
            "the same for all daemons but in run {}",
            unpaired.join(", ")
        ),
    }
}

/// Of the wedges that a host should not survive, how many ended with a reset in every run.
fn caught(ran: &[&Case], runs: &[WedgeRun], peer: Peer) -> String {
    let is_wedge = |case: &&&Case| case.should_go_down && matches!(case.act, Act::Wedge(_));
    let of_peer = ran.iter().filter(is_wedge).map(|case| of(runs, case, peer));
    let run: Vec<_> = of_peer.filter(|runs| !runs.is_empty()).collect();
    let down = run
        .iter()
        .filter(|runs| runs.iter().all(|run| run.reset_s.is_some()));
    format!("{} of {}", down.count(), run.len())
}

const NOTES_ON_RESETS: &str = "
Where dom0 is on every pCPU, many a wedge stops dom0 too, and with it any daemon's kicks: there a daemon is as good as another, and what
each does differs by where dom0's processors happened to run. Names that end in 2 or 3 are of a pCPU without dom0, which lives on.
`idle-only`: xenwarden has `evidence.starved_s = 3`, which is not its default; without it the host lives. `guest-handler`: from the
deadline of a guest that no longer feeds. xenwatchdogd has no hardware, nor a driver that could refuse a kick: what it does is Xen's, which a wedge may stop.
";

#[cfg(test)]
mod tests {
    use super::{Data, Peer, WedgeRun, pairing, resets};
    use crate::bench::DATA;
    use crate::bench::wedges::cases;
    use crate::layout::{Layout, read_text};

    fn run(wedge: &str, number: u32, reset_s: Option<f64>) -> WedgeRun {
        WedgeRun {
            wedge: wedge.to_owned(),
            peer: Peer::Sbd.name().to_owned(),
            run: number,
            phase_ms: Some(0),
            reset_s,
            by_host_watchdog: true,
        }
    }

    #[test]
    fn what_is_committed_is_made_of_the_committed_data() {
        let layout = Layout::of_this_tree();
        let data = Data::read(&layout.project(DATA)).unwrap();
        for (path, made) in data.files() {
            let committed = read_text(&layout.project(path)).unwrap();
            assert!(
                committed == made,
                "{path} is not made of {DATA}: make bench-report"
            );
        }
    }

    #[test]
    fn the_readme_says_what_the_data_say() {
        let layout = Layout::of_this_tree();
        let readme = read_text(&layout.project("README.md")).unwrap();
        let summary = Data::read(&layout.project(DATA)).unwrap().summary();
        assert!(
            readme.contains(&summary),
            "the README does not have:\n{summary}"
        );
    }

    #[test]
    fn every_name_in_the_data_is_known() {
        let layout = Layout::of_this_tree();
        let data = Data::read(&layout.project(DATA)).unwrap();
        for run in &data.wedges {
            assert!(cases().iter().any(|case| case.name == run.wedge), "{run:?}");
            assert!(
                Peer::ALL.iter().any(|peer| peer.name() == run.peer),
                "{run:?}"
            );
        }
    }

    #[test]
    fn which_runs_had_all_daemons_at_one_phase_is_told() {
        let at = |number: u32, phase_ms| WedgeRun {
            phase_ms,
            ..run("a", number, None)
        };
        let apart = [at(1, Some(5)), at(1, Some(6))];
        assert_eq!(pairing(&apart), "not the same for all daemons");
        let second = [at(2, Some(7)), at(2, Some(7))];
        let one = [at(1, Some(5)), at(1, Some(5)), second[0].clone()];
        assert_eq!(pairing(&one), "the same for all daemons");
        let both = [apart.as_slice(), &second].concat();
        assert_eq!(pairing(&both), "the same for all daemons but in run 1");
        let by_chance = [at(1, None), at(1, None)];
        assert_eq!(pairing(&by_chance), "not the same for all daemons");
    }

    #[test]
    fn two_runs_that_differ_are_told_with_their_spread() {
        let name = cases()[0].name;
        let row = |runs: &[WedgeRun]| {
            let text = resets(runs);
            let start = format!("| {name}: ");
            let line = text.lines().find(|line| line.starts_with(&start));
            line.unwrap().to_owned()
        };
        let both = row(&[run(name, 1, Some(5.04)), run(name, 2, Some(6.2))]);
        assert!(both.contains("| 5.0 to 6.2 |"), "{both}");
        let mixed = row(&[run(name, 1, Some(5.04)), run(name, 2, None)]);
        assert!(mixed.contains("| 5.0, no reset in 1 of 2 |"), "{mixed}");
        let alive = row(&[run(name, 1, None)]);
        assert!(alive.contains("| not run | **no reset** |"), "{alive}");
    }
}

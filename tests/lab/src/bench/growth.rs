// SPDX-License-Identifier: GPL-2.0-only
//! How a look grows with guests and with pCPUs, in instructions, to more of both than a laboratory can carry.
//!
//! In: a simulated table, which does to its words what the hypervisor does. Out: what one look of the guard's and one of the monitor's
//! takes, counted by valgrind: the difference between many looks and few, less what the simulation itself takes, so neither the
//! beginning of the program counts nor what changes in the table between two looks.

use super::data::{Record, Results};
use super::data_file;
use crate::command::{output, say};
use crate::error::{Context, Result};
use crate::layout::Layout;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::hint::black_box;
use std::process::Command;
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::guard::evidence::Evidence;
use xenwarden::guests::alarm::{Moment, Nanoseconds, Rules};
use xenwarden::guests::registry::Registry;
use xenwarden::monitor::pcpus::Pcpus;
use xenwarden::monitor::starving::StarvingPcpus;
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::simulation::Simulation;

/// Guests with four pCPUs, each with a watchdog.
pub const GUESTS: [u16; 5] = [0, 10, 100, 1_000, 10_000];
/// pCPUs without guests.
pub const PCPUS: [u32; 6] = [1, 4, 16, 64, 256, 1_024];
/// So many pCPUs have the hosts with guests.
const FEW_PCPUS: u32 = 4;
/// Guests' timeout, s: none expires.
const TIMEOUT_S: u32 = 1_000_000;
/// Between two looks, ns: the guard's sample.
const SAMPLE_NS: u64 = 250_000_000;
/// When the first look is, ns.
const BEGIN_NS: u64 = 1_000 * SAMPLE_NS;
/// Looks of the shorter run and of the longer one.
const LOOKS: [u32; 2] = [4, 12];

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Nobody: what the simulation takes.
    Nobody,
    /// The guard, whether kicks are still in order.
    Guard,
    /// The monitor: every guest's life, and the state of each pCPU.
    Monitor,
}

impl Who {
    /// Those who are measured.
    pub const MEASURED: [Who; 2] = [Who::Guard, Who::Monitor];

    /// The name in data and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Who::Nobody => "nobody",
            Who::Guard => "guard",
            Who::Monitor => "monitor",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let all = [Who::Nobody, Who::Guard, Who::Monitor].into_iter();
        let mut named = all.filter(|who| who.name() == name);
        named.next().context(|| format!("nobody is called {name}"))
    }
}

/// What one look takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrowthRun {
    /// Who looks.
    pub who: String,
    /// The host's pCPUs.
    pub pcpus: u32,
    /// Guests, each of which has fed its watchdog since the look before.
    pub guests: u16,
    /// Instructions of one look.
    pub instructions: f64,
}

impl Record for GrowthRun {
    fn id(&self) -> String {
        format!("{} {} {}", self.who, self.pcpus, self.guests)
    }

    fn shown(&self) -> String {
        format!("{:.0} instructions a look", self.instructions)
    }
}

/// Measures all sizes and writes `doc/bench/growth.json`.
pub fn measure() -> Result<()> {
    let with_guests = GUESTS.map(|guests| (FEW_PCPUS, guests));
    let without = PCPUS.map(|pcpus| (pcpus, 0));
    let mut runs = Vec::new();
    let mut sizes: Vec<(u32, u16)> = with_guests.into_iter().chain(without).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for (pcpus, guests) in sizes {
        let simulation = counted(Who::Nobody, pcpus, guests)?;
        for who in Who::MEASURED {
            let run = GrowthRun {
                who: who.name().to_owned(),
                pcpus,
                guests,
                instructions: counted(who, pcpus, guests)? - simulation,
            };
            say(format!("{}: {}", run.id(), run.shown()));
            runs.push(run);
        }
    }
    let versions = versions()?.into_iter();
    let versions = versions
        .map(|(name, version)| (name.to_owned(), version))
        .collect();
    Results { versions, runs }.write(&data_file("growth")?)
}

fn versions() -> Result<[(&'static str, String); 3]> {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    Ok([
        (
            "rustc",
            first(output(Command::new("rustc").arg("--version"))?),
        ),
        (
            "valgrind",
            first(output(Command::new("valgrind").arg("--version"))?),
        ),
        (
            "xenwarden",
            crate::laboratory::bench::own_version(&Layout::of_this_tree()),
        ),
    ])
}

/// Instructions of one turn: what changes in the table, and the look.
fn counted(who: Who, pcpus: u32, guests: u16) -> Result<f64> {
    let [few, many] = LOOKS;
    let instructions = |looks: u32| -> Result<f64> {
        let lab = std::env::current_exe().context(|| "cannot find this program")?;
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(lab).args(["bench", "looks", who.name()]);
        valgrind.args([pcpus, guests.into(), looks].map(|number| number.to_string()));
        let done = valgrind.output().context(|| "cannot run valgrind")?;
        let said = String::from_utf8_lossy(&done.stderr);
        let count = said
            .lines()
            .find_map(|line| line.split_once("Collected : "));
        let count = count.and_then(|(_, count)| count.trim().parse().ok());
        count.context(|| format!("valgrind counts nothing: {said}"))
    };
    Ok((instructions(many)? - instructions(few)?) / f64::from(many - few))
}

/// Looks so often at a simulated table in which every canary runs, and every guest feeds, between two looks.
pub fn look(who: &str, pcpus: u32, guests: u16, looks: u32) -> Result<()> {
    let who = Who::named(who)?;
    let xen = Simulation::new(pcpus as usize);
    let domids = 1..=guests;
    for domid in domids.clone() {
        xen.create(domid, Uuid::from_u128(domid.into()));
        xen.arm(domid, 0, TIMEOUT_S);
    }
    let table = xen.table();
    let mut evidence = Evidence::new(&table);
    let mut registry = Registry::new(Rules::default());
    let (mut seen, mut starving) = (Pcpus::default(), StarvingPcpus::new(0));
    for n in 0..u64::from(looks) {
        xen.tick_all();
        domids.clone().for_each(|domid| xen.feed(domid, 0));
        let now = Monotonic(BEGIN_NS + n * SAMPLE_NS);
        match who {
            Who::Nobody => {}
            Who::Guard => {
                black_box(evidence.look(black_box(&table), || now));
            }
            Who::Monitor => {
                let at = Moment {
                    ns: Nanoseconds::try_from(now.0).unwrap_or(Nanoseconds::MAX),
                    wall: Timestamp::now(),
                };
                black_box(registry.turn(at, black_box(&table)));
                seen.look(&table, now);
                starving.look(&table, now);
            }
        }
    }
    Ok(())
}

/// The part of `doc/bench.md` that is made of it; nothing of nothing.
pub fn page(runs: &[GrowthRun]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut text = "\n## Growth\n\n![Instructions of a look by guests and by pCPUs](figures/growth.svg)\n\n`make growth` counts the instructions of one look, \
         the guard's and the monitor's at a simulated table: every guest has a watchdog and has fed it since the look \
         before, and every pCPU has serviced its canary.\n\n| pCPUs | guests | guard, instructions | monitor, instructions |\n|---|---|---|---|\n"
        .to_owned();
    let mut sizes: Vec<(u32, u16)> = runs.iter().map(|run| (run.pcpus, run.guests)).collect();
    sizes.sort_by_key(|(pcpus, guests)| (*guests > 0, *guests, *pcpus));
    sizes.dedup();
    for (pcpus, guests) in sizes {
        let cells = Who::MEASURED.map(|who| {
            let run = find(runs, who, pcpus, guests);
            run.map_or("not run".to_owned(), |run| {
                format!("{:.0}", run.instructions)
            })
        });
        let _ = writeln!(text, "| {pcpus} | {guests} | {} |", cells.join(" | "));
    }
    for who in Who::MEASURED {
        let of_guests = steps(&points(runs, who, Axis::Guests));
        let of_pcpus = steps(&points(runs, who, Axis::Pcpus));
        let _ = writeln!(
            text,
            "\nThe {}: {} more for each guest more, {} for each pCPU, from each size to the next: {}.",
            who.name(),
            listed(&of_guests),
            listed(&of_pcpus),
            match is_linear(&of_guests) && is_linear(&of_pcpus) {
                true => "linear or better".to_owned(),
                false => format!(
                    "**more than linear**, {:.2} times as much for the dearest as for the first",
                    dearest(&of_guests).max(dearest(&of_pcpus))
                ),
            }
        );
    }
    text
}

/// What a figure and a sentence go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Guests, with few pCPUs.
    Guests,
    /// pCPUs, without guests.
    Pcpus,
}

fn find(runs: &[GrowthRun], who: Who, pcpus: u32, guests: u16) -> Option<&GrowthRun> {
    let mut runs = runs.iter();
    runs.find(|run| run.who == who.name() && run.pcpus == pcpus && run.guests == guests)
}

/// How many there are, and the instructions of a look.
pub fn points(runs: &[GrowthRun], who: Who, axis: Axis) -> Vec<(u32, f64)> {
    let instructions = |pcpus, guests| Some(find(runs, who, pcpus, guests)?.instructions);
    match axis {
        Axis::Guests => GUESTS
            .iter()
            .filter_map(|guests| Some(((*guests).into(), instructions(FEW_PCPUS, *guests)?)))
            .collect(),
        Axis::Pcpus => PCPUS
            .iter()
            .filter_map(|pcpus| Some((*pcpus, instructions(*pcpus, 0)?)))
            .collect(),
    }
}

/// What each of them more costs, from one size to the next.
fn steps(points: &[(u32, f64)]) -> Vec<f64> {
    let step = |pair: &[(u32, f64)]| (pair[1].1 - pair[0].1) / f64::from(pair[1].0 - pair[0].0);
    points.windows(2).map(step).collect()
}

fn listed(steps: &[f64]) -> String {
    let steps: Vec<String> = steps.iter().map(|step| format!("{step:.0}")).collect();
    steps.join(", ")
}

/// How often what the first costs is in what the dearest costs.
fn dearest(steps: &[f64]) -> f64 {
    let first = steps.first().copied().unwrap_or(f64::NAN);
    steps.iter().copied().fold(first, f64::max) / first
}

/// Whether none of them costs more than the cheapest of those that went before it, but for a tenth.
fn is_linear(steps: &[f64]) -> bool {
    let before = |n: usize| steps[..n].iter().copied().fold(f64::INFINITY, f64::min);
    (1..steps.len()).all(|n| steps[n] <= before(n) * 1.1)
}

#[cfg(test)]
mod tests {
    use super::{Axis, GrowthRun, Who, is_linear, page, points, steps};

    fn runs(instructions: impl Fn(u32, u16) -> f64) -> Vec<GrowthRun> {
        let sizes = super::GUESTS.map(|guests| (super::FEW_PCPUS, guests));
        let more = super::PCPUS.map(|pcpus| (pcpus, 0));
        let both = sizes.into_iter().chain(more);
        let run = |(pcpus, guests), who: Who| GrowthRun {
            who: who.name().to_owned(),
            pcpus,
            guests,
            instructions: instructions(pcpus, guests),
        };
        both.flat_map(|size| Who::MEASURED.map(|who| run(size, who)))
            .collect()
    }

    #[test]
    fn what_grows_faster_than_its_size_is_said_to() {
        let linear =
            runs(|pcpus, guests| 500.0 + 40.0 * f64::from(pcpus) + 30.0 * f64::from(guests));
        assert_eq!(page(&linear).matches(": linear or better.").count(), 2);
        let square = runs(|pcpus, guests| f64::from(pcpus) + 0.01 * f64::from(guests).powi(2));
        assert_eq!(page(&square).matches("**more than linear**").count(), 2);
        assert!(is_linear(&[30.0, 32.0, 20.0, 21.0]) && !is_linear(&[30.0, 20.0, 29.0]));
    }

    #[test]
    fn a_step_is_what_one_more_costs() {
        let runs = runs(|pcpus, guests| 100.0 + 7.0 * f64::from(pcpus) + 3.0 * f64::from(guests));
        assert_eq!(steps(&points(&runs, Who::Guard, Axis::Guests)), [3.0; 4]);
        assert_eq!(steps(&points(&runs, Who::Monitor, Axis::Pcpus)), [7.0; 5]);
    }

    #[test]
    fn every_look_that_is_counted_can_be_taken() {
        for who in [Who::Nobody, Who::Guard, Who::Monitor] {
            super::look(who.name(), 2, 3, 2).unwrap();
        }
        assert!(super::look("somebody", 2, 3, 2).is_err());
    }

    #[test]
    fn nothing_measured_is_no_section() {
        assert_eq!(page(&[]), "");
    }
}

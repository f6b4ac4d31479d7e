// SPDX-License-Identifier: GPL-2.0-only
//! What the hypervisor's patches cost guests, by instruction count.
//!
//! Each instruction takes 8 ns of an emulated host's time (see [`crate::machine`]), and a guest's time stamp counter counts that time.
//! So a batch of hypercalls takes exactly as long as the instructions that were executed for it, with those of the other pCPUs if
//! anything ran there: the cheapest batch of many is the one in which nothing did. A guest of the laboratory's own runs them, on a host
//! with the liveness table and on one whose hypervisor has no patches.

use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use std::time::Duration;

/// A guest's time stamp counter counts nanoseconds; an instruction takes so many.
const NS_PER_INSTRUCTION: f64 = 8.0;
/// Hypercalls in a batch, as in `images/cost-guest.S`.
const IN_A_BATCH: f64 = 100.0;
/// Batches of one run, as there.
const BATCHES: usize = 200;
/// How much of the emulated host's time passes before the guests of a run begin: all of them are there by then.
const LEAD: Duration = Duration::from_secs(30);
/// How long a run may take.
const RUN: Duration = Duration::from_secs(120);

/// What is measured.
struct Operation {
    what: &'static str,
    /// Its number on the guest's command line.
    number: u32,
    /// Guests that do it, on the same pCPU.
    guests: u32,
    /// How much more it may cost with the liveness table.
    goal: f64,
}

const OPERATIONS: [Operation; 2] = [
    Operation {
        what: "SCHEDOP_watchdog, feeding",
        number: 0,
        guests: 1,
        goal: 1.01,
    },
    Operation {
        // Each of the two gives way to the other: two switches an iteration.
        what: "two context switches",
        number: 1,
        guests: 2,
        goal: 1.005,
    },
];

/// Instructions for one operation: of each batch, ascending.
struct Sample(Vec<f64>);

impl Sample {
    fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    fn part(&self, numerator: usize, denominator: usize) -> f64 {
        let at = self.0.len() * numerator / denominator;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    fn line(&self) -> String {
        format!(
            "min {:.1}, lower quartile {:.1}, median {:.1}, upper quartile {:.1} of {} batches",
            self.min(),
            self.part(1, 4),
            self.part(1, 2),
            self.part(3, 4),
            self.0.len()
        )
    }
}

/// Measures on both hosts, each operation `runs` times, and prints the ratios.
pub fn run(runs: u32) -> Result<()> {
    let laboratory = Laboratory::provide_parts()?;
    let mut host = laboratory.bare_host_without_patches()?;
    let without = measure(&mut host, "without the table", runs)?;
    drop(host);
    let with = measure(&mut laboratory.bare_host()?, "with the table", runs)?;
    let mut missed = 0;
    for ((operation, with), without) in OPERATIONS.iter().zip(&with).zip(&without) {
        let (min, median) = (
            with.min() / without.min(),
            with.part(1, 2) / without.part(1, 2),
        );
        println!(
            "{}: instructions\n  without: {}\n  with:    {}\n  ratio: {min:.4} of the minima, {median:.4} of the medians; goal {}",
            operation.what,
            without.line(),
            with.line(),
            operation.goal
        );
        if median > operation.goal {
            missed += 1;
        }
    }
    match missed {
        0 => Ok(()),
        _ => Err(Error::new(format!("{missed} goals are missed"))),
    }
}

fn measure(host: &mut Host, name: &str, runs: u32) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for operation in &OPERATIONS {
        let mut all = Vec::new();
        for n in 1..=runs {
            let one = host.batches(operation)?;
            say(format!(
                "  {name}, {}, run {n}: {}",
                operation.what,
                one.line()
            ));
            all.extend(one.0);
        }
        samples.push(sorted(all));
    }
    Ok(samples)
}

fn sorted(mut all: Vec<f64>) -> Sample {
    all.sort_by(f64::total_cmp);
    Sample(all)
}

impl Host {
    /// Instructions for one operation, of each batch of each guest.
    fn batches(&mut self, operation: &Operation) -> Result<Sample> {
        // The emulated Xen's time and the machine's begin together, to a second.
        let begin = (self.machine.clock()? + LEAD).as_nanos();
        let names: Vec<String> = (0..operation.guests).map(|n| format!("cost{n}")).collect();
        for name in &names {
            // Without "native", Xen emulates the time stamp counter.
            let config = format!(
                "name = \"{name}\"\ntype = \"pv\"\nmemory = 8\nvcpus = 1\ncpus = \"2\"\ntsc_mode = \"native\"\n\
                 kernel = \"/guest/cost\"\ncmdline = \"{begin} {}\"\n",
                operation.number
            );
            self.create_domain(name, &config)?;
        }
        let now = self.machine.clock()?.as_nanos();
        if now > begin {
            return Err(Error::new("the guests of a run were created too late"));
        }
        let mut all = Vec::new();
        for name in &names {
            self.wait_guest_says(name, "end", RUN)?;
            let log = self.dom0_ok(
                &format!("cat /var/log/xen/console/guest-{name}.log"),
                PROMPT,
            )?;
            all.extend(advances(&log)?);
        }
        for name in &names {
            self.dom0_ok(&format!("xl destroy {name}"), RUN)?;
        }
        let instructions = |ns: u32| f64::from(ns) / NS_PER_INSTRUCTION / IN_A_BATCH;
        Ok(sorted(all.into_iter().map(instructions).collect()))
    }
}

/// What a guest told: nanoseconds of each batch.
fn advances(log: &str) -> Result<Vec<u32>> {
    let numbers: Option<Vec<u32>> = log
        .lines()
        .map(str::trim)
        .take_while(|line| *line != "end")
        .map(|line| u32::from_str_radix(line, 16).ok())
        .collect();
    numbers
        .filter(|numbers| numbers.len() == BATCHES)
        .context(|| format!("the guest told no {BATCHES} numbers: {log}"))
}

#[cfg(test)]
mod tests {
    use super::{BATCHES, advances};

    #[test]
    fn a_guest_that_tells_less_than_all_is_not_believed() {
        let told = |count| "0000c350\r\n".repeat(count) + "end\r\n";
        assert_eq!(advances(&told(BATCHES)).ok(), Some(vec![50_000; BATCHES]));
        assert!(advances(&told(BATCHES - 1)).is_err());
    }
}

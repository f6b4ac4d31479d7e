// SPDX-License-Identifier: GPL-2.0-only
//! The tables of `doc/bench.md` that tell what was measured several times: least to most, and how far the runs of one cell are apart.

use super::data::{CostRun, KickRun, Program};
use super::figure::{cpu_ms_a_minute, memory_mib};
use super::kicks::LOADS;
use super::peers::Peer;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The section on what daemons cost.
pub fn costs(runs: &[CostRun]) -> String {
    let mut text = "\n## Cost\n\n![Processor time and memory by guests](figures/costs.svg)\n\nOf dom0, in a minute. Processor time is what dom0's \
         scheduler counts, of the emulated host's time, of which an instruction takes 8 ns: a million instructions are 8 ms. Memory: \
         all pages of each process (resident), the same where shared pages are divided among those who share them (proportional), \
         and what is locked of the address space. "
        .to_owned();
    text += &costs_apart(runs);
    text += "\n\n\
         | guests | program | CPU, ms a minute | wakeups a minute | processes | threads | resident, MiB | proportional, MiB | locked, MiB |\n\
         |---|---|---|---|---|---|---|---|---|\n";
    let mut guests: Vec<u32> = runs.iter().map(|run| run.guests).collect();
    guests.sort_unstable();
    guests.dedup();
    for guests in guests {
        for peer in Peer::ALL {
            let of_peer = runs
                .iter()
                .filter(|run| run.guests == guests && run.peer == peer.name());
            let of_peer: Vec<&CostRun> = of_peer.collect();
            if of_peer.is_empty() {
                let _ = writeln!(text, "| {guests} | {} | not run | | | | | | |", peer.name());
                continue;
            }
            for name in peer.processes() {
                let _ = writeln!(text, "{}", cost_line(guests, peer, name, &of_peer));
            }
            if peer.processes().len() > 1 {
                let cpu = spread(of_peer.iter().map(|run| cpu_ms_a_minute(run)));
                let memory = spread(of_peer.iter().map(|run| memory_mib(run)));
                let _ = writeln!(text, "| {guests} | **both** | {cpu} | | | | | {memory} | |");
            }
        }
    }
    text + "\nThe 1,000 guests are records that are written into the hypervisor's table from outside, each about every 1.4 s; no host of the \
            laboratory can carry as many. The other daemons know nothing of guests, so theirs is the same host as with 2.\n"
}

fn cost_line(guests: u32, peer: Peer, name: &str, runs: &[&CostRun]) -> String {
    let of_name = |run: &&CostRun| run.programs.iter().find(|one| one.name == name).cloned();
    let programs: Vec<_> = runs.iter().filter_map(of_name).collect();
    let of_name = |run: &&&CostRun| run.programs.iter().any(|one| one.name == name);
    let minutes: Vec<f64> = runs
        .iter()
        .filter(of_name)
        .map(|run| run.over_s / 60.0)
        .collect();
    let a_minute = |value: fn(&Program) -> f64| {
        let both = programs.iter().zip(&minutes);
        spread(both.map(|(program, minutes)| value(program) / minutes))
    };
    let now = |value: fn(&Program) -> f64| spread(programs.iter().map(value));
    let mib = |value: fn(&Program) -> u64| {
        spread(
            programs
                .iter()
                .map(|program| value(program) as f64 / 1024.0),
        )
    };
    let shown = match peer {
        Peer::Busybox => "busybox watchdog",
        Peer::Watchdog => "watchdog(8)",
        _ => name,
    };
    format!(
        "| {guests} | {shown} | {} | {} | {} | {} | {} | {} | {} |",
        a_minute(|one| one.cpu_ns as f64 / 1e6),
        a_minute(|one| one.wakeups as f64),
        now(|one| one.processes as f64),
        now(|one| one.threads as f64),
        mib(|one| one.resident_kib),
        mib(|one| one.proportional_kib),
        mib(|one| one.locked_kib),
    )
}

/// Least to most, with as many digits as say something.
pub fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let shown = |value: &f64| match value.fract().abs() < 0.005 || *value >= 100.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    };
    match (values.first().map(shown), values.last().map(shown)) {
        (Some(first), Some(last)) if first == last => first,
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => "not run".to_owned(),
    }
}

/// The section on kicks under load.
pub fn kicks(runs: &[KickRun]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut text = "\n## Kicks under load\n\nThe longest gap between two kicks, ms, and behind it how many gaps there were, of all runs; by a kprobe on the driver's \
         keepalive (xenwatchdogd: its hypercall). A gap of 5,000 would have reset the host. "
        .to_owned();
    text += &kicks_apart(runs);
    text += "\n\n";
    text += &peers_head("dom0 is busy with");
    for load in &LOADS {
        let cells = Peer::ALL.map(|peer| {
            let of_peer = runs
                .iter()
                .filter(|run| run.load == load.name && run.peer == peer.name());
            let of_peer: Vec<&KickRun> = of_peer.collect();
            let gaps: usize = of_peer.iter().map(|run| run.gaps_ms.len()).sum();
            let longest = spread(
                of_peer
                    .iter()
                    .filter_map(|run| longest_ms(run))
                    .map(f64::round),
            );
            let resets = of_peer.iter().filter(|run| run.reset).count();
            match (of_peer.len(), resets) {
                (0, _) => "not run".to_owned(),
                (_, 0) => format!("{longest} ({gaps})"),
                (all, resets) if all == resets => format!("**reset {resets} times**"),
                (_, resets) => format!("{longest} ({gaps}), **reset {resets} times**"),
            }
        });
        let _ = writeln!(
            text,
            "| {}: {} | {} |",
            load.name,
            load.what,
            cells.join(" | ")
        );
    }
    text
}

/// None: the host was reset, and what there was went with it.
fn longest_ms(run: &KickRun) -> Option<f64> {
    let longest = run.gaps_ms.iter().copied().max_by(f64::total_cmp);
    longest.filter(|_| !run.reset)
}

/// The head of a table with a column for each daemon.
pub fn peers_head(first: &str) -> String {
    let names: Vec<&str> = Peer::ALL.iter().map(|peer| peer.name()).collect();
    format!(
        "| {first} | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    )
}

/// How many runs of a cell there are, and of those cells that have several, which is the one whose runs are furthest apart by `apart` of the
/// least and the most.
struct Apart {
    runs: usize,
    furthest: Option<(f64, String)>,
}

impl Apart {
    fn of(values: impl Iterator<Item = (String, f64)>, apart: fn(f64, f64) -> f64) -> Self {
        let mut cells: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (cell, value) in values {
            cells.entry(cell).or_default().push(value);
        }
        let several = cells.iter().filter(|(_, values)| values.len() > 1);
        let furthest = several.map(|(cell, values)| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            (apart(least, most), cell.clone())
        });
        Apart {
            furthest: furthest.max_by(|one, other| one.0.total_cmp(&other.0)),
            runs: cells.values().map(Vec::len).max().unwrap_or(0),
        }
    }
}

fn costs_apart(runs: &[CostRun]) -> String {
    let of = |value: fn(&CostRun) -> f64| {
        let percent = |least: f64, most: f64| (most / least - 1.0) * 100.0;
        let cells = runs.iter().map(|run| {
            let cell = format!("{} with {} guests", run.peer, run.guests);
            (cell, value(run))
        });
        Apart::of(cells, percent)
    };
    let (cpu, memory) = (of(cpu_ms_a_minute), of(memory_mib));
    match (cpu.furthest, memory.furthest) {
        (Some((cpu_percent, of_cpu)), Some((memory_percent, of_memory))) => format!(
            "Least to most of up to {} runs: those of one daemon with so many guests differ by at most {cpu_percent:.1} % in processor time ({of_cpu}), and by at \
             most {memory_percent:.1} % in proportional memory ({of_memory}).",
            cpu.runs
        ),
        _ => "One run of each.".to_owned(),
    }
}

fn kicks_apart(runs: &[KickRun]) -> String {
    let cells = runs.iter().filter_map(|run| {
        let cell = format!("{} with {}", run.peer, run.load);
        longest_ms(run).map(|longest| (cell, longest))
    });
    let apart = Apart::of(cells, |least, most| most - least);
    let left_out = match runs.iter().filter(|run| longest_ms(run).is_none()).count() {
        0 => String::new(),
        count => format!(" {count} runs with a reset or without two kicks are left out of this."),
    };
    match apart.furthest {
        Some((ms, cell)) => format!(
            "Least to most of the longest gaps of up to {} runs: those of one daemon under one load differ by at most {ms:.0} ms ({cell}).{left_out}",
            apart.runs
        ),
        None if left_out.is_empty() => "One run of each.".to_owned(),
        None => format!("No two runs that could be compared.{left_out}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{costs, kicks};
    use crate::bench::data::{CostRun, KickRun, Program};

    fn cost(peer: &str, run: u32, cpu_ms: u64, kib: u64) -> CostRun {
        CostRun {
            peer: peer.to_owned(),
            guests: 2,
            run,
            over_s: 60.0,
            programs: vec![Program {
                name: peer.to_owned(),
                processes: 1,
                threads: 1,
                cpu_ns: cpu_ms * 1_000_000,
                wakeups: 60,
                resident_kib: kib,
                proportional_kib: kib,
                locked_kib: 0,
            }],
        }
    }

    fn kick(run: u32, gaps_ms: &[f64], reset: bool) -> KickRun {
        KickRun {
            peer: "sbd".to_owned(),
            load: "cpu".to_owned(),
            run,
            over_s: 30,
            gaps_ms: gaps_ms.to_vec(),
            reset,
        }
    }

    #[test]
    fn two_runs_of_a_cost_are_told_with_their_spread_and_the_furthest_is_named() {
        let all = [cost("sbd", 1, 40, 1_024), cost("watchdog", 1, 20, 1_024)];
        let one = costs(&all);
        assert!(one.contains("One run of each."), "{one}");
        assert!(
            one.contains("| 2 | sbd | 40 | 60 | 1 | 1 | 1 | 1 | 0 |"),
            "{one}"
        );
        let again = [cost("sbd", 2, 41, 1_536), cost("watchdog", 2, 22, 1_024)];
        let both = costs(&[all.as_slice(), &again].concat());
        assert!(
            both.contains("| 2 | sbd | 40 to 41 | 60 | 1 | 1 | 1 to 1.5 | 1 to 1.5 | 0 |"),
            "{both}"
        );
        let apart = "of up to 2 runs: those of one daemon with so many guests differ by at most 10.0 % in processor time (watchdog with 2 guests), \
                     and by at most 50.0 % in proportional memory (sbd with 2 guests).";
        assert!(both.contains(apart), "{both}");
    }

    #[test]
    fn two_runs_of_kicks_are_told_with_their_spread() {
        let row = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("| cpu: "));
            line.unwrap().to_owned()
        };
        let first = kick(1, &[1_000.0, 1_008.2], false);
        let one = kicks(std::slice::from_ref(&first));
        assert!(one.contains("One run of each."), "{one}");
        assert!(row(&one).contains("| 1008 (2) |"), "{one}");
        let both = kicks(&[first.clone(), kick(2, &[1_030.4], false)]);
        assert!(row(&both).contains("| 1008 to 1030 (3) |"), "{both}");
        assert!(both.contains("of up to 2 runs: those of one daemon under one load differ by at most 22 ms (sbd with cpu)."), "{both}");
        let reset = kicks(&[first, kick(2, &[], true)]);
        assert!(
            row(&reset).contains("| 1008 (2), **reset 1 times** |"),
            "{reset}"
        );
        let reset = kicks(&[kick(1, &[], true)]);
        assert!(row(&reset).contains("| **reset 1 times** |"), "{reset}");
    }
}

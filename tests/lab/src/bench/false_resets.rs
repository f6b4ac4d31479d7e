// SPDX-License-Identifier: GPL-2.0-only
//! Whether any load has a daemon miss its kicks, over so many samples that what is rare shows.
//!
//! A sample is an interval between two kicks, noted as [`mod@super::kicks`] does it. They are taken in parts of some minutes of the host's time,
//! each on a host of its own that begins at a phase of the timers of its own: no part repeats another. Results are kept part by part.

use super::data::{Kept, Record};
use super::kicks::{LOADS, Load, TRACING};
use super::peers::Peer;
use super::{Bench, PHASES};
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::hosts_at_a_time;
use crate::machine::Shape;
use crate::scenario::phase::Even;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The name of its data.
pub const NAME: &str = "false_resets";
/// How many samples there are to be of each daemon under each load, unless another number is asked for: one part.
pub const SAMPLES: u64 = 200;
/// A part is so many steps; at the end of each it is looked at what there is, which a reset would take away.
const STEPS: u32 = 12;
const STEP: Duration = Duration::from_secs(21);
/// By when after the load the host watchdog has fired, if it was not kicked any more.
const LATER: Duration = Duration::from_secs(6);
/// Where the number of the load's group of processes is.
const GROUP: &str = "/run/load.group";
/// How many intervals the kernel noted, and the longest, ms. The notes are in order; the time is before the note's name.
const LOOK: &str = r#"awk '{for (i = 2; i <= NF; i++) if ($i == "kick:") {t = $(i - 1) + 0; if (n++ && t - l > m) m = t - l; l = t}} END {printf "%d %.3f\n", (n > 0 ? n - 1 : 0), m * 1000}' trace"#;
/// Fails if the kernel had no room for a note.
const ALL_NOTED: &str = "awk '/overrun|dropped/ && $NF > 0 {exit 1}' per_cpu/cpu*/stats";

/// The intervals between one daemon's kicks, in one part of the time under one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The daemon.
    pub peer: String,
    /// What dom0 is kept busy with.
    pub load: String,
    /// Which part it is, from 1.
    pub part: u32,
    /// Seconds of the emulated host's time, until the reset if there was one.
    pub over_s: f64,
    /// How many intervals; after a reset those that were known before.
    pub samples: u64,
    /// The longest of them, ms.
    pub longest_ms: f64,
    /// The host was reset, which no load may do.
    pub reset: bool,
    /// How often ours withheld kicks; none: another daemon, or not known after a reset.
    pub withholds: Option<u64>,
}

impl Record for Part {
    fn id(&self) -> String {
        id(&self.load, &self.peer, self.part)
    }

    fn shown(&self) -> String {
        let reset = if self.reset { "RESET, " } else { "" };
        let withholds = self.withholds.map(|count| format!(", {count} withheld"));
        format!(
            "{reset}{} intervals in {:.0} s, the longest {:.1} ms{}",
            self.samples,
            self.over_s,
            self.longest_ms,
            withholds.unwrap_or_default()
        )
    }
}

fn id(load: &str, peer: &str, part: u32) -> String {
    format!("{load} {peer} {part}")
}

impl Part {
    /// As how many samples it counts where it is asked whether there are enough: a daemon that has the host reset over and over comes to
    /// an end too.
    fn weight(&self) -> u64 {
        let part_s = u64::from(STEPS) * STEP.as_secs();
        let a_second = match self.peer == Peer::Xenwarden.name() {
            true => 4,
            false => 1,
        };
        self.samples.max(part_s * a_second / 2)
    }
}

/// One daemon under one load.
type Cell = (usize, Peer);

/// What the hosts that run at once share.
struct Shared {
    kept: Kept<Part>,
    /// What is being measured now, and what could not be.
    taken: BTreeSet<Cell>,
    failed: BTreeSet<Cell>,
}

impl Shared {
    /// The daemon and load with the fewest samples, and the number of its next part; none if all have enough or are taken.
    fn next(&mut self, samples: u64, peers: &[Peer]) -> Option<(Cell, u32)> {
        let cells = (0..LOADS.len()).flat_map(|load| peers.iter().map(move |peer| (load, *peer)));
        let open = cells.filter_map(|cell| {
            let of_cell = self
                .kept
                .records()
                .iter()
                .filter(|part| part.load == LOADS[cell.0].name && part.peer == cell.1.name());
            let weight: u64 = of_cell.map(Part::weight).sum();
            let is_open = !self.taken.contains(&cell) && !self.failed.contains(&cell);
            (weight < samples && is_open).then_some((weight, cell))
        });
        let (_, cell) = open.min_by_key(|(weight, _)| *weight)?;
        self.taken.insert(cell);
        let is_new = |part: &u32| {
            let id = id(LOADS[cell.0].name, cell.1.name(), *part);
            !self.kept.has(&id)
        };
        (1..).find(is_new).map(|part| (cell, part))
    }
}

/// Measures until there are so many samples of each daemon, or of one, under each load, with what was measured before; publishes all that is there.
pub fn measure(samples: u64, only: Option<Peer>) -> Result<()> {
    let bench = Bench::open()?;
    let peers = only.map_or(Peer::ALL.to_vec(), |peer| vec![peer]);
    let shared = Mutex::new(Shared {
        kept: bench.kept(NAME)?,
        taken: BTreeSet::new(),
        failed: BTreeSet::new(),
    });
    let done: Vec<Result<()>> = thread::scope(|scope| {
        let work = || work_off(&bench, &shared, samples, &peers);
        let begun: Vec<_> = (0..hosts_at_a_time()).map(|_| scope.spawn(work)).collect();
        let ended = begun.into_iter().map(|one| one.join());
        ended
            .map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.into_iter().collect::<Result<()>>()?;
    let Shared { kept, failed, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    bench.publish(NAME, kept)?;
    match failed.len() {
        0 => Ok(()),
        count => Err(Error::new(format!("{count} could not be measured"))),
    }
}

/// Measures part after part, until there is none that nobody has taken. What cannot be measured is said, and tried again the next time.
fn work_off(bench: &Bench, shared: &Mutex<Shared>, samples: u64, peers: &[Peer]) -> Result<()> {
    loop {
        let Some((cell, part)) = lock(shared).next(samples, peers) else {
            return Ok(());
        };
        let (load, peer) = (&LOADS[cell.0], cell.1);
        let id = id(load.name, peer.name(), part);
        let measured = bench.part(peer, load, part);
        let mut shared = lock(shared);
        shared.taken.remove(&cell);
        match measured {
            Ok(record) => {
                say(format!("{id}: {}", record.shown()));
                shared.kept.add(record)?;
            }
            Err(error) => {
                say(format!("{id}: NOT MEASURED: {error}"));
                shared.failed.insert(cell);
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bench {
    /// One part on a host of its own.
    fn part(&self, peer: Peer, load: &Load, part: u32) -> Result<Part> {
        let mut host = self.laboratory.bench_host(&self.parts, Shape::Everywhere)?;
        peer.start(&mut host)?;
        host.note_kicks(peer)?;
        let withheld = host.withholds(peer)?;
        // One for all daemons, so that none is lucky; another in each part.
        host.come_to(Even::of(PHASES, load.name).nth(part.into()))?;
        let began = host.begin(load)?;
        let (mut seen, mut reset) = ((0, 0.0), None);
        for step in 1..=STEPS {
            match host.step(began + STEP * step, step == STEPS)? {
                Seen::Kicks(so_far) => seen = so_far,
                Seen::Reset(at) => {
                    reset = Some(at);
                    break;
                }
            }
        }
        let ended = host.machine.clock()?;
        if reset.is_none() {
            // A kick that the load's last seconds kept back.
            reset = host.machine.wait_reset(ended + LATER)?;
        }
        let ended = reset.unwrap_or(ended);
        let withholds = match (withheld, reset) {
            (Some(before), None) => host.withholds(peer)?.map(|now| now.saturating_sub(before)),
            _ => None,
        };
        Ok(Part {
            peer: peer.name().to_owned(),
            load: load.name.to_owned(),
            part,
            over_s: (ended.saturating_sub(began).as_secs_f64() * 1e3).round() / 1e3,
            samples: seen.0,
            longest_ms: seen.1,
            reset: reset.is_some(),
            withholds,
        })
    }
}

/// What a step ended with.
enum Seen {
    /// So many intervals since the beginning, and the longest, ms.
    Kicks((u64, f64)),
    /// A reset.
    Reset(Duration),
}

impl Host {
    /// Begins a load, and to note kicks; returns when.
    fn begin(&mut self, load: &Load) -> Result<Duration> {
        // A group of its own, all of which ends with the load.
        let begin = format!(
            "echo 1 > {TRACING}/tracing_on; setsid sh -c '{}' < /dev/null > /dev/null 2>&1 & echo $! > {GROUP}",
            load.command.replace('\'', "'\\''")
        );
        let began = self.machine.clock()?;
        self.dom0_ok(&begin, PROMPT)?;
        Ok(began)
    }

    /// Waits for the end of a step, and looks; with the last one the load ends.
    fn step(&mut self, until: Duration, last: bool) -> Result<Seen> {
        if let Some(at) = self.machine.wait_reset(until)? {
            return Ok(Seen::Reset(at));
        }
        let looked = match last {
            true => self.end_load(),
            false => self.kicks_so_far(),
        };
        match looked {
            Ok(so_far) => Ok(Seen::Kicks(so_far)),
            // The host may go down while it is looked at.
            Err(error) => match self.machine.wait_reset(Duration::ZERO)? {
                Some(at) => Ok(Seen::Reset(at)),
                None => Err(error),
            },
        }
    }

    /// How many intervals there were, and the longest, ms.
    fn kicks_so_far(&mut self) -> Result<(u64, f64)> {
        let said = self.dom0_ok(&format!("cd {TRACING} && {ALL_NOTED} && {LOOK}"), PROMPT)?;
        read_look(&said)
    }

    /// The same once nothing is noted any more.
    fn end_load(&mut self) -> Result<(u64, f64)> {
        let end = format!("echo 0 > {TRACING}/tracing_on; kill -9 -$(cat {GROUP})");
        self.dom0_ok(&end, PROMPT)?;
        self.kicks_so_far()
    }

    /// How often ours has withheld kicks so far.
    fn withholds(&mut self, peer: Peer) -> Result<Option<u64>> {
        match peer {
            Peer::Xenwarden => Ok(Some(self.status()?.kick_path.withholds)),
            _ => Ok(None),
        }
    }
}

fn read_look(said: &str) -> Result<(u64, f64)> {
    let what = || format!("no count of kicks: {said}");
    let (samples, longest_ms) = said.trim().split_once(' ').context(what)?;
    Ok((
        samples.parse().context(what)?,
        longest_ms.parse().context(what)?,
    ))
}

/// The part of the page.
pub fn page(parts: &[Part], head: &str) -> String {
    if parts.is_empty() {
        return String::new();
    }
    let part_s = STEPS * STEP.as_secs() as u32;
    let mut text = format!(
        "\n## False resets\n\nUnder the same loads for longer: how many intervals between two kicks there were, how often the host was reset, which no \
         load may do, and the longest interval, ms; of ours also how often it withheld kicks. In parts of {part_s} s, each on a host of its own at a phase of \
         the timers of its own.\n\n{head}"
    );
    for load in &LOADS {
        let cells = Peer::ALL.map(|peer| {
            let is_of_cell = |part: &&Part| part.load == load.name && part.peer == peer.name();
            cell(&parts.iter().filter(is_of_cell).collect::<Vec<_>>())
        });
        let _ = writeln!(text, "| {} | {} |", load.name, cells.join(" | "));
    }
    text
}

fn cell(parts: &[&Part]) -> String {
    if parts.is_empty() {
        return "not run".to_owned();
    }
    let samples: u64 = parts.iter().map(|part| part.samples).sum();
    let longest_ms = parts.iter().map(|part| part.longest_ms).fold(0.0, f64::max);
    let resets = match parts.iter().filter(|part| part.reset).count() {
        0 => "no reset".to_owned(),
        1 => "**1 reset**".to_owned(),
        count => format!("**{count} resets**"),
    };
    let withholds: Vec<u64> = parts.iter().filter_map(|part| part.withholds).collect();
    let withheld = match (withholds.is_empty(), withholds.iter().sum::<u64>()) {
        (true, _) => String::new(),
        (false, 0) => ", never withheld".to_owned(),
        (false, count) => format!(", withheld {count} times"),
    };
    // After a reset there is nobody who would say.
    let unknown = match parts.len() - withholds.len() {
        0 => String::new(),
        _ if withholds.is_empty() => String::new(),
        count => format!(" (not known of {count} parts)"),
    };
    format!("{samples}: {resets}, {longest_ms:.0}{withheld}{unknown}")
}

#[cfg(test)]
mod tests {
    use super::{Kept, LOADS, Part, Peer, Shared, page, read_look};
    use crate::layout::fresh_dir;
    use std::collections::BTreeSet;

    fn part(peer: Peer, number: u32, samples: u64) -> Part {
        Part {
            peer: peer.name().to_owned(),
            load: "cpu".to_owned(),
            part: number,
            over_s: 252.0,
            samples,
            longest_ms: 250.0 + f64::from(number),
            reset: false,
            withholds: (peer == Peer::Xenwarden).then_some(0),
        }
    }

    fn row(parts: &[Part]) -> String {
        let text = page(parts, "");
        let line = text.lines().find(|line| line.starts_with("| cpu "));
        line.unwrap().to_owned()
    }

    #[test]
    fn parts_are_added_up_and_a_reset_is_told() {
        let mut parts = [
            part(Peer::Xenwarden, 1, 1_008),
            part(Peer::Xenwarden, 2, 1_007),
            part(Peer::Sbd, 1, 300),
        ];
        let all = row(&parts);
        assert!(
            all.contains("| 2015: no reset, 252, never withheld |"),
            "{all}"
        );
        assert!(all.contains("| 300: no reset, 251 | not run |"), "{all}");
        (parts[0].withholds, parts[1].withholds) = (Some(2), Some(1));
        (parts[2].reset, parts[2].samples) = (true, 12);
        let all = row(&parts);
        assert!(all.contains(", withheld 3 times |"), "{all}");
        assert!(all.contains("| 12: **1 reset**, 251 |"), "{all}");
        assert_eq!(page(&[], ""), "");
    }

    #[test]
    fn the_daemon_and_load_with_the_fewest_samples_is_next() {
        let folder = std::env::temp_dir().join(format!("false-resets-{}", std::process::id()));
        fresh_dir(&folder).unwrap();
        let mut shared = Shared {
            kept: Kept::open(&folder.join("parts.jsonl")).unwrap(),
            taken: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        for load in &LOADS {
            for number in 1..=2 {
                let load = load.name.to_owned();
                let one = part(Peer::Xenwarden, number, 1_000);
                shared.kept.add(Part { load, ..one }).unwrap();
            }
        }
        let ours = [Peer::Xenwarden];
        assert_eq!(shared.next(2_000, &ours), None);
        let mut next = || shared.next(2_001, &ours);
        assert_eq!(next(), Some(((0, Peer::Xenwarden), 3)));
        // That one is taken.
        assert_eq!(next(), Some(((1, Peer::Xenwarden), 3)));
        shared.taken.clear();
        let more = Part {
            load: "none".to_owned(),
            ..part(Peer::Xenwarden, 3, 1_000)
        };
        shared.kept.add(more).unwrap();
        assert_eq!(shared.next(9_000, &ours).unwrap().0.0, 1);
        // Where each part ends with a reset at once, that comes to an end too.
        let none = part(Peer::Sbd, 1, 0);
        assert!(none.weight() > 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_awk_says_is_read() {
        assert_eq!(read_look("1008 250.125\n").unwrap(), (1_008, 250.125));
        assert!(read_look("").is_err());
        assert!(read_look("x 1\n").is_err());
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! What each daemon costs dom0: processor time, wakeups, threads, memory, with so many guests.
//!
//! The processor time is what dom0's scheduler counts, of the emulated host's time, of which each instruction takes 8 ns. So it is a
//! number of instructions, and does not depend on this machine; it includes what Xen and the other processors did meanwhile.

use super::data::{CostRun, Program};
use super::peers::Peer;
use crate::error::{Context, Error, Result};
use crate::guest::TinyGuest;
use crate::host::{Host, PROMPT};
use crate::laboratory::bench::BenchParts;
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use crate::scenario::table::{Crowd, THOUSAND};
use std::time::Duration;

/// How many guests there are. A thousand are written into the hypervisor's table, and fed there: no host of ours can carry so many.
pub const GUESTS_IN_ALL: [u32; 4] = [0, 2, 20, THOUSAND as u32];
/// For how long it is measured, at least.
const MEASURED_S: u32 = 60;
/// The guests that are new have been seen, and told of, by then.
const SETTLES: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Measures one daemon on a host of its own.
pub fn run(
    laboratory: &Laboratory,
    parts: &BenchParts,
    peer: Peer,
    guests: u32,
    run: u32,
) -> Result<CostRun> {
    let mut running = Running::start(laboratory, parts, peer, guests)?;
    running.pass(SETTLES.as_secs() as u32)?;
    let (began_s, before) = running.host.programs_of(peer)?;
    running.pass(MEASURED_S)?;
    let (ended_s, after) = running.host.programs_of(peer)?;
    let programs = after.into_iter().zip(before);
    Ok(CostRun {
        peer: peer.name().to_owned(),
        guests,
        run,
        // More than was asked for: time runs on between two looks at it.
        over_s: ended_s - began_s,
        programs: programs
            .map(|(after, before)| since(after, &before))
            .collect(),
    })
}

/// What each thread of one daemon costs in a minute, and what of its memory is resident, mapping by mapping: to see what stands in the
/// way, not to compare.
pub fn in_parts(
    laboratory: &Laboratory,
    parts: &BenchParts,
    peer: Peer,
    guests: u32,
) -> Result<String> {
    let mut running = Running::start(laboratory, parts, peer, guests)?;
    running.pass(SETTLES.as_secs() as u32)?;
    let began = running.host.threads_of(peer)?;
    running.pass(MEASURED_S)?;
    let ended = running.host.threads_of(peer)?;
    let mut told = String::from("thread            us a minute  turns a minute\n");
    let minute = f64::from(MEASURED_S) / (ended.0 - began.0);
    for (name, thread, [cpu_ns, turns]) in &ended.1 {
        let before = began.1.iter().find(|(_, other, _)| other == thread);
        let before = before.map_or([0, 0], |(_, _, before)| *before);
        let of = |now: u64, before: u64| now.saturating_sub(before) as f64 * minute;
        told += &format!(
            "{name:16} {:12.0} {:15.0}\n",
            of(*cpu_ns, before[0]) / 1e3,
            of(*turns, before[1])
        );
    }
    for name in peer.processes() {
        let maps = format!(
            "echo {name}; for pid in $(pidof {name}); do awk '/^[0-9a-f]+-/ {{where = $1 \" \" $2 \" \" $6}} \
             /^Rss:/ {{r = $2}} /^Pss:/ {{if (r > 0) print r, $2, where}}' /proc/$pid/smaps | sort -rn; done"
        );
        told += &running.host.dom0_ok(&maps, PROMPT)?;
    }
    Ok(told)
}

/// A host with one daemon and so many guests.
struct Running {
    host: Host,
    crowd: Option<Crowd>,
}

impl Running {
    fn start(laboratory: &Laboratory, parts: &BenchParts, peer: Peer, guests: u32) -> Result<Self> {
        let mut host = laboratory.bench_host(parts, Shape::Everywhere)?;
        let mut crowd = None;
        match guests {
            0 => {
                for name in GUESTS {
                    host.dom0_ok(&format!("xl destroy {name}"), PROMPT)?;
                }
            }
            2 => {}
            20 => host.add_tiny_guests(guests as usize)?,
            _ => crowd = Some(Crowd::default()),
        }
        peer.start(&mut host)?;
        Ok(Self { host, crowd })
    }

    /// Lets time pass, in which all guests feed.
    fn pass(&mut self, seconds: u32) -> Result<()> {
        match &mut self.crowd {
            None => self.host.pass(SECOND * seconds),
            Some(crowd) => (0..seconds).try_for_each(|_| {
                crowd.feed(&mut self.host)?;
                self.host.pass(SECOND)
            }),
        }
    }
}

/// A thread's name, number, time in ns and times that it was given a processor.
type Thread = (String, u64, [u64; 2]);

fn since(after: Program, before: &Program) -> Program {
    Program {
        cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
        wakeups: after.wakeups.saturating_sub(before.wakeups),
        ..after
    }
}

impl Host {
    /// Tiny guests, which feed each second, until there are so many guests.
    fn add_tiny_guests(&mut self, in_all: usize) -> Result<()> {
        for n in GUESTS.len()..in_all {
            // The emulated Xen's time and the machine's begin together, to a second.
            let soon = self.machine.clock()? + 5 * SECOND;
            self.create_tiny(&TinyGuest {
                name: format!("tiny{n}"),
                arms_at_ns: soon.as_nanos() as u64,
                watchdog_s: 10,
                feeds_each_ns: Some(SECOND.as_nanos() as u64),
                toggles_each_ns: None,
            })?;
        }
        Ok(())
    }

    /// Its programs, and dom0's uptime in seconds, of the same moment: by the time that the laboratory hears of it, the clock is further.
    fn programs_of(&mut self, peer: Peer) -> Result<(f64, Vec<Program>)> {
        let names = peer.processes().iter();
        let all = names.map(|name| self.program_now(name));
        let all: Vec<(f64, Program)> = all.collect::<Result<_>>()?;
        let first = all.first().map(|(uptime_s, _)| *uptime_s);
        let uptime_s = first.context(|| "no program")?;
        Ok((
            uptime_s,
            all.into_iter().map(|(_, program)| program).collect(),
        ))
    }

    /// Its threads, and dom0's uptime in seconds, of the same moment.
    fn threads_of(&mut self, peer: Peer) -> Result<(f64, Vec<Thread>)> {
        let names = peer.processes().join(" ");
        let text = self.dom0_ok(
            &format!(
                "read up idle < /proc/uptime; echo $up; for name in {names}; do for pid in $(pidof $name); do for t in /proc/$pid/task/*; do \
                 read comm < $t/comm; read run wait n < $t/schedstat; echo \"${{t##*/}} $run $n $comm\"; done; done; done"
            ),
            PROMPT,
        )?;
        let mut lines = text.lines();
        let uptime_s = lines.next().unwrap_or_default();
        let uptime_s: f64 = uptime_s.parse().context(|| "no uptime")?;
        let thread = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let mut number = || words.next()?.parse().ok();
            let (thread, cost) = (number()?, [number()?, number()?]);
            Some((words.next()?.to_owned(), thread, cost))
        };
        let threads: Option<Vec<Thread>> = lines.map(thread).collect();
        Ok((uptime_s, threads.context(|| format!("threads: {text}"))?))
    }

    /// From proc(5): smaps_rollup, VmLck of status, and of each thread its time in schedstat and its context switches.
    fn program_now(&mut self, name: &str) -> Result<(f64, Program)> {
        let text = self.dom0_ok(
            &format!(
                "cat /proc/uptime; set -- $(pidof {name}); [ $# -gt 0 ] || exit 1; echo $#; \
                 for pid; do cat /proc/$pid/task/*/schedstat; done | awk '{{t += $1; n++}} END {{printf \"%d %.0f\\n\", n, t}}'; \
                 for pid; do cat /proc/$pid/task/*/status; done | awk '/^voluntary_ctxt/ {{w += $2}} END {{print w}}'; \
                 for pid; do cat /proc/$pid/smaps_rollup; done | awk '/^Rss:/ {{r += $2}} /^Pss:/ {{p += $2}} END {{print r, p}}'; \
                 for pid; do cat /proc/$pid/status; done | awk '/^VmLck:/ {{l += $2}} END {{print l + 0}}'"
            ),
            PROMPT,
        )?;
        let (uptime, text) = text.split_once('\n').unwrap_or_default();
        let uptime_s = uptime.split(' ').next().unwrap_or_default();
        let uptime_s: f64 = uptime_s.parse().context(|| "no uptime")?;
        let numbers: std::result::Result<Vec<u64>, _> =
            text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.context(|| format!("what {name} costs: {text}"))?;
        match numbers[..] {
            [
                processes,
                threads,
                cpu_ns,
                wakeups,
                resident_kib,
                proportional_kib,
                locked_kib,
            ] => Ok((
                uptime_s,
                Program {
                    name: name.to_owned(),
                    processes,
                    threads,
                    cpu_ns,
                    wakeups,
                    resident_kib,
                    proportional_kib,
                    locked_kib,
                },
            )),
            _ => Err(Error::new(format!(
                "what {name} costs cannot be made out: {text}"
            ))),
        }
    }
}

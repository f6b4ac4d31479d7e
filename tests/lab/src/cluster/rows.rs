// SPDX-License-Identifier: GPL-2.0-only
//! What is done to a cluster, and what must come of it: the guest runs again on the other host, its host was down before anybody said so,
//! and its disk lost nothing.

use super::{Cluster, STEP, counted, fence, migrate};
use crate::error::{Context, Error, Result};
use crate::host::PROMPT;
use crate::laboratory::Laboratory;
use crate::laboratory::cluster::{LINKS, NAMES};
use crate::layout::write;
use crate::wedge::Cpus::{All, One};
use crate::wedge::Fault;
use crate::wedge::Instead::Returns;
use crate::wedge::Softirq::{Schedule, Timer};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A row.
struct Row {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Cluster) -> Result<Value>,
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "power-cut", what: "the guest's host loses its power", run: |cluster| dies(cluster, power_cut) },
    Row { name: "guard-killed", what: "the guard of the guest's host is killed", run: |cluster| dies(cluster, guard_killed) },
    Row { name: "wedge-timer", what: "a pCPU of the guest's host runs no timer any more", run: |cluster| dies(cluster, |c, at| wedge(c, at, Fault::Handler(Timer, One(1), Returns))) },
    Row { name: "wedge-scheduler", what: "no pCPU of the guest's host schedules any more", run: |cluster| dies(cluster, |c, at| wedge(c, at, Fault::Handler(Schedule, All, Returns))) },
    Row { name: "wedge-lock", what: "the lock of the run queue of the guest's host is stuck", run: |cluster| dies(cluster, |c, at| wedge(c, at, Fault::RunqueueLock)) },
    Row { name: "links-cut", what: "all links of the guest's host are cut", run: |cluster| dies(cluster, links_cut) },
    Row { name: "returns", what: "its power is cut, it boots again, and that of the other one is cut", run: returns },
    Row { name: "migrate", what: "Pacemaker moves the guest there and back ten times", run: migrate::run },
    Row { name: "fence-heard", what: "a host that is heard is fenced by the agent", run: fence::heard },
    Row { name: "fence-guard", what: "the same as its guard is killed", run: fence::guard_killed },
    Row { name: "fence-links", what: "the same as its links are cut", run: fence::links_cut },
    Row { name: "fence-power", what: "the same as its power is cut", run: fence::power_cut },
];

/// Names all rows.
pub fn list() {
    ROWS.iter()
        .for_each(|row| println!("{:<20}{}", row.name, row.what));
}

/// Runs the rows whose name contains `part`, each in a cluster of its own, so many times; the figures are kept as lines of JSON.
pub fn run(part: &str, runs: u32) -> Result<()> {
    let chosen: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(part)).collect();
    if chosen.is_empty() {
        return Err(Error::new("no row is called so; see: lab cluster list"));
    }
    let laboratory = Laboratory::provide_parts()?;
    let parts = laboratory.cluster_parts()?;
    let mut kept = String::new();
    let mut failed = Vec::new();
    for _ in 0..runs {
        for row in &chosen {
            let began = Instant::now();
            let mut cluster = Cluster::provide(&laboratory, &parts)?;
            let (figures, failure) = match (row.run)(&mut cluster) {
                Ok(figures) => (figures, Value::Null),
                Err(error) => (Value::Null, Value::String(error.to_string())),
            };
            if !failure.is_null() {
                failed.push(row.name);
                for (host, name) in cluster.hosts.iter().zip(NAMES) {
                    let log = host.machine.log.lines_from(0).join("\n");
                    write(
                        &laboratory.results()?.join(format!("cluster-{name}.log")),
                        log,
                    )?;
                }
            }
            let took_s = began.elapsed().as_secs();
            let line = json!({ "row": row.name, "took_s": took_s, "figures": figures, "failure": failure });
            println!("{line}");
            kept.push_str(&format!("{line}\n"));
            write(&laboratory.results()?.join("cluster.jsonl"), &kept)?;
        }
    }
    match failed[..] {
        [] => Ok(()),
        _ => Err(Error::new(format!("failed: {}", failed.join(", ")))),
    }
}

/// The fault, and when it was there.
type Inject = fn(&mut Cluster, usize) -> Result<Instant>;

pub(super) fn power_cut(cluster: &mut Cluster, at: usize) -> Result<Instant> {
    cluster.hosts[at].machine.kill()
}

pub(super) fn guard_killed(cluster: &mut Cluster, at: usize) -> Result<Instant> {
    cluster.hosts[at].dom0_ok("killall -9 xenwardend", PROMPT)?;
    Ok(Instant::now())
}

fn wedge(cluster: &mut Cluster, at: usize, fault: Fault) -> Result<Instant> {
    cluster.hosts[at].inject(fault)?;
    Ok(Instant::now())
}

pub(super) fn links_cut(cluster: &mut Cluster, at: usize) -> Result<Instant> {
    for link in LINKS {
        cluster.hosts[at].machine.set_link(link, false)?;
    }
    Ok(Instant::now())
}

/// The guest's host goes down of the fault, and the guest comes up on the other one.
fn dies(cluster: &mut Cluster, inject: Inject) -> Result<Value> {
    let from = cluster.guest_at()?;
    let to = 1 - from;
    let first = cluster.hosts[to].machine.log.length();
    let fault = inject(cluster, from)?;
    let down = down_at(cluster, from, fault)?;
    let acknowledged = counted::acknowledged(&cluster.hosts[from].machine.log.lines_from(0));
    let log = cluster.hosts[to].machine.log.clone();
    let came = |what: &str, parts: &[&str]| {
        let line = log.wait_for(first, STEP, parts);
        line.map(|(came, _)| came)
            .context(|| format!("{} never said {what} ({parts:?})", NAMES[to]))
    };
    let lost = format!("Node {} state is now lost", NAMES[from]);
    let targets = format!("targeting {}", NAMES[from]);
    let missed = came("that the other is lost", &[&lost])?;
    let asked = came(
        "that it asks for fencing",
        &["Requesting peer fencing", &targets],
    )?;
    let fenced = came(
        "that it has fenced",
        &["Operation 'reboot'", &targets, ": OK"],
    )?;
    let feeds = came("that the guest feeds", &["guest: feeds"])?;
    let counts = came("that the guest counts", &["guest: has "])?;
    if fenced < down {
        let early = down - fenced;
        return Err(Error::new(format!("fenced {early:?} before it was down")));
    }
    let acknowledged = acknowledged.context(|| "the guest has said nothing before")?;
    let numbers = cluster.numbers(to, acknowledged)?;
    let since =
        |later: Instant, sooner: Instant| later.saturating_duration_since(sooner).as_secs_f64();
    Ok(json!({
        "down_s": since(down, fault),
        "detection_s": since(missed, fault),
        "asked_s": since(asked, fault),
        "fence_s": since(fenced, missed),
        "start_s": since(feeds, fenced),
        "feeds_s": since(feeds, fault),
        "counts_s": since(counts, fault),
        "fenced_after_down_s": since(fenced, down),
        "acknowledged": acknowledged,
        "numbers": numbers,
    }))
}

/// The guest's host dies and comes back; then the other one dies. Each time the guest has every number that it acknowledged.
fn returns(cluster: &mut Cluster) -> Result<Value> {
    let dead = cluster.guest_at()?;
    let first = dies(cluster, power_cut)?;
    let began = Instant::now();
    cluster.boot_again(dead)?;
    let back_s = began.elapsed().as_secs_f64();
    if cluster.wait_guest()? == dead {
        return Err(Error::new("the guest has moved by itself"));
    }
    let second = dies(cluster, power_cut)?;
    Ok(json!({ "first": first, "back_s": back_s, "second": second }))
}

/// When a host was down: QEMU is gone, or has said that it is reset.
pub(super) fn down_at(cluster: &mut Cluster, at: usize, fault: Instant) -> Result<Instant> {
    let machine = &mut cluster.hosts[at].machine;
    if !machine.is_alive() {
        return Ok(fault);
    }
    let event = machine.qmp.wait_event("SHUTDOWN", STEP);
    event
        .map(|event| event.came)
        .context(|| format!("{} does not go down", NAMES[at]))
}

/// A limit for what takes as long as a host's promise.
pub(super) const PROMISE: Duration = Duration::from_secs(200);

// SPDX-License-Identifier: GPL-2.0-only
//! The guest moves there and back, with a ping each 100 ms: its watch goes along.

use super::{CONDITION, Cluster, GUEST, LOOK_EVERY, STEP, counted};
use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::host::PROMPT;
use crate::laboratory::cluster::NAMES;
use serde_json::{Value, json};
use std::time::Instant;

/// How often it goes there and back.
const ROUNDS: u32 = 10;
/// From alpha, whether the guest is there or not.
const PING: &str = "(ping -i 0.1 192.0.2.10 > /run/pings 2>&1 < /dev/null &)";
/// Ends it and says how many were sent and answered.
const PINGED: &str = "killall -INT ping; sleep 1; grep transmitted /run/pings; rm /run/pings";
/// What must not come of it.
const WRONG: &str = "alarm\\.\\|expired\\|withh";

/// There and back, and so on.
pub fn run(cluster: &mut Cluster) -> Result<Value> {
    let mut moves = Vec::new();
    for _ in 0..2 * ROUNDS {
        let mut figures = moved(cluster)?;
        figures["numbers"] = is_well(cluster)?.into();
        say(figures.to_string());
        moves.push(figures);
    }
    Ok(json!({ "moves": moves }))
}

/// No host has told of anything wrong, and the disk has all that was acknowledged; how many numbers that is.
fn is_well(cluster: &mut Cluster) -> Result<u64> {
    let at = cluster.guest_at()?;
    let lines = cluster.hosts[at].machine.log.lines_from(0);
    let acknowledged = counted::acknowledged(&lines).context(|| "the guest has said nothing")?;
    let numbers = cluster.numbers(at, acknowledged)?;
    for (host, name) in cluster.hosts.iter_mut().zip(NAMES) {
        let events = host.dom0(&format!("xenwarden events | grep '{WRONG}'"), PROMPT)?;
        if events.code == 0 {
            return Err(Error::new(format!("{name}: {}", events.output)));
        }
        let withheld = host.status()?;
        if !withheld.decision.kick {
            return Err(Error::new(format!("{name} withholds")));
        }
    }
    Ok(numbers)
}

/// Once, to the other host.
fn moved(cluster: &mut Cluster) -> Result<Value> {
    let from = cluster.guest_at()?;
    let to = 1 - from;
    cluster.hosts[0].dom0_ok(PING, PROMPT)?;
    let began = Instant::now();
    let first = cluster.hosts[to].machine.log.length();
    let command = format!(
        "crm_resource --move --resource {GUEST} --node {} && crm_resource --wait",
        NAMES[to]
    );
    cluster.hosts[0].dom0_ok(&command, STEP)?;
    let took_s = began.elapsed().as_secs_f64();
    let count = cluster.hosts[to]
        .machine
        .log
        .wait_for(first, STEP, &["guest: has "]);
    if count.is_none() || cluster.guest_at()? != to {
        return Err(Error::new(format!("the guest is not on {}", NAMES[to])));
    }
    let pings = cluster.hosts[0].dom0_ok(PINGED, PROMPT)?;
    let boots = cluster.hosts[to].machine.log.lines_from(first);
    if boots.iter().any(|line| line.contains("guest: boot ")) {
        return Err(Error::new("the guest was started anew"));
    }
    cluster.hosts[0].dom0_ok(&format!("crm_resource --clear --resource {GUEST}"), PROMPT)?;
    follows(cluster, from, to)?;
    let numbers: Vec<u32> = pings
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    let lost = match numbers[..] {
        [sent, answered, ..] => sent.saturating_sub(answered),
        _ => return Err(Error::new(format!("ping says: {pings}"))),
    };
    Ok(json!({ "to": NAMES[to], "took_s": took_s, "pings_lost": lost }))
}

/// The watch has come along: the guest feeds there, is gone here, and no alarm is open, as both hosts and the pool tell.
fn follows(cluster: &mut Cluster, from: usize, to: usize) -> Result<()> {
    let deadline = Instant::now() + CONDITION;
    loop {
        let here = guests(cluster, from, "")?;
        let there = guests(cluster, to, "")?;
        let pool = guests(cluster, from, " --pool")?;
        let no_alarm = |guest: &Value| guest["alarm"].is_null();
        let is_fed = |guest: &Value| {
            guest["state"] == "running"
                && guest["slots"][0]["expired"] == false
                && guest["slots"][0]["last_fed_age_ms"].is_u64()
        };
        let is_here = |guest: &Value| guest["state"].get("gone").is_none() || !no_alarm(guest);
        let places = pool.iter().flat_map(|guest| guest["places"].as_array());
        let fed = places.flatten().filter(|place| place["fed"] == true);
        let fed: Vec<&Value> = fed.map(|place| &place["host_name"]).collect();
        let no_alarms = |guest: &Value| guest["alarms"].as_array().is_some_and(Vec::is_empty);
        if there.len() == 1
            && there.iter().all(|guest| is_fed(guest) && no_alarm(guest))
            && !here.iter().any(is_here)
            && fed == [NAMES[to]]
            && pool.iter().all(no_alarms)
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "the watch has not moved: here {here:?}, there {there:?}, in the pool {pool:?}"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The guests that a host tells of.
fn guests(cluster: &mut Cluster, at: usize, of: &str) -> Result<Vec<Value>> {
    let said = cluster.hosts[at].dom0_ok(&format!("xenwarden guests{of} --json"), PROMPT)?;
    let mut said: Value =
        serde_json::from_str(&said).context(|| format!("not understood: {said}"))?;
    match said["guests"].take() {
        Value::Array(guests) => Ok(guests),
        other => Err(Error::new(format!("no guests: {other}"))),
    }
}

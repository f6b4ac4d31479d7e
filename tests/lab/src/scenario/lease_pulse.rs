// SPDX-License-Identifier: GPL-2.0-only
//! A pair that never has two primaries: this host's guard goes by the lease of a heartbeat, and one direction to the peer is cut. The
//! host must be down before the peer acts.
//!
//! The peer runs in dom0 as well: nothing else has the machine's clock, which is not that of the machine that runs it. So it goes
//! down with the host, and that it would have acted later is seen from when it told the loss; what it does is said
//! in the log, where it must be missing.

use super::dies::fires;
use super::figures::Figures;
use super::ready;
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use std::time::Duration;
use xenwarden::control::leases::LeaseState;

/// Of both heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(4);
/// What the peer's hook says.
const ACTS: &str = "the peer acts";
/// How long something may take under emulation.
const SLOW: Duration = Duration::from_secs(120);
/// The monitor's look after a deadline, and the guard's.
const LOOKS: Duration = Duration::from_millis(500);

/// The direction that is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// What goes to this host.
    ToHost,
    /// What goes to its peer.
    ToPeer,
}

impl Cut {
    /// Where the proxy's process for that direction has its id.
    fn pid(self) -> &'static str {
        match self {
            Cut::ToHost => "/run/to-host.pid",
            Cut::ToPeer => "/run/to-peer.pid",
        }
    }
}

/// What the lease and its guard are configured with.
pub(super) struct Terms {
    pub lease: Duration,
    pub unserved: Duration,
}

pub(super) fn run(
    laboratory: &Laboratory,
    phase: Duration,
    cut: Cut,
    terms: &Terms,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.require_lease(0)?;
    let act_after = act_after(&mut host, terms)?;
    start_pair(&mut host, act_after)?;
    host.wait_lease(LeaseState::Held)?;
    for side in ["host", "peer"] {
        wait_in_dom0(&mut host, &format!("grep -q 'pair: armed' /run/{side}.log"))?;
    }
    let said = host.machine.log.length();
    // A process that is stopped passes nothing on; what it was given is not delivered later either.
    host.dom0_ok(&format!("kill -STOP $(cat {})", cut.pid()), PROMPT)?;
    let acted = host.machine.clock()?;
    // Renewals end when the heartbeat does, at the latest a timeout from the cut.
    let watchdog = host.machine.shape().watchdog().at_most;
    let at_most = TIMEOUT + terms.lease + LOOKS + watchdog;
    let figures = fires(&mut host, acted, at_most, said)?;
    // The last proof is an interval and a way there and back older than the cut at most: two intervals.
    let would_act = TIMEOUT + act_after - 2 * INTERVAL;
    let failure = figures
        .failure
        .clone()
        .or_else(|| judge(&figures, would_act));
    let note = format!(
        "the peer would have acted {:.1} s after the cut at the earliest",
        would_act.as_secs_f64()
    );
    Ok(Figures {
        failure,
        notes: vec![note],
        ..figures
    })
}

/// What is wrong with how the host went down.
fn judge(figures: &Figures, would_act: Duration) -> Option<String> {
    let is_said = |text: &str| figures.said.iter().any(|line| line.contains(text));
    let fired = figures.fired_s?;
    match () {
        () if !is_said("withhold: lease quorum lapsed") => {
            Some("the lease is not named".to_owned())
        }
        () if !is_said("is LOST") => Some("the peer has not told the loss".to_owned()),
        () if is_said(ACTS) => Some("the peer has acted while the host was up".to_owned()),
        () if fired >= would_act.as_secs_f64() => Some("down only after the peer acts".to_owned()),
        () => None,
    }
}

/// What xenwarden-pulse(8) says that the peer must wait for after a loss.
fn act_after(host: &mut Host, terms: &Terms) -> Result<Duration> {
    let bound = host.dom0_ok("xenwarden fence-bound", PROMPT)?;
    let bound = bound
        .trim()
        .parse()
        .context(|| format!("no bound: {bound}"))?;
    Ok(Duration::from_secs(bound) + 2 * terms.lease + terms.unserved + INTERVAL + INTERVAL)
}

/// Both sides, and between them a process for each direction. The proxy connects once: each is started when the one that it connects to
/// listens.
fn start_pair(host: &mut Host, act_after: Duration) -> Result<()> {
    let [interval, timeout, act_after] =
        [INTERVAL, TIMEOUT, act_after].map(|time| time.as_millis());
    let both = format!(
        "key = \\\"/run/pair.key\\\"\\npulse_interval_ms = {interval}\\ntimeout_ms = {timeout}"
    );
    let start = format!(
        "ifconfig lo up; umask 077; echo a key that only both sides have > /run/pair.key; mkfifo /run/back
printf \"[heartbeat.pair]\\nlisten = \\\"127.0.0.1:9009\\\"\\nlease = \\\"quorum\\\"\\n{both}\\n\" > /run/host.toml
printf \"[heartbeat.pair]\\nconnect = \\\"127.0.0.1:9010\\\"\\nanswers = true\\nact_after_ms = {act_after}\\nhook = [\\\"/run/act\\\"]\\n{both}\\n\" > /run/peer.toml
printf '#!/bin/sh\\necho {ACTS} | dom0-tee\\n' > /run/act; chmod 700 /run/act
cat > /run/proxy <<'END'
nc -l -p 9010 < /run/back | sh -c 'echo $$ > /run/to-host.pid; exec cat' | nc 127.0.0.1 9009 | sh -c 'echo $$ > /run/to-peer.pid; exec cat' > /run/back
END
: > /run/peer.log
listens() {{ until grep -q \":$1 0*:0000 0A\" /proc/net/tcp*; do sleep 0.1; done; }}
(setsid xenwarden-pulse --config /run/host.toml < /dev/null > /run/host.log 2>&1 &)
listens 2331
(setsid sh /run/proxy < /dev/null > /dev/null 2>&1 &)
listens 2332
(setsid sh -c 'xenwarden-pulse --config /run/peer.toml 2>&1 | while read -r line; do echo \"peer: $line\" | tee -a /run/peer.log; done | chrt -f 99 dom0-tee' < /dev/null > /dev/null 2>&1 &)"
    );
    host.dom0_ok(&start, PROMPT).map(drop)
}

fn wait_in_dom0(host: &mut Host, is_so: &str) -> Result<()> {
    let wait = format!(
        "n=0; until {is_so}; do n=$((n+1)); [ $n -lt 120 ] || {{ cat /run/host.log /run/peer.log; exit 1; }}; sleep 0.5; done"
    );
    let outcome = host.dom0(&wait, SLOW)?;
    match outcome.code {
        0 => Ok(()),
        _ => Err(Error::new(format!(
            "never: {is_so}; they said: {}",
            outcome.output
        ))),
    }
}

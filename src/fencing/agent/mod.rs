// SPDX-License-Identifier: GPL-2.0-only
//! fence_xenwarden: what Pacemaker runs to have a host down for certain.
//!
//! In: options ([`options`]), the pool's socket on this host. Out: an exit code as FenceAgentAPI.md of ClusterLabs'
//! fence-agents says: 0 done, 1 not, 2 the host is off (of `status` alone). Never: 0 for what is not known to be done;
//! waiting for longer than it was told to.

mod ask;
pub mod metadata;
pub mod options;

use super::order::Wait;
use super::told::{Power, Powers, Progress, Request};
use ask::Asked;
use options::{Action, Options};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Done; of `status`, the host is on.
pub const DONE: u8 = 0;
/// Not done, or not known.
pub const FAILED: u8 = 1;
/// Of `status`: the host is off.
pub const OFF: u8 = 2;

/// How long an answer that needs no waiting may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Does what is asked for; the exit code, and what is to be said of a failure.
///
/// # Errors
/// Why it is not done: the code is then [`FAILED`].
pub fn run(options: &Options) -> Result<u8, String> {
    match options.action {
        Action::Metadata => show(&metadata::xml()),
        // One resource fences all hosts, and so names none; the options were checked as they were read.
        Action::ValidateAll => Ok(DONE),
        Action::List => list(options),
        Action::Monitor => monitor(options),
        Action::Status => status(options),
        Action::On => on(options),
        Action::Off | Action::Reboot => off(options),
    }
}

fn show(text: &str) -> Result<u8, String> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written
        .map(|()| DONE)
        .map_err(|error| format!("stdout: {error}"))
}

fn powers(options: &Options, host: Option<&str>) -> Result<Powers, String> {
    let request = Request::Power(host.map(str::to_owned));
    Asked::open(&options.socket, &request, ANSWER)?.next(ANSWER)
}

fn list(options: &Options) -> Result<u8, String> {
    let hosts = powers(options, None)?.hosts;
    let lines: String = hosts
        .iter()
        .map(|host| format!("{},\n", host.name))
        .collect();
    show(&lines)
}

/// The device of the API is the pool, which is reached and works where it has the quorum: 0. That it can have some hosts down only
/// while these are heard is said, each time: it is not what keeps others from being fenced.
fn monitor(options: &Options) -> Result<u8, String> {
    let told = powers(options, None)?;
    if !told.quorate {
        return Err("this host's partition has no quorum: nobody can be fenced".to_owned());
    }
    let without = told
        .hosts
        .iter()
        .filter(|host| host.promise_ms.is_none() && host.power != Power::Off);
    let names: Vec<&str> = without.map(|host| host.name.as_str()).collect();
    if !names.is_empty() {
        let names = names.join(", ");
        let text = format!(
            "fence_xenwarden: {names}: can be fenced only while heard, without a promise to be down without quorum (fence_without_quorum); the journal of xenwarden-pool there says why\n"
        );
        // Who does not listen misses a warning.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
    Ok(DONE)
}

/// And whether the pool has quorum here.
fn power(options: &Options) -> Result<(Power, bool), String> {
    let plug = options.plug()?;
    let told = powers(options, Some(plug))?;
    let quorate = told.quorate;
    let host = told.hosts.into_iter().find(|host| host.name == plug);
    host.map(|host| (host.power, quorate))
        .ok_or_else(|| format!("{plug}: the pool has not answered for it"))
}

fn status(options: &Options) -> Result<u8, String> {
    match power(options)? {
        (Power::On, _) => Ok(DONE),
        (Power::Off, true) => Ok(OFF),
        (Power::Off | Power::Unknown, _) => {
            let plug = options.plug()?;
            Err(format!(
                "{plug}: not heard, and nobody knows whether it is off: that it was fenced is forgotten after a loss of quorum or a restart of corosync or xenwarden-pool; fence it again (fence_xenwarden -o off -n {plug})"
            ))
        }
    }
}

/// Nothing here can turn a host on: its own firmware does. So this waits for it.
fn on(options: &Options) -> Result<u8, String> {
    let end = Instant::now() + options.timeout;
    loop {
        let (power, _) = power(options)?;
        if power == Power::On {
            return Ok(DONE);
        }
        if Instant::now() + Duration::from_secs(1) > end {
            return Err(format!(
                "{}: not heard: it is turned on by its own firmware, or by hand",
                options.plug()?
            ));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn off(options: &Options) -> Result<u8, String> {
    let plug = options.plug()?;
    let end = Instant::now() + options.timeout;
    let request = Request::Fence(plug.to_owned());
    let mut asked = Asked::open(&options.socket, &request, ANSWER)?;
    let mut waits = "for its pool";
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let told = match asked.next::<Progress>(left.min(ask::SILENCE)) {
            Ok(told) => told,
            Err(_) if Instant::now() >= end => {
                return Err(format!(
                    "{plug}: not known to be down in time: this waited {waits}"
                ));
            }
            Err(why) => return Err(why),
        };
        match told {
            Progress::Down(_) => return Ok(DONE),
            Progress::Waits { wait, left_ms } => {
                waits = words(wait);
                let needs = Duration::from_millis(left_ms.unwrap_or(0));
                if needs > end.saturating_duration_since(Instant::now()) {
                    let (needs, has) = (needs.as_secs() + 1, options.timeout.as_secs());
                    return Err(format!(
                        "{plug}: down for certain in {needs} s at the soonest, and power_timeout is {has} s in all: raise it, with pcmk_off_timeout and pcmk_reboot_timeout"
                    ));
                }
            }
        }
    }
}

fn words(wait: Wait) -> &'static str {
    match wait {
        Wait::Quorum => "for this partition to have the quorum",
        Wait::Answers => "for the answers of the pool's members",
        Wait::Promise => {
            "for the host itself, as it is silent and has not promised to be down without quorum (fence_without_quorum)"
        }
        Wait::Time => "for the time at which it is down for certain",
        Wait::Boot => "for the host's xenwarden-pool, as its corosync is on the ring again",
    }
}

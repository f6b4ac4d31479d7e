// SPDX-License-Identifier: GPL-2.0-only
//! The arming: the look that finds everything served, and the host watchdog opened after it.
//!
//! In: ways to look and to open. Out: an armed host watchdog, or none where somebody asked to
//! stop meanwhile. What runs already is not kicked before that look either: the hardware decides
//! how long it may take, and where it does not fire the last fence level does.

use super::devices::arm_failure;
use super::gate::{Decision, and_leases, decide, overrule};
use super::run::World;
use super::sight::Sight;
use crate::config::Policy;
use crate::exit::{Failure, UNAVAILABLE};
use crate::sys::clock::{Monotonic, NS_PER_S};
use crate::watchdog::device::Driver;
use crate::watchdog::fence::SYSRQ_AFTER_NS;
use crate::watchdog::quirks::Quirk;
use crate::watchdog::set::Set;
use std::path::PathBuf;

/// How long the start waits until everything is served, ns: dom0 may be busy with booting.
const PATIENCE_NS: u64 = 10 * NS_PER_S;

/// How an arming ends.
#[derive(Debug)]
pub enum Begun<D, P> {
    /// The host watchdog is armed since then, and this page tells of it.
    Armed(Monotonic, Set<D>, P),
    /// Somebody asked to stop. What had run is to be let go of; there may be none.
    Stopped(Set<D>),
}

/// Arms the host watchdog once everything is served, and says when. The device is opened last
/// of all, as that kicks it; `open_page` gives the page that is to tell of it, and may say so.
/// What is `running` is taken over instead.
///
/// # Errors
/// A [`Failure`] with nothing armed.
pub fn arm<D: Driver, P>(
    policy: &Policy,
    devices: &[PathBuf],
    running: Vec<(PathBuf, D)>,
    sight: &mut dyn Sight,
    world: &mut dyn World,
    open_page: impl FnOnce(&[(PathBuf, D)], &dyn Sight) -> Result<P, Failure>,
) -> Result<Begun<D, P>, Failure> {
    let fires_ns = (!running.is_empty()).then(|| fires_within_ns(policy, &running));
    if !await_served(sight, policy.sample_ns, world, fires_ns)? {
        let had_run = Set::arm_or_take_over(&[], running, policy.hardware_s());
        return had_run.map(Begun::Stopped).map_err(arm_failure);
    }
    let page = open_page(&running, sight)?;
    let armed = world.now();
    let watchdog = Set::arm_or_take_over(devices, running, policy.hardware_s());
    let watchdog = watchdog.map_err(arm_failure)?;
    Ok(Begun::Armed(armed, watchdog, page))
}

/// Within what time one of those that run resets a host that nobody kicks, ns.
fn fires_within_ns<D: Driver>(policy: &Policy, running: &[(PathBuf, D)]) -> u64 {
    let latest_s = running.iter().filter_map(|(_, device)| {
        let identity = device.info().ok()?.identity();
        Some(Quirk::of(&identity).latest_s(device.timeout_s().ok()?))
    });
    // One that does not say may have been left with this.
    let latest_s = latest_s.min().unwrap_or(policy.stopped_timeout_s);
    u64::from(latest_s) * NS_PER_S
}

/// Looks until everything has been seen to make progress and is served; false: somebody asked
/// to stop meanwhile, and nothing is to be armed any more. Where nothing runs it gives up after
/// a while; what runs is not let go of before it is served, neither by time nor by a stop.
fn await_served(
    sight: &mut dyn Sight,
    sample_ns: u64,
    world: &mut dyn World,
    fires_ns: Option<u64>,
) -> Result<bool, Failure> {
    let began = world.now();
    let deadline = match fires_ns {
        None => began.plus_ns(PATIENCE_NS),
        Some(ns) => began.plus_ns(ns.saturating_add(SYSRQ_AFTER_NS)),
    };
    loop {
        if world.ends().is_some() && fires_ns.is_none() {
            return Ok(false);
        }
        let (verdict, looked) = sight.look(&|| world.now());
        let now = world.now();
        let decision = decide(verdict, now.since_ns(looked), sample_ns);
        let decision = and_leases(decision, world.leases(now));
        // A guard that is restarted for maintenance must come back on whatever host that is.
        match overrule(
            decision,
            world.inhibited(now).is_some(),
            world.strict_leases(now),
        ) {
            Decision::Kick => return Ok(world.ends().is_none()),
            Decision::Withhold(reason) if now >= deadline => {
                if fires_ns.is_none() {
                    let text = format!("not arming, as this host is not served: {reason}");
                    return Err(Failure::new(UNAVAILABLE, text));
                }
                world.last_resort();
            }
            Decision::Withhold(_) => {}
        }
        world.sleep_until(now.plus_ns(sample_ns));
    }
}

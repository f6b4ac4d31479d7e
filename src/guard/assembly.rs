// SPDX-License-Identifier: GPL-2.0-only
//! The guard: assembles the threads and runs until it is told to stop.
//!
//! In: a policy and a hypervisor that serves. Out: an armed host watchdog, kicked by two
//! real-time threads, until SIGTERM or SIGINT disarms it. The order matters: memory is
//! locked and every thread proven real-time before the device is opened, and READY=1 is
//! said only after it is armed and read back.

use crate::config::Policy;
use crate::control::status::Armed;
use crate::exit::{Failure, OSERR};
use crate::guard::gate::Decision;
use crate::guard::ledger::Ledger;
use crate::guard::startup::{arm_failure, await_served};
use crate::guard::{kicker, sampler};
use crate::monitor::services::Ordinary;
use crate::sys::clock::Monotonic;
use crate::sys::notify;
use crate::sys::realtime::{become_realtime, block_signals, lock_memory};
use crate::watchdog::device::{ArmError, HostWatchdog};
use crate::xen::{Coverage, Hypervisor};
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

/// SCHED_FIFO priorities: above ordinary real-time work, below the kernel's own threads
/// (50); the kicker above the sampler.
const KICKER_PRIORITY: u8 = 42;
const SAMPLER_PRIORITY: u8 = 41;
/// Bytes of stack: the kick path calls nothing deep, and every byte is locked memory.
const REALTIME_STACK: usize = 64 * 1024;

/// Ways to look at the hypervisor, one for each thread that does.
pub struct Eyes {
    /// The sampler's: its looks are the evidence.
    pub sampler: Box<dyn Hypervisor>,
    /// The narrator's, if it can have any: for people only.
    pub narrator: Option<Box<dyn Hypervisor>>,
}

/// Guards until told to stop.
///
/// # Errors
/// A [`Failure`] with nothing armed.
pub fn run(policy: &Policy, eyes: Eyes) -> Result<(), Failure> {
    let Eyes {
        sampler: mut hypervisor,
        narrator,
    } = eyes;
    let ordinary = Ordinary::prepare(policy)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Failure::new(OSERR, format!("cannot handle signals: {e}")))?;
    lock_memory()
        .map_err(|errno| Failure::new(OSERR, format!("cannot lock memory: {}", errno.desc())))?;
    let ledger = Arc::new(Ledger::new());
    let coverage = hypervisor.coverage();
    let (allow, allowed) = bounded(1);
    let (kicker, armed) = spawn_kicker(policy, &ledger, allowed)?;
    await_served(hypervisor.as_mut(), &ledger, policy)?;
    let sampler = spawn_sampler(policy, &ledger, hypervisor)?;
    // The kicker arms by itself: nothing may come between that and its first kick.
    let _ = allow.send(());
    let armed = await_armed(policy, coverage, &armed)?;
    announce(policy, &armed);
    let ordinary = ordinary.start(policy, &ledger, armed, narrator);
    notify::ready();
    await_stop(&mut signals, &ledger);
    let _ = kicker.join();
    drop(sampler);
    ordinary.join();
    if ledger.disarmed.load(Ordering::Acquire) {
        Ok(())
    } else {
        let device = policy.device.display();
        Err(Failure::new(
            OSERR,
            format!(
                "{device} is still armed: the host goes down in {} s",
                policy.timeout_s
            ),
        ))
    }
}

/// Kind the kicker tells of the arming: the device's identity.
type Outcome = Result<String, ArmError>;

/// Waits until the kicker has armed the host watchdog.
fn await_armed(
    policy: &Policy,
    coverage: Coverage,
    outcome: &Receiver<Outcome>,
) -> Result<Armed, Failure> {
    let outcome = outcome
        .recv()
        .map_err(|_| Failure::new(OSERR, "the kicker thread is gone"))?;
    Ok(Armed {
        device: policy.device.clone(),
        identity: outcome.map_err(arm_failure)?,
        timeout_ns: policy.timeout_ns(),
        coverage,
        period_ns: policy.sample_ns,
    })
}

fn announce(policy: &Policy, armed: &Armed) {
    let coverage = match armed.coverage {
        Coverage::Full => "full (every guest watchdog and pcpu)",
        Coverage::Partial => "PARTIAL (no evidence on guests and pcpus)",
    };
    log::info!(
        "armed {} ({}), timeout {} s, sample {} ms, coverage {coverage}",
        armed.device.display(),
        armed.identity,
        policy.timeout_s,
        policy.sample_ns / crate::sys::clock::NS_PER_MS,
    );
}

/// Starts a thread, has it become real-time, and waits until that is proven.
fn spawn_realtime(
    name: &str,
    priority: u8,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let (tell, told) = bounded(1);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(REALTIME_STACK)
        .spawn(move || {
            let realtime = block_signals().and_then(|()| become_realtime(priority));
            let failed = realtime.is_err();
            if tell.send(realtime).is_err() || failed {
                return;
            }
            body();
        })
        .map_err(|e| Failure::new(OSERR, format!("cannot start thread {name}: {e}")))?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(errno)) => Err(Failure::new(
            OSERR,
            format!("cannot make thread {name} real-time: {}", errno.desc()),
        )),
        Err(_) => Err(Failure::new(OSERR, format!("thread {name} died at once"))),
    }
}

/// The kicker waits until it is allowed to arm, arms, tells the outcome, and kicks. It ends
/// at once when it is not allowed, or cannot.
fn spawn_kicker(
    policy: &Policy,
    ledger: &Arc<Ledger>,
    allowed: Receiver<()>,
) -> Result<(JoinHandle<()>, Receiver<Outcome>), Failure> {
    let ledger = Arc::clone(ledger);
    let (device, timeout_s) = (policy.device.clone(), policy.timeout_s);
    let (period_ns, max_age_ns) = (policy.sample_ns, policy.max_age_ns());
    let (tell, told) = bounded(1);
    let body = move || {
        if allowed.recv().is_err() {
            return;
        }
        let at = Monotonic::now();
        let (outcome, watchdog) = match HostWatchdog::arm(&device, timeout_s) {
            Ok(watchdog) => (Ok(watchdog.identity().to_owned()), Some(watchdog)),
            Err(error) => (Err(error), None),
        };
        ledger.counters.last_kick.store(at.0, Ordering::Relaxed);
        // The channel has room: this does not wait.
        let _ = tell.send(outcome);
        if let Some(watchdog) = watchdog {
            kicker::run(Box::new(watchdog), &ledger, at, period_ns, max_age_ns);
        }
    };
    let thread = spawn_realtime("kicker", KICKER_PRIORITY, body)?;
    Ok((thread, told))
}

fn spawn_sampler(
    policy: &Policy,
    ledger: &Arc<Ledger>,
    mut hypervisor: Box<dyn Hypervisor>,
) -> Result<JoinHandle<()>, Failure> {
    let ledger = Arc::clone(ledger);
    let period_ns = policy.sample_ns;
    spawn_realtime("sampler", SAMPLER_PRIORITY, move || {
        sampler::run(hypervisor.as_mut(), &ledger, period_ns);
    })
}

/// Waits for a signal to stop and passes it on to the kicker, which disarms once the
/// evidence allows it.
fn await_stop(signals: &mut Signals, ledger: &Ledger) {
    for signal in signals.forever() {
        if signal == SIGHUP {
            log::info!("SIGHUP ignored: restart the daemon to read the configuration anew");
            continue;
        }
        log::info!("signal {signal}: disarming");
        notify::stopping();
        if !matches!(ledger.decision(), Some((Decision::Kick, _))) {
            log::error!("kicks are withheld: not disarming unless everything is served again");
        }
        ledger.stop.store(true, Ordering::Relaxed);
        return;
    }
}

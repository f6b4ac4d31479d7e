// SPDX-License-Identifier: GPL-2.0-only
//! The guard's start: everything that must hold before the host watchdog is touched.
//!
//! In: a policy. Out: a guard that runs, or a failure with nothing armed. The order matters:
//! memory is locked and the thread proven real-time before the device is opened, which kicks
//! it; and a host that is not seen to make progress is not opened at all, so that a guard that
//! is restarted on a host that is going down does not help it live on.

use super::arming::{Begun, arm};
use super::deadlines::{Deadlines, INHIBIT};
use super::devices::{Chosen, Shown, choose_watchdogs, paths, running};
use super::hold::hold;
pub use super::host::Host;
use super::leases::page::Page;
use super::leases::{self, Leases};
use super::page::{self, Info, Writer};
use super::request::Request;
use super::run::{World, run};
use super::sight::{Patched, Sight, Stock};
use crate::config::accounts::id_of;
use crate::config::{Policy, SAMPLES_PER_DEADLINE};
use crate::event::Coverage;
use crate::exit::{CONFIG, Failure, NOPERM, OSERR, UNAVAILABLE};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sys::inherited::inherited;
use crate::sys::notify::Notifier;
use crate::sys::privcmd::Privcmd;
use crate::sys::realtime::{be_spared_when_memory_runs_out, become_realtime, lock_memory};
use crate::sys::watchdog::WatchdogDevice;
use crate::watchdog::device::Driver;
use crate::watchdog::fast::Pipe;
use crate::watchdog::fence::{self, SYSRQ};
use crate::watchdog::holder::holder_of;
use crate::watchdog::set::Set;
use crate::watchdog::{Ends, HostWatchdog, LetGo};
use crate::xen::{self, NoTable};
use nix::errno::Errno;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Says a line on stderr; whoever closed that does not want to know.
macro_rules! say {
    ($($text:tt)*) => {
        let _ = writeln!(io::stderr(), $($text)*);
    };
}

/// Guards until told to stop. Says what it does on stderr until it arms
/// the host watchdog; from then on the guard page tells.
///
/// # Errors
/// A [`Failure`] with nothing armed, or, at the end, that the device could not be disarmed.
pub fn guard(policy: &Policy) -> Result<(), Failure> {
    let kept = inherited();
    let running = !kept.is_empty();
    guard_with(policy, kept).map_err(|failure| match failure.code {
        // Never one after which the service manager starts another: it would keep them
        // meanwhile, running and unkicked. Let go of, they are disarmed as the last guard asked.
        UNAVAILABLE if running => Failure {
            code: OSERR,
            ..failure
        },
        _ => failure,
    })
}

fn guard_with(policy: &Policy, kept: Vec<OwnedFd>) -> Result<(), Failure> {
    let request = Request::by_signals();
    let request =
        request.map_err(|e| Failure::new(OSERR, format!("cannot handle signals: {e}")))?;
    let path = Path::new(page::PATH);
    let _held = hold(path)?;
    let exposed = be_spared_when_memory_runs_out().err();
    let mut sight = open_hypervisor(policy)?;
    let shown = Shown::default();
    let chosen = choose_watchdogs(policy, &shown)?;
    let withheld = was_withheld(path, &chosen, policy.hardware_s());
    let devices = announced(chosen);
    let running = running(kept, &devices, &shown);
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = id_of(&groups, &policy.control_group);
    let os = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| Failure::new(OSERR, format!("cannot {what}: {}", errno.desc()))
    };
    let deadlines = deadlines(policy.inhibit_longest_ns);
    let leases = leases(policy)?;
    let fast = start_fast(policy)?;
    lock_memory().map_err(os("lock memory"))?;
    become_realtime(policy.priority).map_err(os("become real-time"))?;
    sight
        .begin(policy.priority)
        .map_err(|error| Failure::new(OSERR, format!("cannot start a probe: {error}")))?;
    if withheld {
        sight.overdue(Monotonic::now());
    }
    let sysrq = policy
        .fence
        .sysrq
        .then(|| fence::open_sysrq(SYSRQ.as_ref()));
    let mut world = Host::new(request, Notifier::from_environment())
        .heeding(deadlines)
        .leased(leases)
        .resorting_to(sysrq.and_then(Result::ok));
    let mut fence = Fence::default();
    let coverage = sight.coverage();
    let begun = arm::<WatchdogDevice, _>(
        policy,
        &devices,
        running,
        sight.as_mut(),
        &mut world,
        |running, sight| {
            let page = open_page(group)?;
            fence = raise_fence(policy, &page);
            fence.fast = fast;
            announce(policy, &devices, running, sight);
            Ok(page)
        },
    )?;
    let (armed, mut watchdog, mut page) = match begun {
        Begun::Armed(armed, watchdog, page) => (armed, watchdog, page),
        Begun::Stopped(had_run) => return stopped(had_run, &world, policy),
    };
    fence.armed();
    watchdog.keep(world.manager(), policy.runs_on());
    fence.weak.extend(watchdog.weakness());
    fence.weak.extend(exposed.map(|error| {
        format!("the OOM killer may end the guard (/proc/self/oom_score_adj: {error})")
    }));
    fence.weak.extend(sight.weakness());
    let weakness = fence.weak.join("; ");
    let info = Info {
        xen_slot: !fence.levels.is_empty(),
        ..describe(policy, coverage, &watchdog, armed, weakness)
    };
    page.info(&info);
    let outcome = run(
        watchdog,
        sight.as_mut(),
        &mut world,
        &mut page,
        armed,
        info.period_ns,
    );
    ended(outcome, &info, fence)
}

/// Lets go of what had run, where somebody asked to stop before it was taken over.
fn stopped(mut had_run: Set, world: &Host, policy: &Policy) -> Result<(), Failure> {
    if had_run.is_empty() {
        return Ok(());
    }
    had_run.keep(world.manager(), policy.runs_on());
    let now = Monotonic::now();
    let info = describe(policy, policy.coverage, &had_run, now, String::new());
    let why = world.ends().unwrap_or(Ends::Stopped);
    ended(had_run.let_go(why), &info, Fence::default())
}

/// Says what became of the host watchdog.
fn ended(outcome: LetGo, info: &Info, fence: Fence) -> Result<(), Failure> {
    let is_running = matches!(outcome, LetGo::Runs { within_s: None, .. });
    if let Some(fast) = fence.fast.filter(|_| !is_running) {
        fast.let_go();
    }
    // Xen's slot is not to outlive the guard, which feeds it.
    for level in fence.levels {
        let _ = level.join();
    }
    let device = info.device.display();
    let text = match outcome {
        LetGo::Runs { error, within_s } => {
            let latest_s = within_s.map_or(info.latest_ns / NS_PER_S, u64::from);
            let text = format!(
                "{device} cannot be disarmed ({error}): the host goes down within {latest_s} s \
                 unless a guard is started"
            );
            return Err(Failure::new(OSERR, text));
        }
        LetGo::Kept { after_s } => format!(
            "{device} is left to the service manager: another guard takes it over within \
             {after_s} s, or it is disarmed"
        ),
        LetGo::Shutdown { within_s } => {
            format!("{device} resets a shutdown that has not ended in {within_s} s")
        }
        LetGo::Disarmed => format!("disarmed {device}"),
    };
    say!("xenwardend: {text}");
    Ok(())
}

/// Their nodes; says which of them the guard cannot disarm.
fn announced(chosen: Vec<Chosen>) -> Vec<PathBuf> {
    let chosen = chosen.into_iter().map(|Chosen { device, attributes }| {
        if attributes.nowayout == Some(true) {
            let device = device.display();
            say!("xenwardend: {device}: nowayout is set: stopping the guard will not disarm it");
        }
        device
    });
    chosen.collect()
}

/// The way to look at the hypervisor that the policy's coverage demands.
fn open_hypervisor(policy: &Policy) -> Result<Box<dyn Sight>, Failure> {
    let privcmd = Privcmd::open().map_err(no_xen)?;
    let (major, minor) = privcmd.version().map_err(|errno| {
        let text = format!("Xen does not answer: {}", errno.desc());
        Failure::new(UNAVAILABLE, text)
    })?;
    match (xen::map_table(&privcmd), policy.coverage) {
        (Ok(table), _) => {
            let sight = Patched::new(table).starved_after(policy.starved_ns);
            Ok(Box::new(sight))
        }
        (Err(NoTable::Errno(Errno::EPERM)), _) => Err(Failure::new(
            NOPERM,
            "the hypervisor refuses its liveness table: this is not the control domain (dom0)",
        )),
        (Err(_), Coverage::Partial) => Ok(Box::new(Stock::new(privcmd, policy))),
        // Nothing that passes by itself, as a device that is not there yet: it takes another
        // hypervisor or another configuration.
        (Err(why), Coverage::Full) => Err(Failure::new(
            CONFIG,
            format!(
                "Xen {major}.{minor}: {why}: boot a hypervisor with xen-patches applied, or set \
                 evidence.coverage = \"partial\""
            ),
        )),
    }
}

fn no_xen(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Failure::new(
            NOPERM,
            format!("/dev/xen/privcmd: {error}: xenwardend must run as root"),
        ),
        _ if fs::metadata("/proc/xen/capabilities").is_ok() => Failure::new(
            UNAVAILABLE,
            format!(
                "/dev/xen: {error}: load the kernel's xen-privcmd module (Linux 4.18 or later)"
            ),
        ),
        _ => Failure::new(
            UNAVAILABLE,
            format!("this machine does not run on Xen (/dev/xen: {error}): nothing to guard"),
        ),
    }
}

/// Whether the guard before this one withheld to the last: what it withheld for is not served
/// because another guard has not seen it yet. Where it left no page, a device that still runs as
/// it would have set it is taken for a sign that it did: nobody kicks it, so the host is going down.
#[must_use]
pub fn was_withheld(path: &Path, chosen: &[Chosen], timeout_s: u32) -> bool {
    let runs = |Chosen { device, attributes }: &Chosen| {
        attributes.was_left_running(timeout_s) && holder_of(device).is_none()
    };
    let told = page::withheld(path, Monotonic::now());
    told.unwrap_or_else(|| chosen.iter().any(runs))
}

/// The fence levels behind the hardware, and what is wrong with them, for people.
#[derive(Default)]
struct Fence {
    /// Those whose end is to be waited for.
    levels: Vec<JoinHandle<()>>,
    fast: Option<Pipe>,
    weak: Vec<String>,
}

impl Fence {
    /// The host watchdog is armed.
    fn armed(&mut self) {
        let told = self.fast.as_mut().map(Pipe::armed);
        if let Some(Err(error)) = told {
            self.weak.push(format!("no fast fence: {error}"));
        }
    }
}

/// Starts the process that resets the host at once, if it is asked for.
fn start_fast(policy: &Policy) -> Result<Option<Pipe>, Failure> {
    let start = || Pipe::start(policy.fast, policy.priority);
    let started = policy.fast.is_on().then(start).transpose();
    started.map_err(|error| Failure::new(OSERR, format!("cannot start the fast fence: {error}")))
}

/// Starts the fence levels behind the hardware.
fn raise_fence(policy: &Policy, page: &Writer) -> Fence {
    let priority = policy.priority;
    let sysrq = || {
        let file = fence::open_sysrq(Path::new(SYSRQ))?;
        // It has nothing to give back.
        fence::last_resort(file, page.reader(), priority).map(|_| None)
    };
    let slot = || {
        let slot = fence::Slot::new(Privcmd::open()?);
        fence::keep_slot(slot, page.reader(), priority, policy.slot_first_s()).map(Some)
    };
    let one = || {
        let slot = fence::Slot::new(Privcmd::open()?);
        slot.try_one(policy.timeout_s).map(|()| None)
    };
    let mut fence = Fence::default();
    let mut raise =
        |wanted: bool, what: &str, level: &dyn Fn() -> io::Result<Option<JoinHandle<()>>>| {
            match wanted.then(level) {
                None => {}
                Some(Ok(thread)) => fence.levels.extend(thread),
                Some(Err(error)) => fence.weak.push(format!("no fence by {what}: {error}")),
            }
        };
    raise(policy.fence.sysrq, "sysrq", &sysrq);
    for level in [&one as &dyn Fn() -> _, &slot] {
        raise(policy.fence.xen_slot, "dom0's watchdog in Xen", level);
    }
    fence
}

/// Where an operator inhibits the guard; without room for that nobody can.
fn deadlines(longest_ns: u64) -> Deadlines {
    let path = Path::new(INHIBIT.0);
    Deadlines::open(path, longest_ns).unwrap_or_else(|error| {
        say!(
            "xenwardend: {}: {error}: nobody can inhibit this guard",
            path.display()
        );
        Deadlines::default()
    })
}

/// The lease page. Where the policy has leases the guard does not start without it.
fn leases(policy: &Policy) -> Result<Option<Leases<'static>>, Failure> {
    let (path, now) = (leases::page::PATH, Monotonic::now());
    let page = Page::of_policy(Path::new(path), &policy.leases, now);
    let page = page.map_err(|error| Failure::new(OSERR, format!("{path}: {error}")))?;
    Ok(page.map(|page| Leases::new(page.leak(), now)))
}

/// The guard page; where there is no room for one, one that nobody sees.
fn open_page(group: Option<u32>) -> Result<Writer, Failure> {
    let path = Path::new(page::PATH);
    let is_of = |group| fs::metadata(path).is_ok_and(|page| page.gid() == group);
    let writer = Writer::create(path, group).inspect(|_| {
        if !group.is_none_or(is_of) {
            say!(
                "xenwardend: {}: for root only: its group cannot be set (CAP_CHOWN)",
                page::PATH
            );
        }
    });
    writer.or_else(|error| {
        say!(
            "xenwardend: {}: {error}: guarding without telling",
            page::PATH
        );
        Writer::private().map_err(|error| Failure::new(OSERR, format!("no memory: {error}")))
    })
}

/// What the page tells of a guard that has armed its host watchdog, with no level behind it.
#[must_use]
pub fn describe<D: Driver>(
    policy: &Policy,
    coverage: Coverage,
    watchdog: &Set<D>,
    armed: Monotonic,
    weakness: String,
) -> Info {
    let timeout_ns = u64::from(watchdog.timeout_s()) * NS_PER_S;
    Info {
        pid: std::process::id(),
        started: armed,
        device: watchdog.devices().into(),
        identity: watchdog.identities(),
        timeout_ns,
        latest_ns: u64::from(watchdog.latest_s()) * NS_PER_S,
        // A device that may reset earlier than it was asked to is looked for more often.
        period_ns: policy.sample_ns.min(timeout_ns / SAMPLES_PER_DEADLINE),
        coverage,
        xen_slot: false,
        weakness,
    }
}

/// Said before the arming: from then on nothing that may block, as stderr may, is touched.
fn announce<D>(policy: &Policy, devices: &[PathBuf], running: &[(PathBuf, D)], sight: &dyn Sight) {
    let coverage = match (sight.coverage(), sight.weakness()) {
        (Coverage::Full, _) => "full (every guest watchdog and pcpu)".to_owned(),
        (Coverage::Partial, None) => {
            "PARTIAL (dom0's vcpus and probes of pcpus, no guest watchdog)".to_owned()
        }
        (Coverage::Partial, Some(weak)) => format!("PARTIAL (dom0's vcpus only: {weak})"),
    };
    let starved = policy.starved_ns.map(|ns| ns / NS_PER_S);
    let starved = starved.map(|s| format!(", a starved vcpu withholds after {s} s"));
    let starved = starved.unwrap_or_default();
    let runs = |device: &&PathBuf| running.iter().any(|one| one.0 == **device);
    let (taken, opened): (Vec<_>, Vec<_>) = devices.iter().partition(runs);
    let what = [("taking over", taken), ("arming", opened)].into_iter();
    let what = what.filter(|(_, all)| !all.is_empty());
    let what: Vec<String> = what
        .map(|(what, all)| format!("{what} {}", paths(all)))
        .collect();
    say!(
        "xenwardend: everything is served; {}, timeout {} s, sample {} ms, coverage {coverage}{starved}",
        what.join(", "),
        policy.hardware_s(),
        policy.sample_ns / NS_PER_MS,
    );
}

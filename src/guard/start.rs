// SPDX-License-Identifier: GPL-2.0-only
//! The guard's start: everything that must hold before the host watchdog is touched.
//!
//! In: a policy. Out: a guard that runs, or a failure with nothing armed. The order matters:
//! memory is locked and the thread proven real-time before the device is opened, which kicks
//! it; and a host that is not seen to make progress is not opened at all, so that a guard that
//! is restarted on a host that is going down does not help it live on.

use super::devices::{arm_failure, choose_watchdogs, paths};
use super::gate::{Decision, Reason, decide};
use super::page::{self, Info, Phase, Reader, View, Writer};
use super::run::{World, run};
use super::sight::{Patched, Sight, Stock};
use crate::config::{Policy, SAMPLES_PER_DEADLINE};
use crate::event::Coverage;
use crate::exit::{Failure, NOPERM, OSERR, UNAVAILABLE};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, sleep_until};
use crate::sys::notify::Notifier;
use crate::sys::privcmd::Privcmd;
use crate::sys::realtime::{become_realtime, lock_memory};
use crate::sys::watchdog::WatchdogDevice;
use crate::watchdog::device::Driver;
use crate::watchdog::fence;
use crate::watchdog::set::Set;
use crate::xen::{self, NoTable};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Says a line on stderr; whoever closed that does not want to know.
macro_rules! say {
    ($($text:tt)*) => {
        let _ = writeln!(io::stderr(), $($text)*);
    };
}

/// A device may reset so much later than it says, ns: SPECIFICATION.md's G.
const GRANULARITY_NS: u64 = NS_PER_S;
/// How long the start waits until everything is served, ns: dom0 may be busy with booting.
const PATIENCE_NS: u64 = 10 * NS_PER_S;

/// Guards until told to stop. Says what it does on stderr until it arms
/// the host watchdog; from then on the guard page tells.
///
/// # Errors
/// A [`Failure`] with nothing armed, or, at the end, that the device could not be disarmed.
pub fn guard(policy: &Policy) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    catch_signals(&stop).map_err(|e| Failure::new(OSERR, format!("cannot handle signals: {e}")))?;
    let path = Path::new(page::PATH);
    let _held = hold(path)?;
    let last = last_told(path, Monotonic::now());
    let mut sight = open_hypervisor(policy)?;
    let devices = choose_watchdogs(policy)?;
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = group_of(&groups, &policy.control_group);
    let os = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| Failure::new(OSERR, format!("cannot {what}: {}", errno.desc()))
    };
    lock_memory().map_err(os("lock memory"))?;
    become_realtime(policy.priority).map_err(os("become real-time"))?;
    if let Some(Decision::Withhold(Reason::Lagging { work, .. })) = last {
        sight.overdue(work, Monotonic::now());
    }
    let mut world = Host::new(stop);
    let mut fence = Fence::default();
    let coverage = sight.coverage();
    let armed = arm::<WatchdogDevice, _>(policy, &devices, sight.as_mut(), &mut world, || {
        let page = open_page(group)?;
        fence = raise_fence(policy, &page);
        announce(policy, &devices, coverage);
        Ok(page)
    })?;
    let Some((armed, watchdog, mut page)) = armed else {
        return Ok(());
    };
    fence.weak.extend(watchdog.weakness());
    let weakness = fence.weak.join("; ");
    let info = describe(policy, coverage, &watchdog, armed, weakness);
    page.info(&info);
    run(
        watchdog,
        sight.as_mut(),
        &mut world,
        &mut page,
        armed,
        info.period_ns,
    )
    .map_err(|error| {
        let (device, latest_s) = (info.device.display(), info.latest_ns / NS_PER_S);
        let end = format!("the host goes down within {latest_s} s");
        Failure::new(
            OSERR,
            format!("{device} cannot be disarmed ({error}): {end}"),
        )
    })?;
    // Xen's slot is not to outlive the guard that has disarmed the hardware.
    for level in fence.levels {
        let _ = level.join();
    }
    say!("xenwardend: disarmed {}", info.device.display());
    Ok(())
}

/// Arms the host watchdog once everything is served, and says when; none where somebody asked
/// to stop first. The device is opened last of all, as that kicks it; `open_page` gives the page
/// that is to tell of it, and may say so.
///
/// # Errors
/// A [`Failure`] with nothing armed.
pub fn arm<D: Driver, P>(
    policy: &Policy,
    devices: &[PathBuf],
    sight: &mut dyn Sight,
    world: &mut dyn World,
    open_page: impl FnOnce() -> Result<P, Failure>,
) -> Result<Option<(Monotonic, Set<D>, P)>, Failure> {
    if !await_served(sight, policy.sample_ns, world)? {
        return Ok(None);
    }
    let page = open_page()?;
    let armed = world.now();
    let watchdog = Set::arm(devices, policy.timeout_s).map_err(arm_failure)?;
    Ok(Some((armed, watchdog, page)))
}

fn catch_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    // To read the configuration anew takes a restart.
    signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// What the guard has said to the service manager.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Ready,
    Stopping,
}

/// The operating system, as the kick path meets it.
pub struct Host {
    stop: Arc<AtomicBool>,
    notifier: Notifier,
    told: Told,
}

impl Host {
    /// `stop` is set by whoever wants the guard to end.
    #[must_use]
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            notifier: Notifier::from_environment(),
            told: Told::Nothing,
        }
    }
}

impl World for Host {
    fn now(&self) -> Monotonic {
        Monotonic::now()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        sleep_until(when);
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn looked(&mut self) {
        let (message, then) = match (self.told, self.stops()) {
            (Told::Nothing, false) => ("READY=1", Told::Ready),
            (Told::Nothing | Told::Ready, true) => ("STOPPING=1", Told::Stopping),
            _ => return,
        };
        if self.notifier.tell(message) {
            self.told = then;
        }
    }
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
        (Err(_), Coverage::Partial) => Ok(Box::new(Stock(privcmd))),
        (Err(why), Coverage::Full) => Err(Failure::new(
            UNAVAILABLE,
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

/// Holds the lock beside the page at `path` for as long as the value lives: there is one guard.
///
/// # Errors
/// Another holds it.
pub fn hold(path: &Path) -> Result<Option<Flock<File>>, Failure> {
    let path = path.with_extension("lock");
    let open = || -> io::Result<File> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o640);
        // Whatever lies there, this and the reading of whose it is must not wait.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.custom_flags(flags).open(&path)?;
        let is_file = file.metadata()?.is_file();
        is_file
            .then_some(file)
            .ok_or(ErrorKind::InvalidInput.into())
    };
    let locked = open().and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
    });
    match locked {
        Ok(held) => {
            // Whose it is, for the next; that it is held does not hang on it.
            let pid = std::process::id().to_string();
            let _ = held
                .set_len(0)
                .and_then(|()| (&*held).write_all(pid.as_bytes()));
            Ok(Some(held))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.is_empty() { "unknown" } else { &pid };
            let text = format!("another xenwardend (pid {pid}) guards this host");
            Err(Failure::new(UNAVAILABLE, text))
        }
        // The device has one user at most, with or without a lock.
        Err(error) => {
            say!("xenwardend: {}: {error}: not locked", path.display());
            Ok(None)
        }
    }
}

/// What the guard before this one decided last, if it ended with the host watchdog armed: what
/// it withheld for is not served because another guard has not seen it yet.
#[must_use]
pub fn last_told(path: &Path, now: Monotonic) -> Option<Decision> {
    still_counts(&Reader::open(path).ok()?.view()?, now)
}

/// What a page says that a guard decided last, as far as that counts now.
#[must_use]
pub fn still_counts(View { info, status }: &View, now: Monotonic) -> Option<Decision> {
    // That guard was killed before the device fired, which the closing kicked once more: a host
    // that lives on for longer was not brought down by that withhold.
    let each_ns = info.latest_ns.saturating_add(GRANULARITY_NS);
    let heeded = matches!(status.phase, Phase::Armed | Phase::Stopping)
        && now.since_ns(status.looked) < each_ns.saturating_mul(2);
    heeded.then_some(status.decision)
}

/// The fence levels behind the hardware, and what is wrong with them, for people.
#[derive(Default)]
struct Fence {
    levels: Vec<JoinHandle<()>>,
    weak: Vec<String>,
}

/// Starts the fence levels behind the hardware.
fn raise_fence(policy: &Policy, page: &Writer) -> Fence {
    let priority = policy.priority;
    let sysrq = || {
        let file = fence::open_sysrq(Path::new(fence::SYSRQ))?;
        fence::last_resort(file, page.reader(), priority)
    };
    let slot = || {
        let slot = fence::Slot::new(Privcmd::open()?);
        fence::keep_slot(slot, page.reader(), priority)
    };
    let mut fence = Fence::default();
    let mut raise =
        |wanted: bool, what: &str, level: &dyn Fn() -> io::Result<JoinHandle<()>>| match wanted
            .then(level)
        {
            None => {}
            Some(Ok(thread)) => fence.levels.push(thread),
            Some(Err(error)) => fence.weak.push(format!("no fence by {what}: {error}")),
        };
    raise(policy.fence.sysrq, "sysrq", &sysrq);
    raise(policy.fence.xen_slot, "dom0's watchdog in Xen", &slot);
    fence
}

/// The guard page; where there is no room for one, one that nobody sees.
fn open_page(group: Option<u32>) -> Result<Writer, Failure> {
    Writer::create(Path::new(page::PATH), group).or_else(|error| {
        say!(
            "xenwardend: {}: {error}: guarding without telling",
            page::PATH
        );
        Writer::private().map_err(|error| Failure::new(OSERR, format!("no memory: {error}")))
    })
}

/// The number of a group (group(5)). Read from the file, not asked of the C library, whose
/// answer may take the network, and brings libraries into locked memory.
fn group_of(groups: &str, name: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    let mut found = lines.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    found.nth(1)?.parse().ok()
}

/// Looks until everything has been seen to make progress and is served, for a while; false:
/// somebody asked to stop meanwhile, and nothing is to be armed any more.
fn await_served(
    sight: &mut dyn Sight,
    sample_ns: u64,
    world: &mut dyn World,
) -> Result<bool, Failure> {
    let deadline = world.now().plus_ns(PATIENCE_NS);
    loop {
        if world.stops() {
            return Ok(false);
        }
        let (verdict, looked) = sight.look(&|| world.now());
        let now = world.now();
        match decide(verdict, now.since_ns(looked), sample_ns) {
            Decision::Kick => return Ok(!world.stops()),
            Decision::Withhold(reason) if now >= deadline => {
                let text = format!("not arming, as this host is not served: {reason}");
                return Err(Failure::new(UNAVAILABLE, text));
            }
            Decision::Withhold(_) => world.sleep_until(now.plus_ns(sample_ns)),
        }
    }
}

/// What the page tells of a guard that has armed its host watchdog.
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
        weakness,
    }
}

/// Said before the arming: from then on nothing that may block, as stderr may, is touched.
fn announce(policy: &Policy, devices: &[PathBuf], coverage: Coverage) {
    let coverage = match coverage {
        Coverage::Full => "full (every guest watchdog and pcpu)",
        Coverage::Partial => "PARTIAL (no evidence on guests and pcpus)",
    };
    let starved = policy.starved_ns.map(|ns| ns / NS_PER_S);
    let starved = starved.map(|s| format!(", a starved vcpu withholds after {s} s"));
    let starved = starved.unwrap_or_default();
    say!(
        "xenwardend: everything is served; arming {}, timeout {} s, sample {} ms, coverage {coverage}{starved}",
        paths(devices),
        policy.timeout_s,
        policy.sample_ns / NS_PER_MS,
    );
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nxenwarden-old:x:7:\nxenwarden:x:998:ann,bob\nbad\n";
        assert_eq!(group_of(groups, "xenwarden"), Some(998));
        assert_eq!(group_of(groups, "xen"), None);
        assert_eq!(group_of(groups, "bad"), None);
    }
}

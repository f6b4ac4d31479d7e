// SPDX-License-Identifier: GPL-2.0-only
//! The policy: the configuration with its defaults, validated as a whole.

use super::file::{File, Level, OneOrMore};
use super::leases::Leases;
use super::problems::Problems;
use super::sinks::{Events, Guests, Hooks, metrics_textfile};
use crate::event::Coverage;
use crate::sys::clock::{NS_PER_MS, NS_PER_S};
use crate::watchdog::RunsOn;
use crate::watchdog::candidates::Selector;
use crate::watchdog::fast::Fast;
use std::path::{Path, PathBuf};

/// The host watchdog's timeout, seconds: the bounds of SPECIFICATION.md build on it.
const DEFAULT_TIMEOUT_S: u32 = 5;
/// Longest timeout that still deserves the name; the fence bound grows with it.
const MAX_TIMEOUT_S: u32 = 300;
/// Its timeout after a stop of the guard that cannot disarm it, seconds: for an upgrade.
const DEFAULT_STOPPED_TIMEOUT_S: u32 = 60;
const MAX_STOPPED_TIMEOUT_S: u32 = 3_600;
/// Its timeout once the guard has ended for a shutdown, seconds: RebootWatchdogSec's of systemd.
const DEFAULT_SHUTDOWN_TIMEOUT_S: u32 = 600;
/// Shorter than that it would reset shutdowns in order.
const MIN_SHUTDOWN_TIMEOUT_S: u32 = 60;
/// Time between two looks, milliseconds.
const DEFAULT_SAMPLE_MS: u32 = 250;
/// Shortest. What a look proves is good for one sample, which must outlast the time slice of a
/// scheduler, or dom0's own waiting for its turn would withhold a kick.
const MIN_SAMPLE_MS: u32 = 100;
/// Longest: half of the slack of 500 ms; the bounds of SPECIFICATION.md count on it.
const MAX_SAMPLE_MS: u32 = 250;
/// Shortest wait of a runnable vCPU that may count: the hypervisor looks once a second, and the
/// monitor is to tell before the guard withholds.
const MIN_STARVED_S: u32 = 3;
/// Shortest timeout that the shortest sample fits into often enough.
const MIN_TIMEOUT_S: u32 = 2;
/// Longest that still makes sense.
const MAX_STARVED_S: u32 = 3_600;
/// How long the guard may be inhibited at a time, seconds.
const DEFAULT_INHIBIT_S: u32 = 3_600;
const MAX_INHIBIT_S: u32 = 86_400;
/// How long a probe may be silent where there is no table, seconds. Debug keys hold a vCPU of dom0
/// up for as long as a serial console takes, and nothing tells that from a wedge.
const DEFAULT_SILENT_S: u32 = 10;
const MAX_SILENT_S: u32 = 60;
/// The key that gives the hardware more time.
const CRASH_DUMP: &str = "crash_dump.hardware_s";
/// What a crash kernel has at least, seconds: it must boot.
const MIN_DUMP_S: u32 = 5;
/// A withhold that may end by itself is given so long at least, milliseconds; what is longer than
/// any timeout is left to the hardware.
const MIN_WITHHELD_MS: u32 = 500;
const MAX_WITHHELD_MS: u32 = 60_000;
/// Samples a deadline must have room for, so that a few late ones do no harm.
pub const SAMPLES_PER_DEADLINE: u64 = 20;
/// Longest path of a unix socket (unix(7)), without the closing zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// Where the control socket is unless told otherwise.
const CONTROL_SOCKET: &str = "/run/xenwarden/control.sock";
/// The group that may ask unless told otherwise; it need not exist.
pub const GROUP: &str = "xenwarden";

/// Where what must outlive the monitor is kept unless told otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/xenwarden";

/// The highest SCHED_FIFO priority (sched(7)), and the default: corosync, sbd and multipathd have
/// SCHED_RR 99.
const MAX_PRIORITY: u32 = 99;

/// The fence levels behind the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// One of Xen's two watchdog slots of dom0. Off unless asked for, itself or by a crash dump:
    /// xhad wants both.
    pub xen_slot: bool,
    /// sysrq.
    pub sysrq: bool,
}

/// What the guard and the monitor are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The host watchdogs: all of these, each the first that fits.
    pub devices: Vec<Selector>,
    /// Its timeout, seconds.
    pub timeout_s: u32,
    /// Its timeout where it runs on and no guard does, seconds.
    pub stopped_timeout_s: u32,
    /// Its timeout once the guard has ended for a shutdown, seconds; 0: it is disarmed.
    pub shutdown_timeout_s: u32,
    /// The hardware's timeout where Xen's slot fires first, after `timeout_s`, to have a crash
    /// kernel dump, seconds; None: the hardware's is `timeout_s`.
    pub crash_dump_s: Option<u32>,
    /// What resets the host where the hardware does not.
    pub fence: Fence,
    /// What resets it sooner.
    pub fast: Fast,
    /// The guard's priority, SCHED_FIFO.
    pub priority: u8,
    /// What the evidence must cover.
    pub coverage: Coverage,
    /// The time between two looks, ns.
    pub sample_ns: u64,
    /// How long a runnable vCPU may wait on a pCPU that idles, ns; None: for ever.
    pub starved_ns: Option<u64>,
    /// How long the guard may be inhibited at a time, ns.
    pub inhibit_longest_ns: u64,
    /// Without a table: how long a probe may be silent, ns.
    pub silent_ns: u64,
    /// Without a table: whether a vCPU of dom0 is sent to each pCPU.
    pub pin_probe: bool,
    /// Log to /dev/log as well.
    pub syslog: bool,
    /// The least severe level to log.
    pub level: log::LevelFilter,
    /// The control socket.
    pub control_socket: PathBuf,
    /// The group that may ask for status, and subscribe to events.
    pub control_group: String,
    /// When alarms of guests clear.
    pub guests: Guests,
    /// Where what must outlive the monitor is kept.
    pub state_directory: PathBuf,
    /// Where events can be had.
    pub events: Events,
    /// Programs to run for events.
    pub hooks: Hooks,
    /// The file for node_exporter; None: there is none.
    pub metrics_textfile: Option<PathBuf>,
    /// Other programs as conditions of the host's life.
    pub leases: Leases,
}

impl Policy {
    /// Fills in defaults and checks each value and the values together.
    ///
    /// # Errors
    /// All that is wrong, a line for each: the keys and what to do.
    pub fn from_file(file: File) -> Result<Self, String> {
        let mut wrong = Problems::default();
        let timeout_s = wrong.within(
            "host-watchdog.timeout_s",
            file.host_watchdog.timeout_s,
            MIN_TIMEOUT_S..=MAX_TIMEOUT_S,
            DEFAULT_TIMEOUT_S,
            " seconds",
        );
        let crash_dump_s = crash_dump_s(&file, timeout_s, &mut wrong);
        let hardware_s = crash_dump_s.unwrap_or(timeout_s);
        let stopped_timeout_s = wrong.within(
            "host-watchdog.stopped_timeout_s",
            file.host_watchdog.stopped_timeout_s,
            hardware_s..=MAX_STOPPED_TIMEOUT_S,
            DEFAULT_STOPPED_TIMEOUT_S.max(hardware_s),
            " seconds, and not below host-watchdog.timeout_s or crash_dump.hardware_s",
        );
        let shutdown_timeout_s = match file.host_watchdog.shutdown_timeout_s {
            Some(0) => 0,
            given => wrong.within(
                "host-watchdog.shutdown_timeout_s",
                given,
                MIN_SHUTDOWN_TIMEOUT_S.max(hardware_s)..=MAX_STOPPED_TIMEOUT_S,
                DEFAULT_SHUTDOWN_TIMEOUT_S.max(hardware_s),
                " seconds, and not below host-watchdog.timeout_s or crash_dump.hardware_s; 0 has a \
                 shutdown disarm it",
            ),
        };
        let sample_ms = wrong.within(
            "evidence.sample_ms",
            file.evidence.sample_ms,
            MIN_SAMPLE_MS..=MAX_SAMPLE_MS,
            DEFAULT_SAMPLE_MS,
            " milliseconds: evidence must outlast the time slice of a scheduler, and be younger \
             than the slack",
        );
        let priority = wrong.within(
            "realtime.priority",
            file.realtime.priority,
            1..=MAX_PRIORITY,
            MAX_PRIORITY,
            " (SCHED_FIFO)",
        );
        let priority = u8::try_from(priority).unwrap_or(u8::MAX);
        let starved_s = file.evidence.starved_s.map(|given| {
            wrong.within(
                "evidence.starved_s",
                Some(given),
                MIN_STARVED_S..=MAX_STARVED_S,
                MIN_STARVED_S,
                " seconds: the hypervisor looks for waiting vCPUs once a second, and must find \
                 the same several times; without the key no wait withholds a kick",
            )
        });
        let longest_s = wrong.within(
            "maintenance.longest_s",
            file.maintenance.longest_s,
            60..=MAX_INHIBIT_S,
            DEFAULT_INHIBIT_S,
            " seconds",
        );
        let silent_s = wrong.within(
            "evidence.silent_s",
            file.evidence.silent_s,
            1..=MAX_SILENT_S,
            DEFAULT_SILENT_S,
            " seconds",
        );
        let fast = Fast {
            guard_death: file.fast.guard_death.unwrap_or(false),
            withheld_ms: file.fast.withheld_ms.map(|ms| {
                let range = MIN_WITHHELD_MS..=MAX_WITHHELD_MS;
                wrong.within("fast.withheld_ms", Some(ms), range, ms, " milliseconds")
            }),
        };
        let policy = Self {
            devices: devices(file.host_watchdog.device, &mut wrong),
            timeout_s,
            stopped_timeout_s,
            shutdown_timeout_s,
            crash_dump_s,
            fence: Fence {
                xen_slot: file.fence.xen_slot.unwrap_or(false) || crash_dump_s.is_some(),
                sysrq: file.fence.sysrq.unwrap_or(true),
            },
            fast,
            priority,
            coverage: file.evidence.coverage.unwrap_or(Coverage::Full),
            sample_ns: u64::from(sample_ms) * NS_PER_MS,
            starved_ns: starved_s.map(|s| u64::from(s) * NS_PER_S),
            inhibit_longest_ns: u64::from(longest_s) * NS_PER_S,
            silent_ns: u64::from(silent_s) * NS_PER_S,
            pin_probe: file.evidence.pin_probe.unwrap_or(true),
            syslog: file.log.syslog.unwrap_or(true),
            level: level(file.log.level.unwrap_or(Level::Info)),
            control_socket: wrong.absolute("control.socket", file.control.socket, CONTROL_SOCKET),
            control_group: file.control.group.unwrap_or_else(|| GROUP.to_owned()),
            guests: Guests::from_file(&file.guests, &mut wrong),
            state_directory: wrong.absolute(
                "state.directory",
                file.state.directory,
                STATE_DIRECTORY,
            ),
            events: Events::from_file(file.events, &mut wrong),
            hooks: Hooks::from_file(&file.hooks, file.hook, &mut wrong),
            metrics_textfile: metrics_textfile(file.metrics, &mut wrong),
            leases: Leases::from_file(file.lease, file.leases, &mut wrong),
        };
        let together = [
            policy.enough_samples(),
            policy.one_is_first(),
            fits_a_socket("control.socket", &policy.control_socket),
            fits_a_socket("events.socket", &policy.events.socket),
            policy.different_paths(),
        ];
        together.into_iter().for_each(|outcome| wrong.note(outcome));
        let wrong = wrong.into_lines();
        match wrong.is_empty() {
            true => Ok(policy),
            false => Err(wrong.join("\n")),
        }
    }

    fn different_paths(&self) -> Result<(), String> {
        let mut paths = vec![
            ("control.socket", &self.control_socket),
            ("events.socket", &self.events.socket),
            ("state.directory", &self.state_directory),
        ];
        let textfile = self.metrics_textfile.iter();
        paths.extend(textfile.map(|path| ("metrics.textfile", path)));
        let mux = self.leases.mux.iter();
        paths.extend(mux.map(|(path, _)| ("leases.watchdog_mux", path)));
        for (n, (key, path)) in paths.iter().enumerate() {
            let earlier = paths.iter().take(n).find(|(_, other)| other == path);
            if let Some((other, _)) = earlier {
                return Err(format!(
                    "{other} and {key} are both {path:?}: give one of them another path"
                ));
            }
        }
        Ok(())
    }

    fn enough_samples(&self) -> Result<(), String> {
        let longest_ns = self.timeout_ns() / SAMPLES_PER_DEADLINE;
        if self.sample_ns <= longest_ns {
            return Ok(());
        }
        Err(format!(
            "evidence.sample_ms = {} and host-watchdog.timeout_s = {} fight: a timeout must \
             hold at least {SAMPLES_PER_DEADLINE} samples; set sample_ms to at most {} or \
             raise timeout_s",
            self.sample_ns / NS_PER_MS,
            self.timeout_s,
            longest_ns / NS_PER_MS
        ))
    }

    /// What is faster than Xen's slot leaves nothing to dump.
    fn one_is_first(&self) -> Result<(), String> {
        match self.crash_dump_s.filter(|_| self.fast.is_on()) {
            None => Ok(()),
            Some(s) => Err(format!(
                "{CRASH_DUMP} = {s} and [fast] fight: sysrq would reset the host before \
                 Xen runs its crash kernel; leave one of them out"
            )),
        }
    }

    /// The timeout that the hardware is armed with, seconds.
    #[must_use]
    pub fn hardware_s(&self) -> u32 {
        self.crash_dump_s.unwrap_or(self.timeout_s)
    }

    /// The timeout of Xen's slot where it fires first, seconds; None: it fires after the hardware.
    #[must_use]
    pub fn slot_first_s(&self) -> Option<u32> {
        self.crash_dump_s.map(|_| self.timeout_s)
    }

    /// With which timeout it runs on once the guard has ended.
    #[must_use]
    pub fn runs_on(&self) -> RunsOn {
        RunsOn {
            stopped_s: self.stopped_timeout_s,
            shutdown_s: self.shutdown_timeout_s,
        }
    }

    /// The key that says with which timeout the hardware is armed.
    #[must_use]
    pub fn hardware_key(&self) -> &'static str {
        match self.crash_dump_s {
            Some(_) => CRASH_DUMP,
            None => "host-watchdog.timeout_s",
        }
    }

    /// How long a host may go unserved before what fires first does, ns.
    #[must_use]
    pub fn timeout_ns(&self) -> u64 {
        u64::from(self.timeout_s) * NS_PER_S
    }
}

/// The hardware's timeout where a crash kernel is to dump first. Some devices reset after half of
/// theirs, and even those only after Xen's slot.
fn crash_dump_s(file: &File, timeout_s: u32, wrong: &mut Problems) -> Option<u32> {
    let given = file.crash_dump.hardware_s?;
    if file.fence.xen_slot == Some(false) {
        wrong.add(format!(
            "{CRASH_DUMP} = {given} and fence.xen_slot = false fight: it is that slot that has Xen run \
             its crash kernel; leave fence.xen_slot out"
        ));
    }
    // The slot fires up to a second after its time.
    let least_s = 2 * (timeout_s + 1 + MIN_DUMP_S);
    Some(wrong.within(
        CRASH_DUMP,
        Some(given),
        least_s..=MAX_STOPPED_TIMEOUT_S,
        least_s,
        " seconds: Xen's slot fires after host-watchdog.timeout_s, the hardware after half of this \
         on some boards, and a crash kernel must boot in between",
    ))
}

fn devices(given: Option<OneOrMore>, wrong: &mut Problems) -> Vec<Selector> {
    let texts = match given {
        None => return vec![Selector::Auto],
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => texts,
    };
    if texts.is_empty() {
        wrong.add("host-watchdog.device = []: name one, or leave the key out".to_owned());
    }
    let mut devices = Vec::new();
    for text in texts {
        match Selector::parse(&text) {
            Ok(selector) if devices.contains(&selector) => {
                wrong.add(format!("host-watchdog.device: {text:?} is there twice"));
            }
            Ok(selector) => devices.push(selector),
            Err(why) => wrong.add(format!("host-watchdog.device = {text:?}: {why}")),
        }
    }
    devices
}

fn fits_a_socket(key: &str, path: &Path) -> Result<(), String> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(format!(
        "{key}: a socket's path has at most {MAX_SOCKET_PATH} bytes"
    ))
}

fn level(level: Level) -> log::LevelFilter {
    match level {
        Level::Error => log::LevelFilter::Error,
        Level::Warn => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::Debug => log::LevelFilter::Debug,
    }
}

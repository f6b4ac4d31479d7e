// SPDX-License-Identifier: GPL-2.0-only
//! The order of the guard's start: it asks whether everything is served, and opens the host
//! watchdog, which kicks it, only then.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use xenwarden::config::{self, Policy};
use xenwarden::event::Coverage;
use xenwarden::exit::{Failure, UNAVAILABLE};
use xenwarden::guard::arming::{Begun, arm};
use xenwarden::guard::devices::Chosen;
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::page::Writer;
use xenwarden::guard::run::World;
use xenwarden::guard::sight::Sight;
use xenwarden::guard::start::{describe, was_withheld};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::sys::watchdog::WatchdogInfo;
use xenwarden::watchdog::device::{Asked, Driver};
use xenwarden::watchdog::quirks::Quirk;
use xenwarden::watchdog::set::Set;
use xenwarden::watchdog::sysfs::Attributes;
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo};

thread_local! {
    /// What happened, in order.
    static STORY: RefCell<Vec<&'static str>> = RefCell::default();
    /// An operator inhibits the guard.
    static INHIBITED: Cell<bool> = const { Cell::new(false) };
    /// Why somebody asks the guard to end.
    static WHY: Cell<Ends> = const { Cell::new(Ends::Stopped) };
}

fn note(what: &'static str) {
    STORY.with(|story| story.borrow_mut().push(what));
}

fn story() -> Vec<&'static str> {
    STORY.with(RefCell::take)
}

/// A device that notes what is done to it.
struct Noted;

impl Driver for Noted {
    fn open(_: &Path) -> io::Result<Self> {
        note("open");
        Ok(Self)
    }

    fn info(&self) -> Result<WatchdogInfo, Errno> {
        Ok(WatchdogInfo::default())
    }

    fn set_timeout_s(&self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn timeout_s(&self) -> Result<u32, Errno> {
        Ok(5)
    }

    fn keepalive(&self) -> Result<(), Errno> {
        note("kick");
        Ok(())
    }

    fn unmark(&self) -> io::Result<()> {
        note("unmark");
        Ok(())
    }

    fn disarm(self) -> io::Result<()> {
        note("disarm");
        Ok(())
    }

    fn attributes(_: &Path) -> Attributes {
        Attributes::default()
    }

    fn ask_hardware(_: &Quirk) -> Asked {
        Asked::NoWay
    }

    fn nowayout(_: &Quirk) -> Option<bool> {
        None
    }
}

/// A host that is as the verdicts say, look by look, and stays as the last.
struct Looks<'a> {
    verdicts: &'a [Verdict],
    looked: &'a Cell<usize>,
}

impl Sight for Looks<'_> {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        note("look");
        let at = self.looked.get().min(self.verdicts.len() - 1);
        self.looked.set(self.looked.get() + 1);
        (*self.verdicts.get(at).expect("a verdict"), clock())
    }

    fn coverage(&self) -> Coverage {
        Coverage::Full
    }
}

/// Virtual time; somebody asks to stop at this look.
struct Time<'a> {
    now: Monotonic,
    looked: &'a Cell<usize>,
    stop_at: usize,
    inhibited: bool,
}

impl World for Time<'_> {
    fn now(&self) -> Monotonic {
        self.now
    }

    fn sleep_until(&mut self, when: Monotonic) {
        assert!(when > self.now, "a start that turns on the spot");
        self.now = when;
    }

    fn ends(&self) -> Option<Ends> {
        (self.looked.get() >= self.stop_at).then(|| WHY.get())
    }

    fn inhibited(&self, now: Monotonic) -> Option<Monotonic> {
        self.inhibited.then(|| now.plus_ns(NS_PER_S))
    }

    fn last_resort(&mut self) {
        note("sysrq");
    }

    fn looked(&mut self) {
        panic!("the service manager is told nothing before the arming");
    }
}

fn policy() -> Policy {
    policy_with("guard-start", "")
}

fn policy_with(name: &str, more: &str) -> Policy {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.conf"));
    let text = format!("[host-watchdog]\ndevice = \"/dev/watchdog7\"\n{more}");
    std::fs::write(&path, text).expect("written");
    config::load(&path).expect("a policy")
}

const START: Monotonic = Monotonic(77 * NS_PER_S);
const NEVER: usize = usize::MAX;

type Armed = Begun<Noted, Writer>;

/// How the start of a guard ends, on a host with these verdicts, and how long it took, ns.
fn start(verdicts: &[Verdict], stop_at: usize) -> (Result<Armed, Failure>, u64) {
    start_with(Vec::new(), verdicts, stop_at)
}

/// The same of one to which the service manager gives these devices, which run.
fn start_with(
    running: Vec<(PathBuf, Noted)>,
    verdicts: &[Verdict],
    stop_at: usize,
) -> (Result<Armed, Failure>, u64) {
    start_by(&policy(), running, verdicts, stop_at)
}

fn start_by(
    policy: &Policy,
    running: Vec<(PathBuf, Noted)>,
    verdicts: &[Verdict],
    stop_at: usize,
) -> (Result<Armed, Failure>, u64) {
    let looked = &Cell::new(0);
    let mut time = Time {
        now: START,
        looked,
        stop_at,
        inhibited: INHIBITED.with(Cell::get),
    };
    let armed = arm(
        policy,
        &[PathBuf::from("/dev/watchdog7")],
        running,
        &mut Looks { verdicts, looked },
        &mut time,
        |_, _| {
            note("page");
            Ok(Writer::private().expect("memory"))
        },
    );
    (armed, time.now.since_ns(START))
}

/// What is armed, and since when.
fn in_arms(armed: Result<Armed, Failure>) -> (Monotonic, Set<Noted>) {
    match armed.expect("no failure") {
        Begun::Armed(at, set, _) => (at, set),
        Begun::Stopped(_) => panic!("stopped"),
    }
}

const SERVED: Verdict = Verdict::Served { excused: None };
const UNPROVEN: Verdict = Verdict::Unknown(Unknown::Unproven { cpu: 0 });
const LAGGING: Verdict = Verdict::Lagging {
    work: Work::PcpuTimers(0),
    overdue_ns: 600_000_000,
};

#[test]
fn for_a_crash_dump_the_hardware_is_asked_for_the_longer_timeout() {
    let policy = policy_with("guard-start-dump", "[crash_dump]\nhardware_s = 60\n");
    let (armed, _) = start_by(&policy, Vec::new(), &[SERVED], NEVER);
    let refused = armed.err().expect("this device does 5 s and no other");
    let asked = "a timeout of 60 s (host-watchdog.timeout_s, or crash_dump.hardware_s";
    assert!(refused.message.contains(asked), "{}", refused.message);
    assert_eq!(story(), ["look", "page", "open", "disarm"]);
}

#[test]
fn the_device_is_opened_after_the_look_that_finds_everything_served() {
    let (armed, took_ns) = start(&[UNPROVEN, LAGGING, UNPROVEN, SERVED], NEVER);
    let (at, _) = in_arms(armed);
    assert_eq!(at.since_ns(START), 750 * NS_PER_MS, "a look each period");
    assert_eq!(took_ns, 750 * NS_PER_MS);
    let expected = ["look", "look", "look", "look", "page", "open", "kick"];
    assert_eq!(story(), expected);
}

#[test]
fn a_host_that_is_not_served_is_given_ten_seconds_and_never_opened() {
    let (refused, took_ns) = start(&[LAGGING], NEVER);
    let refused = refused.err().expect("not armed");
    assert_eq!(refused.code, UNAVAILABLE);
    assert!(
        refused.message.contains("timers of pcpu 0"),
        "{}",
        refused.message
    );
    assert_eq!(took_ns, 10 * NS_PER_S);
    assert_eq!(story(), ["look"; 41]);
}

#[test]
fn a_stop_before_the_arming_arms_nothing() {
    // While it waits, in the very look that finds everything served, and at once.
    for (verdicts, stop_at, looks) in [
        (&[UNPROVEN][..], 2, 2),
        (&[UNPROVEN, SERVED], 2, 2),
        (&[SERVED], 0, 0),
    ] {
        for why in [Ends::Stopped, Ends::Shutdown] {
            WHY.set(why);
            let (armed, _) = start(verdicts, stop_at);
            let Begun::Stopped(none) = armed.expect("no failure") else {
                panic!("armed");
            };
            assert!(none.is_empty());
            assert_eq!(story(), vec!["look"; looks]);
        }
    }
}

fn running(path: &str) -> Vec<(PathBuf, Noted)> {
    vec![(PathBuf::from(path), Noted)]
}

#[test]
fn what_runs_is_taken_over_after_the_look_that_finds_everything_served_and_never_opened() {
    let verdicts = [UNPROVEN, LAGGING, SERVED];
    let (armed, _) = start_with(running("/dev/watchdog7"), &verdicts, NEVER);
    let (_, set) = in_arms(armed);
    assert!(set.ran_on() && set.weakness().is_none());
    assert_eq!(story(), ["look", "look", "look", "page", "unmark", "kick"]);
}

#[test]
fn what_runs_is_kicked_even_if_nobody_asks_for_it_any_more() {
    let (armed, _) = start_with(running("/dev/watchdog3"), &[SERVED], NEVER);
    let (_, mut set) = in_arms(armed);
    assert_eq!(set.devices(), "/dev/watchdog3, /dev/watchdog7");
    let weakness = set.weakness().expect("said");
    assert!(weakness.contains("not in the configuration"), "{weakness}");
    let begun = ["look", "page", "unmark", "kick", "open", "kick"];
    assert_eq!(story(), begun);
    set.kick().expect("kicked");
    assert_eq!(story(), ["kick", "kick"]);
}

#[test]
fn what_runs_on_a_host_that_is_not_served_is_left_to_the_hardware_even_at_a_stop() {
    let mut verdicts = vec![LAGGING; 30];
    verdicts.push(SERVED);
    for stop_at in [NEVER, 20] {
        let (armed, took_ns) = start_with(running("/dev/watchdog7"), &verdicts, stop_at);
        assert_eq!(took_ns, 7_500 * NS_PER_MS);
        let then: &[&str] = match armed.expect("no failure") {
            Begun::Armed(..) => {
                assert_eq!(stop_at, NEVER);
                &["page", "unmark", "kick"]
            }
            Begun::Stopped(had_run) => {
                assert_eq!(stop_at, 20);
                assert!(
                    matches!(had_run.let_go(Ends::Stopped), LetGo::Kept { .. }),
                    "told"
                );
                &["unmark", "kick", "disarm"]
            }
        };
        let story = story();
        let (looks, rest) = story.split_at(31);
        assert_eq!((looks, rest), (&["look"; 31][..], then));
    }
}

#[test]
fn a_host_that_is_not_served_and_outlives_its_running_watchdog_is_reset() {
    let mut verdicts = vec![LAGGING; 200];
    verdicts.push(SERVED);
    let (armed, took_ns) = start_with(running("/dev/watchdog7"), &verdicts, NEVER);
    assert_eq!(took_ns, 50 * NS_PER_S, "longer than a start is given");
    in_arms(armed);
    let story = story();
    // The device does 5 s; four more are its own, and the looks are 250 ms apart.
    let first = story.iter().position(|what| *what == "sysrq");
    assert_eq!(first, Some((5 + 4) * 4 + 1));
    let tries = story.iter().filter(|what| **what == "sysrq").count();
    assert_eq!(tries, 200 - 36, "again and again, should it fail");
}

#[test]
fn a_guard_that_is_inhibited_starts_on_whatever_host_that_is() {
    INHIBITED.with(|inhibited| inhibited.set(true));
    let (armed, took_ns) = start(&[LAGGING], NEVER);
    in_arms(armed);
    assert_eq!(took_ns, 0);
    assert_eq!(story(), ["look", "page", "open", "kick"]);
    let (armed, _) = start_with(running("/dev/watchdog7"), &[UNPROVEN], NEVER);
    in_arms(armed);
    assert_eq!(story(), ["look", "page", "unmark", "kick"]);
}

#[test]
fn the_page_tells_the_timeout_that_runs_and_a_period_that_fits_it() {
    let (armed, _) = start(&[SERVED], NEVER);
    let (at, set) = in_arms(armed);
    let policy = policy();
    let told = describe(&policy, Coverage::Full, &set, at, "weak".to_owned());
    assert_eq!(told.timeout_ns, 5 * NS_PER_S);
    assert_eq!(told.latest_ns, 5 * NS_PER_S);
    assert_eq!(told.period_ns, 250 * NS_PER_MS, "as asked");
    assert_eq!((told.started, told.pid), (at, std::process::id()));
    assert_eq!(told.weakness, "weak");
    let rarely = Policy {
        sample_ns: NS_PER_S,
        ..policy
    };
    let told = describe(&rarely, Coverage::Full, &set, at, String::new());
    assert_eq!(
        told.period_ns,
        250 * NS_PER_MS,
        "a twentieth of the timeout"
    );
}

#[test]
fn a_device_that_nobody_kicks_is_a_sign_of_a_withhold_where_no_page_tells() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guard-start-page");
    // None is left of an earlier run.
    let _ = std::fs::remove_file(&path);
    let left = |state: &str, timeout_s| Chosen {
        device: "/dev/watchdog-of-nobody".into(),
        attributes: Attributes {
            state: Some(state.to_owned()),
            nowayout: Some(false),
            timeout_s: Some(timeout_s),
            ..Attributes::default()
        },
    };
    assert!(was_withheld(&path, &[left("active", 5)], 5));
    assert!(!was_withheld(&path, &[left("inactive", 5)], 5));
    assert!(!was_withheld(&path, &[left("active", 60)], 5), "another's");
    assert!(!was_withheld(&path, &[], 5));
    let _page = Writer::create(&path, None).expect("a page");
    assert!(!was_withheld(&path, &[left("active", 5)], 5), "it says so");
}

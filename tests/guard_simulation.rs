// SPDX-License-Identifier: GPL-2.0-only
//! The guard over many schedules of a simulated host: a healthy one is never reset, one that is
//! not is always reset in time, and a lag that ends in time leaves no trace.
//!
//! Each schedule comes from a number. One that breaks a promise says its number;
//! `XENWARDEN_SIMULATION=NUMBER` plays that one alone and tells its story.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod simulated_host;

use simulated_host::device::{GRANULARITY, Simulated, paths, plug_into};
use simulated_host::plan::{Act, Ailment, Plan, Trouble};
use simulated_host::{End, Host};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use xenwarden::config::{self, Policy};
use xenwarden::event::Coverage;
use xenwarden::guard::arming::{Begun, arm};
use xenwarden::guard::evidence::{Verdict, Work};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{Counters, Phase, Reader, Status, Writer};
use xenwarden::guard::run::{World, run};
use xenwarden::guard::sight::{Patched, Sight};
use xenwarden::guard::start::describe;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS as MS, NS_PER_S as S};
use xenwarden::watchdog::{Ends, LetGo};

/// Schedules of `make unit`, always the same, and of `make test-all`, always others.
const FEW: u64 = 100_000;
const MANY: u64 = 12_000_000;
/// Plays one schedule.
const ONE: &str = "XENWARDEN_SIMULATION";

/// The guard's looks, whose beginning and end the host knows.
struct Watched<'a> {
    sight: Patched<'a>,
    host: &'a Host,
}

impl Sight for Watched<'_> {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        let (host, began) = (self.host, AtomicBool::new(false));
        host.begins_look();
        let looked = self.sight.look(&|| {
            if began.swap(true, Ordering::Relaxed) {
                host.has_read_table();
                return clock();
            }
            let at = clock();
            host.reads_table();
            at
        });
        host.has_looked();
        looked
    }

    fn coverage(&self) -> Coverage {
        Coverage::Full
    }

    fn overdue(&mut self, now: Monotonic) {
        self.sight.overdue(now);
    }
}

/// The host's time, as the guard meets it.
struct Time<'a>(&'a Host);

impl World for Time<'_> {
    fn now(&self) -> Monotonic {
        self.0.reads_clock()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        self.0.sleeps_until(when);
    }

    fn ends(&self) -> Option<Ends> {
        self.0.stops().then_some(Ends::Stopped)
    }

    fn looked(&mut self) {
        self.0.acts();
    }
}

/// How the life of a guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    NotArmed,
    Disarmed,
    StillArmed,
    Unwound(End),
}

/// What outlives a schedule.
struct Bench {
    policy: Policy,
    page: Writer,
    told: Reader,
}

impl Bench {
    fn new() -> Self {
        let page = Writer::private().expect("memory");
        let defaults = Path::new(env!("CARGO_MANIFEST_DIR")).join("init/xenwarden.conf");
        let policy = config::load(&defaults).expect("the configuration that is installed");
        Self {
            policy,
            told: page.reader(),
            page,
        }
    }

    /// As `guard` in `src/guard/start.rs` puts it together.
    fn guard(&mut self, host: &Host, withheld: bool) -> Ended {
        let sight = Patched::new(host.xen.table());
        let mut sight = Watched { sight, host };
        if withheld {
            sight.overdue(host.clock());
        }
        let (policy, mut world) = (&self.policy, Time(host));
        let devices = paths(host.plan.devices.len());
        let page = &mut self.page;
        let none = Vec::new();
        let open = |_: &[_], _: &dyn Sight| Ok(page);
        let armed = arm::<Simulated, _>(policy, &devices, none, &mut sight, &mut world, open);
        let Ok(Begun::Armed(armed, watchdog, page)) = armed else {
            return Ended::NotArmed;
        };
        let info = describe(policy, Coverage::Full, &watchdog, armed, String::new());
        page.info(&info);
        host.guards(info.period_ns);
        match run(
            watchdog,
            &mut sight,
            &mut world,
            page,
            armed,
            info.period_ns,
        ) {
            LetGo::Disarmed => Ended::Disarmed,
            LetGo::Kept { .. } | LetGo::Shutdown { .. } | LetGo::Runs { .. } => Ended::StillArmed,
        }
    }

    /// A guard's life, from its start to its end by whatever means, and whether it armed.
    fn life(&mut self, host: &Host, first: bool) -> (Ended, bool) {
        let view = (!first).then(|| self.told.view()).flatten();
        let told = view.as_ref().and_then(|view| match view.status.decision {
            Decision::Withhold(Reason::Lagging { work, .. }) => Some((work, view.status.phase)),
            _ => None,
        });
        host.guard_begins(match told {
            Some((Work::GuestWatchdog { domid, .. }, Phase::Armed | Phase::Stopping)) => {
                Some(domid)
            }
            _ => None,
        });
        let withheld = !first && self.told.withheld(host.clock());
        let ended = catch_unwind(AssertUnwindSafe(|| self.guard(host, withheld)));
        let ended = ended.unwrap_or_else(|why| match why.downcast::<End>() {
            Ok(end) => Ended::Unwound(*end),
            Err(panic) => resume_unwind(panic),
        });
        (ended, host.guard_ends())
    }

    /// Plays a schedule to its end; gives what was broken.
    fn play(&mut self, host: &Rc<Host>) -> Option<String> {
        plug_into(host);
        self.page.status(&nothing_told());
        let restart = host.plan.event.and_then(|event| event.restart);
        let mut armed = false;
        let mut last = Ended::NotArmed;
        for n in 0..3 {
            let (end, guarded) = self.life(host, n == 0);
            host.tell(|| format!("that guard's end: {end:?}"));
            (last, armed) = (end, guarded);
            let over = matches!(last, Ended::Unwound(End::Reset | End::Over));
            let again = n == 0 || last == Ended::NotArmed;
            let Some(restart) = restart.filter(|_| again && !over) else {
                break;
            };
            if !host.lives_for(restart) {
                break;
            }
        }
        // Whatever runs still has its time to fire.
        if last == Ended::Unwound(End::Killed) {
            host.lives_for(60 * S);
        }
        host.broken().or_else(|| self.judge(host, last, armed))
    }

    /// What was promised of a schedule that was played to its end.
    fn judge(&self, host: &Host, last: Ended, armed: bool) -> Option<String> {
        let plan = &host.plan;
        if plan.healthy {
            return self.judge_healthy(host, last);
        }
        let view = armed.then(|| self.told.view()).flatten();
        let latest = view.map_or(0, |view| view.info.latest_ns) + GRANULARITY + MS;
        let Some(reset) = host.reset() else {
            let ill = plan.trouble.is_some_and(|trouble| trouble.ends.is_none());
            let alone = plan.event.is_none();
            let left = matches!(plan.event, Some(event) if matches!(event.act, Act::Kill) && event.restart.is_none());
            return (host.guarded_when_ill() && ill && alone
                || armed && left && last == Ended::Unwound(End::Killed))
            .then(|| "a host that is not served, or not guarded, was not reset".to_owned());
        };
        let fired = reset - host.pinged_at();
        // Of several devices those that could be disarmed no longer count.
        if armed && last != Ended::StillArmed && fired > latest {
            return Some(format!(
                "it was reset {} ms after the last kick",
                fired / MS
            ));
        }
        self.judge_bound(host, reset, latest)
    }

    /// SPECIFICATION.md's bounds, and what looks and kicks were late.
    fn judge_bound(&self, host: &Host, reset: u64, latest: u64) -> Option<String> {
        let plan = &host.plan;
        let lasts = |trouble: &Trouble| trouble.ends.is_none() && plan.event.is_none();
        let trouble = plan.trouble.filter(lasts)?;
        let Trouble { what, at, .. } = trouble;
        let granted = match what {
            Ailment::Timers(_) => 1500 * MS,
            Ailment::Scheduler(_) => 1500 * MS + plan.canary_late,
            Ailment::Handler | Ailment::Refuses => return None,
        };
        let late = host.latest();
        let late = late.between_looks + late.look + late.kick * plan.devices.len() as u64;
        let bound = granted + 250 * MS + late + latest + 20 * MS;
        (host.guarded_when_ill() && reset > at + bound)
            .then(|| format!("it was reset {} ms too late", (reset - at - bound) / MS))
    }

    fn judge_healthy(&self, host: &Host, last: Ended) -> Option<String> {
        if !matches!(last, Ended::Disarmed | Ended::StillArmed) {
            return Some(format!("a healthy host's guard ended so: {last:?}"));
        }
        let withholds = self.told.status().map(|status| status.counters.withholds);
        let held = matches!(host.plan.event, Some(event) if matches!(event.act, Act::Hold(_)));
        (withholds > Some(held.into())).then(|| "a healthy host was withheld".to_owned())
    }
}

/// What the page says before a guard has told anything.
fn nothing_told() -> Status {
    let never = Monotonic(0);
    Status {
        phase: Phase::Starting,
        looked: never,
        decision: Decision::Kick,
        since: never,
        last_kick: never,
        served: never,
        answered: never,
        excused: None,
        inhibited: None,
        ignored: None,
        entries: 0,
        counters: Counters::default(),
    }
}

fn story(number: u64) -> String {
    let host = Rc::new(Host::new(Plan::draw(number), true));
    let broken = Bench::new().play(&host);
    let lines = host.story().join("\n");
    format!("{:#?}\n{lines}\n{broken:?}", host.plan)
}

/// Plays `count` schedules from the `first` on, on all processors.
fn play_all(first: u64, count: u64) {
    if let Ok(one) = std::env::var(ONE) {
        panic!("{}", story(one.parse().expect("the number of a schedule")));
    }
    let (next, resets) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(None);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut bench = Bench::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let number = first.wrapping_add(n);
                    let host = Rc::new(Host::new(Plan::draw(number), false));
                    if let Some(what) = bench.play(&host) {
                        next.store(count, Ordering::Relaxed);
                        broken
                            .lock()
                            .expect("no poison")
                            .get_or_insert((number, what));
                    }
                    resets.fetch_add(host.reset().is_some().into(), Ordering::Relaxed);
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no poison");
    if let Some((number, what)) = broken {
        panic!("{ONE}={number} {what}\n{}", story(number));
    }
    // A simulation in which nothing happens promises nothing.
    let resets = resets.into_inner();
    println!("{count} schedules from {first}, {resets} of them with a reset");
    assert!(resets > count / 8 && resets < count / 2, "{resets} resets");
}

#[test]
fn a_healthy_host_is_never_reset_and_any_other_is_in_time() {
    play_all(0, FEW);
}

#[test]
#[ignore = "minutes: make simulation"]
fn a_healthy_host_is_never_reset_and_any_other_is_in_time_in_ten_million_schedules() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    // Far from those that always run.
    let first = u64::try_from(now.as_micros()).expect("before 586,000") << 8;
    play_all(first, MANY);
}

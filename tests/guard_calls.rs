// SPDX-License-Identifier: GPL-2.0-only
//! Promise 6: which system calls the kick path makes. The real loop runs in a child, over the
//! device's ioctl, the real clock and a service manager's socket; this process follows its
//! thread call by call (ptrace(2)) and counts them by their numbers.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, gettid};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use xenwarden::guard::deadlines::Deadlines;
use xenwarden::guard::page::Writer;
use xenwarden::guard::probes::Words;
use xenwarden::guard::request::Request;
use xenwarden::guard::run::{World, run};
use xenwarden::guard::sight::{Patched, Sight, Stock};
use xenwarden::guard::start::Host;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::sys::notify::Notifier;
use xenwarden::sys::watchdog::WatchdogDevice;
use xenwarden::watchdog::{Ends, HostWatchdog, LetGo};
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Starved;

const LOOKS: u64 = 60;
/// The first look, which is not counted, tells the service manager.
const PERIOD_NS: u64 = 20 * NS_PER_MS;

/// Says that this process is the child.
const CHILD: &str = "XENWARDEN_TEST_CALLS";

/// /dev/null takes a kick as a device does, by one ioctl, and says that it is no watchdog:
/// each other kick counts as taken, so that both ways are gone.
struct Null {
    device: WatchdogDevice,
    kicks: u64,
}

impl HostWatchdog for Null {
    fn kick(&mut self) -> io::Result<()> {
        self.kicks += 1;
        let refused = self.device.keepalive();
        if self.kicks % 2 == 0 {
            return Ok(());
        }
        Ok(refused?)
    }

    fn disarm(self) -> io::Result<()> {
        self.device.disarm()
    }
}

/// The real one; a call that the guard never makes marks where counting begins and ends.
struct Marked<'a> {
    host: Host,
    xen: &'a Simulation,
    words: &'a Words,
    request: Request,
    looks: u64,
}

impl World for Marked<'_> {
    fn now(&self) -> Monotonic {
        self.host.now()
    }

    fn sleep_until(&mut self, when: Monotonic) {
        self.host.sleep_until(when);
        // A wedge in the middle: withholding makes no other calls than kicking.
        if !(20..40).contains(&self.looks) {
            self.xen.tick_all();
            self.words.count(0);
        }
        // Before that a vCPU starves.
        let ms = u32::try_from(self.looks * 100).expect("small");
        let starved = Starved {
            ms,
            domid: 7,
            vcpu: 0,
        };
        let starves = (10..18).contains(&self.looks);
        self.xen.scan(1, true, starves.then_some(starved));
    }

    fn ends(&self) -> Option<Ends> {
        self.host.ends()
    }

    fn looked(&mut self) {
        if self.looks == 0 || self.looks == LOOKS {
            getppid();
        }
        self.host.looked();
        self.looks += 1;
        if self.looks > LOOKS {
            self.request.end(Ends::Stopped);
        }
    }
}

/// What the child does: says which thread it is, waits until it is followed, and guards, with a
/// table or without.
fn guard(has_table: bool) {
    let xen = Simulation::new(4);
    let device = WatchdogDevice::open(Path::new("/dev/null")).expect("opens");
    let words = Arc::new(Words::new(1, false));
    words.count(0);
    let mut patched = Patched::new(xen.table()).starved_after(Some(2 * PERIOD_NS));
    let mut stock = Stock::over(Arc::clone(&words), 2 * PERIOD_NS);
    let sight: &mut dyn Sight = match has_table {
        true => &mut patched,
        false => &mut stock,
    };
    let mut page = Writer::private().expect("a page");
    let request = Request::default();
    let file = format!("xenwarden-calls-{}.deadlines", std::process::id());
    let file = std::env::temp_dir().join(file);
    let deadlines = Deadlines::open(&file, PERIOD_NS).expect("a file");
    std::fs::remove_file(&file).expect("removed");
    let mut world = Marked {
        host: Host::new(request.clone(), Notifier::from_environment()).heeding(deadlines),
        xen: &xen,
        words: &words,
        request,
        looks: 0,
    };
    // stderr, as the test's harness keeps stdout to itself.
    writeln!(io::stderr(), "thread {}", gettid()).expect("written");
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("read");
    let armed = Monotonic::now();
    let watchdog = Null { device, kicks: 0 };
    let outcome = run(watchdog, sight, &mut world, &mut page, armed, PERIOD_NS);
    assert!(matches!(outcome, LetGo::Disarmed), "{outcome:?}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Follows `thread` from the first mark to the second; gives the numbers of its calls, each
/// with how often it was made.
fn calls(thread: Pid) -> BTreeMap<i64, u64> {
    let mut calls = BTreeMap::new();
    let (mut marks, mut enters) = (0, true);
    loop {
        let signal = match waitpid(thread, Some(WaitPidFlag::__WALL)).expect("waits") {
            WaitStatus::PtraceSyscall(_) => {
                if enters {
                    let registers = ptrace::getregs(thread).expect("registers");
                    let call = i64::try_from(registers.orig_rax).expect("a number");
                    if call == libc::SYS_getppid {
                        marks += 1;
                    } else if marks == 1 {
                        *calls.entry(call).or_insert(0) += 1;
                    }
                }
                if marks == 2 {
                    // A thread that is followed to its end would keep its process from ending.
                    ptrace::detach(thread, None).expect("let go");
                    return calls;
                }
                enters = !enters;
                None
            }
            // The interruption by which following begins.
            WaitStatus::PtraceEvent(..) => None,
            WaitStatus::Stopped(_, signal) if signal != Signal::SIGTRAP => Some(signal),
            WaitStatus::Stopped(..) => None,
            other => panic!("{other:?}"),
        };
        ptrace::syscall(thread, signal).expect("goes on");
    }
}

#[test]
fn the_kick_path_makes_no_system_call_but_the_kick_the_sleep_and_the_count_of_faults() {
    let name = "the_kick_path_makes_no_system_call_but_the_kick_the_sleep_and_the_count_of_faults";
    makes_no_other_call(name, true);
}

#[test]
fn nor_does_it_without_a_table() {
    makes_no_other_call("nor_does_it_without_a_table", false);
}

fn makes_no_other_call(name: &str, has_table: bool) {
    if std::env::var_os(CHILD).is_some() {
        return guard(has_table);
    }
    let socket = format!("xenwarden-calls-{}-{has_table}", std::process::id());
    let socket = std::env::temp_dir().join(socket);
    let manager = UnixDatagram::bind(&socket).expect("binds");
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args([name, "--exact", "--nocapture"]);
    command.env(CHILD, "1").env("NOTIFY_SOCKET", &socket);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = Killed(command.spawn().expect("runs"));
    let mut stderr = BufReader::new(child.0.stderr.take().expect("stderr"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("a line");
    let thread = line.trim().strip_prefix("thread ").expect("a thread");
    let thread = Pid::from_raw(thread.parse().expect("a number"));
    ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).expect("followed");
    ptrace::interrupt(thread).expect("interrupted");
    let mut stdin = child.0.stdin.take().expect("stdin");
    writeln!(stdin).expect("written");
    let calls = calls(thread);
    let _ = std::fs::remove_file(socket);

    let often = |call| calls.get(&call).copied().unwrap_or(0);
    let allowed = [
        libc::SYS_ioctl,
        libc::SYS_clock_nanosleep,
        libc::SYS_getrusage,
        // READY=1, once.
        libc::SYS_sendto,
        // Where the clock cannot be read from memory (vdso(7)).
        libc::SYS_clock_gettime,
    ];
    let others: Vec<_> = calls
        .keys()
        .filter(|call| !allowed.contains(call))
        .collect();
    assert!(
        others.is_empty(),
        "calls by number: {others:?} of {calls:?}"
    );
    // A lock that somebody else might hold is a futex.
    assert_eq!(often(libc::SYS_futex), 0);
    assert_eq!(often(libc::SYS_sendto), 1);
    let faults = often(libc::SYS_getrusage);
    assert!(faults < LOOKS / 4, "now and then, not each look: {faults}");
    assert_eq!(often(libc::SYS_clock_nanosleep), LOOKS);
    let kicks = often(libc::SYS_ioctl);
    assert!(
        (1..=LOOKS).contains(&kicks),
        "at most one kick a look: {kicks}"
    );
    let mut ready = [0; 16];
    let len = manager.recv(&mut ready).expect("told");
    assert_eq!(ready.get(..len), Some(&b"READY=1"[..]));
}

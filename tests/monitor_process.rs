// SPDX-License-Identifier: GPL-2.0-only
//! The monitor as a process, on a machine without Xen: what it keeps of root's privileges, a
//! watcher for a vCPU that comes later, and what it says where it can neither see guests nor
//! save.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);
/// CAP_DAC_OVERRIDE (linux/capability.h) alone.
const DAC_OVERRIDE: u64 = 1 << 1;

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

struct Monitor {
    child: Option<Child>,
    directory: PathBuf,
}

impl Monitor {
    /// One that is ready; `more` is added to its configuration.
    fn start(name: &str, state: Option<&str>, more: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("scratch directory");
        let path = |name: &str| directory.join(name).display().to_string();
        let state = state.map_or_else(|| path("state"), str::to_owned);
        let config = format!(
            "[log]\nsyslog = false\n[control]\nsocket = {:?}\ngroup = \"no-such-group\"\n\
             [state]\ndirectory = {state:?}\n[events]\nsocket = {:?}\nsyslog = false\n{more}\n",
            path("control.sock"),
            path("events.sock"),
        );
        fs::write(directory.join("conf"), config).expect("a configuration");
        let manager = UnixDatagram::bind(directory.join("notify")).expect("bind");
        manager.set_read_timeout(Some(LONG)).expect("timeout");
        let child = Command::new(env!("CARGO_BIN_EXE_xenwarden-monitor"))
            .args(["--config", &path("conf")])
            .env("NOTIFY_SOCKET", path("notify"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let monitor = Self {
            child: Some(child),
            directory,
        };
        let mut message = [0; 64];
        let length = manager.recv(&mut message).expect("ready in time");
        assert_eq!(&message[..length], b"READY=1");
        monitor
    }

    fn pid(&self) -> Pid {
        let pid = self.child.as_ref().expect("runs").id();
        Pid::from_raw(i32::try_from(pid).expect("a pid"))
    }

    /// /proc/PID/task/TID/status of each thread.
    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("runs");
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
        tasks
            .flatten()
            .filter_map(|task| status(task).ok())
            .collect()
    }

    fn ask(&self, question: &str) -> Output {
        let socket = self.directory.join("control.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
        command.arg(question).arg("--socket").arg(socket);
        command.output().expect("runs")
    }

    /// Ends it as the service manager does.
    fn end(mut self) -> Output {
        kill(self.pid(), Signal::SIGTERM).expect("runs");
        let child = self.child.take().expect("runs");
        child.wait_with_output().expect("ends")
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    found.expect(name).trim_start_matches(':').trim()
}

fn set(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).expect("hexadecimal")
}

fn is_log(thread: &str) -> bool {
    field(thread, "Name").starts_with("log-")
}

#[test]
fn no_thread_has_a_privilege_that_it_does_not_need_and_none_can_get_one_back() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root has privileges to give up");
        return;
    }
    let hook = "[[hook]]\nkinds = [\"alarm.\"]\nprogram = \"/bin/true\"\n";
    let metrics = format!("[metrics]\ntextfile = {:?}\n", "/run/xenwarden-test.prom");
    let cases = [
        ("bare", "", 0, true),
        ("metrics", metrics.as_str(), DAC_OVERRIDE, true),
        ("hooks", hook, 0, false),
    ];
    for (name, more, kept, closed) in cases {
        let monitor = Monitor::start(name, None, more);
        // A thread has its name a moment after its start, and so has the log's given up its own.
        eventually("all threads run", || {
            let threads = monitor.threads();
            let runs = |name: &&str| threads.iter().any(|t| field(t, "Name") == *name);
            let begins = |t: &String| is_log(t) && set(t, "CapEff") != 0;
            let all = ["guests", "state", "control", "watcher", "log-stderr"];
            all.iter().all(runs) && !threads.iter().any(begins)
        });
        let threads = monitor.threads();
        for thread in &threads {
            let what = (name, field(thread, "Name"));
            // What writes the log needs nothing in any case.
            let writes = is_log(thread);
            let kept = if writes { 0 } else { kept };
            assert_eq!(set(thread, "CapEff"), kept, "{what:?}");
            assert_eq!(set(thread, "CapPrm"), kept, "{what:?}");
            assert_eq!(set(thread, "CapInh"), 0, "{what:?}");
            assert_eq!(set(thread, "CapAmb"), 0, "{what:?}");
            let closed = closed || writes;
            assert_eq!(field(thread, "NoNewPrivs") == "1", closed, "{what:?}");
            assert_eq!(set(thread, "CapBnd") == kept, closed, "{what:?}");
        }
        assert!(monitor.end().status.success(), "{name}");
    }
    let _ = fs::remove_file("/run/xenwarden-test.prom");
}

#[test]
fn a_vcpu_that_comes_online_later_gets_a_watcher() {
    let all = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| all.is_set(*cpu) == Ok(true))
        .collect();
    let [first, second, ..] = cpus[..] else {
        eprintln!("skipped: there is only one CPU");
        return;
    };
    let mut one = CpuSet::new();
    one.set(first).expect("a CPU");
    // What the kernel lets the monitor run on is what is online, in dom0 and here.
    sched_setaffinity(Pid::from_raw(0), &one).expect("bound");
    let monitor = Monitor::start("vcpus", None, "");
    let watched = || -> Vec<String> {
        let threads = monitor.threads();
        let watchers = threads.iter().filter(|t| field(t, "Name") == "watcher");
        let cpus = watchers.map(|t| field(t, "Cpus_allowed_list").to_owned());
        cpus.collect()
    };
    eventually("one watcher", || watched() == [first.to_string()]);
    sched_setaffinity(monitor.pid(), &all).expect("its main thread may run anywhere");
    eventually("one each", || {
        watched().contains(&second.to_string()) && watched().len() == cpus.len()
    });
}

#[test]
fn what_cannot_be_saved_is_shown_and_is_no_success_at_the_end() {
    let monitor = Monitor::start("unsaved", Some("/proc/nowhere"), "");
    eventually("shown", || {
        let output = monitor.ask("status").stdout;
        String::from_utf8_lossy(&output).contains("state          NOT SAVED since 2")
    });
    let output = monitor.end();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.contains("the state is not saved: "), "{said}");
}

#[test]
fn without_a_liveness_table_that_is_what_is_said_of_guests() {
    if Path::new("/dev/xen/privcmd").exists() {
        eprintln!("skipped: this machine may have a liveness table");
        return;
    }
    let monitor = Monitor::start("stock", None, "");
    eventually("known", || monitor.ask("guests").status.code() == Some(3));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let guests = text(&monitor.ask("guests").stdout);
    assert!(guests.starts_with("NO LIVENESS TABLE: "), "{guests}");
    let status = text(&monitor.ask("status").stdout);
    assert!(status.contains("table          NOT SEEN: "), "{status}");
    let said = text(&monitor.end().stderr);
    assert_eq!(said.matches("guests and pCPUs are not seen").count(), 1);
}

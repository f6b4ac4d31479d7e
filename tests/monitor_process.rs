// SPDX-License-Identifier: GPL-2.0-only
//! The monitor as a process, on a machine without Xen: what it keeps of root's privileges, a
//! watcher for a vCPU that comes later, and what it says where it can neither see guests nor
//! save.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);
/// CAP_DAC_OVERRIDE (linux/capability.h) alone.
const DAC_OVERRIDE: u64 = 1 << 1;
/// CAP_CHOWN, for the sockets of leases.
const CHOWN: u64 = 1;

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
        Self::start_in(fresh(name), state, more)
    }

    /// The same in a directory of the caller's.
    fn start_in(directory: PathBuf, state: Option<&str>, more: &str) -> Self {
        let notify = directory.join("notify");
        let _ = fs::remove_file(&notify);
        let manager = UnixDatagram::bind(notify).expect("bind");
        manager.set_read_timeout(Some(LONG)).expect("timeout");
        let monitor = Self::launch(directory, state, more);
        let mut message = [0; 64];
        let length = manager.recv(&mut message).expect("ready in time");
        assert_eq!(&message[..length], b"READY=1");
        monitor
    }

    /// One that tells the manager that is bound to `notify` in this directory.
    fn launch(directory: PathBuf, state: Option<&str>, more: &str) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let state = state.map_or_else(|| path("state"), str::to_owned);
        let config = format!(
            "[log]\nsyslog = false\n[control]\nsocket = {:?}\ngroup = \"no-such-group\"\n\
             [state]\ndirectory = {state:?}\n[events]\nsocket = {:?}\nsyslog = false\n{more}\n",
            path("control.sock"),
            path("events.sock"),
        );
        fs::write(directory.join("conf"), config).expect("a configuration");
        let child = Command::new(env!("CARGO_BIN_EXE_xenwarden-monitor"))
            .args(["--config", &path("conf")])
            .env("NOTIFY_SOCKET", path("notify"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        Self {
            child: Some(child),
            directory,
        }
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

/// A monitor whose service manager does not read: its queue is full.
fn unheard(name: &str) -> (Monitor, UnixDatagram) {
    let directory = fresh(name);
    let notify = directory.join("notify");
    let manager = UnixDatagram::bind(&notify).expect("bind");
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("a socket");
    while other.send_to(b"STATUS=", &notify).is_ok() {}
    (Monitor::launch(directory, None, ""), manager)
}

fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("scratch directory");
    directory
}

/// What `xenwarden why` says with the monitor's configuration, as JSON, and its exit code.
fn why(directory: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    command.args(["why", "--json", "--config"]);
    let output = command.arg(directory.join("conf")).output().expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json)
}

/// Leaves a heartbeat as the boot `boot` wrote it.
fn leave(directory: &Path, boot: &str, state: &str) {
    let state_directory = directory.join("state");
    fs::create_dir_all(&state_directory).expect("made");
    let path = state_directory.join("last.json");
    let text = format!(
        "{{\"version\":1,\"boot_id\":{boot:?},\"time\":\"2026-11-23T15:51:06.000000Z\",{state}}}"
    );
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
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
        ("bare", "", CHOWN, true),
        ("metrics", metrics.as_str(), CHOWN | DAC_OVERRIDE, true),
        ("hooks", hook, CHOWN, false),
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
fn a_monitor_whose_manager_does_not_hear_that_it_is_ready_serves_and_ends() {
    if Path::new("/dev/xen/privcmd").exists() {
        eprintln!("skipped: this machine may have a liveness table");
        return;
    }
    let (mut monitor, manager) = unheard("unheard");
    eventually("it answers", || {
        monitor.ask("guests").status.code() == Some(3)
    });
    kill(monitor.pid(), Signal::SIGTERM).expect("runs");
    let process = monitor.child.as_mut().expect("runs");
    eventually("it ends", || process.try_wait().expect("ours").is_some());
    drop(manager);
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

#[test]
fn why_is_told_by_the_monitor_and_by_its_files_over_several_resets() {
    let withheld =
        "\"state\":\"withholding\",\"reason\":\"timers of pcpu 2\",\"cause\":\"withheld\"";
    let boots = [
        ("first", withheld, 0, "withheld", "likely"),
        ("second", "\"state\":\"armed\"", 1, "unrecorded", "unknown"),
        (
            "third",
            "\"state\":\"armed\",\"monitor_ended\":true",
            1,
            "unwatched",
            "unknown",
        ),
        // A stop in order is none.
        (
            "fourth",
            "\"state\":\"disarmed\"",
            1,
            "unwatched",
            "unknown",
        ),
    ];
    let directory = fresh("why");
    for (boot, state, code, cause, confidence) in boots {
        leave(&directory, boot, state);
        let monitor = Monitor::start_in(directory.clone(), None, "");
        let (told, answer) = why(&directory);
        assert_eq!(told, Some(code), "{boot}: {answer}");
        let last = &answer["resets"][0];
        assert_eq!(last["cause"], cause, "{boot}");
        assert_eq!(last["confidence"], confidence, "{boot}");
        let text = monitor.ask("why").stdout;
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("cause          "), "{text}");
        assert!(monitor.end().status.success());
        assert_eq!(
            why(&directory),
            (Some(code), answer),
            "from the files alone"
        );
    }
    let (_, answer) = why(&directory);
    let boots = answer["resets"].as_array().expect("a list").iter();
    let boots: Vec<&str> = boots
        .filter_map(|reset| reset["boot_id"].as_str())
        .collect();
    assert_eq!(boots, ["third", "second", "first"]);
    // What a monitor has not seen yet the command line finds by itself.
    leave(&directory, "fifth", withheld);
    let (told, answer) = why(&directory);
    assert_eq!(
        (told, &answer["resets"][0]["boot_id"]),
        (Some(0), &"fifth".into())
    );
}

#[test]
fn without_any_reset_or_any_right_why_says_so() {
    let directory = fresh("no-reset");
    let monitor = Monitor::start_in(directory.clone(), None, "");
    let text = monitor.ask("why");
    assert_eq!(text.status.code(), Some(0));
    assert_eq!(text.stdout, b"no reset of this host is recorded\n");
    assert!(monitor.end().status.success());
    if !geteuid().is_root() {
        eprintln!("skipped: only root keeps what others may not read");
        return;
    }
    fs::set_permissions(directory.join("state"), fs::Permissions::from_mode(0o700)).expect("ours");
    let nobody = Path::new("/tmp").join(format!("xenwarden-why-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_xenwarden"), &nobody).expect("copied");
    fs::set_permissions(&nobody, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut command = Command::new(&nobody);
    command
        .args(["why", "--config"])
        .arg(directory.join("conf"));
    let output = command.uid(65_534).gid(65_534).output();
    let _ = fs::remove_file(&nobody);
    let output = output.expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), said.lines().count()),
        (Some(2), 1),
        "{said}"
    );
}

#[test]
fn a_shutdown_without_a_guard_has_nothing_to_write_down() {
    if Path::new("/run/xenwarden/guard").exists() {
        eprintln!("skipped: this machine has a guard");
        return;
    }
    let directory = fresh("record-stop");
    let state = directory.join("state");
    let config = format!("[state]\ndirectory = {state:?}\n");
    fs::write(directory.join("conf"), config).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden-monitor"));
    command.arg("--record-stop").arg("--config");
    let output = command.arg(directory.join("conf")).output().expect("runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(!state.join("last.json").exists());
}

// SPDX-License-Identifier: GPL-2.0-only
//! Hooks: what a program gets, in which order, and what becomes of one that misbehaves.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use nix::fcntl::{FcntlArg, FdFlag};
use sink_common::{
    Scratch, bus, close, drops, eventually, eventually_within, expired, guest, raised, runs, spawn,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use xenwarden::config::sinks::Hook;
use xenwarden::event::bus::Bus;
use xenwarden::event::{Event, Guest};
use xenwarden::sink::hooks::{self, NAME};

struct Hooks {
    bus: Arc<Bus>,
    thread: Option<JoinHandle<()>>,
}

impl Hooks {
    fn start(hooks: Vec<Hook>, concurrency: usize) -> Self {
        Self::start_in(hooks, concurrency, None)
    }

    fn start_in(all: Vec<Hook>, concurrency: usize, cgroup: Option<PathBuf>) -> Self {
        let bus = bus();
        let queue = bus.attach(NAME, 4_096);
        let counted = Arc::clone(&bus);
        let thread = Some(spawn(move || {
            // A program inherits the mask of who starts it, and must be able to get signals all
            // the same.
            nix::sys::signal::SigSet::all()
                .thread_block()
                .expect("signals");
            hooks::run(&queue, &all, concurrency, cgroup.as_deref(), &counted);
        }));
        Self { bus, thread }
    }

    fn alarm(&self, who: &Guest) {
        self.bus.publish(Some(who.clone()), raised());
    }

    fn failures(&self) -> u64 {
        drops(&self.bus, NAME)
    }

    fn end(mut self) {
        close(&self.bus);
        self.thread.take().expect("runs").join().expect("no panic");
    }
}

fn hook(program: PathBuf) -> Hook {
    Hook {
        kinds: vec!["alarm.".to_owned()],
        program,
        arguments: Vec::new(),
        timeout: Duration::from_secs(60),
    }
}

fn web() -> Guest {
    guest(Some(0xabc), 3, "web")
}

#[test]
fn a_program_gets_the_event_its_arguments_and_nothing_else() {
    let scratch = Scratch::new("hook-gets");
    let text = r#"
        cat > $D/json; env > $D/env; echo "$# $1 $2" > $D/arguments
        grep SigBlk /proc/self/status > $D/mask
        cut -d' ' -f19,40,41 /proc/$$/stat > $D/sched
        ls -l /proc/$$/fd > $D/fds; cat /proc/$$/oom_score_adj > $D/oom
        cut -d' ' -f5 /proc/$$/stat > $D/group; echo $$ >> $D/group
        mv $D/arguments $D/done"#;
    let mut hook = hook(scratch.script("hook", text));
    hook.arguments = vec!["a b".to_owned(), "$(id)`id`;*".to_owned()];
    let leaked = fs::File::create(scratch.path("leaked")).expect("a file");
    nix::fcntl::fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).expect("no close on exec");
    let hooks = Hooks::start(vec![hook], 1);
    let odd = guest(Some(0xabc), 3, "we\nb");
    hooks.bus.publish(Some(odd), expired());
    hooks.alarm(&guest(Some(0xabc), 3, "we\nb"));
    eventually("the hook's end", || scratch.path("done").exists());
    hooks.end();

    let event: Event = serde_json::from_str(&scratch.read("json")).expect("the event");
    assert_eq!(event.seq, 2, "the kind that was not asked for runs nothing");
    assert_eq!(event.guest, Some(guest(Some(0xabc), 3, "we\nb")));
    assert_eq!(scratch.read("done"), "2 a b $(id)`id`;*\n");
    let environment = scratch.read("env");
    let expected = [
        "LANG=C",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "XENWARDEN_DOMID=3",
        "XENWARDEN_HOST=testhost",
        "XENWARDEN_KIND=alarm.raised",
        "XENWARDEN_NAME=we?b",
        "XENWARDEN_SEQ=2",
        "XENWARDEN_SEVERITY=error",
        "XENWARDEN_UUID=00000000-0000-0000-0000-000000000abc",
    ];
    for line in expected {
        assert!(
            environment.lines().any(|l| l == line),
            "{line}: {environment}"
        );
    }
    // Shells add some of their own.
    let ours = [
        "XENWARDEN_MESSAGE=",
        "XENWARDEN_TIME=",
        "PWD=",
        "SHLVL=",
        "_=",
        "OLDPWD=",
    ];
    for line in environment.lines().filter(|l| !expected.contains(l)) {
        assert!(ours.iter().any(|key| line.starts_with(key)), "{line}");
    }
    assert!(
        scratch.read("mask").ends_with("0000000000000000\n"),
        "no signal is blocked"
    );
    let sched = scratch.read("sched");
    assert_eq!(
        sched.trim(),
        "10 0 0",
        "nice 10, no real-time priority, SCHED_OTHER"
    );
    let fds = scratch.read("fds");
    assert!(
        fds.contains("/dev/null") && !fds.contains("leaked"),
        "{fds}"
    );
    assert_eq!(scratch.read("oom"), "0\n");
    let group = scratch.read("group");
    let (group, pid) = group.trim().split_once('\n').expect("two lines");
    assert_eq!(group, pid, "its own process group");
}

#[test]
fn events_of_one_guest_run_one_after_the_other_in_their_order() {
    let scratch = Scratch::new("hook-order");
    let text = r#"
        echo "start $XENWARDEN_NAME $XENWARDEN_SEQ" >> $D/log
        sleep 0.0$((XENWARDEN_SEQ % 5))
        echo "end $XENWARDEN_NAME $XENWARDEN_SEQ" >> $D/log"#;
    let hooks = Hooks::start(vec![hook(scratch.script("hook", text))], 4);
    for n in 0..30_u16 {
        // One has no UUID, one changes its domid at a reboot.
        let who = match n % 3 {
            0 => guest(None, 1, "late"),
            1 => guest(Some(2), 100 + n, "reboots"),
            _ => guest(Some(3), 3, "plain"),
        };
        hooks.alarm(&who);
    }
    eventually("all", || scratch.read("log").lines().count() == 60);
    assert_eq!(hooks.failures(), 0);
    hooks.end();
    let log = scratch.read("log");
    for name in ["late", "reboots", "plain"] {
        let lines: Vec<Vec<&str>> = log
            .lines()
            .map(|line| line.split(' ').collect())
            .filter(|line: &Vec<&str>| line[1] == name)
            .collect();
        let numbers: Vec<u64> = lines
            .iter()
            .map(|l| l[2].parse().expect("a number"))
            .collect();
        assert!(numbers.is_sorted(), "{name}: {numbers:?}");
        for pair in lines.chunks(2) {
            assert_eq!((pair[0][0], pair[1][0]), ("start", "end"), "{name}: {log}");
            assert_eq!(pair[0][2], pair[1][2], "{name}: two at the same time");
        }
    }
}

#[test]
fn all_hooks_of_an_event_run_and_never_more_at_once_than_allowed() {
    let scratch = Scratch::new("hook-concurrency");
    let text = "echo + >> $D/log; sleep 0.05; echo - >> $D/log";
    let program = scratch.script("hook", text);
    let hooks = Hooks::start(vec![hook(program); 3], 2);
    for n in 0..5 {
        hooks.alarm(&guest(Some(n), 3, "web"));
    }
    eventually("all", || scratch.read("log").lines().count() == 30);
    hooks.end();
    let (mut now, mut most) = (0, 0);
    for line in scratch.read("log").lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!(most, 2);
}

#[test]
fn a_hook_that_hangs_is_ended_with_its_children_and_holds_up_no_other_guest() {
    let scratch = Scratch::new("hook-hangs");
    let text = r#"
        test "$XENWARDEN_NAME" = web || { echo ran >> $D/others; exit 0; }
        trap '' TERM
        sleep 1000 & echo $! >> $D/pids
        sh -c 'trap "" TERM; echo $$ >> '$D'/pids; sleep 1000' &
        echo $$ >> $D/pids; wait; wait; sleep 1000"#;
    let mut hook = hook(scratch.script("hook", text));
    // The others run while it hangs: that it does is certain for so long.
    hook.timeout = Duration::from_secs(3600);
    let hooks = Hooks::start(vec![hook.clone()], 2);
    hooks.alarm(&web());
    for n in 10..15 {
        hooks.alarm(&guest(Some(u128::from(n)), n, "db"));
    }
    eventually("the others", || scratch.read("others").lines().count() == 5);
    hooks.end();
    std::fs::remove_file(scratch.path("pids")).expect("it ran");
    hook.timeout = Duration::from_secs(1);
    let hooks = Hooks::start(vec![hook], 2);
    hooks.alarm(&web());
    eventually("its end", || hooks.failures() == 1);
    let pids = scratch.read("pids");
    assert_eq!(pids.lines().count(), 3);
    for pid in pids.lines() {
        eventually("the processes' end", || !runs(pid));
    }
    hooks.end();
}

#[test]
fn what_a_hook_leaves_behind_is_killed_and_counted() {
    let scratch = Scratch::new("hook-forks");
    let text = "for n in 1 2 3; do sleep 1000 & echo $! >> $D/pids; done; exit 0";
    let hooks = Hooks::start(vec![hook(scratch.script("hook", text))], 1);
    hooks.alarm(&web());
    eventually("a failure", || hooks.failures() == 1);
    let pids = scratch.read("pids");
    assert_eq!(pids.lines().count(), 3);
    for pid in pids.lines() {
        eventually("the children's end", || !runs(pid));
    }
    hooks.end();
}

#[test]
fn failures_are_counted_each_and_successes_not() {
    let cases = [
        ("true", 0),
        ("exit 3", 1),
        ("kill -KILL $$", 1),
        // More than a pipe holds, so that it would block if nobody read.
        ("head -c 300000 /dev/zero >&2; exit 1", 1),
        ("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2", 0),
        ("exec 0<&-; exit 0", 0),
    ];
    for (n, (text, expected)) in cases.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("hook-fails-{n}"));
        let text = format!("echo >> $D/runs; {text}");
        let hooks = Hooks::start(vec![hook(scratch.script("hook", &text))], 1);
        hooks.alarm(&web());
        hooks.alarm(&web());
        // The second begins when the first is over and its outcome is known.
        eventually("both", || scratch.read("runs").lines().count() == 2);
        let failures = hooks.failures();
        assert!(
            (expected..=2 * expected).contains(&failures),
            "{text}: {failures}"
        );
        hooks.end();
    }
}

#[test]
fn a_program_that_others_could_change_is_refused_at_each_execution() {
    let scratch = Scratch::new("hook-refused");
    let program = scratch.script("good", "echo ran >> $D/log");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let bad = |name: &str, bits| {
        let path = scratch.script(name, "echo ran >> $D/log");
        mode(&path, bits);
        path
    };
    let link = scratch.path("link");
    symlink(bad("behind-link", 0o757), &link).expect("link");
    let open = scratch.path("open");
    fs::create_dir(&open).expect("directory");
    let in_open = scratch.script("open/hook", "echo ran >> $D/log");
    mode(&open, 0o777);
    let mut programs = vec![
        scratch.path("missing"),
        scratch.0.clone(),
        bad("others", 0o757),
        bad("group", 0o775),
        bad("plain", 0o644),
        link,
        in_open,
    ];
    if nix::unistd::geteuid().is_root() {
        let theirs = bad("theirs", 0o755);
        std::os::unix::fs::chown(&theirs, Some(4_321), None).expect("chown");
        programs.push(theirs);
    }
    let expected = u64::try_from(programs.len()).expect("few");
    programs.push(program.clone());
    let hooks = Hooks::start(programs.into_iter().map(hook).collect(), 4);
    hooks.alarm(&web());
    eventually("refusals", || hooks.failures() == expected);
    eventually("the good one", || scratch.read("log") == "ran\n");
    // What was good before is looked at again.
    mode(&program, 0o777);
    hooks.alarm(&web());
    eventually("refusals", || hooks.failures() == 2 * expected + 1);
    assert_eq!(scratch.read("log"), "ran\n");
    hooks.end();
}

#[test]
fn the_end_of_the_bus_lets_short_hooks_run_and_kills_long_ones() {
    let scratch = Scratch::new("hook-end");
    let short = scratch.script("short", "echo $XENWARDEN_KIND >> $D/log");
    let long = scratch.script("long", "echo $$ > $D/pid; sleep 1000");
    let hooks = Hooks::start(vec![hook(short), hook(long)], 4);
    hooks.alarm(&web());
    eventually("both", || {
        scratch.read("log").lines().count() == 1 && scratch.read("pid").ends_with('\n')
    });
    let bus = Arc::clone(&hooks.bus);
    let before = Instant::now();
    hooks.end();
    assert!(
        before.elapsed() < Duration::from_secs(30),
        "the long one was not waited for"
    );
    eventually("its end", || !runs(scratch.read("pid").trim()));
    assert_eq!(drops(&bus, NAME), 1, "and counted");
}

#[test]
fn how_a_hook_ends_is_known_also_where_sigchld_was_ignored_at_the_start() {
    let scratch = Scratch::new("hook-sigchld");
    scratch.script("good", "sleep 0.1; echo >> $D/runs");
    scratch.script("bad", "exit 3");
    let mut ignoring = Command::new("env");
    ignoring.arg("--ignore-signal=CHLD");
    let tried = Command::new("env")
        .args(["--ignore-signal=CHLD", "true"])
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("not checked: this env(1) ignores no signals");
        return;
    }
    ignoring.arg(std::env::current_exe().expect("this program"));
    ignoring.args(["--exact", "sigchld_is_ignored", "--ignored"]);
    let output = ignoring.env("HOOK_SCRATCH", &scratch.0).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scratch.read("runs"), "\n");
}

#[test]
#[ignore = "run by how_a_hook_ends_is_known_also_where_sigchld_was_ignored_at_the_start"]
fn sigchld_is_ignored() {
    let Some(scratch) = std::env::var_os("HOOK_SCRATCH").map(PathBuf::from) else {
        return;
    };
    let ignored = fs::read_to_string("/proc/self/status").expect("status");
    let mask = ignored
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.expect("a mask").trim(), 16).expect("hexadecimal");
    // SIGCHLD is 17, and the first bit is 1's.
    assert_ne!(mask & (1 << 16), 0, "this test sees nothing");
    let all = ["good", "bad"].map(|name| hook(scratch.join(name)));
    let hooks = Hooks::start(all.to_vec(), 1);
    hooks.alarm(&web());
    eventually("both", || {
        hooks.failures() > 0 && scratch.join("runs").exists()
    });
    let bus = Arc::clone(&hooks.bus);
    hooks.end();
    assert_eq!(drops(&bus, NAME), 1, "the bad one's end alone");
}

#[test]
fn what_waits_is_bounded_and_the_rest_is_counted() {
    let scratch = Scratch::new("hook-flood");
    let program = scratch.script("hook", "sleep 1000");
    let hooks = Hooks::start(vec![hook(program)], 1);
    for n in 0..3_000 {
        hooks.alarm(&guest(Some(n), 3, "web"));
    }
    // One runs, 1023 wait.
    eventually("drops", || hooks.failures() == 3_000 - 1_024);
    hooks.end();
}

#[test]
fn of_one_guest_no_more_than_32_events_wait() {
    let scratch = Scratch::new("hook-line");
    let program = scratch.script("hook", "sleep 1000");
    let hooks = Hooks::start(vec![hook(program)], 1);
    for _ in 0..100 {
        hooks.alarm(&web());
    }
    // One runs, 32 wait.
    eventually("drops", || hooks.failures() == 100 - 33);
    hooks.end();
}

#[test]
fn a_guests_storm_costs_neither_its_own_alarm_nor_those_of_others() {
    let scratch = Scratch::new("hook-storm");
    let text = r#"
        test "$XENWARDEN_NAME" = first && while test ! -e $D/go; do sleep 0.01; done
        case $XENWARDEN_KIND in alarm.*) echo "$XENWARDEN_NAME" ;; *) echo ;; esac >> $D/log"#;
    let mut hook = hook(scratch.script("hook", text));
    hook.kinds.push("guest.".to_owned());
    let hooks = Hooks::start(vec![hook], 1);
    hooks.alarm(&guest(Some(1), 1, "first"));
    let storm = |n: u16, count: u64| {
        for _ in 0..count {
            let who = guest(Some(u128::from(n)), n, "storm");
            hooks.bus.publish(Some(who), expired());
        }
    };
    // More than may wait of one guest, and of more guests than may wait.
    storm(100, 1_000);
    hooks.alarm(&guest(Some(100), 100, "storm"));
    (1_000..2_022).for_each(|n| storm(n, 1));
    // Where there is no room, whoever is in no line has none either, but for an alarm.
    storm(3_000, 1);
    for n in 0..20 {
        hooks.alarm(&guest(Some(5_000 + n), 300, "victim"));
    }
    eventually("losses", || hooks.failures() == 968 + 1 + 1 + 20);
    fs::write(scratch.path("go"), "").expect("go");
    let alarms = |log: &str, name| log.lines().filter(|line| *line == name).count();
    // A thousand programs take what this machine gives them; that another comes does not.
    let mut ran = 0;
    loop {
        let log = scratch.read("log");
        if (alarms(&log, "storm"), alarms(&log, "victim")) == (1, 20) {
            break;
        }
        ran = log.lines().count().max(ran);
        eventually("another", || scratch.read("log").lines().count() > ran);
    }
    hooks.end();
}

#[test]
fn where_there_are_cgroups_each_execution_has_one_and_it_is_killed_whole() {
    let scratch = Scratch::new("hook-cgroup");
    let text = "echo $$ > $D/pid; while test ! -e $D/go; do sleep 0.01; done";
    let program = scratch.script("hook", text);
    let own = scratch.path("cgroup");
    fs::create_dir(&own).expect("directory");
    let hooks = Hooks::start_in(vec![hook(program)], 1, Some(own.clone()));
    hooks.alarm(&web());
    eventually("a start", || scratch.read("pid").ends_with('\n'));
    let pid = scratch.read("pid").trim().to_owned();
    let group = own.join(format!("xenwarden-hook-{pid}"));
    eventually("its group", || {
        fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|members| members == pid)
    });
    fs::write(scratch.path("go"), "").expect("go");
    let killed = || fs::read_to_string(group.join("cgroup.kill")).is_ok_and(|k| k == "1");
    eventually_within(Duration::from_secs(30), "cgroup.kill", killed);
    assert_eq!(hooks.failures(), 0, "the program alone was in it");
    hooks.end();
}

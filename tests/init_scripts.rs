// SPDX-License-Identifier: GPL-2.0-only
//! The scripts for SysV and OpenRC, as `make install` leaves them, with programs that only act as
//! ours do: what they wait for, what they say, and their exit codes (LSB 5.0).
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Acts as the files beside it say.
const GUARD: &str = r#"#!/bin/sh
cd "${0%/*}/.." || exit 1
ends() {
    if [ -e refuses ]; then return; fi
    rm -f armed
    if [ -e nowayout ]; then
        echo "xenwardend: /dev/watchdog0 cannot be disarmed (busy): the host goes down" >&2
        exit 71
    fi
    echo "xenwardend: $1 /dev/watchdog0" >&2
    exit 0
}
trap 'ends disarmed' TERM
trap 'ends "left for the shutdown"' PWR
echo "$@" >>arguments
if [ -e fails ]; then echo "xenwardend: this is why" >&2; exit "$(cat fails)"; fi
if [ ! -e never ]; then : >armed; fi
while :; do sleep 0.1; done
"#;
const MONITOR: &str = r#"#!/bin/sh
cd "${0%/*}/.." || exit 1
if [ "$1" = --record-stop ]; then echo "$@" >>recorded; exit 0; fi
trap 'rm -f answers; exit 0' TERM
if [ ! -e never ]; then : >answers; fi
while :; do sleep 0.1; done
"#;
const CLI: &str = r#"#!/bin/sh
cd "${0%/*}/.." || exit 1
case $1 in
status) [ -e armed ] ;;
guests) [ -e answers ] || exit 2 ;;
esac
"#;

/// A host of its own, whose init has the scripts.
struct Host(PathBuf);

impl Host {
    fn new(name: &str, init: &str) -> Self {
        let directory = format!("init-{name}-{}", std::process::id());
        let host = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory));
        let _ = fs::remove_dir_all(&host.0);
        let at = |part: &str| format!("{}/{part}", host.0.display());
        let made = Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["-s", "install-init", "DESTDIR="])
            .args([format!("INIT={init}"), format!("SBINDIR={}", at("sbin"))])
            .args([
                format!("BINDIR={}", at("bin")),
                format!("DATADIR={}", at("share")),
            ])
            .arg(format!("SYSCONFDIR={}", at("etc")))
            .status();
        assert!(made.expect("make").success());
        for (path, text) in [
            ("sbin/xenwardend", GUARD),
            ("sbin/xenwarden-monitor", MONITOR),
            ("bin/xenwarden", CLI),
        ] {
            use std::os::unix::fs::PermissionsExt;
            host.put(path, text);
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(host.0.join(path), executable).expect("made executable");
        }
        host.put("run/xen", "xen\n");
        // However busy this machine is.
        host.waits(60, 60);
        host
    }

    /// For how many seconds its scripts wait for a start, and for a stop.
    fn waits(&self, start_s: u32, stop_s: u32) {
        let run = self.0.join("run");
        let run = run.display();
        let defaults = format!("RUN={run}\nXEN={run}/xen\nSTART_S={start_s}\nSTOP_S={stop_s}\n");
        self.put("etc/default/xenwarden", &defaults);
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("written");
    }

    fn take(&self, path: &str) {
        fs::remove_file(self.0.join(path)).expect("was there");
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap_or_default()
    }

    fn command(&self, script: &str, action: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["300", "sh"]);
        command.arg(self.0.join("etc/init.d").join(script));
        command.arg(action).env_remove("RUNLEVEL");
        command
    }

    /// The guard is started, and stopped by a script with these in its environment: what it said.
    fn stopped_with(&self, environment: &[(&str, &str)]) -> String {
        assert_eq!(self.guard("start").0, 0);
        let mut stop = self.command("xenwardend", "stop");
        let (code, said) = told(stop.envs(environment.iter().copied()).output());
        assert_eq!(code, 0, "{said}");
        said
    }

    /// The guard's script: its exit code, and what it said.
    fn guard(&self, action: &str) -> (i32, String) {
        told(self.command("xenwardend", action).output())
    }

    /// A start of the guard that is not ready in time.
    fn start_in_vain(&self) {
        self.waits(2, 60);
        let (code, said) = self.guard("start");
        let says = said.contains("not ready after 2 s");
        assert_eq!((code, says), (1, true), "{said}");
    }

    fn monitor(&self, action: &str) -> (i32, String) {
        told(self.command("xenwarden-monitor", action).output())
    }

    /// The process that a pid file names, if it lives.
    fn process(&self, name: &str) -> Option<u32> {
        let pid = self.read(&format!("run/{name}.pid")).trim().parse().ok()?;
        let state = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        (!state.contains("State:\tZ")).then_some(pid)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in ["xenwardend", "xenwarden-monitor"] {
            if let Some(pid) = self.process(name) {
                kill(pid);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kill(pid: u32) {
    let killed = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.expect("kill").success());
}

fn told(output: std::io::Result<Output>) -> (i32, String) {
    let output = output.expect("a shell");
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("a code");
    (code, String::from_utf8(text).expect("text"))
}

#[test]
fn a_script_starts_one_guard_waits_until_it_has_armed_and_stops_it() {
    let host = Host::new("life", "sysv");
    assert_eq!(
        host.guard("status"),
        (3, "xenwardend: does not run\n".into())
    );
    assert_eq!(host.guard("try-restart").0, 0);
    assert_eq!(host.guard("start"), (0, "xenwardend: ready\n".into()));
    assert!(host.has("armed"));
    let config = host.0.join("etc/xenwarden/xenwarden.conf");
    let arguments = format!("--config {}\n", config.display());
    assert_eq!(host.read("arguments"), arguments);
    let first = host.process("xenwardend").expect("runs");
    assert_eq!(host.guard("start").0, 0);
    assert_eq!(host.process("xenwardend"), Some(first));
    assert_eq!(host.read("arguments"), arguments, "one was started");
    let (code, said) = host.guard("status");
    assert_eq!(
        (code, said.contains(&first.to_string())),
        (0, true),
        "{said}"
    );
    assert_eq!(host.guard("reload").0, 3);
    assert_eq!(host.guard("restart").0, 0);
    let second = host.process("xenwardend").expect("runs");
    assert_ne!(second, first);
    let disarmed = "xenwardend: disarmed /dev/watchdog0\n";
    assert_eq!(host.guard("stop"), (0, disarmed.into()));
    assert!(!host.has("armed") && !host.has("run/xenwardend.pid"));
    assert_eq!(host.guard("stop"), (0, String::new()), "nothing runs");
    assert_eq!(host.guard("status").0, 3);
    assert_eq!(host.guard("dance").0, 2);
    assert!(!host.has("recorded"), "this is no shutdown");
}

#[test]
fn a_guard_that_never_arms_fails_its_start_in_bounded_time_and_is_stopped_again() {
    let host = Host::new("never", "sysv");
    host.put("never", "");
    host.start_in_vain();
    assert_eq!(host.process("xenwardend"), None);
    assert_eq!(host.guard("status").0, 3);
}

#[test]
fn a_guard_that_ends_at_its_start_says_why_and_with_which_code() {
    let host = Host::new("fails", "sysv");
    for (ends_with, code) in [("69", 1), ("71", 1), ("77", 4), ("78", 6)] {
        host.put("fails", ends_with);
        let (told, said) = host.guard("start");
        assert_eq!(told, code, "{ends_with}: {said}");
        assert!(said.contains("this is why"), "{said}");
        assert!(
            said.contains(&format!("has ended with {ends_with}")),
            "{said}"
        );
        assert_eq!(host.guard("status").0, 3, "nothing is left behind");
    }
}

#[test]
fn a_guard_that_does_not_disarm_is_told_and_never_killed() {
    let host = Host::new("refuses", "sysv");
    assert_eq!(host.guard("start").0, 0);
    let pid = host.process("xenwardend").expect("runs");
    host.put("refuses", "");
    host.waits(60, 2);
    for action in ["stop", "restart"] {
        let (code, said) = host.guard(action);
        let says = said.contains("has not ended within 2 s of SIGTERM");
        assert_eq!((code, says), (1, true), "{action}: {said}");
        assert_eq!(host.process("xenwardend"), Some(pid), "{action}");
    }
    assert_eq!(
        host.read("arguments").lines().count(),
        1,
        "no other was started"
    );
    // Kicks are withheld, or refused.
    host.take("armed");
    assert_eq!(host.guard("status").0, 150);
    host.take("refuses");
    host.waits(60, 60);
    assert_eq!(host.guard("stop").0, 0);
}

#[test]
fn a_guard_that_withholds_is_not_stopped_by_another_start() {
    let host = Host::new("withholds", "sysv");
    assert_eq!(host.guard("start").0, 0);
    let pid = host.process("xenwardend");
    host.take("armed");
    host.start_in_vain();
    assert_eq!(host.process("xenwardend"), pid);
    assert!(!host.read("run/xenwardend.log").contains("disarmed"));
}

#[test]
fn a_device_that_cannot_be_disarmed_fails_the_stop_with_the_guards_own_words() {
    let host = Host::new("nowayout", "sysv");
    assert_eq!(host.guard("start").0, 0);
    host.put("nowayout", "");
    let (code, said) = host.guard("stop");
    assert_eq!(
        (code, said.contains("the host goes down")),
        (1, true),
        "{said}"
    );
    assert_eq!(host.guard("status").0, 3);
    // What the script looks for is what the guard says.
    assert!(include_str!("../src/guard/start.rs").contains("cannot be disarmed ("));
}

#[test]
fn a_guard_that_was_killed_is_told_and_another_can_be_started() {
    let host = Host::new("killed", "sysv");
    assert_eq!(host.guard("start").0, 0);
    let pid = host.process("xenwardend").expect("runs");
    kill(pid);
    // Killed it is at once, gone in a moment.
    while host.process("xenwardend").is_some() {
        std::thread::yield_now();
    }
    assert_eq!(host.guard("status").0, 1);
    assert_eq!(host.guard("start").0, 0);
    assert_ne!(host.process("xenwardend").expect("runs"), pid);
}

#[test]
fn how_the_guard_ended_is_recorded_by_its_script_at_a_shutdown() {
    let host = Host::new("shutdown", "sysv");
    for runlevel in ["0", "6"] {
        let said = host.stopped_with(&[("RUNLEVEL", runlevel)]);
        assert!(said.contains("for the shutdown"), "{said}");
        assert!(host.read("recorded").starts_with("--record-stop --config"));
        host.take("recorded");
    }
    // A halt stands still on purpose.
    let said = host.stopped_with(&[("RUNLEVEL", "0"), ("INIT_HALT", "HALT")]);
    assert!(said.contains("disarmed") && host.has("recorded"), "{said}");
    host.take("recorded");
    let said = host.stopped_with(&[("RUNLEVEL", "1")]);
    assert!(said.contains("disarmed") && !host.has("recorded"), "{said}");
}

#[test]
fn a_guard_that_does_not_know_the_signal_is_not_killed_by_it_at_a_shutdown() {
    let host = Host::new("earlier", "sysv");
    let earlier = GUARD.replace("trap 'ends \"left for the shutdown\"' PWR\n", "");
    assert_ne!(earlier, GUARD);
    host.put("sbin/xenwardend", &earlier);
    let said = host.stopped_with(&[("RUNLEVEL", "6")]);
    assert!(said.contains("disarmed"), "{said}");
}

/// Where anybody may make /var/lock/subsys.
#[test]
fn nothing_is_written_or_removed_where_a_link_leads() {
    let host = Host::new("subsys", "sysv");
    let functions = host.read("share/xenwarden/functions.sh");
    let own = format!("SUBSYS={}/lock/subsys", host.0.display());
    let moved = functions.replace("SUBSYS=/var/lock/subsys", &own);
    host.put("share/xenwarden/functions.sh", &moved);
    let others = host.0.join("others");
    fs::create_dir_all(host.0.join("lock")).expect("made");
    fs::create_dir(&others).expect("made");
    fs::write(others.join("xenwardend"), "precious").expect("written");
    std::os::unix::fs::symlink(&others, host.0.join("lock/subsys")).expect("linked");
    host.stopped_with(&[]);
    assert_eq!(host.read("others/xenwardend"), "precious");
    // One of root's own is kept as Red Hat's rc wants it.
    host.take("lock/subsys");
    fs::create_dir(host.0.join("lock/subsys")).expect("made");
    assert_eq!(host.guard("start").0, 0);
    assert!(host.has("lock/subsys/xenwardend"));
    assert_eq!(host.guard("stop").0, 0);
    assert!(!host.has("lock/subsys/xenwardend"));
}

#[test]
fn of_two_starts_at_once_one_starts_a_guard_and_both_find_it() {
    let host = Host::new("twice", "sysv");
    for _ in 0..4 {
        let mut other = host.command("xenwardend", "start");
        let mut other = other.spawn().expect("started");
        let (code, said) = host.guard("start");
        assert_eq!(code, 0, "{said}");
        assert!(other.wait().expect("waited for").success());
        assert!(host.process("xenwardend").is_some());
        assert_eq!(host.read("arguments").lines().count(), 1);
        assert_eq!(host.guard("stop").0, 0);
        host.take("arguments");
    }
}

#[test]
fn no_other_runlevel_is_a_shutdown() {
    let host = Host::new("runlevels", "sysv");
    for runlevel in ["1", "S", "3"] {
        let said = host.stopped_with(&[("RUNLEVEL", runlevel)]);
        let disarmed = said.contains("disarmed /dev/watchdog0");
        assert!(disarmed, "{runlevel}: {said}");
        assert!(!host.has("recorded"), "{runlevel}");
    }
}

#[test]
fn a_shutdown_is_told_to_the_guard_alone() {
    let host = Host::new("alone", "sysv");
    assert_eq!(host.monitor("start").0, 0);
    let mut stop = host.command("xenwarden-monitor", "stop");
    assert_eq!(told(stop.env("RUNLEVEL", "6").output()).0, 0);
    assert!(!host.has("answers"), "it ended in order");
}

#[test]
fn without_xen_or_the_program_the_scripts_do_nothing() {
    let host = Host::new("nothing", "sysv");
    host.take("run/xen");
    assert_eq!(host.guard("start").0, 0);
    assert!(!host.has("arguments"));
    host.take("sbin/xenwardend");
    assert_eq!((host.guard("start").0, host.guard("stop").0), (5, 0));
}

#[test]
fn the_monitors_script_waits_until_it_answers() {
    let host = Host::new("monitor", "sysv");
    assert_eq!(host.monitor("start").0, 0);
    assert!(host.has("answers"));
    assert_eq!(host.monitor("status").0, 0);
    host.take("answers");
    assert_eq!(host.monitor("status").0, 150);
    assert_eq!(host.monitor("stop").0, 0);
    assert_eq!(host.process("xenwarden-monitor"), None);
    host.put("never", "");
    host.waits(2, 60);
    assert_eq!(host.monitor("start").0, 1);
    assert_eq!(host.process("xenwarden-monitor"), None);
}

/// What openrc-run(8) gives a service, as far as the guard's script uses it.
const OPENRC: &str = r#"
ebegin() { :; }
eend() { return "$1"; }
. "$SCRIPT"
start || exit 1
stop
"#;

fn openrc(host: &Host, runlevel: &str) -> (i32, String) {
    let mut shell = Command::new("timeout");
    shell
        .args(["300", "sh", "-c", OPENRC])
        .env_remove("RUNLEVEL");
    let goes_down = ["shutdown", "single"].contains(&runlevel);
    shell.env("RC_GOINGDOWN", if goes_down { "YES" } else { "" });
    shell.env("RC_RUNLEVEL", runlevel);
    shell.env("SCRIPT", host.0.join("etc/init.d/xenwardend"));
    told(shell.output())
}

#[test]
fn with_openrc_a_start_waits_too_and_a_shutdown_is_recorded() {
    let host = Host::new("openrc", "openrc");
    let life = "xenwardend: ready\nxenwardend: disarmed /dev/watchdog0\n";
    assert_eq!(openrc(&host, "single"), (0, life.into()));
    assert!(host.has("recorded"));
    host.take("recorded");
    host.take("arguments");
    assert_eq!(openrc(&host, "default"), (0, life.into()));
    assert!(host.has("arguments") && !host.has("recorded"));
    let left = life.replace("disarmed", "left for the shutdown");
    assert_eq!(openrc(&host, "shutdown"), (0, left));
    assert!(host.has("recorded"));
    host.put("nowayout", "");
    let (code, said) = openrc(&host, "default");
    assert_eq!(
        (code, said.contains("the host goes down")),
        (0, true),
        "{said}"
    );
    host.put("never", "");
    host.waits(2, 60);
    assert_eq!(openrc(&host, "default").0, 1);
    assert_eq!(host.process("xenwardend"), None);
    host.put("fails", "69");
    let (code, said) = openrc(&host, "default");
    assert_eq!((code, said.contains("this is why")), (1, true), "{said}");
}

/// Watched in this host's own /run. It becomes the program, as what starts it must know.
const PULSE: &str = r#"#!/bin/sh
exec PROGRAM --run "${0%/*}/../run" "$@"
"#;

impl Host {
    /// One with our own programs for instances, and who mounts nothing.
    fn of_instances(name: &str, init: &str) -> Self {
        let host = Self::new(name, init);
        let pulse = PULSE.replace("PROGRAM", env!("CARGO_BIN_EXE_xenwarden-pulse"));
        let qemu = format!(
            "#!/bin/sh\nexec {} \"$@\"\n",
            env!("CARGO_BIN_EXE_xenwarden-qemu")
        );
        for (path, text) in [
            ("sbin/xenwarden-pulse", pulse),
            ("sbin/xenwarden-qemu", qemu),
        ] {
            use std::os::unix::fs::PermissionsExt;
            host.put(path, &text);
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(host.0.join(path), executable).expect("made executable");
        }
        let defaults = host.read("etc/default/xenwarden");
        let more = "PULSE_USER=\nmount() { echo \"$@\" >>\"$RUN/mounted\"; }\n";
        host.put("etc/default/xenwarden", &(defaults + more));
        host
    }

    /// An instance that waits for somebody who never comes.
    fn instance_of_pulse(&self, name: &str) {
        let text = format!(
            "[heartbeat.{name}]\nlisten = \"unix:{}/{name}.node\"\n",
            self.0.display()
        );
        self.put(&format!("etc/xenwarden/pulse/{name}.conf"), &text);
    }

    fn instance_of_qemu(&self, name: &str) {
        let at = self.0.display();
        let text = format!(
            "[control]\nsocket = \"{at}/run/xenwarden-qemu/{name}.sock\"\n[state]\ndirectory = \"{at}/state\"\n[[vm]]\nname = \"web\"\nqmp = \"{at}/qmp\"\n"
        );
        self.put(&format!("etc/xenwarden/qemu/{name}.conf"), &text);
    }

    fn does(&self, script: &str, words: &[&str]) -> (i32, String) {
        let (action, more) = words.split_first().expect("an action");
        told(self.command(script, action).args(more).output())
    }

    fn end_all(&self, script: &str) {
        let (code, said) = self.does(script, &["stop"]);
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn a_script_starts_each_instance_that_has_a_configuration_and_stops_each() {
    let host = Host::of_instances("pulse", "sysv");
    let does = |words: &[&str]| host.does("xenwarden-pulse", words);
    assert_eq!(does(&["start"]), (0, String::new()), "there is none");
    assert_eq!(does(&["status"]).0, 3);
    host.instance_of_pulse("colo");
    host.instance_of_pulse("web");
    let (code, said) = does(&["start"]);
    let both = "xenwarden-pulse.colo: ready\nxenwarden-pulse.web: ready\n";
    assert_eq!((code, said.as_str()), (0, both));
    let process = |name: &str| host.process(&format!("xenwarden-pulse.{name}"));
    let (colo, web) = (
        process("colo").expect("runs"),
        process("web").expect("runs"),
    );
    assert_eq!(does(&["start"]).0, 0);
    assert_eq!(process("web"), Some(web), "it is not started twice");
    assert_eq!(does(&["restart", "web"]).0, 0);
    assert_ne!(process("web"), Some(web));
    assert_eq!(process("colo"), Some(colo), "it was not named");
    assert_eq!(does(&["status", "colo"]).0, 0);
    // What has no configuration any more is stopped all the same.
    host.take("etc/xenwarden/pulse/colo.conf");
    assert_eq!(does(&["stop"]), (0, String::new()));
    assert_eq!((process("colo"), process("web")), (None, None));
    assert!(!host.has("run/xenwarden-pulse/web.sock"));
    assert_eq!(does(&["status"]).0, 3);
    assert_eq!((does(&["reload"]).0, does(&["dance"]).0), (3, 2));
}

#[test]
fn an_instance_that_is_wrong_says_why_and_keeps_no_other_from_starting() {
    let host = Host::of_instances("wrong", "sysv");
    host.instance_of_pulse("a");
    host.put("etc/xenwarden/pulse/b.conf", "[heartbeat.b]\n");
    host.instance_of_pulse("c");
    let (code, said) = host.does("xenwarden-pulse", &["start"]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("b.conf"), "{said}");
    for (name, runs) in [("a", true), ("b", false), ("c", true)] {
        let found = host.process(&format!("xenwarden-pulse.{name}"));
        assert_eq!(found.is_some(), runs, "{name}: {said}");
    }
    assert_eq!(host.does("xenwarden-pulse", &["status", "b"]).0, 3);
    host.end_all("xenwarden-pulse");
}

#[test]
fn an_instance_that_was_killed_is_told_and_another_one_starts() {
    let host = Host::of_instances("lost", "sysv");
    host.instance_of_pulse("a");
    assert_eq!(host.does("xenwarden-pulse", &["start"]).0, 0);
    let pid = host.process("xenwarden-pulse.a").expect("runs");
    kill(pid);
    while host.process("xenwarden-pulse.a").is_some() {
        std::thread::yield_now();
    }
    assert_eq!(host.does("xenwarden-pulse", &["status"]).0, 1);
    assert_eq!(host.does("xenwarden-pulse", &["start"]).0, 0);
    assert!(host.process("xenwarden-pulse.a").is_some());
    host.end_all("xenwarden-pulse");
}

#[test]
fn heartbeats_are_watched_as_their_own_user() {
    let host = Host::of_instances("user", "sysv");
    host.instance_of_pulse("a");
    let defaults = host.read("etc/default/xenwarden");
    let more = "PULSE_USER=somebody\n\
        chown() { echo \"chown $*\" >>\"$RUN/asked\"; }\n\
        setsid() { echo \"$*\" >>\"$RUN/asked\"; shift 6; exec setsid \"$@\"; }\n";
    host.put("etc/default/xenwarden", &(defaults + more));
    let (code, said) = host.does("xenwarden-pulse", &["start"]);
    assert_eq!(code, 0, "{said}");
    let at = host.0.display();
    let expected = format!(
        "chown somebody: {at}/run/xenwarden-pulse\nsetpriv --reuid somebody --regid somebody --init-groups {at}/sbin/xenwarden-pulse --config {at}/etc/xenwarden/pulse/a.conf\n"
    );
    assert_eq!(host.read("run/asked"), expected);
    assert!(host.process("xenwarden-pulse.a").is_some());
    host.end_all("xenwarden-pulse");
}

#[test]
fn alarms_of_qemus_guests_have_a_script_and_a_place_for_traces_with_a_bound() {
    let host = Host::of_instances("qemu", "sysv");
    host.instance_of_qemu("all");
    let (code, said) = host.does("xenwarden-qemu", &["start"]);
    assert_eq!((code, said.as_str()), (0, "xenwarden-qemu.all: ready\n"));
    let unit = include_str!("../init/systemd/run-xenwarden_qemu_trace.mount");
    let options = unit.lines().find_map(|line| line.strip_prefix("Options="));
    let mounted = host.read("run/mounted");
    assert!(mounted.contains(options.expect("options")), "{mounted}");
    assert_eq!(host.does("xenwarden-qemu", &["status"]).0, 0);
    host.end_all("xenwarden-qemu");
    assert_eq!(host.process("xenwarden-qemu.all"), None);
}

/// What openrc-run(8) gives a service that supervise-daemon(8) runs.
const SUPERVISED: &str = r#"
eerror() { echo "$*"; }
ewarn() { echo "$*"; }
. "$SCRIPT"
start_pre || exit 1
echo "$supervisor $command $command_args_foreground $pidfile"
if [ "$NAME" = xenwarden-pulse ]; then echo "as ${command_user-}"; fi
"#;

#[test]
fn with_openrc_a_link_is_an_instance_and_the_script_itself_is_none() {
    let host = Host::of_instances("links", "openrc");
    host.instance_of_pulse("colo");
    host.instance_of_qemu("colo");
    for program in ["xenwarden-pulse", "xenwarden-qemu"] {
        let service = |name: &str| {
            let mut shell = Command::new("timeout");
            shell.args(["300", "sh", "-c", SUPERVISED]);
            shell.env("RC_SVCNAME", name);
            shell.env("SCRIPT", host.0.join("etc/init.d").join(program));
            told(shell.output())
        };
        let (code, said) = service(program);
        assert_eq!((code, said.contains("ln -s")), (1, true), "{said}");
        let (code, said) = service(&format!("{program}.colo"));
        let at = host.0.display();
        let of = program.strip_prefix("xenwarden-").expect("ours");
        let expected = format!(
            "supervise-daemon {at}/sbin/{program} --config {at}/etc/xenwarden/{of}/colo.conf {at}/run/{program}.colo.pid"
        );
        assert_eq!((code, said.contains(&expected)), (0, true), "{said}");
        let (code, said) = service(&format!("{program}.none"));
        assert_eq!((code, said.contains("none.conf")), (1, true), "{said}");
    }
}

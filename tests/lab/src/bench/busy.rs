// SPDX-License-Identifier: GPL-2.0-only
//! What each daemon does where somebody else has the host watchdog open when it starts, and kicks it.
//!
//! All of it is seen from outside: what the command and its processes came to, and what they said.

use super::data::Record;
use super::peers::Peer;
use crate::error::{Context, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::laboratory::bench::BenchParts;
use crate::machine::Shape;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// The name of its data.
pub const NAME: &str = "busy";
/// The only case.
pub const CASE: &str = "busy-device";
/// Those that have a device.
pub const PEERS: [Peer; 4] = [Peer::Xenwarden, Peer::Sbd, Peer::Watchdog, Peer::Busybox];
/// For how long a daemon is watched: the device, which its holder left with the driver's 30 s, would have reset the host by then.
const WATCHED_S: u32 = 40;
/// The process that holds the device, as it is called.
const HOLDER: &str = "device-holder";
/// Opens the device, as a shell does, and kicks it each second; its own number is in a file.
const HOLD: &str = "cat > /run/device-holder <<'END'
#!/bin/sh
exec 3> /dev/watchdog0
echo $$ > /run/device-holder.pid
while :; do echo k >&3; sleep 1 3>&-; done
END
chmod +x /run/device-holder; (setsid /run/device-holder < /dev/null > /dev/null 2>&1 &)
n=0; until [ \"$(cat /sys/class/watchdog/watchdog0/state)\" = active ] && [ -s /run/device-holder.pid ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done
cat /run/device-holder.pid";
/// How many lines of what it says are kept.
const LINES: usize = 24;

/// What one daemon did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusyRun {
    /// The daemon.
    pub peer: String,
    /// Which run it is, from 1.
    pub run: u32,
    /// The exit code of the command that starts it; none: it had not ended.
    pub exit_code: Option<i32>,
    /// After how many seconds of the emulated host's time the last of its processes was gone; none: it went on.
    pub gone_s: Option<f64>,
    /// For how long it was watched, s.
    pub over_s: u32,
    /// What it said first, on standard error and standard output, then in syslog.
    pub said: Vec<String>,
    /// The number of the process that held the device, by which it can be told whether the daemon named it.
    pub holder_pid: u32,
    /// The host was not reset, and the holder held the device as before.
    pub lived: bool,
}

impl Record for BusyRun {
    fn id(&self) -> String {
        format!("{CASE} {} {}", self.peer, self.run)
    }

    fn shown(&self) -> String {
        let lived = if self.lived {
            ""
        } else {
            "; THE HOST DID NOT LIVE"
        };
        format!(
            "{}: {}{lived}",
            self.came_to(),
            self.why().map_or("nothing said", String::as_str)
        )
    }
}

impl BusyRun {
    fn came_to(&self) -> String {
        match (self.exit_code, self.gone_s) {
            (Some(code), Some(at)) => format!("ends with {code} after {at:.1} s"),
            (Some(0) | None, _) => "goes on without the device".to_owned(),
            (Some(code), None) => format!("ends with {code}, but a process of it goes on"),
        }
    }

    fn names_device(&self) -> bool {
        self.said.iter().any(|line| line.contains("/dev/watchdog"))
    }

    /// The first line that gives the reason, else the first.
    fn why(&self) -> Option<&String> {
        let gives_it = |line: &&String| line.to_lowercase().contains("busy");
        self.said.iter().find(gives_it).or(self.said.first())
    }

    fn names_holder(&self) -> bool {
        let is_word = |line: &String| {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '-');
            words.any(|word| word == HOLDER || word == self.holder_pid.to_string())
        };
        self.said.iter().any(is_word)
    }
}

/// Starts one daemon on a host of its own whose device is held.
pub fn run(laboratory: &Laboratory, parts: &BenchParts, peer: Peer, run: u32) -> Result<BusyRun> {
    let mut host = laboratory.bench_host(parts, Shape::Everywhere)?;
    peer.prepare(&mut host)?;
    let holder_pid = host.dom0_ok(HOLD, PROMPT)?;
    let holder_pid = holder_pid
        .trim()
        .parse()
        .context(|| "no number of the holder")?;
    let begin = format!(
        "wc -l < /var/log/messages > /run/busy.before; read up idle < /proc/uptime; echo $up > /run/busy.began; rm -f /run/busy.code; \
         (setsid sh -c '{} < /dev/null > /run/busy.said 2>&1; echo $? > /run/busy.code' > /dev/null 2>&1 &)",
        peer.command()
    );
    host.dom0_ok(&begin, PROMPT)?;
    let until = host.machine.clock()? + Duration::from_secs(WATCHED_S.into());
    let gone_s = host.gone(peer)?;
    let reset = host.machine.wait_reset(until)?.is_some();
    let (exit_code, said, lived) = match reset {
        true => (None, Vec::new(), false),
        false => (host.exit_code()?, host.said()?, host.is_held()?),
    };
    Ok(BusyRun {
        peer: peer.name().to_owned(),
        run,
        exit_code,
        gone_s,
        over_s: WATCHED_S,
        said,
        holder_pid,
        lived,
    })
}

impl Host {
    /// Waits, but not until the end, for the command and all processes of the daemon; returns after how many seconds they were gone.
    fn gone(&mut self, peer: Peer) -> Result<Option<f64>> {
        let names = peer.processes().join(" ");
        let wait = format!(
            "read began < /run/busy.began; n=0; until [ -s /run/busy.code ] && ! pidof {names} > /dev/null; do n=$((n+1)); [ $n -lt 400 ] || exit 0; \
             sleep 0.1; done; read up idle < /proc/uptime; echo $began $up"
        );
        let said = self.dom0_ok(&wait, PROMPT)?;
        let times: Option<Vec<f64>> = said
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        let times = times.context(|| format!("when it was gone: {said}"))?;
        Ok(match times[..] {
            [began, ended] => Some(((ended - began) * 1e2).round() / 1e2),
            _ => None,
        })
    }

    fn exit_code(&mut self) -> Result<Option<i32>> {
        let said = self.dom0_ok("cat /run/busy.code 2> /dev/null || :", PROMPT)?;
        Ok(said.trim().parse().ok())
    }

    fn said(&mut self) -> Result<Vec<String>> {
        let stderr = self.dom0_ok("cat /run/busy.said", PROMPT)?;
        let log = "read before < /run/busy.before; tail -n +$((before + 1)) /var/log/messages";
        let log = self.dom0_ok(log, PROMPT)?;
        let log = log.lines().map(without_stamp);
        let all = stderr.lines().map(str::trim).chain(log);
        let all = all.filter(|line| !line.is_empty());
        Ok(all.take(LINES).map(str::to_owned).collect())
    }

    /// The holder lives and the device is still its.
    fn is_held(&mut self) -> Result<bool> {
        // The shell moves it to another descriptor while it runs a command without it.
        let held = "ls -l /proc/$(cat /run/device-holder.pid)/fd | grep -q ' /dev/watchdog0$'";
        Ok(self.dom0(held, PROMPT)?.code == 0)
    }
}

/// A line of syslog without date, host, facility and level.
fn without_stamp(line: &str) -> &str {
    // A day of one digit has a blank more before it.
    (0..5).fold(line, |rest, _| {
        let parts = rest.trim_start().split_once(' ');
        parts.map_or("", |(_, rest)| rest)
    })
}

/// The part of the page.
pub fn page(runs: &[BusyRun]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n## A busy device\n\nAnother process has `/dev/watchdog0` open, and kicks it, when the daemon is started; {WATCHED_S} s are watched. Exit codes are those of the command that starts it. What it says: the first line \
         with the reason, else its first, on standard error or in syslog. Ours: the guard. xenwatchdogd has no device.\n\n\
         | daemon | what comes of it | names the device | names who holds it | the host lives | what it says |\n|---|---|---|---|---|---|\n"
    );
    let yes = |is: bool| if is { "yes" } else { "no" };
    for run in runs {
        let said = run.why().map_or("nothing".to_owned(), |line| {
            format!("`{}`", line.replace('|', "\\|").replace('`', "'"))
        });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {said} |",
            run.peer,
            run.came_to(),
            yes(run.names_device()),
            yes(run.names_holder()),
            if run.lived { "yes" } else { "**no**" },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BusyRun, page, without_stamp};

    fn run(said: &[&str]) -> BusyRun {
        BusyRun {
            peer: "a".to_owned(),
            run: 1,
            exit_code: Some(69),
            gone_s: Some(0.12),
            over_s: 40,
            said: said.iter().map(|line| (*line).to_owned()).collect(),
            holder_pid: 417,
            lived: true,
        }
    }

    #[test]
    fn who_names_device_and_holder_is_told() {
        let named = run(&["/dev/watchdog0: held by device-holder (pid 417)"]);
        assert!(named.names_device() && named.names_holder());
        assert!(run(&["held by pid 417"]).names_holder());
        let other = run(&["watchdog[4170]: cannot open | it"]);
        assert!(!other.names_device() && !other.names_holder());
        let text = page(&[named, other, run(&[])]);
        let row = "| a | ends with 69 after 0.1 s | no | no | yes | `watchdog[4170]: cannot open \\| it` |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| nothing |"), "{text}");
        assert_eq!(page(&[]), "");
    }

    #[test]
    fn who_goes_on_without_a_device_is_told() {
        let on = |exit_code| BusyRun {
            exit_code,
            gone_s: None,
            ..run(&[])
        };
        assert_eq!(on(Some(0)).came_to(), "goes on without the device");
        assert_eq!(on(None).came_to(), "goes on without the device");
        let partly = "ends with 69, but a process of it goes on";
        assert_eq!(on(Some(69)).came_to(), partly);
    }

    #[test]
    fn the_line_with_the_reason_is_shown() {
        let two = run(&["starting", "/dev/watchdog0: Device or resource busy"]);
        assert_eq!(two.why(), two.said.get(1));
        let none = run(&["starting", "ended"]);
        assert_eq!(none.why(), none.said.first());
    }

    #[test]
    fn a_line_of_syslog_is_what_was_said() {
        let line = "Jan 10 00:01:02 host-a daemon.err watchdog[12]: cannot open it";
        assert_eq!(without_stamp(line), "watchdog[12]: cannot open it");
        let line = "Jan  1 00:01:02 host-a daemon.err watchdog[12]: cannot open it";
        assert_eq!(without_stamp(line), "watchdog[12]: cannot open it");
    }
}

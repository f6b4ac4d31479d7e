// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats of guests: a guest of this host tells on its console that it lives, and xenwarden-pulse in dom0 listens.

use super::figures::Figures;
use super::{Row, ready};
use crate::error::{Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use std::time::Duration;

/// What is sent once the heartbeat is lost.
const SCRIPT: &str = "the guest is lost";
const SENT: &str = "/run/sent";
/// How long a guest may take to do as it is told, under emulation.
const SLOW: Duration = Duration::from_secs(120);

/// All scenarios of heartbeats.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "guest-hangs", what: "a guest that tells on its console that it lives hangs, and goes on", run: |lab, phase| guest(lab, phase, Hangs::Paused) },
    Row { name: "guest-dies", what: "a guest that tells on its console that it lives panics", run: |lab, phase| guest(lab, phase, Hangs::Panics) },
];

#[derive(Clone, Copy)]
enum Hangs {
    Paused,
    Panics,
}

fn guest(laboratory: &Laboratory, phase: Duration, hangs: Hangs) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let outcome = watch(&mut host, GUESTS[0], hangs);
    let said = host.machine.log.lines_from(0);
    Ok(Figures::of(outcome.map(|()| Vec::new()), said))
}

fn watch(host: &mut Host, guest: &str, hangs: Hangs) -> Result<()> {
    host.follow_events()?;
    host.wait_events("kind", 1, SLOW)?;
    let tty = format!("$(xenstore-read /local/domain/$(xl domid {guest})/console/tty)");
    let start = format!(
        "ifconfig lo up; echo '{SCRIPT}' > /run/script; (nc -l -p 7777 < /dev/null > {SENT} 2>&1 &)
cat > /run/guests.toml <<END
[heartbeat.{guest}]
device = \"{tty}\"
protocol = \"notify\"
timeout_ms = 6000
notify_connect = \"127.0.0.1:7777\"
script = \"/run/script\"
END
(setsid xenwarden-pulse --config /run/guests.toml < /dev/null > /run/pulse.log 2>&1 &)"
    );
    host.dom0_ok(&start, PROMPT)?;
    let loops = "(while sleep 1; do echo WATCHDOG=1; done) &";
    host.tell_guest(guest, loops)?;
    host.wait_events("\"kind\":\"pulse.armed\"", 1, SLOW)?;
    let sent = host.dom0_ok(&format!("cat {SENT}"), PROMPT)?;
    if !sent.is_empty() {
        return Err(Error::new(format!("sent before anything was lost: {sent}")));
    }
    match hangs {
        Hangs::Paused => host.dom0_ok(&format!("xl pause {guest}"), PROMPT)?,
        Hangs::Panics => {
            host.tell_guest(guest, "echo c > /proc/sysrq-trigger")?;
            String::new()
        }
    };
    host.wait_events("\"kind\":\"pulse.lost\"", 1, SLOW)?;
    let wait = format!(
        "n=0; until grep -q '{SCRIPT}' {SENT}; do n=$((n+1)); [ $n -lt 60 ] || exit 1; sleep 0.5; done; cat {SENT}"
    );
    let sent = host.dom0_ok(&wait, PROMPT)?;
    if sent.trim() != SCRIPT {
        return Err(Error::new(format!("not sent once: {sent}")));
    }
    if matches!(hangs, Hangs::Paused) {
        host.dom0_ok(&format!("xl unpause {guest}"), PROMPT)?;
        host.wait_events("\"kind\":\"pulse.back\"", 1, SLOW)?;
    }
    host.lives_on(Duration::from_secs(5))
}

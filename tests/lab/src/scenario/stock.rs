// SPDX-License-Identifier: GPL-2.0-only
//! A host without patches must live, and must not even be withheld: nothing of what dom0 or guests do may look like a wedge.

use super::figures::Figures;
use super::lives::{self, WATCHED};
use super::{Row, ready};
use crate::error::{Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use std::time::Duration;

/// A guest's timeout, and what the toolstack takes, with room.
const EXPIRES: Duration = Duration::from_secs(30);
/// Longer than a probe may be silent.
const UNPLUGGED: Duration = Duration::from_secs(15);

/// All of them.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "idle-stock", what: "without patches: a minute of peace, and what the guard costs in it", run: idle },
    Row { name: "load-stock", what: "without patches: 60 s of full load in dom0 and guests", run: |lab, phase| survive(lab, Shape::Stock, phase, lives::load) },
    Row { name: "load-apart-stock", what: "without patches, dom0 on two of four pCPUs: the same", run: |lab, phase| survive(lab, Shape::StockApart, phase, lives::load) },
    Row { name: "debug-keys-stock", what: "without patches: debug keys print all they know", run: |lab, phase| survive(lab, Shape::Stock, phase, lives::press_keys) },
    Row { name: "expire-stock", what: "without patches: guests that stop feeding expire and are destroyed", run: |lab, phase| survive(lab, Shape::Stock, phase, expire) },
    Row { name: "unplugged-stock", what: "without patches: each vCPU of dom0 but the first goes and comes back", run: |lab, phase| survive(lab, Shape::StockApart, phase, unplug) },
    Row { name: "alone-stock", what: "without patches: dom0 has one vCPU left, and the guard is started anew", run: |lab, phase| survive(lab, Shape::Stock, phase, alone) },
    Row { name: "guard-restarted-stock", what: "without patches: the guard is stopped and started again, and leaves no vCPU where it was sent", run: |lab, phase| survive(lab, Shape::StockApart, phase, restart) },
];

fn survive(
    laboratory: &Laboratory,
    shape: Shape,
    phase: Duration,
    act: fn(&mut Host) -> Result<()>,
) -> Result<Figures> {
    let mut host = ready(laboratory, shape, phase)?;
    let mut lives = || {
        act(&mut host)?;
        host.lives_on(WATCHED)?;
        // The guard may be another than at the beginning; each begins to count at its arming.
        match host.status()?.kick_path.withholds {
            0 => Ok(Vec::new()),
            withholds => Err(Error::new(format!("kicks were withheld {withholds} times"))),
        }
    };
    let outcome = lives();
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn idle(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const MEASURED: Duration = Duration::from_secs(60);
    let mut host = ready(laboratory, Shape::StockApart, phase)?;
    let used = host.used_while(MEASURED, |host| host.pass(MEASURED))?;
    Ok(Figures {
        notes: vec![used.to_string()],
        ..Figures::default()
    })
}

fn expire(host: &mut Host) -> Result<()> {
    for name in GUESTS {
        host.tell_guest(name, "killall -9 watchdog")?;
    }
    host.pass(EXPIRES)?;
    for name in GUESTS {
        if host.has_guest(name)? {
            return Err(Error::new(format!("{name} has not expired")));
        }
    }
    Ok(())
}

fn unplug(host: &mut Host) -> Result<()> {
    for online in [0, 1, 0, 1] {
        plug(host, online)?;
        host.pass(UNPLUGGED)?;
    }
    Ok(())
}

fn plug(host: &mut Host, online: u8) -> Result<()> {
    let plug = format!("echo {online} > /sys/devices/system/cpu/cpu1/online");
    host.dom0_ok(&plug, PROMPT).map(drop)
}

fn alone(host: &mut Host) -> Result<()> {
    host.end_program(GUARD, "-TERM")?;
    plug(host, 0)?;
    host.start_program(GUARD)?;
    let said = host.status()?.weakness.unwrap_or_default();
    match said.contains("dom0 has one vcpu") {
        true => Ok(()),
        false => Err(Error::new(format!("the weakness is: {said}"))),
    }
}

fn restart(host: &mut Host) -> Result<()> {
    for _ in 0..3 {
        host.end_program(GUARD, "-TERM")?;
        // Refused for a vCPU that was sent somewhere and not released.
        host.dom0_ok("xl vcpu-pin 0 0 0 && xl vcpu-pin 0 1 1", PROMPT)?;
        host.start_program(GUARD)?;
    }
    Ok(())
}

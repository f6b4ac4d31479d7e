// SPDX-License-Identifier: GPL-2.0-only
//! Alarms of an HVM guest whose watchdog is its device model's: xenwarden-qemu in dom0 follows that.

use super::Row;
use super::figures::Figures;
use crate::error::{Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use std::time::Duration;
use xenwarden::event::Event;

/// The guest's UUID, which a reboot by the toolstack leaves it.
const UUID: &str = "6a3f1c52-8f0e-4b57-9d1a-0c9f0c1e2d3b";
/// How an alarm ends.
const ENDS: &[&str] = &["alarm.cleared", "alarm.closed", "alarm.moved"];
/// How long a device model and firmware may take under emulation that emulates.
const SLOW: Duration = Duration::from_secs(300);

/// All of them; each takes a boot of its own.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "hvm-device-model", what: "an HVM guest stops to feed its i6300esb, reboots, fails to come up, then boots and feeds", run: story },
];

fn story(laboratory: &Laboratory, _: Duration) -> Result<Figures> {
    let mut host = laboratory.host_with_device_model()?;
    let outcome = tell(&mut host);
    let said = host.machine.log.lines_from(0);
    let outcome = outcome.map_err(|error| {
        let logs = "tail -n 20 /var/log/xen/qemu-dm-hvm.log /run/qemu.log";
        let logs = host.dom0(logs, PROMPT);
        let logs = logs.map_or_else(|error| error.to_string(), |outcome| outcome.output);
        Error::new(format!("{error}\n{logs}"))
    });
    Ok(Figures::of(outcome.map(|()| Vec::new()), said))
}

fn tell(host: &mut Host) -> Result<()> {
    host.follow_events()?;
    let configure = format!(
        "mkdir -p /run/dm /run/xenwarden_qemu_trace; mount -t tmpfs -o size=32m tmpfs /run/xenwarden_qemu_trace; cp /guest/boot.img /run/dm/boot.img; mkfifo /run/dm/com1.in /run/dm/com1.out
cat > /run/dm/hvm.cfg <<'END'
name = \"hvm\"
type = \"hvm\"
uuid = \"{UUID}\"
memory = 64
vcpus = 1
vga = \"none\"
vnc = 0
sdl = 0
usb = 0
serial = \"pipe:/run/dm/com1\"
on_reboot = \"restart\"
on_crash = \"destroy\"
device_model_args_hvm = [\"-drive\", \"file=/run/dm/boot.img,format=raw,if=ide\", \"-device\", \"i6300esb,id=wd0\", \"-action\", \"watchdog=none\", \"-chardev\", \"socket,id=xw,path=/run/dm/qmp,server=on,wait=off\", \"-mon\", \"chardev=xw,mode=control\"]
END
cat > /run/dm/follower.toml <<'END'
[[vm]]
name = \"hvm\"
qmp = \"/run/dm/qmp\"
uuid = \"{UUID}\"
END
(setsid xenwarden-qemu --config /run/dm/follower.toml < /dev/null > /run/qemu.log 2>&1 &)"
    );
    host.dom0_ok(&configure, PROMPT)?;
    host.dom0_ok("xl create -q /run/dm/hvm.cfg", SLOW)?;
    host.hears("B")?;
    // It is armed, and nobody feeds it.
    host.order("A", "a")?;
    host.wait_events("\"kind\":\"alarm.raised\"", 1, SLOW)?;
    // It reboots, and reboots again before it has armed anything.
    host.reboots_hvm(1)?;
    host.reboots_hvm(2)?;
    let events = host.events()?;
    let ended = |event: &&Event| ENDS.contains(&event.what.kind());
    if let Some(end) = events.iter().find(ended) {
        return Err(Error::new(format!("before it was fed: {end:?}")));
    }
    // At once, as the device gives it two seconds.
    host.order("AF", "f")?;
    host.wait_events("\"kind\":\"alarm.cleared\"", 1, SLOW)?;
    host.order("FFFD", "d")?;
    host.pass(Duration::from_secs(5))?;
    let events = host.events()?;
    let count = |kind: &str| {
        events
            .iter()
            .filter(|event| event.what.kind() == kind)
            .count()
    };
    match (count("alarm.raised"), count("alarm.cleared")) {
        (1, 1) => host.lives_on(Duration::from_secs(5)),
        (raised, cleared) => Err(Error::new(format!("{raised} raised, {cleared} cleared"))),
    }
}

impl Host {
    /// The HVM guest reboots for the `nth` time, upon which the toolstack starts it anew, and takes orders again.
    fn reboots_hvm(&mut self, nth: usize) -> Result<()> {
        self.dom0_ok("printf T > /run/dm/com1.in", PROMPT)?;
        self.wait_events("\"kind\":\"guest.rebooted\"", nth, SLOW)?;
        self.hears("B")
    }

    /// The guest does as it is told, and says so.
    fn order(&mut self, letter: &str, answer: &str) -> Result<()> {
        self.dom0_ok(&format!("printf {letter} > /run/dm/com1.in"), PROMPT)?;
        self.hears(answer)
    }

    /// The firmware says things of its own on the same port.
    fn hears(&mut self, answer: &str) -> Result<()> {
        let hear = format!(
            "timeout {} sh -c 'while c=$(dd bs=1 count=1 2> /dev/null); do [ \"$c\" != {answer} ] || exit 0; done < /run/dm/com1.out'",
            SLOW.as_secs()
        );
        self.dom0_ok(&hear, SLOW).map(drop)
    }
}

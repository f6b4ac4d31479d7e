// SPDX-License-Identifier: GPL-2.0-only
//! Alarms of an HVM guest whose watchdog is its device model's: xenwarden-qemu in dom0 follows that.

use super::Row;
use super::figures::Figures;
use crate::error::{Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use std::time::Duration;

/// The guest's UUID, which a reboot by the toolstack leaves it.
const UUID: &str = "6a3f1c52-8f0e-4b57-9d1a-0c9f0c1e2d3b";
/// How long a device model and firmware may take under emulation that emulates.
const SLOW: Duration = Duration::from_secs(300);

/// All of them; each takes a boot of its own.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "hvm-device-model", what: "an HVM guest stops to feed its i6300esb, is started again, fails to boot, then boots and feeds", run: story },
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
        "mkdir -p /run/dm; cp /guest/boot.img /run/dm/boot.img; mkfifo /run/dm/com1.in /run/dm/com1.out
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
on_reboot = \"destroy\"
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
    host.boots_hvm()?;
    // It is armed, and nobody feeds it.
    host.order("A", "a")?;
    host.wait_events("\"kind\":\"alarm.raised\"", 1, SLOW)?;
    // The toolstack starts it again; it hangs as it boots, and is started once more.
    host.boots_hvm()?;
    host.dom0_ok("printf H > /run/dm/com1.in", PROMPT)?;
    host.boots_hvm()?;
    let cleared = "\"kind\":\"alarm.cleared\"";
    host.wait_events(cleared, 0, SLOW)?;
    host.order("A", "a")?;
    let events = host.events()?;
    if events
        .iter()
        .any(|event| event.what.kind() == "alarm.cleared")
    {
        return Err(Error::new("cleared before it was fed"));
    }
    host.order("F", "f")?;
    host.wait_events(cleared, 1, SLOW)?;
    for _ in 0..3 {
        host.order("F", "f")?;
    }
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
    /// Starts the HVM guest, in the place of one that runs, and waits until it takes orders.
    fn boots_hvm(&mut self) -> Result<()> {
        let create = "xl destroy hvm 2> /dev/null; xl create -q /run/dm/hvm.cfg";
        self.dom0_ok(create, SLOW)?;
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

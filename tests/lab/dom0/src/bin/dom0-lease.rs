// SPDX-License-Identifier: GPL-2.0-only
//! Holds a lease, as any program does that speaks sd_notify: `dom0-lease SOCKET PERIOD_MS [UID]` renews it each so many
//! milliseconds, as that user. A period of 0 is a flood, of what is no renewal; `stop` gives the lease back.

use nix::unistd::{Uid, setuid};
use std::env::args;
use std::thread;
use std::time::Duration;
use xenwarden::sys::notify::Notifier;
use xenwarden_lab_dom0::error::{Context, Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let (socket, period, uid) = match &arguments[..] {
        [socket, period] => (socket, period, None),
        [socket, period, uid] => (socket, period, Some(uid)),
        _ => return Err(Error::new("dom0-lease SOCKET PERIOD_MS [UID]")),
    };
    let notifier = Notifier::to(socket.as_ref());
    if period == "stop" {
        while !notifier.tell("STOPPING=1") {}
        return Ok(());
    }
    let number = |text: &String| text.parse::<u32>().context(|| format!("no number: {text}"));
    let period = Duration::from_millis(number(period)?.into());
    if let Some(uid) = uid {
        setuid(Uid::from_raw(number(uid)?)).context(|| "cannot become that user")?;
    }
    let message = if period.is_zero() {
        "STATUS=me"
    } else {
        "WATCHDOG=1"
    };
    loop {
        // What does not arrive is said again.
        let _ = notifier.tell(message);
        thread::sleep(period);
    }
}

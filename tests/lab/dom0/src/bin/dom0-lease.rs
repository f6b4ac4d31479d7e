// SPDX-License-Identifier: GPL-2.0-only
//! Holds leases, as any program does that speaks sd_notify: `dom0-lease PERIOD_MS UID SOCKET...` renews each of them each so many
//! milliseconds, as that user. A period of 0 is a flood, of what is no renewal; `stop` gives them back.

use nix::unistd::{Uid, setuid};
use std::env::args;
use std::thread;
use std::time::Duration;
use xenwarden::sys::notify::Notifier;
use xenwarden_lab_dom0::error::{Context, Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [period, uid, sockets @ ..] = &arguments[..] else {
        return Err(Error::new("dom0-lease PERIOD_MS|stop UID SOCKET..."));
    };
    let number = |text: &String| text.parse::<u32>().context(|| format!("no number: {text}"));
    setuid(Uid::from_raw(number(uid)?)).context(|| "cannot become that user")?;
    let notifiers: Vec<Notifier> = sockets
        .iter()
        .map(|socket| Notifier::to(socket.as_ref()))
        .collect();
    if period == "stop" {
        for notifier in &notifiers {
            while !notifier.tell("STOPPING=1") {}
        }
        return Ok(());
    }
    let period = Duration::from_millis(number(period)?.into());
    let message = if period.is_zero() {
        "STATUS=me"
    } else {
        "WATCHDOG=1"
    };
    loop {
        for notifier in &notifiers {
            // What does not arrive is said again.
            let _ = notifier.tell(message);
        }
        thread::sleep(period);
    }
}

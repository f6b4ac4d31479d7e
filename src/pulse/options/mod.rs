// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's own options, as the Advanced Watch Dog's letter shows them, made into a [`Plan`].
//!
//! In: words of a command line: `-chardev`, `-object advanced-watchdog`, and what of QEMU's may stand beside
//! them. Out: a plan, or one line that names the option and what is wrong. Promises: the
//! letter's two command lines run as they are; nothing is half-applied. Never: an option passed over in silence.
//!
//! What differs from QEMU: a client without `reconnect` connects again as well, as a heartbeat that
//! cannot come back would be of no use; each pulse is of the monotonic clock, not of a guest's; an iothread
//! need not be there, as the letter itself makes iothread2 and names iothread1. The notification node is taken for the
//! monitor of the VMM that the watchdog was to be a part of: without it no pulse is sent.

mod pairs;

use super::plan::{
    BeatPlan, Endpoint, HostPort, Message, Node, Notification, Place, Plan, check_name, read_script,
};
use super::protocol::Protocol;
use pairs::Pairs;
use std::collections::{BTreeMap, BTreeSet};

/// The letter's defaults, ms: where the peer's are the same they fire between healthy pulses,
/// of which the plan warns.
const PULSE_MS: u32 = 5_000;
const TIMEOUT_MS: u32 = 2_000;
/// Connections to a listening node at once.
pub const CONNECTIONS: usize = 16;

/// Options of QEMU's sockets that have no meaning here.
const FOREIGN: &[&str] = &[
    "telnet",
    "tn3270",
    "websocket",
    "tls-creds",
    "tls-authz",
    "fd",
    "to",
    "mux",
    "logfile",
    "logappend",
    "abstract",
    "tight",
    "ipv4",
    "ipv6",
    "mptcp",
    "keep-alive",
];
/// Options of QEMU's that are its own affair: they are said to be so, and passed over.
const QEMUS: &[&str] = &["-monitor", "-qmp", "-mon"];

/// What the words are, before references are followed.
#[derive(Default)]
struct Words {
    chardevs: BTreeMap<String, Chardev>,
    watchdogs: Vec<Watchdog>,
    iothreads: BTreeSet<String>,
    warnings: Vec<String>,
}

struct Chardev {
    option: Pairs,
    endpoint: Endpoint,
    used_by: Option<String>,
}

struct Watchdog {
    option: Pairs,
    id: String,
    answers: bool,
    awd_node: String,
    notification_node: Option<String>,
    script: Option<Vec<u8>>,
    pulse_ms: u32,
    timeout_ms: u32,
}

/// Whether `word` begins an option of this syntax.
#[must_use]
pub fn is_option(word: &str) -> bool {
    let word = single_hyphen(word);
    ["-chardev", "-object"].contains(&word) || QEMUS.contains(&word)
}

/// Makes a plan of options and their values. Reads the scripts, which blocks.
///
/// # Errors
/// One line that names the option.
pub fn plan(words: &[String]) -> Result<Plan, String> {
    let mut found = Words::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let option = single_hyphen(word);
        if !is_option(option) {
            return Err(format!(
                "{word}: unknown option; xenwarden-pulse(8) has those that there are"
            ));
        }
        let value = words.next();
        let value = value.ok_or_else(|| format!("{word}: its value is missing"))?;
        match option {
            "-chardev" => chardev(value, &mut found)?,
            "-object" => object(value, &mut found)?,
            _ => found.warnings.push(format!(
                "{option} {value}: that is QEMU's own, and is passed over here"
            )),
        }
    }
    resolve(found)
}

/// QEMU takes one hyphen or two.
fn single_hyphen(word: &str) -> &str {
    match word.strip_prefix('-') {
        Some(rest) if rest.starts_with('-') => rest,
        _ => word,
    }
}

fn chardev(value: &str, found: &mut Words) -> Result<(), String> {
    let mut pairs = Pairs::read("-chardev", value)?;
    let id = pairs.needed("id")?;
    check_name(&id).map_err(|why| pairs.wrong(&format!("id: {why}")))?;
    let option = pairs.clone();
    let endpoint = match pairs.first.as_str() {
        "socket" => socket(&mut pairs)?,
        "serial" | "tty" => {
            let path = pairs.path("path")?;
            let path = path.ok_or_else(|| pairs.wrong("path= is missing"))?;
            Endpoint {
                place: Place::Device(path),
                listens: false,
                reconnect_ms: None,
            }
        }
        other => {
            let why = format!("the type {other} is not supported: socket, serial and tty are");
            return Err(pairs.wrong(&why));
        }
    };
    pairs.end(FOREIGN)?;
    if found.chardevs.contains_key(&id) {
        return Err(option.wrong(&format!("there is another chardev with the id {id}")));
    }
    let chardev = Chardev {
        option,
        endpoint,
        used_by: None,
    };
    found.chardevs.insert(id, chardev);
    Ok(())
}

fn socket(pairs: &mut Pairs) -> Result<Endpoint, String> {
    let listens = pairs.switch("server")?.unwrap_or(false);
    // QEMU's wait for the first client; nothing here ever waits.
    let wait = pairs.switch("wait")?;
    if wait.is_some() && !listens {
        return Err(pairs.wrong("wait is for server=on"));
    }
    let _ = pairs.switch("delay")?;
    let _ = pairs.switch("nodelay")?;
    let seconds = pairs.number("reconnect")?;
    let milliseconds = pairs.number("reconnect-ms")?;
    if seconds.is_some() && milliseconds.is_some() {
        return Err(pairs.wrong("reconnect and reconnect-ms exclude each other"));
    }
    let seconds = seconds.map(|s| u64::from(s).saturating_mul(1_000));
    // 0 is QEMU's word for none.
    let reconnect_ms = seconds.or(milliseconds.map(u64::from)).filter(|ms| *ms > 0);
    if reconnect_ms.is_some() && listens {
        return Err(pairs.wrong("reconnect is for a client, not for server=on"));
    }
    let (path, host) = (pairs.path("path")?, pairs.text("host")?);
    let place = match (path, host) {
        (Some(path), None) => Place::Unix(path),
        (None, Some(host)) => {
            let port = pairs.number("port")?;
            let port = port.and_then(|port| u16::try_from(port).ok());
            let port = port.filter(|port| *port > 0);
            let port = port.ok_or_else(|| pairs.wrong("port= must be 1 to 65535"))?;
            if host.is_empty() && !listens {
                return Err(pairs.wrong("host= is empty: a client needs one"));
            }
            Place::Tcp(HostPort { host, port })
        }
        (Some(_), Some(_)) => return Err(pairs.wrong("host and path exclude each other")),
        (None, None) => return Err(pairs.wrong("host= and port=, or path=, are missing")),
    };
    Ok(Endpoint {
        place,
        listens,
        reconnect_ms,
    })
}

fn object(value: &str, found: &mut Words) -> Result<(), String> {
    let mut pairs = Pairs::read("-object", value)?;
    match pairs.first.as_str() {
        "iothread" => {
            // How QEMU polls in it is of no concern here.
            let id = pairs.needed("id")?;
            if !found.iothreads.insert(id.clone()) {
                return Err(pairs.wrong(&format!("there is another object with the id {id}")));
            }
            Ok(())
        }
        "advanced-watchdog" => watchdog(pairs, found),
        other => Err(pairs.wrong(&format!(
            "the type {other} is not supported: advanced-watchdog and iothread are"
        ))),
    }
}

fn watchdog(mut pairs: Pairs, found: &mut Words) -> Result<(), String> {
    let option = pairs.clone();
    let id = pairs.needed("id")?;
    check_name(&id).map_err(|why| pairs.wrong(&format!("id: {why}")))?;
    let others = found.watchdogs.iter().map(|other| &other.id);
    if others.chain(&found.iothreads).any(|other| *other == id) {
        return Err(option.wrong(&format!("there is another object with the id {id}")));
    }
    let server = pairs.switch("server")?;
    let server = server
        .ok_or_else(|| option.wrong("server= is missing: on, or off for the side that answers"))?;
    let script = pairs.path("opt_script")?;
    let script = script
        .map(|path| read_script(&path).map_err(|why| option.wrong(&format!("opt_script: {why}"))));
    let milliseconds = |pairs: &mut Pairs, key: &str, default: u32| match pairs.number(key)? {
        Some(0) => Err(option.wrong(&format!("{key}=0: must be at least 1 ms"))),
        ms => Ok(ms.unwrap_or(default)),
    };
    let watchdog = Watchdog {
        id,
        answers: !server,
        awd_node: pairs.needed("awd_node")?,
        notification_node: pairs.text("notification_node")?,
        script: script.transpose()?,
        pulse_ms: milliseconds(&mut pairs, "pulse_interval", PULSE_MS)?,
        timeout_ms: milliseconds(&mut pairs, "timeout", TIMEOUT_MS)?,
        option: option.clone(),
    };
    if let Some(iothread) = pairs.text("iothread")?
        && !found.iothreads.contains(&iothread)
    {
        found.warnings.push(option.wrong(&format!(
            "no iothread has the id {iothread}; none is needed here"
        )));
    }
    pairs.end(&[])?;
    found.watchdogs.push(watchdog);
    Ok(())
}

fn resolve(mut found: Words) -> Result<Plan, String> {
    let Some(first) = found.watchdogs.first() else {
        return Err("there is no heartbeat: -object advanced-watchdog,... is missing".to_owned());
    };
    let name = first.id.clone();
    let mut heartbeats = Vec::new();
    for watchdog in std::mem::take(&mut found.watchdogs) {
        heartbeats.push(beat(watchdog, &mut found)?);
    }
    for (id, chardev) in &found.chardevs {
        if chardev.used_by.is_none() {
            let unused = format!("no heartbeat uses the chardev {id}");
            found.warnings.push(chardev.option.wrong(&unused));
        }
    }
    Ok(Plan {
        name,
        heartbeats,
        metrics_textfile: None,
        control_socket: None,
        warnings: found.warnings,
    })
}

fn beat(watchdog: Watchdog, found: &mut Words) -> Result<BeatPlan, String> {
    let mut node = |key: &str, id: &str| -> Result<Endpoint, String> {
        let chardev = found.chardevs.get_mut(id);
        let chardev = chardev.ok_or_else(|| {
            watchdog
                .option
                .wrong(&format!("{key}={id}: no chardev has that id"))
        })?;
        if let Some(user) = chardev.used_by.replace(watchdog.id.clone()) {
            let why = format!("{key}={id}: the heartbeat {user} uses that chardev already");
            return Err(watchdog.option.wrong(&why));
        }
        Ok(chardev.endpoint.clone())
    };
    let awd = node("awd_node", &watchdog.awd_node)?;
    let to = watchdog.notification_node.as_deref();
    let to = to.map(|id| node("notification_node", id)).transpose()?;
    let notification = match (to, watchdog.script) {
        (Some(to), Some(script)) => Some(Notification {
            to,
            message: Message::Script(script),
        }),
        (None, Some(_)) => {
            let why = "opt_script without notification_node: it would be sent to nobody";
            return Err(watchdog.option.wrong(why));
        }
        (Some(_), None) => {
            let why = "notification_node without opt_script: nothing will be sent to it";
            found.warnings.push(watchdog.option.wrong(why));
            None
        }
        (None, None) => None,
    };
    if watchdog.timeout_ms <= watchdog.pulse_ms {
        found.warnings.push(watchdog.option.wrong(&format!(
            "timeout={} is not longer than pulse_interval={}: where the peer's pulses are as far apart, each is taken for a loss",
            watchdog.timeout_ms, watchdog.pulse_ms
        )));
    }
    // As the watchdog was to be a part of the QEMU whose monitor that is.
    let own_vmm = notification.as_ref().is_some_and(|to| !to.to.listens);
    Ok(BeatPlan {
        own_vmm,
        name: watchdog.id,
        node: Node::Stream(awd),
        protocol: Protocol::Auto,
        answers: watchdog.answers,
        key: None,
        pulse_ms: watchdog.pulse_ms.into(),
        timeout_ms: watchdog.timeout_ms.into(),
        repeat_ms: None,
        act_after_ms: 0,
        notification,
        hook: None,
        lease: None,
        max_connections: CONNECTIONS,
    })
}

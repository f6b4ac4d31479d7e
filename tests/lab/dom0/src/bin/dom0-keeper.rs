// SPDX-License-Identifier: GPL-2.0-only
//! A service manager for one program, as far as a guard's restart needs one: it keeps the descriptors that the program
//! stores (sd_notify(3), `FDSTORE=1`) while it restarts it, and closes them when the program ends otherwise, as systemd does.
//!
//! `dom0-keeper run PROGRAM` serves until the program ends; `dom0-keeper restart` and `dom0-keeper stop` order that.

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use xenwarden_lab_dom0::error::{Context, Error, Result};

/// Where the program and those who order something tell it.
const SOCKET: &str = "/run/keeper.sock";
/// How often the program is looked for, microseconds.
const EACH_US: i64 = 20_000;
/// Gives each kept descriptor its number, as sd_listen_fds(3) has it, and becomes the program.
const START: &str = r#"n=3; for fd in $KEPT; do eval "exec $n<&$fd"; eval "exec $fd<&-"; n=$((n+1)); done
LISTEN_FDS=$((n-3)); LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec $PROGRAM"#;

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Restart,
    Stop,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["run", program] => run(program),
        ["restart" | "stop"] => {
            let socket = UnixDatagram::unbound().context(|| "no socket")?;
            let sent = socket.send_to(format!("KEEPER={}", words[0]).as_bytes(), SOCKET);
            sent.map(drop).context(|| "nobody keeps anything")
        }
        _ => Err(Error::new(
            "usage: dom0-keeper run PROGRAM | restart | stop",
        )),
    }
}

fn run(program: &str) -> Result<()> {
    let _ = std::fs::remove_file(SOCKET);
    let socket = UnixDatagram::bind(SOCKET).context(|| "cannot bind")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, EACH_US)).context(|| "no timeout")?;
    let mut kept: Vec<RawFd> = Vec::new();
    let mut child = start(program, &kept)?;
    let mut order = None;
    loop {
        if let Some(text) = receive(&socket, &mut kept) {
            order = match text.as_str() {
                "KEEPER=restart" => Some(Order::Restart),
                "KEEPER=stop" => Some(Order::Stop),
                _ => continue,
            };
            let pid = i32::try_from(child.id()).context(|| "no pid")?;
            kill(Pid::from_raw(pid), Signal::SIGTERM).context(|| "cannot stop it")?;
        }
        let ended = child.try_wait().context(|| "cannot wait for it")?;
        match (ended, order.take_if(|_| ended.is_some())) {
            (None, _) => {}
            (Some(_), Some(Order::Restart)) => child = start(program, &kept)?,
            // All that is kept is closed with this process.
            (Some(_), Some(Order::Stop) | None) => return Ok(()),
        }
    }
}

fn start(program: &str, kept: &[RawFd]) -> Result<Child> {
    let kept: Vec<String> = kept.iter().map(RawFd::to_string).collect();
    let mut command = Command::new("sh");
    command.args(["-c", START]);
    command.env("PROGRAM", program).env("KEPT", kept.join(" "));
    command.env("NOTIFY_SOCKET", SOCKET);
    command.spawn().context(|| format!("cannot run {program}"))
}

/// The next message, if one comes in time; its descriptors are kept.
fn receive(socket: &UnixDatagram, kept: &mut Vec<RawFd>) -> Option<String> {
    let mut bytes = [0; 256];
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    for control in message.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            kept.extend(descriptors);
        }
    }
    let length = message.bytes;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

// SPDX-License-Identifier: GPL-2.0-only
//! Telling the service manager: the sd_notify(3) protocol, one datagram each.
//!
//! Without NOTIFY_SOCKET in the environment, or when it cannot be reached, nothing
//! happens: whoever set it will miss the message and say so.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The host watchdog is armed and verified.
pub fn ready() {
    send(b"READY=1");
}

/// The daemon was asked to stop.
pub fn stopping() {
    send(b"STOPPING=1");
}

fn send(message: &[u8]) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&name),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to_addr(message, &address);
    }
}

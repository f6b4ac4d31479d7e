// SPDX-License-Identifier: GPL-2.0-only
//! Telling the service manager: the sd_notify(3) protocol, one datagram each.
//!
//! Without NOTIFY_SOCKET in the environment there is nobody to tell. It never blocks: what
//! the manager has no room for is to be said again.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// To whom the environment says, if it does. Opens the socket, so that telling later
    /// needs nothing more.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address.ok()?))
        }))
    }

    /// Says `message`, such as `READY=1`. Gives whether that is settled: it arrived, there is
    /// nobody to tell, or it can never arrive. Allocates nothing, never blocks.
    #[must_use]
    pub fn tell(&self, message: &str) -> bool {
        let Some((socket, address)) = &self.0 else {
            return true;
        };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_manager_has_no_room_for_is_not_settled() {
        let name = format!("xenwarden-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("binds");
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        let notifier = Notifier(Some((socket, address)));
        let sent = (0..1 << 16)
            .take_while(|_| notifier.tell("READY=1"))
            .count();
        assert!(sent > 0 && sent < 1 << 16, "{sent}");
        let mut buffer = [0; 16];
        for _ in 0..sent {
            let len = manager.recv(&mut buffer).expect("arrived");
            assert_eq!(&buffer[..len], b"READY=1");
        }
        assert!(notifier.tell("READY=1"));
    }
}

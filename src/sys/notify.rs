// SPDX-License-Identifier: GPL-2.0-only
//! Telling the service manager: the sd_notify(3) protocol, one datagram each.
//!
//! Without NOTIFY_SOCKET in the environment there is nobody to tell. Telling never blocks: what
//! the manager has no room for is to be said again.

use super::clock::{Monotonic, NS_PER_MS, sleep_until};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A manager that has no room for a descriptor is asked again after so long, ns, and so often.
const AGAIN_NS: u64 = 10 * NS_PER_MS;
const TIMES: u32 = 50;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// To whom the environment says, if it does. Opens the socket, so that telling later
    /// needs nothing more.
    #[must_use]
    pub fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        name.map_or(Self(None), |name| Self::to(&name))
    }

    /// To a socket of this name: a path, or one in the abstract namespace after an @. To nobody
    /// where there can be no such socket.
    #[must_use]
    pub fn to(name: &OsStr) -> Self {
        let open = || -> io::Result<(UnixDatagram, SocketAddr)> {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(name),
            }?;
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        };
        Self(open().ok())
    }

    /// Says `message`, such as `READY=1`. Gives whether that is settled: it arrived, there is
    /// nobody to tell, or it can never arrive. Allocates nothing, never blocks.
    #[must_use]
    pub fn tell(&self, message: &str) -> bool {
        self.0.is_none()
            || match self.deliver(message) {
                Ok(()) => true,
                Err(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ),
            }
    }

    /// The same where it matters that it arrived. Never blocks.
    ///
    /// # Errors
    /// The errno of sendto(2), such as ENOENT where there is no socket, and EAGAIN where it has no
    /// room; ENOTCONN: there is nobody to tell.
    pub fn deliver(&self, message: &str) -> io::Result<()> {
        let (socket, address) = self.0.as_ref().ok_or(Errno::ENOTCONN)?;
        socket.send_to_addr(message.as_bytes(), address).map(|_| ())
    }
}

impl Notifier {
    /// Gives the manager a copy of `descriptor`, to be kept for whoever is started next in this
    /// process's place (`FDSTORE=1` of sd_notify(3)). False: there is nobody. Whether a manager
    /// to whom it was sent keeps it nobody says. Blocks for half a second, while the manager has
    /// no room.
    ///
    /// # Errors
    /// The errno of sending it.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<bool, Errno> {
        // FDPOLL=0: a watchdog is nothing that could be polled for its end, and a connection's end
        // is for the next of this process's kind to see.
        self.give(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), descriptor)
    }

    /// Has the manager forget what it keeps under this name (`FDSTOREREMOVE=1`). Whether that
    /// arrived does not matter: what it keeps it gives back, ended.
    pub fn forget(&self, name: &str) {
        let _ = self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    fn give(&self, message: &str, descriptor: BorrowedFd<'_>) -> Result<bool, Errno> {
        let Some((socket, address)) = &self.0 else {
            return Ok(false);
        };
        let address = match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => UnixAddr::new(path)?,
            (None, Some(name)) => UnixAddr::new_abstract(name)?,
            (None, None) => return Ok(false),
        };
        let descriptors = [descriptor.as_raw_fd()];
        let send = || {
            sendmsg(
                socket.as_raw_fd(),
                &[IoSlice::new(message.as_bytes())],
                &[ControlMessage::ScmRights(&descriptors)],
                MsgFlags::MSG_NOSIGNAL,
                Some(&address),
            )
        };
        let mut sent = send();
        for _ in 0..TIMES {
            if !matches!(sent, Err(Errno::EAGAIN | Errno::EINTR)) {
                break;
            }
            sleep_until(Monotonic::now().plus_ns(AGAIN_NS));
            sent = send();
        }
        sent.map(|_| true)
    }
}

/// How often the service manager's watchdog wants a sign of life at least, ns (sd_watchdog_enabled(3)); none: it does
/// not.
#[must_use]
pub fn watchdog_ns() -> Option<u64> {
    let pid = std::env::var("WATCHDOG_PID").ok();
    if pid.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let us: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (us > 0).then(|| us.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager, and the way to it.
    fn manager(name: &str) -> (UnixDatagram, Notifier) {
        let name = format!("@xenwarden-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("binds");
        (manager, Notifier::to(name.as_ref()))
    }

    #[test]
    fn a_descriptor_arrives_with_its_name_and_is_the_same_open_file() {
        use nix::sys::socket::{ControlMessageOwned, recvmsg};
        use std::io::IoSliceMut;
        use std::os::fd::AsFd;
        let (manager, notifier) = manager("keep");
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert_eq!(notifier.keep("watchdog0", file.as_fd()), Ok(true));
        let mut bytes = [0; 128];
        let mut space = nix::cmsg_space!([i32; 4]);
        let (text, kept) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::empty();
            let message = recvmsg::<()>(manager.as_raw_fd(), &mut parts, Some(&mut space), flags);
            let message = message.expect("arrived");
            let kept: Vec<_> = message.cmsgs().expect("sound").collect();
            (message.bytes, kept)
        };
        let text = bytes.get(..text).expect("within");
        assert!(text.starts_with(b"FDSTORE=1\nFDNAME=watchdog0\n"));
        let [ControlMessageOwned::ScmRights(descriptors)] = &kept[..] else {
            panic!("{kept:?}");
        };
        assert_eq!(descriptors.len(), 1);
        let nobody = Notifier(None).keep("watchdog0", file.as_fd());
        assert_eq!(nobody, Ok(false));
        drop(manager);
        assert!(notifier.keep("watchdog0", file.as_fd()).is_err(), "gone");
    }

    #[test]
    fn a_descriptor_waits_for_a_manager_that_is_busy_but_not_for_ever() {
        use std::os::fd::AsFd;
        let (manager, notifier) = manager("busy");
        while notifier.tell("READY=1") {}
        let file = std::fs::File::open("/dev/null").expect("opens");
        let busy = notifier.keep("watchdog0", file.as_fd());
        assert_eq!(busy, Err(Errno::EAGAIN));
        std::thread::scope(|scope| {
            scope.spawn(|| while manager.recv(&mut [0; 16]).is_ok_and(|len| len < 16) {});
            let kept = notifier.keep("watchdog0", file.as_fd());
            assert_eq!(kept, Ok(true), "there is room again");
        });
    }

    #[test]
    fn what_the_service_manager_has_no_room_for_is_not_settled() {
        let (manager, notifier) = manager("notify");
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

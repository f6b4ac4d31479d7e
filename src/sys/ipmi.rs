// SPDX-License-Identifier: GPL-2.0-only
//! A BMC's own word on its watchdog timer, past the watchdog driver.
//!
//! Sources: Linux `include/uapi/linux/ipmi.h` (/dev/ipmi0 is ipmi_devintf's), the IPMI
//! specification 2.0, 27.7 "Get Watchdog Timer".

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/ipmi0";
/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE` and `IPMI_BMC_CHANNEL`.
const SYSTEM_INTERFACE: libc::c_int = 0x0c;
const BMC_CHANNEL: libc::c_short = 0x0f;
/// Network function "application", command "Get Watchdog Timer".
const APPLICATION: u8 = 0x06;
const GET_WATCHDOG_TIMER: u8 = 0x25;
/// How long a BMC may take to answer, ms.
const ANSWERS_WITHIN_MS: u16 = 1_000;
/// A completion code and eight bytes.
const ANSWER: usize = 9;

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct Address {
    kind: libc::c_int,
    channel: libc::c_short,
    lun: u8,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    netfn: u8,
    cmd: u8,
    data_len: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut Address,
    address_len: u32,
    id: libc::c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Received {
    kind: libc::c_int,
    address: *mut Address,
    address_len: u32,
    id: libc::c_long,
    message: Message,
}

mod ioctls {
    #![allow(missing_docs, clippy::undocumented_unsafe_blocks)]
    use super::{Received, Request};
    nix::ioctl_readwrite!(receive_truncated, b'i', 11, Received);
    nix::ioctl_read!(send_command, b'i', 13, Request);
}

/// What a BMC says of its watchdog timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogTimer {
    /// It counts down.
    pub running: bool,
    /// What it does at the end: 0 nothing, 1 hard reset, 2 power down, 3 power cycle.
    pub action: u8,
    /// It has run out, for an operating system, since that was last cleared.
    pub expired: bool,
}

impl WatchdogTimer {
    /// Whether its action ends this boot.
    #[must_use]
    pub fn resets(self) -> bool {
        (1..=3).contains(&self.action)
    }

    /// From an answer's bytes, its completion code first.
    fn decode(answer: &[u8]) -> io::Result<Self> {
        let &[code, timer_use, action, _, flags, ..] = answer else {
            return Err(io::Error::other("the BMC's answer is too short"));
        };
        if code != 0 {
            return Err(io::Error::other(format!(
                "the BMC answers with error {code:#04x}"
            )));
        }
        Ok(Self {
            running: timer_use & 0x40 != 0,
            action: action & 0x07,
            // Bit 4: SMS/OS.
            expired: flags & 0x10 != 0,
        })
    }
}

/// Asks the first BMC. Blocks for a second at most.
///
/// # Errors
/// The errno of opening /dev/ipmi0 (without ipmi_devintf there is none) or of its ioctls;
/// `TimedOut`; what the BMC says against it.
pub fn watchdog_timer() -> io::Result<WatchdogTimer> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|error| io::Error::new(error.kind(), format!("{DEVICE}: {error}")))?;
    let message = |data_len, data| Message {
        netfn: APPLICATION,
        cmd: GET_WATCHDOG_TIMER,
        data_len,
        data,
    };
    let mut address = Address {
        kind: SYSTEM_INTERFACE,
        channel: BMC_CHANNEL,
        lun: 0,
    };
    let address_len = u32::try_from(size_of::<Address>()).map_err(io::Error::other)?;
    let mut request = Request {
        address: &raw mut address,
        address_len,
        id: 1,
        message: message(0, std::ptr::null_mut()),
    };
    // SAFETY: the descriptor is open; the request and the address that it points to live until
    // the call returns, and the message has no data.
    unsafe { ioctls::send_command(device.as_raw_fd(), &raw mut request) }?;
    let mut wanted = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    if poll(&mut wanted, PollTimeout::from(ANSWERS_WITHIN_MS))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the BMC does not answer",
        ));
    }
    let mut answer = [0_u8; 64];
    let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let mut received = Received {
        kind: 0,
        address: &raw mut address,
        address_len,
        id: 0,
        message: message(len, answer.as_mut_ptr()),
    };
    // SAFETY: the descriptor is open; the address and the buffer live until the call returns,
    // and their lengths are those that are given.
    match unsafe { ioctls::receive_truncated(device.as_raw_fd(), &raw mut received) } {
        Ok(_) | Err(Errno::EMSGSIZE) => {}
        Err(errno) => return Err(errno.into()),
    }
    let len = usize::from(received.message.data_len).min(ANSWER);
    WatchdogTimer::decode(answer.get(..len).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_it_runs_and_what_it_does() {
        let timer = WatchdogTimer::decode(&[0, 0x44, 0x01, 0, 0x10, 50, 0, 50, 0]).ok();
        let expected = WatchdogTimer {
            running: true,
            action: 1,
            expired: true,
        };
        assert_eq!(timer, Some(expected));
        let idle = WatchdogTimer::decode(&[0, 0x04, 0x00, 0, 0, 0, 0, 0, 0]).ok();
        assert!(idle.is_some_and(|timer| !timer.running && !timer.resets() && !timer.expired));
        assert!(WatchdogTimer::decode(&[0xc1, 0, 0, 0, 0]).is_err());
        assert!(WatchdogTimer::decode(&[0, 0x44]).is_err() && WatchdogTimer::decode(&[]).is_err());
    }

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        let sizes = [
            size_of::<Address>(),
            size_of::<Request>(),
            size_of::<Received>(),
        ];
        assert_eq!(sizes, [8, 40, 48]);
    }
}

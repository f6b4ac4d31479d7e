// SPDX-License-Identifier: GPL-2.0-only
//! A network between two hosts that can lose all that goes one way, and neither says so nor closes anything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who connected.
    Forth,
    /// To them.
    Back,
}

/// Takes connections for `to`, until the test ends.
#[derive(Clone, Default)]
pub struct Link {
    forth: Arc<AtomicBool>,
    back: Arc<AtomicBool>,
}

impl Link {
    /// Where to connect to in place of `to`.
    pub fn add(&self, to: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind((to.ip(), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let link = self.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Nobody listens there yet: whoever connected sees this closed, and comes again.
                let Ok(far) = TcpStream::connect(to) else {
                    continue;
                };
                carry(&near, &far, &link.forth);
                carry(&far, &near, &link.back);
            }
        });
        address
    }

    /// The same network as it is for who connects from its other end.
    pub fn reversed(&self) -> Self {
        Self {
            forth: Arc::clone(&self.back),
            back: Arc::clone(&self.forth),
        }
    }

    /// From now on what goes this way is lost.
    pub fn cut(&self, way: Way) {
        let cut = match way {
            Way::Forth => &self.forth,
            Way::Back => &self.back,
        };
        cut.store(true, Ordering::SeqCst);
    }
}

/// Carries what comes, and its end, for as long as this way is not cut.
fn carry(from: &TcpStream, to: &TcpStream, cut: &Arc<AtomicBool>) {
    let mut from = from.try_clone().expect("a clone");
    let mut to = to.try_clone().expect("a clone");
    let cut = Arc::clone(cut);
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        loop {
            let got = from.read(&mut bytes).unwrap_or(0);
            if cut.load(Ordering::SeqCst) {
                if got == 0 {
                    return std::mem::forget(to);
                }
                continue;
            }
            if got == 0 || to.write_all(&bytes[..got]).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    });
}

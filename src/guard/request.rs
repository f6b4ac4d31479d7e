// SPDX-License-Identifier: GPL-2.0-only
//! What the guard is asked for from outside: signals.
//!
//! In: signals, caught by a start. Out: whether the guard is to end, and why. Reading it takes no
//! lock and waits for nobody.

use crate::watchdog::Ends;
use libc::SIGPWR;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody asked the guard to end.
#[derive(Clone, Debug, Default)]
pub struct Request {
    stop: Arc<AtomicBool>,
    shutdown: Arc<AtomicBool>,
}

impl Request {
    /// Of SIGTERM and SIGINT, which stop, and of SIGPWR, which says that the host shuts down. SIGHUP
    /// is ignored: to read the configuration anew takes a restart.
    ///
    /// # Errors
    /// Those of sigaction(2).
    pub fn by_signals() -> io::Result<Self> {
        let request = Self::default();
        let nobody = Arc::new(AtomicBool::new(false));
        for (signal, flag) in [
            (SIGTERM, &request.stop),
            (SIGINT, &request.stop),
            (SIGPWR, &request.shutdown),
            (SIGHUP, &nobody),
        ] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        Ok(request)
    }

    /// Asks for an end.
    pub fn end(&self, why: Ends) {
        let flag = match why {
            Ends::Stopped => &self.stop,
            Ends::Shutdown => &self.shutdown,
        };
        flag.store(true, Ordering::Relaxed);
    }

    /// For what somebody asks, if anybody does. A shutdown that was told stays one, whatever else is
    /// asked for.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        if self.shutdown.load(Ordering::Relaxed) {
            return Some(Ends::Shutdown);
        }
        self.stop.load(Ordering::Relaxed).then_some(Ends::Stopped)
    }
}

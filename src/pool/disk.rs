// SPDX-License-Identifier: GPL-2.0-only
//! The thread that writes logs, so that the loop never waits for a disk.
//!
//! In: records, in their hosts' orders, and snapshots that replace a file. Out: of this host's records, whether they are on
//! the disk. Promises: what waits is bounded by what the loop gives before it has an answer, and by `QUEUE` for what others
//! wrote; what finds no room there, or on the disk, is marked, and its host's file is replaced as a whole later. A full disk ends nothing:
//! it is said, counted, and tried again.

use super::fold::HostState;
use super::log::{LogFile, Logs};
use super::record::{HostId, Stored};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use nix::sys::eventfd::EventFd;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Writes of others' records that wait.
const QUEUE: usize = 256;

/// What is to be written.
#[derive(Debug)]
enum Order {
    /// Records of this host.
    Own(Vec<Arc<Stored>>),
    /// Records of others, each with its host.
    Others(Vec<Arc<Stored>>),
    /// A host's whole log.
    Whole(HostId, Box<HostState>, Vec<Arc<Stored>>),
}

/// What has come of it.
#[derive(Debug)]
pub enum Written {
    /// This host's records are on the disk, or why not.
    Own(io::Result<()>),
    /// The log of this host is not on the disk as it is known here, and why.
    Failed(HostId, io::Error),
}

/// The way to the thread.
#[derive(Debug)]
pub struct Disk {
    orders: Option<Sender<Order>>,
    /// What has come of it.
    pub written: Receiver<Written>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread with the files that are open.
    ///
    /// # Errors
    /// The errno of starting it.
    pub fn start(
        logs: Logs,
        files: BTreeMap<HostId, LogFile>,
        own: HostId,
        wake: &Arc<EventFd>,
    ) -> io::Result<Self> {
        let (orders, waiting) = bounded(QUEUE);
        let (tell, written) = unbounded();
        let wake = Arc::clone(wake);
        let mut writer = Writer { logs, files, own };
        let work = move || {
            for order in waiting {
                writer.write(order, &mut |written| {
                    let _ = tell.send(written);
                    let _ = wake.write(1);
                });
            }
            writer.end();
        };
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(work)?;
        Ok(Self {
            orders: Some(orders),
            written,
            thread: Some(thread),
        })
    }

    /// Whether it took the order.
    fn order(&self, order: Order) -> bool {
        let Some(orders) = &self.orders else {
            return false;
        };
        match orders.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Has records of this host written. False: there is no room; they are to be given again.
    #[must_use]
    pub fn own(&self, records: Vec<Arc<Stored>>) -> bool {
        self.order(Order::Own(records))
    }

    /// Has records of others written. False: there is no room; their hosts' logs are to be given as a whole.
    #[must_use]
    pub fn others(&self, records: Vec<Arc<Stored>>) -> bool {
        self.order(Order::Others(records))
    }

    /// Has a host's log replaced. False: there is no room; it is to be given again.
    #[must_use]
    pub fn whole(&self, host: HostId, base: HostState, records: Vec<Arc<Stored>>) -> bool {
        self.order(Order::Whole(host, Box::new(base), records))
    }

    /// Writes what waits, and ends. Blocks as long as the disk does.
    pub fn end(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    logs: Logs,
    files: BTreeMap<HostId, LogFile>,
    own: HostId,
}

impl Writer {
    fn file(&mut self, host: HostId) -> io::Result<&mut LogFile> {
        match self.files.entry(host) {
            std::collections::btree_map::Entry::Occupied(open) => Ok(open.into_mut()),
            std::collections::btree_map::Entry::Vacant(none) => {
                let (_, file) = self.logs.read(host)?;
                self.logs.sync()?;
                Ok(none.insert(file))
            }
        }
    }

    fn write(&mut self, order: Order, tell: &mut dyn FnMut(Written)) {
        match order {
            Order::Own(records) => {
                let own = self.own;
                let done = self.file(own).and_then(|file| file.append(&records, true));
                tell(Written::Own(done));
            }
            Order::Others(records) => {
                let mut by_host: BTreeMap<HostId, Vec<Arc<Stored>>> = BTreeMap::new();
                for stored in records {
                    by_host.entry(stored.host).or_default().push(stored);
                }
                for (host, records) in by_host {
                    let done = self.file(host).and_then(|f| f.append(&records, false));
                    if let Err(error) = done {
                        tell(Written::Failed(host, error));
                    }
                }
            }
            Order::Whole(host, base, records) => {
                let done = self.file(host).and_then(|f| f.replace(&base, &records));
                if let Err(error) = done {
                    tell(Written::Failed(host, error));
                }
            }
        }
    }

    fn end(&mut self) {
        for file in self.files.values() {
            let _ = file.sync();
        }
    }
}

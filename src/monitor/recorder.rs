// SPDX-License-Identifier: GPL-2.0-only
//! The recorder: writes down at once what was so when kicks ended.
//!
//! In: what the host watchdog does, from whichever watcher tells it. Out, where kicks end: a
//! withhold record on disk ([`crate::state::withhold`]) and a line in dom0's kernel log, each
//! by a thread of its own, as each may hang. The event goes to the journal or syslog.
//!
//! The threads are started by the watcher that tells, and inherit the vCPU that it is bound to:
//! that one demonstrably runs. They wait for no lock. First the record is written without, then
//! once more with the end of Xen's console, whose file may be on another sick disk.
//!
//! Xen's console is read from the log that xenconsoled keeps of it (`xenconsoled --log=hv`).
//! The ring itself is to be had by an unstable hypercall only (XEN_SYSCTL_readconsole, whose
//! XEN_SYSCTL_INTERFACE_VERSION changes with Xen's release), and by a privilege that the monitor
//! has given up.

use crate::event::Timestamp;
use crate::event::describe::plain;
use crate::sink::kmsg::Kmsg;
use crate::state::reset_reason::{HostState, uptime_ms};
use crate::state::store::{Store, Stored};
use crate::state::withhold::{Console, Evidence, WithholdRecord, cut};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

/// Where xenconsoled logs Xen's console.
pub const CONSOLE: &str = "/var/log/xen/console/hypervisor.log";
/// Its end, bytes and lines.
const CONSOLE_BYTES: u64 = 8 << 10;
const CONSOLE_LINES: usize = 60;
/// Threads for one destination that may hang at once; more are not started.
const MOST_THREADS: u32 = 4;
/// Bytes of stack of each.
const STACK: usize = 128 * 1024;

/// Where records go.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    boot_id: String,
    console: PathBuf,
    kmsg: Option<Kmsg>,
    /// Kicks have ended, and that is recorded or being recorded.
    ended: AtomicBool,
    /// Threads for the disk.
    on_disk: Arc<AtomicU32>,
    /// And for the kernel log.
    in_kmsg: Arc<AtomicU32>,
}

impl Recorder {
    /// To `store`, in the boot `boot_id`, and to the kernel log where that is open; Xen's
    /// console is logged at `console`.
    #[must_use]
    pub fn new(store: Store, boot_id: &str, console: &Path, kmsg: Option<Kmsg>) -> Self {
        Self {
            store,
            boot_id: boot_id.to_owned(),
            console: console.to_owned(),
            kmsg,
            ended: AtomicBool::new(false),
            on_disk: Arc::default(),
            in_kmsg: Arc::default(),
        }
    }

    /// Takes what the host watchdog does from now on. Where kicks end, `gather` is asked for the
    /// evidence, once for each time that they do. Does not wait.
    pub fn host(
        self: &Arc<Self>,
        state: &HostState,
        gather: impl FnOnce() -> Evidence + Send + 'static,
    ) {
        let HostState::Withholding { reason, cause } = state else {
            self.ended.store(false, Ordering::Release);
            return;
        };
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let record = WithholdRecord {
            version: WithholdRecord::VERSION,
            boot_id: self.boot_id.clone(),
            time: Timestamp::now(),
            uptime_ms: uptime_ms(),
            cause: *cause,
            reason: cut(reason),
            evidence: Evidence::default(),
            console: None,
        };
        let line = format!("the host watchdog is not kicked: {reason}");
        let recorder = Arc::clone(self);
        start("record-kmsg", &self.in_kmsg, move || {
            if let Some(Err(error)) = recorder.kmsg.as_ref().map(|kmsg| kmsg.tell(&line)) {
                log::warn!("the kernel log does not take why kicks ended: {error}");
            }
        });
        let recorder = Arc::clone(self);
        start("record-disk", &self.on_disk, move || {
            recorder.save(record, gather);
        });
    }

    fn save(&self, mut record: WithholdRecord, gather: impl FnOnce() -> Evidence) {
        record.evidence = gather().bounded();
        let saved = self.store.save(&record);
        record.console = end_of(&self.console).ok();
        let saved = match &record.console {
            Some(_) => saved.and(self.store.save(&record)),
            None => saved,
        };
        if let Err(error) = saved {
            log::error!("cannot record why kicks ended: {error}");
        }
    }
}

/// A thread that runs, among those that count with it. Dropped when it ends, by a panic as well.
struct Running(Arc<AtomicU32>);

impl Running {
    /// None where too many run.
    fn begin(count: &Arc<AtomicU32>) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::AcqRel);
        let running = Self(Arc::clone(count));
        (before < MOST_THREADS).then_some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Starts a thread that may hang, unless too many of its kind, counted by `count`, do.
fn start(name: &str, count: &Arc<AtomicU32>, body: impl FnOnce() + Send + 'static) {
    let Some(running) = Running::begin(count) else {
        log::error!("{name}: earlier threads hang, and no other is started");
        return;
    };
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    let spawned = builder.spawn(move || {
        let _running = running;
        body();
    });
    if let Err(error) = spawned {
        log::error!("cannot start thread {name}: {error}");
    }
}

/// The last lines of a log that may hold anything.
///
/// # Errors
/// The errno, or that it is no plain file.
pub fn end_of(path: &Path) -> io::Result<Console> {
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let start = metadata.len().saturating_sub(CONSOLE_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(CONSOLE_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // What the first line begins with may be cut off.
    let lines = text.lines().skip(usize::from(start > 0));
    let lines: Vec<String> = lines.map(|line| cut(&plain(line))).collect();
    let surplus = lines.len().saturating_sub(CONSOLE_LINES);
    Ok(Console {
        path: path.display().to_string(),
        lines: lines.into_iter().skip(surplus).collect(),
    })
}

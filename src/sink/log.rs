// SPDX-License-Identifier: GPL-2.0-only
//! A program's own log lines: the `log` crate's records to stderr and syslog.
//!
//! In: records of what is no event. Out: lines, of which each goes to the journal once: where
//! stderr is the journal, /dev/log gets none. Each destination has a queue and a thread; one
//! that stalls loses lines, which are counted, and delays nobody.

use super::devlog::DevLog;
use super::journal;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use syslog::Severity;

/// Lines that may wait for each destination.
const QUEUE: usize = 256;
/// Bytes of stack for each writer.
const STACK: usize = 64 * 1024;
/// How long the monitor's end waits for its last lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

enum Item {
    Line(Level, String),
    /// Everything before this was written: tell the sender.
    Flush(Sender<()>),
}

struct Logger {
    queues: Vec<Sender<Item>>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static SYSLOG_LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that full queues refused, and messages that /dev/log did not take, since start.
#[must_use]
pub fn dropped() -> (u64, u64) {
    (
        DROPPED.load(Ordering::Relaxed),
        SYSLOG_LOST.load(Ordering::Relaxed),
    )
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = record.args().to_string();
        for queue in &self.queues {
            let item = Item::Line(record.level(), line.clone());
            if let Err(TrySendError::Full(_)) = queue.try_send(item) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {
        for queue in &self.queues {
            let (done, wait) = bounded(1);
            if queue.send_timeout(Item::Flush(done), FLUSH).is_ok() {
                let _ = wait.recv_timeout(FLUSH);
            }
        }
    }
}

/// Starts logging at `level` as the program `name` to stderr and, if `syslog` and stderr is not
/// the journal, to /dev/log. Each thread that writes calls `begin` first. Once a process.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(
    name: &'static str,
    level: LevelFilter,
    syslog: bool,
    begin: fn(),
) -> std::io::Result<()> {
    let stderr = move |queue: &_| to_stderr(name, queue);
    let mut queues = vec![writer("log-stderr", begin, stderr)?];
    if syslog && !journal::has_stderr() {
        let syslog = move |queue: &_| to_syslog(name, queue);
        queues.push(writer("log-syslog", begin, syslog)?);
    }
    let logger = LOGGER.get_or_init(|| Logger { queues });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

fn writer(
    name: &str,
    begin: fn(),
    run: impl FnOnce(&Receiver<Item>) + Send + 'static,
) -> std::io::Result<Sender<Item>> {
    let (send, receive) = bounded(QUEUE);
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            begin();
            run(&receive);
        })?;
    Ok(send)
}

fn each_line(queue: &Receiver<Item>, mut write: impl FnMut(Level, &str)) {
    for item in queue {
        match item {
            Item::Line(level, line) => write(level, &line),
            Item::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

fn to_stderr(name: &str, queue: &Receiver<Item>) {
    // A stderr that is closed loses the line; there is nowhere to say so.
    each_line(queue, |_, line| {
        let _ = std::io::stderr().write_all(format!("{name}: {line}\n").as_bytes());
    });
}

fn to_syslog(name: &'static str, queue: &Receiver<Item>) {
    let mut devlog = DevLog::new(Path::new("/dev/log"), name);
    each_line(queue, |level, line| {
        let severity = match level {
            Level::Error => Severity::LOG_ERR,
            Level::Warn => Severity::LOG_WARNING,
            Level::Info => Severity::LOG_INFO,
            Level::Debug | Level::Trace => Severity::LOG_DEBUG,
        };
        if devlog.send(severity, line) > 0 {
            SYSLOG_LOST.fetch_add(1, Ordering::Relaxed);
        }
    });
}

// SPDX-License-Identifier: GPL-2.0-only
//! Fast fencing, off unless asked for: a reset at once where the guard has died, or where nothing
//! has been served for a set time, for clusters that count seconds. It is a process of its own
//! beside the guard, as no thread of the guard outlives it.
//!
//! In: a pipe from the guard, which ends with it, and the guard page. Out: sysrq b. A guard that lets go of the host watchdog in order
//! says so first, and one that is inhibited serves; whoever kills both is left to the hardware.

use super::fence::{Judged, Overdue, Presence, SYSRQ, judge, open_sysrq, reset};
use crate::exit::{Failure, OSERR, USAGE};
use crate::guard::page::{self, Reader};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::realtime::{become_realtime, lock_memory};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The program, and the option with which it becomes this process.
const PROGRAM: &str = "/proc/self/exe";
/// The option's name, without its dashes.
pub const OPTION: &str = "fast-fence";
/// What it is called by ps(1).
const NAME: &str = "xenwarden-fast";
/// What the guard says: the host watchdog is armed, or it was let go of in order.
const ARMED: u8 = b'a';
const LET_GO: u8 = b'l';
/// How often the guard page is looked at, milliseconds.
const EACH_MS: u16 = 100;

/// When it resets the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fast {
    /// When the guard ends without having let go of the host watchdog.
    pub guard_death: bool,
    /// When nothing has been served for so long, milliseconds.
    pub withheld_ms: Option<u32>,
}

impl Fast {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.guard_death || self.withheld_ms.is_some()
    }
}

/// The guard's end of the pipe.
#[derive(Debug)]
pub struct Pipe(ChildStdin);

impl Pipe {
    /// Starts the process, which does nothing before the arming.
    ///
    /// # Errors
    /// The errno of starting it.
    pub fn start(fast: Fast, priority: u8) -> io::Result<Self> {
        let words = Words {
            priority,
            guard: std::process::id(),
            fast,
        };
        let mut child = Command::new(PROGRAM)
            .arg0(NAME)
            .arg(format!("--{OPTION}={}", words.text()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self(pipe))
    }

    /// The host watchdog is armed: from now on the guard's end is its death.
    ///
    /// # Errors
    /// The process is gone.
    pub fn armed(&mut self) -> io::Result<()> {
        self.0.write_all(&[ARMED])
    }

    /// It was let go of in order.
    pub fn let_go(mut self) {
        // If the process is gone it resets nothing.
        let _ = self.0.write_all(&[LET_GO]);
    }
}

/// What the process is told on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    priority: u8,
    guard: u32,
    fast: Fast,
}

impl Words {
    fn text(&self) -> String {
        let Fast {
            guard_death,
            withheld_ms,
        } = self.fast;
        format!(
            "{},{},{},{}",
            self.priority,
            self.guard,
            u8::from(guard_death),
            withheld_ms.unwrap_or(0)
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(',');
        let words = [(); 4].map(|()| words.next()?.parse::<u32>().ok());
        let [priority, guard, death, withheld_ms] = words;
        Some(Self {
            priority: u8::try_from(priority?).ok()?,
            guard: guard?,
            fast: Fast {
                guard_death: death? == 1,
                withheld_ms: Some(withheld_ms?).filter(|ms| *ms != 0),
            },
        })
    }
}

/// The process. Ends when the guard has let go of the host watchdog, or died before it armed it.
///
/// # Errors
/// What it needs cannot be had; the guard then finds the pipe closed.
pub fn run(text: &str) -> Result<(), Failure> {
    let words = Words::parse(text);
    let words = words.ok_or_else(|| {
        let text = format!("--{OPTION} is for xenwardend itself; see [fast] in xenwarden.conf(5)");
        Failure::new(USAGE, text)
    })?;
    let failed = |what: &str, error: io::Error| {
        Failure::new(OSERR, format!("no fast fence: {what}: {error}"))
    };
    // A service manager tells all processes of a unit to stop; this one ends with the guard.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|error| failed("signals", error))?;
    }
    let _ = fs::write("/proc/self/comm", NAME);
    let mut sysrq = open_sysrq(Path::new(SYSRQ)).map_err(|error| failed(SYSRQ, error))?;
    lock_memory().map_err(|errno| failed("locked memory", errno.into()))?;
    become_realtime(words.priority).map_err(|errno| failed("real time", errno.into()))?;
    if watch(words, &mut io::stdin().lock(), page::PATH) == Outcome::Reset {
        // Should it fail, the other levels are there.
        reset(&mut sysrq);
    }
    Ok(())
}

/// What the process comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The host watchdog is not armed any more, or never was.
    Over,
    /// The host is to be reset.
    Reset,
}

/// Waits for either.
fn watch(words: Words, pipe: &mut (impl Read + AsFd), path: &str) -> Outcome {
    let Words { guard, fast, .. } = words;
    let began = Monotonic::now();
    let overdue = fast
        .withheld_ms
        .map(|ms| Overdue::SinceServed(u64::from(ms) * NS_PER_MS));
    let mut armed = None;
    let mut dead = false;
    let mut presence = Presence::default();
    loop {
        let each = match (overdue, armed.is_some()) {
            (Some(_), true) => PollTimeout::from(EACH_MS),
            _ => PollTimeout::NONE,
        };
        let asked = Monotonic::now();
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let fds = if dead { &mut [][..] } else { &mut fds[..] };
        let told = poll(fds, each).unwrap_or(0) > 0;
        let mut byte = [0];
        let read = if told {
            pipe.read(&mut byte).ok()
        } else {
            None
        };
        match (read, byte) {
            (Some(1), [ARMED]) => armed = Some(Reader::open(Path::new(path)).ok()),
            (Some(1), _) => return Outcome::Over,
            (Some(_), _) if armed.is_some() && fast.guard_death => return Outcome::Reset,
            // A dead guard serves nothing: its page says since when.
            (Some(_), _) if matches!(armed, Some(Some(_))) => dead = true,
            (Some(_), _) => return Outcome::Over,
            (None, _) => {}
        }
        let (Some(overdue), Some(Some(page))) = (overdue, &armed) else {
            continue;
        };
        let due = asked.plus_ns(u64::from(EACH_MS) * NS_PER_MS);
        let told = page.vitals();
        let now = Monotonic::now();
        match presence.weigh(judge(told, guard, began, now, overdue), due, now) {
            Judged::Overdue => return Outcome::Reset,
            // A dead guard will tell nothing else.
            Judged::Ended | Judged::NotYet if dead => return Outcome::Over,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn words(guard_death: bool, withheld_ms: Option<u32>) -> Words {
        Words {
            priority: 99,
            guard: 7,
            fast: Fast {
                guard_death,
                withheld_ms,
            },
        }
    }

    #[test]
    fn what_the_process_is_told_is_read_as_it_was_written() {
        for words in [words(true, None), words(false, Some(1_000))] {
            assert_eq!(Words::parse(&words.text()), Some(words));
        }
        for text in ["", "1", "1,2,3", "x,2,1,0", "300,2,1,0"] {
            assert_eq!(Words::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_guard_that_dies_with_the_host_watchdog_armed_resets_the_host() {
        let cases: [(&[u8], bool, Outcome); 6] = [
            (b"", true, Outcome::Over),
            (b"a", true, Outcome::Reset),
            (b"al", true, Outcome::Over),
            (b"l", true, Outcome::Over),
            // Not asked for.
            (b"a", false, Outcome::Over),
            // Nobody's word.
            (b"a?", true, Outcome::Over),
        ];
        for (said, death, expected) in cases {
            let (mut guard, mut pipe) = UnixStream::pair().expect("a pair");
            let words = words(death, Some(1_000).filter(|_| !death));
            let watching = thread::spawn(move || watch(words, &mut pipe, "/nowhere"));
            guard.write_all(said).expect("written");
            drop(guard);
            assert_eq!(watching.join().expect("ends"), expected, "{said:?}");
        }
    }
}

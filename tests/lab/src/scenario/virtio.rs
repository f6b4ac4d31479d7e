// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats of a guest of QEMU by virtio-serial: it hangs, and is reset. No Xen host: QEMU, its guest and xenwarden-pulse run on
//! this machine.

use super::Row;
use super::figures::Figures;
use crate::error::{Context, Error, Result};
use crate::laboratory::Laboratory;
use crate::layout::{read_text, write};
use crate::machine::VirtioGuest;
use std::io::{BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};
use xenwarden::pulse::status::{BeatStatus, PulseStatus};

/// The heartbeats, by the kind of chardev.
const HEARTBEATS: [&str; 2] = ["socket", "terminal"];
/// Without a pulse for so long they are lost: longer than a busy machine keeps a guest from running.
const TIMEOUT_MS: u64 = 10_000;
/// How long a boot may take under emulation on a busy machine, or anything else.
const SLOW: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// The scenario.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "guest-virtio", what: "a guest of QEMU that tells by virtio-serial that it lives panics, and is reset", run: |lab, _| run(lab) },
];

fn run(laboratory: &Laboratory) -> Result<Figures> {
    let mut guest = laboratory.virtio_guest()?;
    let mut watch = Watch::start(&laboratory.program("xenwarden-pulse"), &mut guest)?;
    let outcome = lost_and_back(&mut guest, &mut watch).map_err(|error| {
        Error::new(format!(
            "{error}\nthe guest's console:\n{}",
            guest.console()
        ))
    });
    Ok(Figures::of(outcome, watch.said()))
}

fn lost_and_back(guest: &mut VirtioGuest, watch: &mut Watch) -> Result<Vec<String>> {
    let booted = watch.wait_states("armed")?;
    watch.check_sent(0)?;
    guest.hang()?;
    let lost = watch.wait_states("lost")?;
    watch.wait_sent()?;
    if !guest.is_running()? {
        return Err(Error::new("QEMU takes it for a guest that does not run"));
    }
    guest.reset()?;
    let back = watch.wait_states("back")?;
    // Once, however long it was lost.
    watch.check_sent(1)?;
    for line in ["is LOST", "is back"] {
        let said = watch
            .said()
            .iter()
            .filter(|said| said.contains(line))
            .count();
        if said != HEARTBEATS.len() {
            return Err(Error::new(format!("{said} times said: {line}")));
        }
    }
    let figure = |what: &str, passed: Duration| format!("{what} {:.1} s", passed.as_secs_f64());
    Ok(vec![
        figure("armed", booted),
        figure("lost", lost),
        figure("back", back),
    ])
}

/// xenwarden-pulse, who watches the guest, and the notification nodes of its heartbeats.
struct Watch {
    child: Child,
    folder: PathBuf,
    /// What each of the nodes was sent.
    sent: [Arc<Mutex<Vec<u8>>>; 2],
}

impl Watch {
    fn start(program: &Path, guest: &mut VirtioGuest) -> Result<Self> {
        let folder = guest.folder().to_path_buf();
        let heard = [
            format!("connect = \"unix:{}\"", guest.socket()),
            format!("device = \"{}\"", guest.terminal()?),
        ];
        let mut config = "control_socket = \"/nonexistent/control.sock\"\n".to_owned();
        let mut sent = [Arc::default(), Arc::default()];
        for ((name, heard), sent) in HEARTBEATS.into_iter().zip(heard).zip(&mut sent) {
            let script = folder.join(format!("{name}.script"));
            write(&script, script_of(name))?;
            let port = listen(sent)?;
            config += &format!(
                "[heartbeat.{name}]\n{heard}\nprotocol = \"notify\"\ntimeout_ms = {TIMEOUT_MS}\n\
                 notify_connect = \"127.0.0.1:{port}\"\nscript = \"{}\"\n",
                script.display()
            );
        }
        write(&folder.join("guest.toml"), config)?;
        std::fs::create_dir_all(folder.join("xenwarden-pulse"))
            .context(|| "cannot create a folder for its socket")?;
        let log = std::fs::File::create(folder.join("pulse.log"));
        let log = log.context(|| "cannot create its log")?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(["--run", ".", "--name", "guest", "--config", "guest.toml"])
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .context(|| format!("cannot start {}", program.display()))?;
        Ok(Watch {
            child,
            folder,
            sent,
        })
    }

    fn beats(&self) -> Option<Vec<BeatStatus>> {
        let path = format!("/proc/{}/cwd/xenwarden-pulse/guest.sock", self.child.id());
        let mut text = String::new();
        let mut stream = UnixStream::connect(path).ok()?;
        stream.read_to_string(&mut text).ok()?;
        let status: PulseStatus = serde_json::from_str(&text).ok()?;
        Some(status.heartbeats)
    }

    /// Waits until all heartbeats are so; how long that took.
    fn wait_states(&mut self, state: &str) -> Result<Duration> {
        self.wait(state, |watch| {
            let beats = watch.beats().unwrap_or_default();
            beats.len() == HEARTBEATS.len() && beats.iter().all(|beat| beat.state == state)
        })
    }

    fn wait_sent(&mut self) -> Result<()> {
        self.wait("the script is sent", |watch| watch.check_sent(1).is_ok())
            .map(drop)
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<Duration> {
        let began = Instant::now();
        while !holds(self) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::new(format!("xenwarden-pulse has ended: {status}")));
            }
            if began.elapsed() > SLOW {
                return Err(Error::new(format!("never: {what}; {:?}", self.beats())));
            }
            sleep(POLL);
        }
        Ok(began.elapsed())
    }

    /// Whether each node was sent its script so many times, and nothing else.
    fn check_sent(&self, times: usize) -> Result<()> {
        for (name, sent) in HEARTBEATS.iter().zip(&self.sent) {
            let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            if *sent != script_of(name).repeat(times).into_bytes() {
                let sent = String::from_utf8_lossy(&sent);
                return Err(Error::new(format!(
                    "{name}: not sent {times} times, but: {sent:?}"
                )));
            }
        }
        Ok(())
    }

    fn said(&self) -> Vec<String> {
        let log = read_text(&self.folder.join("pulse.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error here means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script_of(name: &str) -> String {
    format!("the guest of {name} is lost\n")
}

/// Keeps all that is sent to a port, which it returns.
fn listen(sent: &Arc<Mutex<Vec<u8>>>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context(|| "cannot listen")?;
    let port = listener.local_addr().context(|| "no port")?.port();
    let sent = Arc::clone(sent);
    spawn(move || {
        for stream in listener.incoming().map_while(|stream| stream.ok()) {
            let sent = Arc::clone(&sent);
            spawn(move || {
                let bytes = BufReader::new(stream).bytes().map_while(|byte| byte.ok());
                bytes.for_each(|byte| {
                    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.push(byte);
                });
            });
        }
    });
    Ok(port)
}

// SPDX-License-Identifier: GPL-2.0-only
//! The command line as a program that runs, watched from outside.

use super::LONG;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// `xenwarden` with an environment of which the tester's own is no part.
pub fn xenwarden(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden"));
    command.args(arguments).env_remove("NO_COLOR");
    command.env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// Runs it to its end, which must come by itself.
pub fn finish(arguments: &[&str]) -> Output {
    let mut running = Running::start(xenwarden(arguments));
    let code = running.wait();
    let mut output = Output {
        status: code,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let stdout = running.stdout.as_mut().expect("stdout");
    stdout.read_to_end(&mut output.stdout).expect("read");
    let stderr = running.stderr.as_mut().expect("stderr");
    stderr.read_to_end(&mut output.stderr).expect("read");
    output
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line on stderr, with the exit code.
pub fn error_line(output: &Output) -> (i32, String) {
    let text = text(&output.stderr);
    assert_eq!(text.lines().count(), 1, "one line: {text:?}");
    (output.status.code().expect("not killed"), text)
}

/// One that runs on; killed should the test fail.
pub struct Running {
    child: Child,
    pub stdout: Option<BufReader<ChildStdout>>,
    pub stderr: Option<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        Self {
            stdout: child.stdout.take().map(BufReader::new),
            stderr: child.stderr.take().map(BufReader::new),
            child,
        }
    }

    /// The next line of stdout, with its end.
    pub fn line(&mut self) -> String {
        next_line(&mut self.stdout)
    }

    /// The next line of stderr, with its end.
    pub fn error_line(&mut self) -> String {
        next_line(&mut self.stderr)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads a line; fails where none comes.
fn next_line<R: Read + Send + 'static>(from: &mut Option<BufReader<R>>) -> String {
    let mut reader = from.take().expect("open");
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = reader.read_line(&mut line);
        let _ = tell.send((reader, line, read));
    });
    let (reader, line, read) = told.recv_timeout(LONG).expect("a line in time");
    read.expect("readable text");
    *from = Some(reader);
    line
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal on which it writes, and what it wrote.
pub struct Terminal {
    screen: File,
    pub child: Child,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let slave: OwnedFd = pty.slave;
        command.stdout(slave).stderr(Stdio::null());
        let child = command.spawn().expect("runs");
        drop(command); // It holds the slave's side, which must end with the child.
        let screen = File::from(pty.master);
        Self { screen, child }
    }

    /// Reads until what it wrote holds `part`.
    pub fn read_until(&mut self, part: &str) -> String {
        let mut all = Vec::new();
        let mut byte = [0];
        while !text(&all).ends_with(part) {
            let count = self.screen.read(&mut byte).expect("it writes on");
            all.extend(&byte[..count]);
        }
        text(&all)
    }

    /// Reads on to its end.
    pub fn rest(&mut self) -> String {
        let mut all = Vec::new();
        // EIO is how a terminal ends (tty_ldisc.c).
        let _ = self.screen.read_to_end(&mut all);
        text(&all)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }

    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("waits").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

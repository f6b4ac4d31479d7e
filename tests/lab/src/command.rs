// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs: quietly with their output as a value, or for minutes with a sign of life.

use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much of a failed program's output goes into the error.
const TAIL_LINES: usize = 12;
/// How often a long-running program's last line is shown.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// Tells the person at the terminal what the laboratory does now.
pub fn say(line: impl AsRef<str>) {
    eprintln!("lab: {}", line.as_ref());
}

/// Runs the command to its end and returns its standard output; any exit code but 0 is an error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot run {name}"))?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    Err(Error::new(format!(
        "{name}: {}\n{}",
        done.status,
        tail(&format!("{stdout}{stderr}"))
    )))
}

/// Runs a command that takes long: everything that it prints goes to `log`, and its newest line is shown
/// every few seconds, so that nobody wonders whether it hangs.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let name = describe(command);
    let mut file = File::create(log).context(|| format!("cannot create {}", log.display()))?;
    let stderr = file
        .try_clone()
        .context(|| format!("cannot share {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context(|| format!("cannot run {name}"))?;
    let stdout = child
        .stdout
        .take()
        .context(|| format!("{name} has no output"))?;
    let (began, mut shown) = (Instant::now(), Instant::now());
    for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
        writeln!(file, "{line}").context(|| format!("cannot write {}", log.display()))?;
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            say(format!(
                "  {:>4} s  {}",
                began.elapsed().as_secs(),
                line.trim()
            ));
        }
    }
    let status = child.wait().context(|| format!("cannot wait for {name}"))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    Err(Error::new(format!(
        "{name}: {status}, see {}\n{}",
        log.display(),
        tail(&text)
    )))
}

/// Whether a program of this name can be found.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |directory: &Path| directory.join(program).is_file();
    std::env::split_paths(&path).any(|directory| found(&directory))
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|directory| found(Path::new(directory)))
}

fn describe(command: &Command) -> String {
    let arguments = command
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        arguments.join(" ")
    )
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

// SPDX-License-Identifier: GPL-2.0-only
//! Root commands in dom0, over the second serial port: the protocol, and dom0's side of it.
//!
//! A request is `ID LENGTH\n` and the command's text; its answer is `ID EXIT-CODE LENGTH\n` and what the command printed; a first
//! answer to id 0 says that the agent is there. Each command runs in a thread of its own, so that one that hangs (many wedges make
//! the tools hang) does not block the next.

use crate::error::{Context, Error, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// The id under which the agent reports that it is there.
pub const READY: u64 = 0;

/// What a command in dom0 left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// Its standard output and standard error, as they came.
    pub output: String,
}

/// dom0's side: serves requests from `input` until it ends.
pub fn serve(input: impl Read, output: impl Write + Send + 'static) -> Result<()> {
    let mut input = BufReader::new(input);
    let output = Arc::new(Mutex::new(output));
    answer(
        &output,
        READY,
        &Outcome {
            code: 0,
            output: String::new(),
        },
    );
    while let Some(line) = next_line(&mut input) {
        let Some((id, length)) = parse_request(&line) else {
            continue;
        };
        let mut command = vec![0; length];
        input
            .read_exact(&mut command)
            .context(|| "the serial port ended within a command")?;
        let output = Arc::clone(&output);
        std::thread::spawn(move || {
            answer(&output, id, &run_shell(&String::from_utf8_lossy(&command)));
        });
    }
    Err(Error::new("the serial port ended"))
}

fn answer(output: &Mutex<impl Write>, id: u64, outcome: &Outcome) {
    let answer = format!(
        "{id} {} {}\n{}",
        outcome.code,
        outcome.output.len(),
        outcome.output
    );
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody is there to hear of a serial port that does not take bytes.
    let _ = output
        .write_all(answer.as_bytes())
        .and_then(|()| output.flush());
}

fn parse_request(line: &str) -> Option<(u64, usize)> {
    let (id, length) = line.split_once(' ')?;
    Some((id.parse().ok()?, length.parse().ok()?))
}

/// Runs `sh -c`, with both outputs in one stream.
fn run_shell(command: &str) -> Outcome {
    let script = format!("exec 2>&1\n{command}");
    match Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
    {
        Ok(done) => Outcome {
            code: done
                .status
                .code()
                .unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0)),
            output: String::from_utf8_lossy(&done.stdout).into_owned(),
        },
        Err(error) => Outcome {
            code: 127,
            output: error.to_string(),
        },
    }
}

/// The next line, without its end; `None` at the end of the input.
pub fn next_line(input: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    match input.read_until(b'\n', &mut line) {
        Ok(1..) => Some(String::from_utf8_lossy(&line).trim().to_owned()),
        _ => None,
    }
}

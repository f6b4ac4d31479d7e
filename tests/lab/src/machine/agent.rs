// SPDX-License-Identifier: GPL-2.0-only
//! Root commands in dom0, over the second serial port.
//!
//! Both sides of the protocol are here. A request is `ID LENGTH\n` and the command's text; its answer is
//! `ID EXIT-CODE LENGTH\n` and what the command printed; a first answer to id 0 says that the agent is there. Each command runs in a thread of its own, so that one that hangs
//! (many wedges make the tools hang) does not block the next.

use super::mailbox::Mailbox;
use crate::error::{Context, Error, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The id under which the agent reports that it is there.
const READY: u64 = 0;

/// What a command in dom0 left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// Its standard output and standard error, as they came.
    pub output: String,
}

struct Answer {
    id: u64,
    outcome: Outcome,
}

/// The laboratory's side.
pub struct Agent {
    stream: UnixStream,
    answers: Mailbox<Answer>,
    next_id: u64,
}

impl Agent {
    /// Talks to the agent behind a connected serial port. `first_id` must not repeat an id that the agent may still answer.
    pub fn new(stream: UnixStream, first_id: u64) -> Result<Self> {
        let input = stream
            .try_clone()
            .context(|| "cannot share the agent's serial port")?;
        let answers = Mailbox::default();
        let mailbox: Mailbox<Answer> = answers.clone();
        std::thread::spawn(move || {
            let mut input = BufReader::new(input);
            while let Some(line) = next_line(&mut input) {
                // A line that is no answer is what the serial port said before the agent spoke.
                if let Some(answer) = read_answer(&line, &mut input) {
                    mailbox.put(answer);
                }
            }
            mailbox.close();
        });
        Ok(Agent {
            stream,
            answers,
            next_id: first_id,
        })
    }

    /// Waits until dom0 has come up and serves commands.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let ready = self.answers.take(limit, |answer| answer.id == READY);
        ready
            .map(drop)
            .context(|| format!("dom0 did not come up within {limit:?}"))
    }

    /// Runs a shell command in dom0. No answer in time is an error; an exit code is not.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Outcome> {
        let id = self.send(command)?;
        let answer = self.answers.take(limit, |answer| answer.id == id);
        answer
            .map(|answer| answer.outcome)
            .context(|| format!("dom0 did not answer within {limit:?}: {command}"))
    }

    /// Starts a shell command in dom0 and does not wait for it.
    pub fn send(&mut self, command: &str) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let request = format!("{id} {}\n{command}", command.len());
        self.stream
            .write_all(request.as_bytes())
            .context(|| format!("cannot send to dom0: {command}"))?;
        Ok(id)
    }
}

fn next_line(input: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    match input.read_until(b'\n', &mut line) {
        Ok(1..) => Some(String::from_utf8_lossy(&line).trim().to_owned()),
        _ => None,
    }
}

fn read_answer(line: &str, input: &mut impl Read) -> Option<Answer> {
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    let code = words.next()?.parse().ok()?;
    let mut output = vec![0; words.next()?.parse().ok()?];
    input.read_exact(&mut output).ok()?;
    Some(Answer {
        id,
        outcome: Outcome {
            code,
            output: String::from_utf8_lossy(&output).into_owned(),
        },
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_command_does_not_hold_up_a_quick_one() {
        let (lab, dom0) = UnixStream::pair().unwrap();
        let dom0_out = dom0.try_clone().unwrap();
        std::thread::spawn(move || serve(dom0, dom0_out));
        let mut agent = Agent::new(lab, 7).unwrap();
        let limit = Duration::from_secs(20);
        agent.wait_ready(limit).unwrap();
        agent.send("sleep 5").unwrap();
        let outcome = agent.run("echo one; echo two >&2; exit 3", limit).unwrap();
        assert_eq!(
            outcome,
            Outcome {
                code: 3,
                output: "one\ntwo\n".into()
            }
        );
        assert_eq!(agent.run("kill -9 $$", limit).unwrap().code, 137);
    }
}

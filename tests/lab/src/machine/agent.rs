// SPDX-License-Identifier: GPL-2.0-only
//! Root commands in dom0, over the second serial port.
//!
//! The laboratory's side; the other side, and the protocol, are in [`xenwarden_lab_dom0::agent`].

use super::mailbox::Mailbox;
use crate::error::{Context, Result};
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
pub use xenwarden_lab_dom0::agent::Outcome;
use xenwarden_lab_dom0::agent::{READY, next_line};

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

    /// The answer to the command that was sent as `id`; none if it does not come in time.
    pub fn answer(&self, id: u64, limit: Duration) -> Option<Outcome> {
        let answer = self.answers.take(limit, |answer| answer.id == id);
        answer.map(|answer| answer.outcome)
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

#[cfg(test)]
mod tests {
    use super::*;
    use xenwarden_lab_dom0::agent::serve;

    #[test]
    fn a_slow_command_does_not_hold_up_a_quick_one() {
        let (lab, dom0) = UnixStream::pair().unwrap();
        let dom0_out = dom0.try_clone().unwrap();
        std::thread::spawn(move || serve(dom0, dom0_out));
        let mut agent = Agent::new(lab, 7).unwrap();
        let limit = Duration::from_secs(20);
        agent.wait_ready(limit).unwrap();
        agent.send("sleep 5").unwrap();
        let mut run = |command: &str| {
            let id = agent.send(command).unwrap();
            agent.answer(id, limit).unwrap()
        };
        let outcome = run("echo one; echo two >&2; exit 3");
        assert_eq!(
            outcome,
            Outcome {
                code: 3,
                output: "one\ntwo\n".into()
            }
        );
        assert_eq!(run("kill -9 $$").code, 137);
    }
}

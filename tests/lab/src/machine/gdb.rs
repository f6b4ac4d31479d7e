// SPDX-License-Identifier: GPL-2.0-only
//! A client of QEMU's gdb stub, as far as reading and writing a stopped machine's memory goes
//! (the gdb manual, appendix "gdb Remote Serial Protocol").
//!
//! Connecting stops the machine, detaching lets it run; the stub writes through read-only mappings.

use crate::error::{Context, Error, Result};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(10);
/// The stub's packets hold 4096 characters, two a byte.
const CHUNK: usize = 1024;

/// A debugger attached to a stopped machine.
pub struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// Takes a freshly connected socket; the machine stands still from here on.
    pub fn attach(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(ANSWER))
            .context(|| "cannot set the debugger's time-out")?;
        let mut gdb = Gdb { stream };
        let halted = gdb.ask("?")?;
        match halted.starts_with('T') || halted.starts_with('S') {
            true => Ok(gdb),
            false => Err(Error::new(format!(
                "the gdb stub says {halted:?} instead of why it stopped"
            ))),
        }
    }

    /// From now on, addresses are those of this processor's page tables.
    pub fn select(&mut self, cpu: u8) -> Result<()> {
        // Threads are processors, counted from 1.
        match self.ask(&format!("Hg{:x}", u16::from(cpu) + 1))?.as_str() {
            "OK" => Ok(()),
            other => Err(Error::new(format!(
                "cannot select processor {cpu}: {other}"
            ))),
        }
    }

    /// Reads memory at a virtual address.
    pub fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let (at, count) = (
                address + bytes.len() as u64,
                CHUNK.min(length - bytes.len()),
            );
            let answer = self.ask(&format!("m{at:x},{count:x}"))?;
            let part = from_hex(&answer).filter(|part| part.len() == count);
            bytes.extend(
                part.context(|| format!("cannot read {count} bytes at {at:#x}: {answer}"))?,
            );
        }
        Ok(bytes)
    }

    /// Writes memory at a virtual address, read-only or not.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        for (index, part) in bytes.chunks(CHUNK).enumerate() {
            let at = address + (index * CHUNK) as u64;
            self.expect_ok(&format!("M{at:x},{:x}:{}", part.len(), to_hex(part)))?;
        }
        Ok(())
    }

    fn read_array<const N: usize>(&mut self, address: u64) -> Result<[u8; N]> {
        let bytes = self.read(address, N)?;
        <[u8; N]>::try_from(bytes.as_slice()).context(|| format!("not {N} bytes at {address:#x}"))
    }

    /// Reads a little-endian 64-bit word.
    pub fn read_u64(&mut self, address: u64) -> Result<u64> {
        let bytes = self.read_array(address)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian 32-bit word.
    pub fn read_u32(&mut self, address: u64) -> Result<u32> {
        let bytes = self.read_array(address)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Lets the machine run until one of its processors is about to execute the instruction at `address`. Addresses are that
    /// processor's from then on; its number is returned.
    pub fn run_until(&mut self, address: u64, limit: Duration) -> Result<u8> {
        let what = || format!("the machine did not come to {address:#x} within {limit:?}");
        self.expect_ok(&format!("Z0,{address:x},1"))?;
        self.stream.set_read_timeout(Some(limit)).context(what)?;
        let stopped = self.ask("c").context(what)?;
        self.stream.set_read_timeout(Some(ANSWER)).context(what)?;
        self.expect_ok(&format!("z0,{address:x},1"))?;
        stopped_processor(&stopped)
            .context(|| format!("the gdb stub says {stopped:?} for a breakpoint"))
    }

    /// Lets the processor that stopped execute one instruction.
    pub fn step(&mut self) -> Result<()> {
        self.ask("s").map(drop)
    }

    /// Lets the machine run again.
    pub fn detach(mut self) -> Result<()> {
        self.expect_ok("D")
    }

    fn expect_ok(&mut self, request: &str) -> Result<()> {
        match self.ask(request)?.as_str() {
            "OK" => Ok(()),
            other => Err(Error::new(format!(
                "the gdb stub answers {other:?} to {request:.40}"
            ))),
        }
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        let what = || format!("debugger's {:.24}", request);
        let sum = checksum(request.as_bytes());
        self.stream
            .write_all(format!("${request}#{sum:02x}").as_bytes())
            .context(what)?;
        // Before it takes the first request, the stub reports on its own why it stopped; that contains no plus sign.
        while self.byte().context(what)? != b'+' {}
        let answer = self.packet().context(what)?;
        self.stream.write_all(b"+").context(what)?;
        Ok(answer)
    }

    fn packet(&mut self) -> std::io::Result<String> {
        while self.byte()? != b'$' {}
        let mut text = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => text.push(char::from(byte)),
            }
        }
        // The two digits of the checksum: a local socket loses nothing.
        self.byte()?;
        self.byte()?;
        Ok(text)
    }

    fn byte(&mut self) -> std::io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// The processor in a stop reply, as in `T05thread:02;`: threads are processors, counted from 1.
fn stopped_processor(reply: &str) -> Option<u8> {
    let (_, rest) = reply.split_once("thread:")?;
    let thread = rest.split(';').next()?.rsplit('.').next()?;
    u8::from_str_radix(thread, 16).ok()?.checked_sub(1)
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    if digits.len() % 2 == 0 {
        pairs.collect()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways_and_an_error_answer_is_not_data() {
        assert_eq!(
            from_hex(&to_hex(&[0, 0x7f, 0xff])),
            Some(vec![0, 0x7f, 0xff])
        );
        assert_eq!(from_hex("E14"), None);
        assert_eq!(checksum(b"OK"), 0x9a);
    }

    #[test]
    fn a_stop_reply_names_the_processor() {
        for (reply, processor) in [
            ("T05thread:02;", Some(1)),
            ("T05thread:p01.01;", Some(0)),
            ("OK", None),
        ] {
            assert_eq!(stopped_processor(reply), processor);
        }
    }
}

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

/// A page of memory, as all translations here have it.
const PAGE: u64 = 4096;
/// A valid entry of a page table of Arm's, one that points to the next table (in the last one: to a page), and the address in it.
const VALID: u64 = 1;
const TABLE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// How far an address is shifted for its index in each of the four tables, and that index.
const LEVELS: [u32; 4] = [39, 30, 21, 12];
const INDEX: u64 = 511;

/// A debugger attached to a stopped machine.
pub struct Gdb {
    stream: UnixStream,
    /// The physical address of the page tables that addresses are looked up in; none if the stub does that.
    tables: Option<u64>,
}

impl Gdb {
    /// Takes a freshly connected socket; the machine stands still from here on.
    pub fn attach(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(ANSWER))
            .context(|| "cannot set the debugger's time-out")?;
        let mut gdb = Gdb {
            stream,
            tables: None,
        };
        let halted = gdb.ask("?")?;
        match halted.starts_with('T') || halted.starts_with('S') {
            true => Ok(gdb),
            false => Err(Error::new(format!(
                "the gdb stub says {halted:?} instead of why it stopped"
            ))),
        }
    }

    /// From now on, addresses are those of a hypervisor of Arm's, whose page tables have this physical address. A processor may run
    /// a domain just now, and then the stub would take that one's tables.
    pub fn look_up(&mut self, tables: u64) -> Result<()> {
        self.tables = Some(tables);
        self.expect_ok("Qqemu.PhyMemMode:1")
    }

    /// The address that the stub takes for this one.
    fn translated(&mut self, address: u64) -> Result<u64> {
        let Some(mut table) = self.tables else {
            return Ok(address);
        };
        for shift in LEVELS {
            let entry = self.read_at(table + (address >> shift & INDEX) * 8, 8)?;
            let entry = entry.try_into().map(u64::from_le_bytes);
            let entry = entry.ok().filter(|entry| entry & VALID != 0);
            let entry =
                entry.context(|| format!("the hypervisor has no memory at {address:#x}"))?;
            if shift == LEVELS[3] || entry & TABLE == 0 {
                let within = (1 << shift) - 1;
                return Ok((entry & ADDRESS & !within) | (address & within));
            }
            table = entry & ADDRESS;
        }
        Err(Error::new("more levels of page tables than there are"))
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
            let at = address + bytes.len() as u64;
            let count = part_at(at, length - bytes.len());
            let at = self.translated(at)?;
            bytes.extend(self.read_at(at, count)?);
        }
        Ok(bytes)
    }

    fn read_at(&mut self, at: u64, count: usize) -> Result<Vec<u8>> {
        let answer = self.ask(&format!("m{at:x},{count:x}"))?;
        let part = from_hex(&answer).filter(|part| part.len() == count);
        part.context(|| format!("cannot read {count} bytes at {at:#x}: {answer}"))
    }

    /// Writes memory at a virtual address, read-only or not.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let at = address + written as u64;
            let part = &bytes[written..][..part_at(at, bytes.len() - written)];
            written += part.len();
            let at = self.translated(at)?;
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

/// How many of so many bytes go into one packet: it reaches into no other page.
fn part_at(address: u64, length: usize) -> usize {
    length.min(CHUNK).min((PAGE - address % PAGE) as usize)
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
    use std::sync::mpsc;

    #[test]
    fn hexadecimal_goes_both_ways_and_an_error_answer_is_not_data() {
        assert_eq!(
            from_hex(&to_hex(&[0, 0x7f, 0xff])),
            Some(vec![0, 0x7f, 0xff])
        );
        assert_eq!(from_hex("E14"), None);
        assert_eq!(checksum(b"OK"), 0x9a);
    }

    /// A stub whose memory is these words, all else zeros; it says what is written where.
    fn stub(stream: UnixStream, memory: &[(u64, u64)], wrote: mpsc::Sender<String>) {
        let mut gdb = Gdb {
            stream,
            tables: None,
        };
        while let Ok(request) = gdb.packet() {
            let answer = match request.split_at(1) {
                ("?", _) => "S05".to_owned(),
                ("m", place) => {
                    let (at, count) = place.split_once(',').unwrap();
                    let [at, count] = [at, count].map(|hex| u64::from_str_radix(hex, 16).unwrap());
                    let byte = |at: u64| {
                        let word = memory.iter().find(|(begin, _)| *begin == at & !7);
                        word.map_or(0, |(_, word)| word.to_le_bytes()[at as usize & 7])
                    };
                    to_hex(&(at..at + count).map(byte).collect::<Vec<_>>())
                }
                ("M", place) => {
                    wrote.send(place.to_owned()).unwrap();
                    "OK".to_owned()
                }
                _ => "OK".to_owned(),
            };
            let answer = format!("+${answer}#{:02x}", checksum(answer.as_bytes()));
            gdb.stream.write_all(answer.as_bytes()).unwrap();
        }
    }

    #[test]
    fn addresses_are_looked_up_in_the_hypervisors_tables_page_by_page() {
        const MEMORY: &[(u64, u64)] = &[
            // From the first table on, to two pages that are none behind the other.
            (0x1000, 0x2000 | VALID | TABLE),
            (0x2000, 0x3000 | VALID | TABLE),
            (0x3008, 0x4000 | VALID | TABLE),
            (0x4000, 0x9000 | VALID | TABLE),
            (0x4008, 0x6000 | VALID | TABLE),
            (0x9ff8, 0x1122_3344_5566_7788),
            (0x6000, 0x99aa_bbcc_ddee_ff00),
            // A block of a gigabyte.
            (0x2008, 0x8000_0000 | VALID),
            (0x8012_3450, 42),
        ];
        let (lab, qemu) = UnixStream::pair().unwrap();
        let (wrote, written) = mpsc::channel();
        std::thread::spawn(|| stub(qemu, MEMORY, wrote));
        let mut gdb = Gdb::attach(lab).unwrap();
        gdb.look_up(0x1000).unwrap();
        assert_eq!(gdb.read_u64(0x20_0ffc).unwrap(), 0xddee_ff00_1122_3344);
        assert_eq!(gdb.read_u64(0x4012_3450).unwrap(), 42);
        assert!(gdb.read_u64(0x20_2000).is_err());
        gdb.write(0x20_0fff, &[1, 2]).unwrap();
        assert_eq!(written.recv().unwrap(), "9fff,1:01");
        assert_eq!(written.recv().unwrap(), "6000,1:02");
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

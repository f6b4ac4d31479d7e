// SPDX-License-Identifier: GPL-2.0-only
//! Lines of bounded length, out of a stream that comes in pieces of any size.
//!
//! In: bytes. Out: lines, without their ends. Pure. QMP ends each message by CR LF; a message
//! holds neither, as JSON escapes them in its strings (RFC 8259, 7).

/// Longest line, bytes. The longest of a QEMU that is sound is its schema, a quarter of a MiB in
/// 7.2.
pub const MAX_LINE: usize = 4 << 20;

/// A line is longer than [`MAX_LINE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Bytes of which no line was made yet: at most one line, and what was pushed last.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Bytes at the beginning that were given out, and those that hold no line's end.
    used: usize,
    searched: usize,
}

impl Lines {
    /// Takes what came. To be emptied by [`Self::next_line`] before more is pushed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.searched = self.searched.saturating_sub(self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line that is not empty; none: more must come first.
    ///
    /// # Errors
    /// [`TooLong`]; what was sent can then not be followed any more.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        loop {
            let rest = self.bytes.get(self.searched..).unwrap_or_default();
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                let open = self.searched.saturating_sub(self.used);
                return if open > MAX_LINE {
                    Err(TooLong)
                } else {
                    Ok(None)
                };
            };
            let end = self.searched + at;
            let line = self.bytes.get(self.used..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
            self.used = end + 1;
            self.searched = self.used;
            if line.len() > MAX_LINE {
                return Err(TooLong);
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let next = || lines.next_line().expect("short");
        let texts = std::iter::from_fn(next);
        texts
            .map(|line| String::from_utf8(line).expect("text"))
            .collect()
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let sent = b"{\"a\":1}\r\n\r\n\nsecond\nthird\r\n";
        for size in 1..=sent.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for piece in sent.chunks(size) {
                lines.push(piece);
                got.extend(all(&mut lines));
            }
            assert_eq!(got, ["{\"a\":1}", "second", "third"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_takes_more_than_its_bound() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 64 << 10];
        let mut pushed = 0;
        while lines.next_line() == Ok(None) {
            lines.push(&piece);
            pushed += piece.len();
            assert!(pushed <= MAX_LINE + piece.len());
        }
        assert_eq!(lines.next_line(), Err(TooLong));
    }
}

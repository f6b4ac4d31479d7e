// SPDX-License-Identifier: GPL-2.0-only
//! The file that a QEMU writes its trace to, and this reads: bounded, and never waited for.
//!
//! In: a directory of ours, the user of the QEMU. Out: [`Sighting`]s, in the order in which they
//! were written; [`Sighting::Gap`] where some were lost.
//!
//! Not a pipe: QEMU writes its log on the threads that run the guest, and a pipe that nobody
//! empties, as this process hangs or is stopped, would stop the guest. A file cannot. What was
//! read is cut out of it (fallocate(2), `FALLOC_FL_PUNCH_HOLE`), so that it takes as much of the
//! disk as was written since the last look. Should this process die meanwhile, the file grows
//! until another is started, which ends the trace; so the directory belongs on a file system of
//! its own of a few MiB, which the unit mounts: QEMU loses lines where it is full.

use super::trace::{Sighting, sighting};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::fchown;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that one look reads at most; what is beyond is left out, and that is a gap.
const MOST_READ: u64 = 8 << 20;
/// Bytes that one read takes.
const CHUNK: usize = 64 << 10;
/// Bytes that are read before they are cut out.
const CUT_EVERY: u64 = 256 << 10;
/// Longest line that is kept while it has no end, bytes.
const LONGEST: usize = 4_096;

/// A log that a QEMU may write to. Its file ends with this value.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    read: u64,
    cut: u64,
    line: Vec<u8>,
}

impl LogFile {
    /// A new and empty one for the VM `name`, which the user `uid` may write to, and nobody else
    /// but root. Blocks as long as the disk does.
    ///
    /// # Errors
    /// Those of the disk, and that the file cannot be given to that user.
    pub fn create(directory: &Path, name: &str, uid: u32) -> io::Result<Self> {
        // Others may pass: a QEMU has a user of its own.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)?;
        let path = directory.join(format!("{name}.log"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        if uid != nix::unistd::geteuid().as_raw() {
            fchown(&file, Some(uid.into()), None)?;
        }
        Ok(Self {
            path,
            file,
            read: 0,
            cut: 0,
            line: Vec::new(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written since the last look.
    ///
    /// # Errors
    /// Those of reading.
    pub fn look(&mut self) -> io::Result<Vec<Sighting>> {
        let mut seen = Vec::new();
        let length = self.file.metadata()?.len();
        if length < self.read {
            // Somebody cut it short: what was between is lost.
            seen.push(Sighting::Gap);
            (self.read, self.cut) = (0, 0);
            self.line.clear();
        }
        if length - self.read > MOST_READ {
            seen.push(Sighting::Gap);
            self.read = length;
            self.line.clear();
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match self.file.read_at(&mut chunk, self.read) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.read += u64::try_from(count).unwrap_or(0);
            self.take(chunk.get(..count).unwrap_or_default(), &mut seen);
            // A guest that writes faster than this reads is looked at again later.
            if self.read >= length {
                break;
            }
        }
        if self.read - self.cut >= CUT_EVERY {
            self.cut_out()?;
        }
        Ok(seen)
    }

    fn take(&mut self, bytes: &[u8], seen: &mut Vec<Sighting>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                seen.extend(
                    std::str::from_utf8(&self.line)
                        .ok()
                        .and_then(|line| sighting(line.trim())),
                );
                self.line.clear();
            } else if self.line.len() > LONGEST {
                // A hole, or another's binary: no line of a trace is so long. Its end is none either.
                self.line.truncate(LONGEST);
            }
        }
    }

    fn cut_out(&mut self) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let signed = |n| i64::try_from(n).unwrap_or(i64::MAX);
        fallocate(
            &self.file,
            flags,
            signed(self.cut),
            signed(self.read - self.cut),
        )?;
        self.cut = self.read;
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the file system of `directory` is so small that nothing else can suffer when it is
/// full; none where that cannot be told.
#[must_use]
pub fn is_bounded(directory: &Path) -> Option<bool> {
    let found = nix::sys::statvfs::statvfs(directory).ok()?;
    let bytes = u128::from(found.blocks()) * u128::from(found.fragment_size());
    Some(bytes <= 64 << 20)
}

/// Whether a file system of its own is mounted at `directory`; false where that cannot be told.
#[must_use]
pub fn is_own(directory: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let above = directory.join("..");
    matches!((device(directory), device(&above)), (Ok(own), Ok(above)) if own != above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LINE: &str =
        "memory_region_ops_write cpu 0 mr 0x1 addr 0x443 value 0xe size 1 name 'ib700'\n";

    fn create(name: &str) -> (LogFile, File) {
        let directory = std::env::temp_dir().join(format!("xenwarden-log-{}", std::process::id()));
        let uid = nix::unistd::geteuid().as_raw();
        let log = LogFile::create(&directory, name, uid).expect("a file");
        let writer = OpenOptions::new()
            .append(true)
            .open(log.path())
            .expect("opened");
        (log, writer)
    }

    #[test]
    fn a_directory_of_a_file_system_is_told_from_one_where_a_file_system_is_mounted() {
        assert!(is_own(Path::new("/proc")));
        for not in ["/proc/self", "/no-such-directory"] {
            assert!(!is_own(Path::new(not)), "{not}");
        }
    }

    #[test]
    fn lines_are_seen_once_however_they_are_cut() {
        let (mut log, mut writer) = create("cut");
        let (half, rest) = LINE.split_at(30);
        write!(writer, "{LINE}something else\n{half}").expect("written");
        assert_eq!(log.look().expect("read"), [Sighting::Ib700Enable]);
        assert_eq!(log.look().expect("read"), []);
        write!(writer, "{rest}").expect("written");
        assert_eq!(log.look().expect("read"), [Sighting::Ib700Enable]);
    }

    #[test]
    fn what_was_read_takes_no_room_on_the_disk_and_what_is_too_much_is_a_gap() {
        let (mut log, mut writer) = create("room");
        let other = "memory_region_ops_write cpu 0 mr 0x1 addr 0x0 value 0x0 size 4 name 'vga'\n";
        let piece = other.repeat(1 + (1 << 20) / other.len());
        for _ in 0..20 {
            writer.write_all(piece.as_bytes()).expect("written");
            assert_eq!(log.look().expect("read"), []);
            let taken = writer.metadata().expect("there").blocks() * 512;
            assert!(taken < 1 << 20, "{taken} bytes are on the disk");
        }
        for _ in 0..10 {
            writer.write_all(piece.as_bytes()).expect("written");
        }
        assert_eq!(log.look().expect("read"), [Sighting::Gap]);
        writer.write_all(LINE.as_bytes()).expect("written");
        assert_eq!(log.look().expect("read"), [Sighting::Ib700Enable]);
    }

    #[test]
    fn a_file_that_was_cut_short_is_read_from_its_beginning_and_that_is_a_gap() {
        let (mut log, mut writer) = create("short");
        writer
            .write_all(LINE.repeat(3).as_bytes())
            .expect("written");
        assert_eq!(log.look().expect("read").len(), 3);
        writer.set_len(0).expect("cut");
        writer.write_all(LINE.as_bytes()).expect("written");
        assert_eq!(
            log.look().expect("read"),
            [Sighting::Gap, Sighting::Ib700Enable]
        );
    }
}

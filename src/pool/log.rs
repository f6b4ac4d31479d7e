// SPDX-License-Identifier: GPL-2.0-only
//! Logs on disk: a file for each host, a snapshot and then its records.
//!
//! In: frames ([`super::frame`]). Out: the same after a restart, a crash, or a full disk. A file that ends within a frame, or has
//! one that was changed, is cut there; what is cut off is kept beside it once, and said. The file is replaced, in one
//! step, when the snapshot moves, so it is bounded as [`super::store`] is.
//!
//! What is on disk when: records of this host's own log are written out (fdatasync(2)) before anybody else is told of
//! them; those of others are not, as whoever told them has them: a crash may lose their end, which is then fetched
//! again. All of it blocks as long as the disk does; a thread of its own does it ([`super::disk`]).

use super::fold::HostState;
use super::frame;
use super::record::{HostId, Stored};
use crate::state::file::open_plain;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a file that are read: far more than one can have.
const MOST_BYTES: u64 = 256 << 20;
const BASE: u8 = b'B';
const RECORD: u8 = b'R';

/// What a file held.
#[derive(Debug, Default)]
pub struct LogRead {
    /// The snapshot; none: the log begins without one.
    pub base: Option<HostState>,
    /// The records after it.
    pub records: Vec<Arc<Stored>>,
    /// What was cut off, in words; none: nothing.
    pub cut: Option<String>,
}

/// A host's file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes that are whole frames: what follows is the rest of a write that failed.
    length: u64,
}

/// The files' directory.
#[derive(Clone, Debug)]
pub struct Logs(PathBuf);

impl Logs {
    /// In `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)?;
        Ok(Self(directory.to_owned()))
    }

    fn path(&self, host: HostId) -> PathBuf {
        self.0.join(format!("{host}.log"))
    }

    /// The hosts that have a file, and removes what a replacement that was cut short has left.
    ///
    /// # Errors
    /// Those of readdir(3).
    pub fn hosts(&self) -> io::Result<Vec<HostId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".log.new") {
                // It was never the log.
                let _ = fs::remove_file(self.0.join(name));
            }
            let host = name.strip_suffix(".log");
            found.extend(host.and_then(|host| host.parse::<HostId>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Reads a host's file, cuts off what is torn, and opens it for more. A missing file is an empty one.
    ///
    /// # Errors
    /// Those of open(2), read(2) and ftruncate(2).
    pub fn read(&self, host: HostId) -> io::Result<(LogRead, LogFile)> {
        let path = self.path(host);
        let mut file = open_plain(&path)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)?;
        let (mut read, good) = parse(host, &bytes);
        if good < bytes.len() {
            let rest = bytes.get(good..).unwrap_or_default();
            let kept = self.0.join(format!("{host}.log.cut"));
            // Kept for whoever wants to know; the log is right without it.
            let kept = fs::write(&kept, rest).map(|()| kept.display().to_string());
            let why = read.cut.take().unwrap_or_default();
            read.cut = Some(format!(
                "{}: {why}: cut at byte {good}, {} bytes {}",
                path.display(),
                rest.len(),
                kept.map_or_else(
                    |error| format!("are lost: {error}"),
                    |at| format!("are in {at}")
                )
            ));
        }
        let length = u64::try_from(good).unwrap_or(u64::MAX);
        if good < bytes.len() {
            file.set_len(length)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(length))?;
        Ok((read, LogFile { path, file, length }))
    }

    /// Has the names of the directory written out.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// What whole frames at the beginning say, and how many bytes those are.
fn parse(host: HostId, bytes: &[u8]) -> (LogRead, usize) {
    let mut read = LogRead::default();
    let mut rest = bytes;
    loop {
        let (contents, after) = match frame::take(rest) {
            Ok(None) => break,
            Ok(Some(found)) => found,
            Err(torn) => {
                read.cut = Some(torn.to_string());
                break;
            }
        };
        if let Err(why) = take(&mut read, host, contents) {
            read.cut = Some(why);
            break;
        }
        rest = after;
    }
    (read, bytes.len().saturating_sub(rest.len()))
}

fn take(read: &mut LogRead, host: HostId, contents: &[u8]) -> Result<(), String> {
    match contents.split_first() {
        Some((&BASE, json)) if read.base.is_none() && read.records.is_empty() => {
            let base = serde_json::from_slice(json);
            read.base = Some(base.map_err(|error| format!("its snapshot: {error}"))?);
        }
        Some((&RECORD, json)) => {
            let stored = Stored::read(json)?;
            if stored.host != host {
                return Err(format!("a record of {}", stored.host));
            }
            read.records.push(Arc::new(stored));
        }
        _ => return Err("neither a record nor a snapshot".to_owned()),
    }
    Ok(())
}

/// The bytes of records, as a file has them.
fn bytes_of<'a>(records: impl IntoIterator<Item = &'a Arc<Stored>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for stored in records {
        let contents = [&[RECORD], &*stored.bytes].concat();
        // A record is far shorter than a frame may be.
        let _ = frame::put(&mut bytes, &contents);
    }
    bytes
}

impl LogFile {
    /// Appends records, all or none; with `sync` they are on the disk then.
    ///
    /// # Errors
    /// The errno; the file is then as it was, or is made so before the next append.
    pub fn append(&mut self, records: &[Arc<Stored>], sync: bool) -> io::Result<()> {
        let bytes = bytes_of(records);
        // Whatever a write that failed has left.
        if self.file.stream_position()? != self.length {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
        }
        let written = self.file.write_all(&bytes).and_then(|()| match sync {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        match written {
            Ok(()) => {
                let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.length = self.length.saturating_add(count);
                Ok(())
            }
            Err(error) => {
                // A full disk has room for a shorter file.
                let _ = self.file.set_len(self.length);
                let _ = self.file.seek(SeekFrom::Start(self.length));
                Err(error)
            }
        }
    }

    /// Replaces the file by a snapshot and the records after it, on the disk when it returns.
    ///
    /// # Errors
    /// The errno; the file is then as it was.
    pub fn replace(&mut self, base: &HostState, records: &[Arc<Stored>]) -> io::Result<()> {
        let mut contents = vec![BASE];
        serde_json::to_writer(&mut contents, base)?;
        let mut bytes = Vec::new();
        if !frame::put(&mut bytes, &contents) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        bytes.extend(bytes_of(records));
        let new = self.path.with_extension("log.new");
        let written = write_new(&new, &bytes).and_then(|file| {
            fs::rename(&new, &self.path)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                self.file = file;
                self.length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let directory = self.path.parent().unwrap_or(Path::new("."));
                File::open(directory)?.sync_all()
            }
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    /// Has all of it written out.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

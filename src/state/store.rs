// SPDX-License-Identifier: GPL-2.0-only
//! Files in the state directory: whole or not at all.
//!
//! In: values, one a file. Out: the same values after a restart or a reset of the host.
//!
//! Promises: a file is replaced in one step, after its contents are on the disk. What
//! cannot be used (torn, foreign, of a newer version, not the monitor's own, not a file at
//! all, too large) is kept aside under a name of its own, told, and never fatal.
//! It blocks as long as the disk does; only threads that may wait call it.

use crate::event::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a file that is read: far more than 4096 guests need.
const MOST_BYTES: u64 = 16 << 20;
/// Bytes that are written at a time.
const BUFFER: usize = 8 << 10;
/// Files of one name that are kept aside; the oldest go.
const KEPT_ASIDE: usize = 5;
/// What the name of a file ends with while it is written, before a number.
const NEW: &str = ".new-";
/// How often this process has saved.
static SAVES: AtomicU32 = AtomicU32::new(0);

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// A form that a file may have; the version says which.
pub trait Stored: Serialize + DeserializeOwned {
    /// The file's name.
    const FILE: &'static str;
    /// The version that is written and read.
    const VERSION: u32;
}

#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a file cannot be used.
type Problem = String;

impl Store {
    /// In `directory`, which is made when it is missing.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Reads a file; a missing one is none. What cannot be used is kept aside, and the
    /// event that says so is given.
    #[must_use]
    pub fn load<T: Stored>(&self) -> (Option<T>, Option<Kind>) {
        self.clear_new(T::FILE);
        match self.read(T::FILE).and_then(|bytes| parse(bytes.as_deref())) {
            Ok(value) => (value, None),
            Err(problem) => (None, Some(self.set_aside(T::FILE, problem))),
        }
    }

    /// The same for one who may only look: nothing is set aside.
    ///
    /// # Errors
    /// The file, and why it cannot be used.
    pub fn peek<T: Stored>(&self) -> Result<Option<T>, String> {
        let read = self.read(T::FILE).and_then(|bytes| parse(bytes.as_deref()));
        read.map_err(|problem| format!("{}: {problem}", self.path(T::FILE).display()))
    }

    /// The file's bytes, if there is one that is ours.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let opened = OpenOptions::new()
            .read(true)
            // Neither follow a link nor wait for a pipe's other end.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.path(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err("it is a symbolic link".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        let metadata = file.metadata().map_err(|e| e.to_string())?;
        check(&metadata)?;
        let mut bytes = Vec::new();
        let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|e| e.to_string())?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(too_large());
        }
        Ok(Some(bytes))
    }

    /// Replaces a file in one step.
    ///
    /// # Errors
    /// The errno; too large what [`Store::load`] would not read. The file is then as it was.
    pub fn save<T: Stored>(&self, value: &T) -> io::Result<()> {
        // Each save has a file of its own: two threads may save at once.
        let number = SAVES.fetch_add(1, Ordering::Relaxed);
        let new = self.path(&format!("{}{NEW}{number}", T::FILE));
        let path = self.path(T::FILE);
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.directory)?;
        let written = write_new(&new, value).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // A full disk has better uses for the room.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        File::open(&self.directory)?.sync_all()
    }

    /// Removes a file; a missing one is none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove<T: Stored>(&self) -> io::Result<()> {
        remove(&self.path(T::FILE))
    }

    /// Removes what a save that was cut short has left.
    fn clear_new(&self, name: &str) {
        let prefix = format!("{name}{NEW}");
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let left = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(prefix.as_bytes());
            if left {
                let _ = remove(&entry.path());
            }
        }
    }

    fn set_aside(&self, name: &str, problem: Problem) -> Kind {
        let path = self.path(name);
        let kept = self.aside(name);
        let number = kept.last().map_or(1, |(n, _)| n.saturating_add(1));
        let aside = self.path(&format!("{name}.bad-{number}"));
        let moved = match fs::symlink_metadata(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(&path, &aside),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        };
        if moved.is_ok() {
            let surplus = (kept.len() + 1).saturating_sub(KEPT_ASIDE);
            for (_, old) in kept.iter().take(surplus) {
                // A directory that is not empty stays; it is not ours to clear.
                let _ = fs::remove_file(old).or_else(|_| fs::remove_dir(old));
            }
        }
        Kind::HostStateSetAside {
            path: path.display().to_string(),
            kept_as: moved.ok().map(|()| aside.display().to_string()),
            problem,
        }
    }

    /// What is kept aside of this name, oldest first.
    fn aside(&self, name: &str) -> Vec<(u64, PathBuf)> {
        let prefix = format!("{name}.bad-");
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        let mut kept: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
                Some((number, entry.path()))
            })
            .collect();
        kept.sort_unstable();
        kept
    }
}

fn too_large() -> Problem {
    format!("it has more than {MOST_BYTES} bytes")
}

fn check(metadata: &fs::Metadata) -> Result<(), Problem> {
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let (owner, us) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != us {
        return Err(format!("it belongs to user {owner}, not to {us}"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(format!("others may write to it (mode {mode:o})"));
    }
    if metadata.len() > MOST_BYTES {
        return Err(too_large());
    }
    Ok(())
}

fn parse<T: Stored>(bytes: Option<&[u8]>) -> Result<Option<T>, Problem> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if version != T::VERSION {
        let known = T::VERSION;
        return Err(format!(
            "its version is {version}, this monitor's is {known}"
        ));
    }
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|e| e.to_string())
}

/// Removes a file; a missing one is none.
///
/// # Errors
/// Those of the disk.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Piece by piece, as thousands of guests are some megabytes.
fn write_new(path: &Path, value: &impl Serialize) -> io::Result<()> {
    remove(path)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let limited = Limited {
        file: &file,
        left: MOST_BYTES,
    };
    let mut buffered = BufWriter::with_capacity(BUFFER, limited);
    serde_json::to_writer(&mut buffered, value)?;
    buffered.flush()?;
    file.sync_all()
}

/// A file that takes so many bytes and no more.
struct Limited<'a> {
    file: &'a File,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_large()));
        }
        let written = self.file.write(bytes)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

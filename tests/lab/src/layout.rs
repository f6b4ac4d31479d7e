// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the project's own files, what cargo built, and the laboratory's cache.
//!
//! Everything that the laboratory makes is under `target/lab`, or `target/lab-SERIES` for another Xen than the usual one,
//! `target/lab-arm64` for other processors; removing these folders is always safe.

use crate::error::{Context, Result};
use crate::machine::Shape;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Names a folder with other programs than those that `cargo build --release` left, such as `target/portable`.
const PROGRAMS: &str = "XENWARDEN_LAB_PROGRAMS";

/// The folders of one laboratory.
#[derive(Debug, Clone)]
pub struct Layout {
    project: PathBuf,
    target: PathBuf,
    /// The folder of the laboratory's cache in it.
    cache: String,
    /// Where cargo leaves release builds in it.
    built: &'static str,
    /// Where other programs are than those that cargo left.
    programs: Option<PathBuf>,
    /// The folder of its own that a variant's images and states are in.
    variant: Option<PathBuf>,
}

impl Layout {
    /// The laboratory of this source tree.
    pub fn of_this_tree() -> Self {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap_or(Path::new("."));
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| project.join("target"), PathBuf::from);
        Layout {
            project: project.to_path_buf(),
            target,
            cache: "lab".to_owned(),
            built: "release",
            programs: std::env::var_os(PROGRAMS).map(|folder| project.join(folder)),
            variant: None,
        }
    }

    /// Where other programs are than those of this tree, as `XENWARDEN_LAB_PROGRAMS` names it.
    pub fn other_programs(&self) -> Option<PathBuf> {
        let programs = self.programs.as_ref();
        programs.and(std::env::var_os(PROGRAMS).map(PathBuf::from))
    }

    /// The same with other folders for the cache and for what cargo builds.
    #[must_use]
    pub fn with_cache(self, cache: String, built: &'static str) -> Self {
        Layout {
            cache,
            built,
            ..self
        }
    }

    /// The same laboratory with other programs: those in `folder`, which may be removed at any time.
    #[must_use]
    pub fn with_programs(self, folder: PathBuf) -> Self {
        Layout {
            programs: Some(folder.clone()),
            variant: Some(folder),
            ..self
        }
    }

    /// A file or folder of the project.
    pub fn project(&self, path: &str) -> PathBuf {
        self.project.join(path)
    }

    /// A program as `cargo build --release` left it, or one of the others that were named: the very file that users install.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        match &self.programs {
            Some(folder) if folder.join(name).exists() => folder.join(name),
            _ => self.target.join(self.built).join(name),
        }
    }

    /// A file or folder below cargo's, such as the packages.
    pub fn target(&self, path: &str) -> PathBuf {
        self.target.join(path)
    }

    /// A folder of what is made of the programs: images and states.
    pub fn made(&self, name: &str) -> PathBuf {
        match &self.variant {
            Some(folder) => folder.join(name),
            None => self.lab(name),
        }
    }

    /// A file or folder of the laboratory's cache.
    pub fn lab(&self, path: &str) -> PathBuf {
        self.target.join(&self.cache).join(path)
    }
}

/// Keeps others from changing the laboratory's cache, or a part of it, while it lives.
pub struct CacheLock {
    _file: Flock<File>,
}

impl CacheLock {
    /// Waits until nobody else changes the cache.
    pub fn take(layout: &Layout) -> Result<Self> {
        Self::of(layout, "lock")
    }

    /// Waits until nobody else makes this saved state. Others may be made meanwhile, and the cache be changed.
    pub fn of_state(layout: &Layout, shape: Shape) -> Result<Self> {
        Self::of(layout, &format!("lock-{shape:?}"))
    }

    /// The same for that of an installed Debian.
    pub fn of_debian(layout: &Layout) -> Result<Self> {
        Self::of(layout, "lock-debian")
    }

    fn of(layout: &Layout, name: &str) -> Result<Self> {
        make_dir(&layout.lab(""))?;
        let path = layout.lab(name);
        let file = File::create(&path).context(|| format!("cannot create {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(file) => Ok(CacheLock { _file: file }),
            Err((_, error)) => Err(error).context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Removes all but the newest `keep` files of a folder.
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    let what = || format!("cannot tidy up {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).context(what)? {
        let entry = entry.context(what)?;
        files.push((
            entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .context(what)?,
            entry.path(),
        ));
    }
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    // What belongs together goes together: the oldest file takes those with it that differ from it by their extension alone.
    let stems: BTreeSet<_> = files
        .iter()
        .take(surplus)
        .map(|file| file.1.with_extension(""))
        .collect();
    files
        .iter()
        .filter(|(_, path)| stems.contains(&path.with_extension("")))
        .try_for_each(|(_, path)| fs::remove_file(path))
        .context(what)
}

/// Creates a folder and its parents.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("cannot create {}", path.display()))
}

/// Empties a folder that may or may not exist.
pub fn fresh_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).context(|| format!("cannot remove {}", path.display()))?;
    }
    make_dir(path)
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(|| format!("cannot read {}", path.display()))
}

/// Reads a whole file of text.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))
}

/// Writes a whole file.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).context(|| format!("cannot write {}", path.display()))
}

/// The name under which something made from these parts is cached. Each part's length counts, so that text
/// moving from one part to the next is a change.
pub fn cache_key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::cache_key;

    #[test]
    fn text_that_moves_from_one_part_to_the_next_changes_the_cache_key() {
        let key = |parts: &[&str]| cache_key(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! A file tree in memory that becomes an initramfs.
//!
//! The format is cpio's "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst). It stays uncompressed: the
//! emulated machine unpacks it, and there copying is cheaper than decompressing.

use crate::error::{Context, Result};
use crate::layout::read;
use std::collections::BTreeMap;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

struct Entry {
    mode: u32,
    content: Vec<u8>,
}

/// Files by their path without the leading slash. A parent sorts before its children, as the kernel needs it.
#[derive(Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Adds a directory and its parents.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.entries.contains_key(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(
            path.to_owned(),
            Entry {
                mode: DIRECTORY | 0o755,
                content: Vec::new(),
            },
        );
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, SYMLINK | 0o777, target.as_bytes().to_vec());
    }

    /// Adds a file that may be executed; in these images that harms none.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, REGULAR | 0o755, content.into());
    }

    /// Adds a copy of a file of this machine.
    pub fn copy(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = read(source).context(|| {
            format!(
                "cannot put /{} into the image",
                path.trim_start_matches('/')
            )
        })?;
        self.file(path, content);
        Ok(())
    }

    /// Adds a copy of a folder of this machine with all that is in it; links stay links.
    pub fn copy_folder(&mut self, path: &str, source: &Path) -> Result<()> {
        let what = || format!("cannot read {}", source.display());
        self.directory(path);
        for entry in std::fs::read_dir(source).context(what)? {
            let entry = entry.context(what)?;
            let (from, kind) = (entry.path(), entry.file_type().context(what)?);
            let to = format!("{path}/{}", entry.file_name().to_string_lossy());
            if kind.is_symlink() {
                let target = std::fs::read_link(&from).context(what)?;
                self.symlink(&to, &target.to_string_lossy());
            } else if kind.is_dir() {
                self.copy_folder(&to, &from)?;
            } else {
                self.copy(&to, &from)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries
            .insert(path.to_owned(), Entry { mode, content });
    }

    /// The tree as an initramfs.
    pub fn into_cpio(self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (inode, (path, entry)) in (1_u32..).zip(&self.entries) {
            append(&mut archive, inode, path, entry);
        }
        append(
            &mut archive,
            0,
            "TRAILER!!!",
            &Entry {
                mode: 0,
                content: Vec::new(),
            },
        );
        archive
    }
}

fn append(archive: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & DIRECTORY == DIRECTORY {
        2
    } else {
        1
    };
    let (uid, gid, mtime, major, minor, checksum) = (0, 0, 0, 0, 0, 0);
    let fields = [
        inode as usize,
        entry.mode as usize,
        uid,
        gid,
        links,
        mtime,
        entry.content.len(),
        major,
        minor,
        major,
        minor,
        path.len() + 1,
        checksum,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(&entry.content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn parents_come_before_their_children_and_every_part_is_aligned() {
        let mut tree = Tree::default();
        tree.file("/a/b/c", "12345");
        tree.symlink("/a-link", "a");
        let names: Vec<&String> = tree.entries.keys().collect();
        assert_eq!(names, ["a", "a-link", "a/b", "a/b/c"]);
        let archive = tree.into_cpio();
        assert_eq!(archive.len() % 4, 0);
        let file = archive
            .windows(5)
            .position(|bytes| bytes == b"12345")
            .unwrap();
        assert_eq!(file % 4, 0);
    }
}

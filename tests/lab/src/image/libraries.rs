// SPDX-License-Identifier: GPL-2.0-only
//! The shared libraries that programs need, found as the dynamic loader finds them, whatever processors they are for.

use super::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::layout::read;
use crate::provision::{Arch, Packages};
use object::elf::DT_NEEDED;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Collects programs' libraries; those of the unpacked packages come before this machine's.
pub struct Libraries {
    /// Where Debian has them.
    folder: String,
    search: Vec<PathBuf>,
    /// By the path in the image.
    found: BTreeMap<String, PathBuf>,
}

/// What an ELF file says that it needs.
#[derive(Debug, PartialEq, Eq)]
struct Needs {
    /// The loader, by its path.
    loader: Option<String>,
    /// Libraries, by their names.
    libraries: Vec<String>,
}

impl Libraries {
    /// Nothing collected yet.
    pub fn new(packages: &Packages) -> Self {
        let folder = format!("/usr/lib/{}", packages.arch.triplet());
        let root = packages.root();
        let mut search = [&folder["/usr/".len()..], &folder[1..]]
            .map(|folder| root.join(folder))
            .to_vec();
        if packages.arch == Arch::Amd64 {
            search.push(PathBuf::from(&folder));
        }
        Libraries {
            folder,
            search,
            found: BTreeMap::new(),
        }
    }

    /// Those of other unpacked packages come before all.
    #[must_use]
    pub fn before(mut self, root: &Path) -> Self {
        let folders = [&self.folder["/usr/".len()..], &self.folder[1..], "usr/lib"];
        let folders = folders.map(|folder| root.join(folder));
        self.search.splice(0..0, folders);
        self
    }

    /// Adds a library that programs load at run time, and all that it needs.
    pub fn add_by_name(&mut self, name: &str) -> Result<()> {
        let source = self.find(name, Path::new("a program"))?;
        let path = format!("{}/{name}", self.folder);
        self.found.insert(path, source.clone());
        self.add(&source)
    }

    /// Adds all that `program` needs, and what that needs in turn.
    pub fn add(&mut self, program: &Path) -> Result<()> {
        let needs = needs_of(program)?;
        // The image has /lib and /lib64 as links, as Debian has them.
        let loader = needs.loader.map(|path| format!("/usr{path}"));
        let libraries = needs.libraries.into_iter();
        let libraries = libraries.map(|name| format!("{}/{name}", self.folder));
        let paths: Vec<String> = libraries.chain(loader).collect();
        for path in paths {
            if self.found.contains_key(&path) {
                continue;
            }
            let name = path.rsplit('/').next().unwrap_or(&path);
            let source = self.find(name, program)?;
            self.found.insert(path, source.clone());
            self.add(&source)?;
        }
        Ok(())
    }

    fn find(&self, name: &str, program: &Path) -> Result<PathBuf> {
        let mut paths = self.search.iter().map(|folder| folder.join(name));
        paths.find(|path| path.exists()).ok_or_else(|| {
            Error::new(format!(
                "{} needs {name}, which is missing",
                program.display()
            ))
        })
    }

    /// Copies them into the image.
    pub fn install(&self, tree: &mut Tree) -> Result<()> {
        self.found
            .iter()
            .try_for_each(|(path, source)| tree.copy(path, source))
    }
}

fn needs_of(program: &Path) -> Result<Needs> {
    let what = || format!("cannot read what {} needs", program.display());
    let content = read(program)?;
    let data = content.as_slice();
    let file: ElfFile64 = ElfFile64::parse(data).context(what)?;
    let endian = file.elf_header().endian().context(what)?;
    let mut loader = None;
    for header in file.elf_program_headers() {
        if let Some(path) = header.interpreter(endian, data).context(what)? {
            loader = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let mut libraries = Vec::new();
    let sections = file.elf_section_table();
    if let Some((entries, strings)) = sections.dynamic(endian, data).context(what)? {
        let strings = sections.strings(endian, data, strings).context(what)?;
        for entry in entries {
            if entry.tag32(endian) == Some(DT_NEEDED) {
                let name = entry.string(endian, strings).context(what)?;
                libraries.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(Needs { loader, libraries })
}

#[cfg(test)]
mod tests {
    use super::needs_of;

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let needs = needs_of(&std::env::current_exe().unwrap()).unwrap();
        assert!(needs.loader.unwrap().contains("/ld-linux"));
        assert!(needs.libraries.contains(&"libc.so.6".to_owned()));
    }
}

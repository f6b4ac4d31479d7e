// SPDX-License-Identifier: GPL-2.0-only
//! The series of patches for Xen, and whether each applies to its tree: in order, without fuzz and without offsets; what stands alone
//! by itself, and the others without it.
//!
//! In: `xen-patches/*`, the trees. One of Xen 4.17 comes with the laboratory; the others are in Xen's and XCP-ng's own repositories,
//! which nobody packages: `XEN_GIT` and `XCPNG_GIT` name clones. Without them their series are skipped, and it is said so.

use crate::command::{output, say};
use crate::error::{Context, Error, Result};
use crate::layout::{CacheLock, Layout, fresh_dir, read_text};
use crate::provision::{Arch, Packages, Release};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A clone of Xen's repository.
const XEN_GIT: &str = "XEN_GIT";
/// A clone of XCP-ng's repository of Xen's package.
const XCPNG_GIT: &str = "XCPNG_GIT";

/// The tree that a series is for.
enum Base {
    /// Xen's source as the laboratory has it (Debian's package, its own patches applied), if its version takes this series; else a
    /// revision of Xen's repository.
    Laboratory(&'static str),
    /// A revision of Xen's repository.
    Xen(&'static str),
    /// A revision of Xen's repository, and that of XCP-ng's package whose patches are on top.
    Xcpng(&'static str, &'static str),
}

/// A folder of `xen-patches`.
struct Series {
    folder: &'static str,
    base: Base,
    /// How many patches at the beginning have nothing to do with the others.
    alone: usize,
}

const ALL: [Series; 5] = [
    Series {
        folder: "4.17",
        base: Base::Laboratory("01140da4e8babe1e79d845b9117c1f9e6a057d0a"),
        alone: 2,
    },
    Series {
        folder: "4.17.7",
        base: Base::Laboratory("RELEASE-4.17.7"),
        alone: 2,
    },
    Series {
        folder: "4.20",
        base: Base::Xen("RELEASE-4.20.4"),
        alone: 2,
    },
    Series {
        folder: "xcp-ng-8.3",
        base: Base::Xcpng("RELEASE-4.17.6", "4d50634e08aa4af94c056dbe012d381703cbf666"),
        alone: 1,
    },
    Series {
        folder: "staging",
        base: Base::Xen("c447b7308b1330ec6dcfef37220736c28f41daa0"),
        alone: 2,
    },
];

/// The patches that the series in this folder lists.
pub fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = read_text(&folder.join("series"))?;
    let names = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim())
        .filter(|name| !name.is_empty());
    Ok(names.map(|name| folder.join(name)).collect())
}

/// Applies a patch without fuzz; what `patch` said.
pub fn apply(tree: &Path, patch: &Path) -> Result<String> {
    run_patch(tree, patch, &[])
}

fn run_patch(tree: &Path, patch: &Path, more: &[&str]) -> Result<String> {
    let mut command = Command::new("patch");
    command
        .args(["--strip=1", "--fuzz=0", "--no-backup-if-mismatch"])
        .args(["--force", "--input"])
        .arg(patch)
        .args(more);
    output(command.current_dir(tree)).context(|| format!("{} does not apply", patch.display()))
}

/// Tries every series whose tree can be had.
pub fn run() -> Result<()> {
    let layout = Layout::of_this_tree();
    let mut applied = 0;
    for series in &ALL {
        let tree = layout.lab("series").join(series.folder);
        fresh_dir(&tree)?;
        match series.lay(&layout, &tree)? {
            Some(missing) => say(format!("SKIPPED: xen-patches/{}: {missing}", series.folder)),
            None => {
                let count = series.try_on(&layout, &tree)?;
                say(format!(
                    "xen-patches/{}: {count} patches apply",
                    series.folder
                ));
                applied += 1;
            }
        }
        fs::remove_dir_all(&tree).context(|| format!("cannot remove {}", tree.display()))?;
    }
    say(format!("{applied} of {} series tried", ALL.len()));
    Ok(())
}

impl Series {
    /// How many patches there are, if all apply.
    fn try_on(&self, layout: &Layout, tree: &Path) -> Result<usize> {
        let patches = listed(&layout.project("xen-patches").join(self.folder))?;
        let (alone, table) = patches.split_at(self.alone.min(patches.len()));
        for patch in alone {
            forth_and_back(tree, std::slice::from_ref(patch))?;
        }
        forth_and_back(tree, table)?;
        forth_and_back(tree, &patches)?;
        Ok(patches.len())
    }

    /// Lays the tree, or says what is missing for it.
    fn lay(&self, layout: &Layout, tree: &Path) -> Result<Option<String>> {
        let xen = |revision| lay_git(XEN_GIT, "Xen's repository", revision, tree);
        match self.base {
            Base::Laboratory(revision) => match self.source_of_laboratory(layout)? {
                Some(source) => {
                    output(Command::new("cp").arg("-aT").arg(source).arg(tree)).map(|_| None)
                }
                None => xen(revision),
            },
            Base::Xen(revision) => xen(revision),
            Base::Xcpng(revision, package) => {
                let specs = tree.join("xcp-ng");
                fresh_dir(&specs)?;
                let missing = match xen(revision)? {
                    None => lay_git(XCPNG_GIT, "XCP-ng's repository xen", package, &specs)?,
                    missing => missing,
                };
                if missing.is_none() {
                    apply_spec(tree, &specs)?;
                }
                Ok(missing)
            }
        }
    }

    /// The laboratory's source of Xen, if this series is the one for it.
    fn source_of_laboratory(&self, layout: &Layout) -> Result<Option<PathBuf>> {
        let _lock = CacheLock::take(layout)?;
        let release = Release::of_series("4.17")?;
        let source = Packages::provide(layout, release, Arch::Amd64)?.xen_source()?;
        let folder = release.patches_for(&source)?;
        Ok((folder == Some(self.folder)).then_some(source))
    }
}

/// Applies patches in order, and takes them off again.
fn forth_and_back(tree: &Path, patches: &[PathBuf]) -> Result<()> {
    for patch in patches {
        exact(patch, &apply(tree, patch)?)?;
    }
    for patch in patches.iter().rev() {
        exact(patch, &run_patch(tree, patch, &["--reverse"])?)?;
    }
    Ok(())
}

/// An error if `patch` had to search.
fn exact(patch: &Path, said: &str) -> Result<()> {
    match said.lines().find(|line| line.starts_with("Hunk #")) {
        Some(line) => Err(Error::new(format!("{}: {line}", patch.display()))),
        None => Ok(()),
    }
}

/// A revision of the repository that a variable names.
fn lay_git(variable: &str, what: &str, revision: &str, tree: &Path) -> Result<Option<String>> {
    let Some(repository) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(Some(format!(
            "it is for {revision} of {what}; {variable}=FOLDER names a clone"
        )));
    };
    let what = || format!("{variable} has no {revision}");
    let mut git = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(["archive", revision])
        .stdout(Stdio::piped())
        .spawn()
        .context(|| "cannot run git")?;
    let archive = git.stdout.take().context(|| "git has no output")?;
    let unpacked = Command::new("tar")
        .args(["-x", "-C"])
        .arg(tree)
        .stdin(archive)
        .status()
        .context(|| "cannot run tar")?;
    let sent = git.wait().context(what)?;
    if sent.success() && unpacked.success() {
        return Ok(None);
    }
    Err(Error::new(what()))
}

/// Applies what the package's spec file lists as `PatchN:`, as rpmbuild does.
fn apply_spec(tree: &Path, package: &Path) -> Result<()> {
    let spec = read_text(&package.join("SPECS/xen.spec"))?;
    let names = spec.lines().filter_map(|line| {
        let (tag, name) = line.split_once(':')?;
        let number = tag.strip_prefix("Patch")?;
        number.parse::<u32>().ok().map(|_| name.trim())
    });
    for name in names {
        apply(tree, &package.join("SOURCES").join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{apply_spec, exact, forth_and_back};
    use crate::layout::{fresh_dir, read_text, write};
    use std::path::{Path, PathBuf};

    const PATCH: &str = "--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("xenwarden-series-{name}-{}", std::process::id()));
        fresh_dir(&folder.join("SOURCES")).expect("a folder");
        fresh_dir(&folder.join("SPECS")).expect("a folder");
        write(&folder.join("SOURCES/first.patch"), PATCH).expect("written");
        folder
    }

    #[test]
    fn a_patch_that_is_off_by_a_line_is_told() {
        let folder = folder("offset");
        let patches = [folder.join("SOURCES/first.patch")];
        write(&folder.join("file"), "one\ntwo\nthree\n").expect("written");
        forth_and_back(&folder, &patches).expect("applies");
        write(&folder.join("file"), "zero\none\ntwo\nthree\n").expect("written");
        assert!(forth_and_back(&folder, &patches).is_err());
        write(&folder.join("file"), "one\ntwo\nfour\n").expect("written");
        assert!(forth_and_back(&folder, &patches).is_err());
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_spec_files_patches_are_applied() {
        let folder = folder("spec");
        write(&folder.join("file"), "one\ntwo\nthree\n").expect("written");
        let spec = "Name: xen\nPatch0: first.patch\n# Patch1: second.patch\nPatches: no\n";
        write(&folder.join("SPECS/xen.spec"), spec).expect("written");
        apply_spec(&folder, &folder).expect("applies");
        assert_eq!(
            read_text(&folder.join("file")).expect("read"),
            "one\n2\nthree\n"
        );
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn what_patch_says_of_a_hunk_is_an_error() {
        let said = "patching file x\nHunk #1 succeeded at 3 (offset 1 line).\n";
        assert!(exact(Path::new("x"), said).is_err());
        assert!(exact(Path::new("x"), "patching file x\n").is_ok());
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Packages whose programs run in dom0, and of which nothing is installed here.
//!
//! In: Debian's archive. Out: a folder with the packages' files, and what they unpack to.

use super::apt::Apt;
use super::packages::{Packages, unpack};
use crate::command::say;
use crate::error::Result;
use crate::layout::{Layout, cache_key, fresh_dir, write};
use std::path::PathBuf;

/// Packages of these names.
pub struct Unpacked {
    /// The folder that they are unpacked in.
    pub root: PathBuf,
    /// The folder of their files.
    pub debs: PathBuf,
}

/// Those of these names in a folder of the laboratory's, fetched if they are not there yet, which is said as `what`.
pub fn provide<'n>(
    layout: &Layout,
    packages: &Packages,
    folder: &str,
    names: impl Iterator<Item = &'n &'n str>,
    what: &str,
) -> Result<Unpacked> {
    let names: Vec<String> = names.map(|name| (*name).to_owned()).collect();
    let key = cache_key([names.join(" ").as_bytes()]);
    let folder = layout.lab(folder);
    let (root, debs) = (folder.join("root"), folder.join("debs"));
    let stamp = folder.join(format!("complete-{key}"));
    if !stamp.exists() {
        say(format!("fetching {what}"));
        fresh_dir(&folder)?;
        let apt = Apt::open(layout, packages.release, packages.arch)?;
        apt.download(&names, &debs)?;
        unpack(&debs, &root)?;
        write(&stamp, "")?;
    }
    Ok(Unpacked { root, debs })
}

// SPDX-License-Identifier: GPL-2.0-only
//! The Debian packages that the images are made of: downloaded by name, unpacked, never installed.

use super::apt::Apt;
use super::arch::Arch;
use super::release::Release;
use crate::command::{output, say};
use crate::error::{Context, Error, Result};
use crate::layout::{Layout, cache_key, fresh_dir, make_dir, read_text, write};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel that dom0 and the guests run: the one that this package depends on, with the architecture behind it.
const KERNEL: &str = "linux-image";
/// Xen's tools and libraries; all come from Xen's source package and share its version. `SERIES` is that of Xen.
const XEN_TOOLS: &[&str] = &[
    "xen-hypervisor-SERIES-ARCH",
    "xen-utils-SERIES",
    "xen-utils-common",
    "xenstore-utils",
    "libxenmiscSERIES",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
];
/// A folder with Xen's source to build in place of Debian's, for those whose mirror has none of it.
const SOURCE: &str = "XENWARDEN_LAB_XEN_SOURCE";
/// What Xen's tools need from elsewhere and what few machines have.
const OTHERS: &[&str] = &["libyajl2", "busybox-static", "kexec-tools"];
/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Packages {
    /// What they were taken from.
    pub release: &'static Release,
    /// Whom they are for.
    pub arch: Arch,
    fetched: Fetched,
    root: PathBuf,
    xen_source: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fetched {
    xen_version: String,
    kernel_release: String,
}

impl Packages {
    /// The packages of this laboratory, fetched if they are not there yet.
    pub fn provide(layout: &Layout, release: &'static Release, arch: Arch) -> Result<Self> {
        // Other packages asked for: another stamp, so that they are fetched.
        let asked =
            [&xen_tools(release, arch), &others(release, arch)].map(|names| names.join(" "));
        let stamp = layout.lab(&format!(
            "packages/complete-{}.json",
            cache_key([asked.join(" ").as_bytes()])
        ));
        let fetched = match read_text(&stamp) {
            Ok(text) => serde_json::from_str(&text)
                .context(|| format!("cannot read {}", stamp.display()))?,
            Err(_) => {
                let fetched = fetch(layout, release, arch)?;
                let text =
                    serde_json::to_string(&fetched).context(|| "cannot describe the packages")?;
                write(&stamp, text)?;
                fetched
            }
        };
        Ok(Packages {
            release,
            arch,
            fetched,
            root: layout.lab("packages/root"),
            xen_source: layout.lab("packages/source"),
        })
    }

    /// The folder that they are unpacked in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Version of Xen's source package, and of its tools.
    pub fn xen_version(&self) -> &str {
        &self.fetched.xen_version
    }

    /// Release of the Linux kernel, as in `/lib/modules/RELEASE`.
    pub fn kernel_release(&self) -> &str {
        &self.fetched.kernel_release
    }

    /// A file of the unpacked packages, named as it would be installed: a release whose packages still bring /bin, or one
    /// whose packages have it all below /usr.
    pub fn file(&self, installed: &str) -> PathBuf {
        let relative = installed.trim_start_matches('/');
        let path = self.root.join(relative);
        let merged = self.root.join("usr").join(relative);
        match !path.exists() && merged.exists() {
            true => merged,
            false => path,
        }
    }

    /// Xen's unpacked source, Debian's patches applied; or the one that was given.
    pub fn xen_source(&self) -> Result<PathBuf> {
        if let Some(given) = given_source() {
            say(format!(
                "using Xen's source in {} ({SOURCE})",
                given.display()
            ));
            return Ok(given);
        }
        let entries = fs::read_dir(&self.xen_source)
            .context(|| format!("cannot read {}", self.xen_source.display()))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.join("xen/Makefile").is_file())
            .context(|| format!("no Xen source in {}", self.xen_source.display()))
    }
}

/// The source that was given in place of Debian's.
pub fn given_source() -> Option<PathBuf> {
    std::env::var_os(SOURCE).map(PathBuf::from)
}

fn xen_tools(release: &Release, arch: Arch) -> Vec<String> {
    let names = XEN_TOOLS.iter();
    names
        .map(|name| name.replace("SERIES", release.series))
        .map(|name| name.replace("ARCH", arch.debian()))
        .collect()
}

fn others(release: &Release, arch: Arch) -> Vec<String> {
    let names = OTHERS
        .iter()
        .chain(release.libraries(arch))
        .chain(release.device_model(arch));
    names.map(|name| (*name).to_owned()).collect()
}

fn fetch(layout: &Layout, release: &Release, arch: Arch) -> Result<Fetched> {
    let apt = Apt::open(layout, release, arch)?;
    let folder = layout.lab("packages");
    fresh_dir(&folder)?;
    let versions = candidates(apt.source_versions("xen")?, release);
    let source = |version: &str| {
        say(format!("fetching the source of Xen {version}"));
        fresh_dir(&folder.join("source"))?;
        apt.source("xen", version, &folder.join("source"))
    };
    let of_source = match given_source() {
        Some(_) => None,
        None => Some(first_that_works(&versions, source)?),
    };
    let versions = match &of_source {
        Some(version) => versions_from(&versions, version),
        None => versions,
    };
    let of_tools = first_that_works(&versions, |version| {
        say(format!("fetching the tools of Xen {version}"));
        let named = xen_tools(release, arch);
        let named = named.iter().map(|package| format!("{package}={version}"));
        apt.download(&named.collect::<Vec<_>>(), &folder.join("debs"))
    })?;
    let kernel = apt.dependency(&format!("{KERNEL}-{}", arch.debian()), "linux-image-")?;
    say(format!("fetching {kernel} (about 100 MB)"));
    let mut named = others(release, arch);
    named.push(kernel.clone());
    apt.download(&named, &folder.join("debs"))?;
    unpack(&folder.join("debs"), &folder.join("root"))?;
    let kernel_release = kernel.trim_start_matches("linux-image-").to_owned();
    Ok(Fetched {
        xen_version: of_source.unwrap_or(of_tools),
        kernel_release,
    })
}

/// The versions of this release's series, the preferred one first.
fn candidates(mut versions: Vec<String>, release: &Release) -> Vec<String> {
    let series = format!("{}.", release.series);
    versions.retain(|version| version.starts_with(&series));
    versions.sort_by_key(|version| Some(version.as_str()) != release.preferred);
    versions
}

/// The same versions, `first` before all others.
fn versions_from(versions: &[String], first: &str) -> Vec<String> {
    let mut ordered = versions.to_vec();
    ordered.sort_by_key(|version| version != first);
    ordered
}

fn first_that_works(versions: &[String], attempt: impl Fn(&str) -> Result<()>) -> Result<String> {
    let mut last = Error::new("the archive offers no Xen of this series");
    for version in versions {
        match attempt(version) {
            Ok(()) => return Ok(version.clone()),
            Err(error) => {
                say(format!(
                    "  not to be had: {}",
                    error.to_string().lines().next().unwrap_or("")
                ));
                last = error;
            }
        }
    }
    Err(last)
}

pub(super) fn unpack(debs: &Path, root: &Path) -> Result<()> {
    make_dir(root)?;
    for entry in fs::read_dir(debs).context(|| format!("cannot read {}", debs.display()))? {
        let deb = entry
            .context(|| format!("cannot read {}", debs.display()))?
            .path();
        output(Command::new("dpkg").arg("-x").arg(&deb).arg(root))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_is_tried_first_and_other_series_never() {
        let release = Release::chosen().unwrap();
        let preferred = release.preferred.unwrap();
        let offered = ["4.17.7+13-g1-0+deb12u1", "4.2.0-1", preferred];
        let tried = candidates(offered.map(str::to_owned).to_vec(), release);
        assert_eq!(tried, [preferred, "4.17.7+13-g1-0+deb12u1"]);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Debian's archive through a private apt state: the suites that the machine has configured, of the release that is asked for, plus
//! their source packages, without a change to the machine's own configuration.

use super::arch::Arch;
use super::release::Release;
use crate::command::{output, say};
use crate::error::{Error, Result};
use crate::layout::{Layout, make_dir, write};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's archive keys, as the package debian-archive-keyring installs them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A view of Debian's archive with its state under `target/lab/apt`.
pub struct Apt {
    state: PathBuf,
    arch: Arch,
}

impl Apt {
    /// Opens the private state and fetches the archive's indexes.
    pub fn open(layout: &Layout, release: &Release, arch: Arch) -> Result<Self> {
        let apt = Apt {
            state: layout.lab("apt"),
            arch,
        };
        for folder in ["lists/partial", "cache/archives/partial"] {
            make_dir(&apt.state.join(folder))?;
        }
        write(&apt.sources(), sources(release)?)?;
        say("fetching the indexes of Debian's archive");
        output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// The suites, as apt's sources.list has them.
    pub fn sources(&self) -> PathBuf {
        self.state.join("sources.list")
    }

    /// All versions of a source package that the archive names.
    pub fn source_versions(&self, source: &str) -> Result<Vec<String>> {
        let records = output(
            self.command("apt-cache")
                .args(["showsrc", "--only-source", source]),
        )?;
        let versions = records
            .lines()
            .filter_map(|line| line.strip_prefix("Version: "));
        Ok(versions.map(str::to_owned).collect())
    }

    /// The first dependency of `package` whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let depends = output(
            self.command("apt-cache")
                .args(["depends", "--important", package]),
        )?;
        let mut names = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        names
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| Error::new(format!("{package} depends on no {prefix}*")))
    }

    /// Downloads `NAME` or `NAME=VERSION` into `folder`.
    pub fn download(&self, packages: &[String], folder: &Path) -> Result<()> {
        make_dir(folder)?;
        output(
            self.command("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(folder),
        )
        .map(drop)
    }

    /// Downloads and unpacks one version of a source package below `folder`, Debian's patches applied.
    pub fn source(&self, source: &str, version: &str, folder: &Path) -> Result<()> {
        make_dir(folder)?;
        let wanted = format!("{source}={version}");
        output(
            self.command("apt-get")
                .args(["source", "--only-source", &wanted])
                .current_dir(folder),
        )
        .map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", self.sources().display().to_string()),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            (
                "Dir::State::lists",
                self.state.join("lists").display().to_string(),
            ),
            ("Dir::Cache", self.state.join("cache").display().to_string()),
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".into()),
            ("APT::Architecture", self.arch.debian().into()),
            ("APT::Architectures", self.arch.debian().into()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }
}

/// The machine's own Debian suites, of this release, as `deb` and `deb-src` lines.
fn sources(release: &Release) -> Result<String> {
    let mut suites = configured_suites(release)?;
    if suites.is_empty() {
        say("this machine has no package indexes yet: apt-get update");
        output(Command::new("apt-get").arg("update"))?;
        suites = configured_suites(release)?;
    }
    if suites.is_empty() {
        return Err(Error::new(
            "apt on this machine has no Debian archive configured (main component)",
        ));
    }
    let signed = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    // Of the same version in two suites apt takes the first: the release itself keeps what a mirror of its updates may have dropped.
    let is_update = |suite: &&String| !suite.contains(&format!(" {} ", release.codename));
    let mut suites: Vec<_> = suites.iter().collect();
    suites.sort_by_key(is_update);
    let lines = suites.iter().flat_map(|suite| {
        [
            format!("deb {signed}{suite}\n"),
            format!("deb-src {signed}{suite}\n"),
        ]
    });
    Ok(lines.collect())
}

/// `URI SUITE main` of each configured suite that says it is Debian's.
fn configured_suites(release: &Release) -> Result<BTreeSet<String>> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Origin: Debian",
        "Created-By: Packages",
        "Component: main",
    ]))?;
    let of_release = |line: &str| {
        let (uri, rest) = line.split_once(' ')?;
        let (suite, component) = rest.split_once(' ')?;
        Some(format!("{uri} {} {component}", release.suite(suite)))
    };
    Ok(targets.lines().filter_map(of_release).collect())
}

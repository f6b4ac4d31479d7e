// SPDX-License-Identifier: GPL-2.0-only
//! What a cluster is made of besides xenwarden and Xen: corosync, its quorum device and its third vote, Pacemaker, DRBD.
//!
//! In: Debian's archive. Out: a folder with the packages unpacked; nothing is installed.

use super::packages::Packages;
use super::unpacked;
use crate::error::Result;
use crate::layout::Layout;
use std::path::PathBuf;

/// The packages whose programs run in dom0, and on this machine the third vote.
const PROGRAMS: &[&str] = &[
    "corosync",
    "corosync-qdevice",
    "corosync-qnetd",
    "pacemaker",
    "pacemaker-cli-utils",
    "pacemaker-common",
    "pacemaker-resource-agents",
    "resource-agents",
    "drbd-utils",
    "bash",
    "gawk",
    "socat",
];
/// What their programs load, by name or at run time, and few machines have.
#[rustfmt::skip]
pub(super) const LIBRARIES: &[&str] = &[
    "libaudit1", "libbz2-1.0", "libcap-ng0", "libcap2", "libcfg7", "libcib27", "libcmap4", "libcom-err2", "libcorosync-common4",
    "libcpg4", "libcrmcluster29", "libcrmcommon34", "libcrmservice28", "libdbus-1-3", "libffi8", "libglib2.0-0", "libgmp10",
    "libgnutls30", "libgssapi-krb5-2", "libhogweed6", "libicu72", "libidn2-0", "libk5crypto3", "libkeyutils1", "libknet1",
    "libkrb5-3", "libkrb5support0", "liblrmd28", "libltdl7", "liblzma5", "libmpfr6", "libncurses6", "libnettle8", "libnl-3-200",
    "libnl-route-3-200", "libnozzle1", "libnsl2", "libnspr4", "libnss3", "libp11-kit0", "libpacemaker1", "libpam0g",
    "libpcre2-8-0", "libpe-rules26", "libpe-status28", "libpils2", "libplumb2", "libplumbgpl2", "libqb100", "libquorum5",
    "libreadline8", "libsigsegv2", "libsqlite3-0", "libssl3", "libstatgrab10", "libstdc++6", "libstonith1", "libstonithd26",
    "libsystemd0", "libtasn1-6", "libtinfo6", "libtirpc3", "libunistring2", "libuuid1", "libvotequorum8", "libwrap0", "libxml2",
    "libxslt1.1", "zlib1g",
];

/// The folder that they are unpacked in, fetched if they are not there yet.
pub fn provide(layout: &Layout, packages: &Packages) -> Result<PathBuf> {
    let names = PROGRAMS.iter().chain(LIBRARIES);
    let what = "corosync, Pacemaker and DRBD";
    let unpacked = unpacked::provide(layout, packages, "cluster/packages", names, what)?;
    Ok(unpacked.root)
}

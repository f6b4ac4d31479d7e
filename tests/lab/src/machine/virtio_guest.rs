// SPDX-License-Identifier: GPL-2.0-only
//! A guest of a stock QEMU on this machine, without Xen: a Linux that tells by two virtio-serial ports that it lives, one of them a
//! unix socket to whoever listens, the other a terminal.

use super::qemu::{Starting, end};
use super::qmp::Qmp;
use crate::error::{Context, Result};
use crate::layout::fresh_dir;
use crate::provision::Arch;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A panic that comes of an NMI is for ever: the kernel neither reboots nor does anything else. What it says goes nowhere but to its console.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet unknown_nmi_panic panic=0";
const DEFINITION: &str = "-M pc -accel tcg -m 256 -display none -nodefaults -no-user-config -serial file:console.log \
    -chardev socket,id=qmp,path=qmp,server=on,wait=off -mon chardev=qmp,mode=control -device virtio-serial \
    -chardev socket,id=socket,path=socket,server=on,wait=off -device virtserialport,chardev=socket,name=socket \
    -chardev pty,id=terminal -device virtserialport,chardev=terminal,name=terminal";

/// A guest. Dropping it kills its QEMU.
pub struct VirtioGuest {
    child: Child,
    folder: PathBuf,
    qmp: Qmp,
}

impl VirtioGuest {
    /// Switches it on; `folder` is its own.
    pub fn boot(kernel: &Path, initramfs: &Path, folder: &Path) -> Result<Self> {
        fresh_dir(folder)?;
        let log = std::fs::File::create(folder.join("qemu.log"));
        let log = log.context(|| "cannot create QEMU's log")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", Arch::Amd64.qemu()])
            .args(DEFINITION.split_whitespace())
            .args(["-append", KERNEL_ARGUMENTS, "-kernel"])
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs);
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().context(|| "cannot start QEMU")?;
        let mut starting = Starting {
            child: Some(child),
            folder,
        };
        let qmp = Qmp::new(starting.connect("qmp")?)?;
        Ok(VirtioGuest {
            child: starting.child.take().context(|| "QEMU is gone")?,
            folder: folder.to_path_buf(),
            qmp,
        })
    }

    /// Where the one port is to be heard. Through /proc, because the path of a socket may not be long and the folder's may.
    pub fn socket(&self) -> String {
        format!("/proc/{}/cwd/socket", self.child.id())
    }

    /// And the other.
    pub fn terminal(&mut self) -> Result<String> {
        let ports = self.qmp.execute("query-chardev", json!({}))?;
        let mut ports = ports.as_array().into_iter().flatten();
        let is_terminal = |port: &&serde_json::Value| port["label"] == "terminal";
        let place = ports
            .find(is_terminal)
            .and_then(|port| port["filename"].as_str());
        let path = place.and_then(|place| place.strip_prefix("pty:"));
        path.map(str::to_owned)
            .context(|| "QEMU has made no terminal")
    }

    /// A folder for what belongs to it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has its kernel hang for ever, whatever it does.
    pub fn hang(&mut self) -> Result<()> {
        self.qmp.execute("inject-nmi", json!({})).map(drop)
    }

    /// Whether QEMU takes it for a guest that runs.
    pub fn is_running(&mut self) -> Result<bool> {
        let status = self.qmp.execute("query-status", json!({}))?;
        Ok(status["status"] == "running")
    }

    /// Resets it, so that it boots again.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(drop)
    }

    /// What its kernel and its first process said.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for VirtioGuest {
    fn drop(&mut self) {
        end(&mut self.child);
        // The laboratory removes what stays.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! The third vote: corosync-qnetd on this machine, from the unpacked packages.

use crate::error::{Context, Result};
use crate::layout::make_dir;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running corosync-qnetd. Dropping it ends it.
pub struct Third {
    child: Child,
}

impl Third {
    /// Starts it; `root` has the packages, `folder` is its own. It listens where hosts reach it by QEMU's own network.
    pub fn start(root: &Path, folder: &Path) -> Result<Self> {
        make_dir(folder)?;
        let log = File::create(folder.join("qnetd.log")).context(|| "cannot create qnetd's log")?;
        let errors = log.try_clone().context(|| "cannot share qnetd's log")?;
        let program = root.join("usr/bin/corosync-qnetd");
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|path| root.join(path).display().to_string());
        let own = |name: &str| folder.join(name).display().to_string();
        let settings = format!(
            "local_socket_file={},lock_file={}",
            own("qnetd.sock"),
            own("qnetd.pid")
        );
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(["-f", "-s", "off", "-c", "off", "-l", "127.0.0.1", "-S"])
            .arg(settings)
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context(|| "cannot start corosync-qnetd")?;
        Ok(Third { child })
    }
}

impl Drop for Third {
    fn drop(&mut self) {
        // An error here means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! How a hook's program is started. It is looked at before each execution whether it may be.

use crate::event::Event;
use crate::event::describe::{describe, plain};

pub use crate::config::check::program as check;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// All the programs' search path.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Starts a checked program: no shell, an environment of a few variables, its own
/// process group, no descriptors but stdin and stderr (pipes) and stdout (/dev/null).
///
/// # Errors
/// The errno of posix_spawn(3).
pub fn start(real: &Path, named: &Path, arguments: &[String], event: &Event) -> io::Result<Child> {
    Command::new(real)
        .arg0(named)
        .args(arguments)
        .env_clear()
        .envs(environment(event))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// The event for programs that do not read JSON; what is not known is empty. Control
/// characters are replaced: a name must not end a mail's header.
fn environment(event: &Event) -> Vec<(&'static str, OsString)> {
    let guest = event.guest.as_ref();
    let uuid = guest.and_then(|g| g.uuid).map(|uuid| uuid.to_string());
    let domid = guest.map(|g| g.domid.to_string());
    let name = guest.and_then(|g| g.name.as_deref()).map(plain);
    let all = [
        ("PATH", PATH.to_owned()),
        ("LANG", "C".to_owned()),
        ("XENWARDEN_KIND", event.what.kind().to_owned()),
        ("XENWARDEN_SEQ", event.seq.to_string()),
        ("XENWARDEN_TIME", event.time.to_string()),
        ("XENWARDEN_SEVERITY", event.severity.name().to_owned()),
        ("XENWARDEN_HOST", plain(&event.host)),
        ("XENWARDEN_UUID", uuid.unwrap_or_default()),
        ("XENWARDEN_DOMID", domid.unwrap_or_default()),
        ("XENWARDEN_NAME", name.unwrap_or_default()),
        ("XENWARDEN_MESSAGE", describe(event)),
    ];
    all.map(|(key, value)| (key, value.into())).to_vec()
}

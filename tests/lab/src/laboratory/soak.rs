// SPDX-License-Identifier: GPL-2.0-only
//! What a soak tests, told so that results of two things are never taken for results of one.

use super::Laboratory;
use crate::error::Result;
use crate::layout::{cache_key, read};
use crate::machine::Shape;
use std::collections::BTreeMap;
use std::path::Path;

/// This very program, also where another has taken its place on disk (proc_pid_exe(5)): it has the rows, their bounds, and what is
/// done to hosts.
const THIS_PROGRAM: &str = "/proc/self/exe";

impl Laboratory {
    /// A hash of all that results depend on, and the versions of all parts.
    pub fn tested(&self) -> Result<(String, BTreeMap<String, String>)> {
        let versions: BTreeMap<String, String> = self.versions()?.into_iter().collect();
        let qemu = versions.get("qemu").cloned().unwrap_or_default();
        let program = read(Path::new(THIS_PROGRAM))?;
        let parts = [
            program.as_slice(),
            self.patched.key.as_bytes(),
            self.build_of(Shape::Stock)?.key.as_bytes(),
            self.images.key.as_bytes(),
            qemu.as_bytes(),
        ];
        Ok((cache_key(parts), versions))
    }
}

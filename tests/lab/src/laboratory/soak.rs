// SPDX-License-Identifier: GPL-2.0-only
//! What a soak tests, told so that results of two things are never taken for results of one.

use super::Laboratory;
use crate::error::Result;
use crate::layout::cache_key;
use crate::machine::Shape;
use crate::scenario::Scenario;
use std::collections::BTreeMap;

/// A change of how a soak acts on hosts; it makes old results others'.
const RECIPE: &str = "2";

impl Laboratory {
    /// A hash of all that the results of these rows depend on, and the versions of all parts.
    pub fn tested(&self, rows: &[Scenario]) -> Result<(String, BTreeMap<String, String>)> {
        let versions: BTreeMap<String, String> = self.versions()?.into_iter().collect();
        let terms: Vec<String> = rows.iter().map(Scenario::terms).collect();
        let terms = terms.join("\n");
        let qemu = versions.get("qemu").cloned().unwrap_or_default();
        let parts = [
            RECIPE,
            &self.patched.key,
            &self.build_of(Shape::Stock)?.key,
            &self.images.key,
            &qemu,
            &terms,
        ];
        Ok((cache_key(parts.map(str::as_bytes)), versions))
    }
}

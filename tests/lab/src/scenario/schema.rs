// SPDX-License-Identifier: GPL-2.0-only
//! Checks events against the project's schema.

use crate::error::{Error, Result};
use crate::layout::{Layout, read};
use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;
use std::sync::OnceLock;

struct Compiled {
    schemas: Schemas,
    index: SchemaIndex,
}

static COMPILED: OnceLock<std::result::Result<Compiled, String>> = OnceLock::new();

/// Refuses what is no valid event.
pub fn check(event: &Value) -> Result<()> {
    let compiled = COMPILED.get_or_init(compile).as_ref();
    let compiled = compiled.map_err(|why| Error::new(format!("doc/events.schema.json: {why}")))?;
    compiled
        .schemas
        .validate(event, compiled.index)
        .map_err(|why| Error::new(format!("{why}: {event}")))
}

fn compile() -> std::result::Result<Compiled, String> {
    let path = Layout::of_this_tree().project("doc/events.schema.json");
    let text = read(&path).map_err(|error| error.to_string())?;
    let schema: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    let name = "events.json";
    compiler
        .add_resource(name, schema)
        .map_err(|error| error.to_string())?;
    let index = compiler
        .compile(name, &mut schemas)
        .map_err(|error| error.to_string())?;
    Ok(Compiled { schemas, index })
}

// SPDX-License-Identifier: GPL-2.0-only
//! Addresses of the hypervisor's functions and variables, out of `xen-syms`.

use crate::error::{Context, Error, Result};
use crate::layout::read;
use crate::provision::Arch;
use object::read::elf::ElfFile64;
use object::{Architecture, Object, ObjectSymbol};
use std::collections::HashMap;
use std::path::Path;

/// A function or variable in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Its virtual address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A symbol table. Names that more than one file of the source defines are left out: they would be guesses.
pub struct Symbols {
    arch: Arch,
    by_name: HashMap<String, Option<Symbol>>,
}

impl Symbols {
    /// Reads the symbol table of an ELF file.
    pub fn read(path: &Path) -> Result<Self> {
        let content = read(path)?;
        let file: ElfFile64 = ElfFile64::parse(content.as_slice())
            .context(|| format!("cannot parse {}", path.display()))?;
        let mut by_name = HashMap::new();
        for symbol in file.symbols().filter(|symbol| symbol.address() != 0) {
            let Ok(name) = symbol.name() else { continue };
            let found = Symbol {
                address: symbol.address(),
                size: symbol.size(),
            };
            by_name
                .entry(source_name(name).to_owned())
                .and_modify(|known| {
                    if *known != Some(found) {
                        *known = None;
                    }
                })
                .or_insert(Some(found));
        }
        let arch = match file.architecture() {
            Architecture::Aarch64 => Arch::Arm64,
            _ => Arch::Amd64,
        };
        Ok(Symbols { arch, by_name })
    }

    /// Whose code it is.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The symbol of this name.
    pub fn get(&self, name: &str) -> Result<Symbol> {
        match self.by_name.get(name) {
            Some(Some(symbol)) => Ok(*symbol),
            Some(None) => Err(Error::new(format!(
                "the hypervisor has several symbols {name}"
            ))),
            None => Err(Error::new(format!("the hypervisor has no symbol {name}"))),
        }
    }
}

/// Where in a program, counted from its beginning in memory, the one function begins whose symbol contains `part`.
pub fn entry_of(program: &Path, part: &str) -> Result<u64> {
    let content = read(program)?;
    let file: ElfFile64 = ElfFile64::parse(content.as_slice())
        .context(|| format!("cannot parse {}", program.display()))?;
    let named = |symbol: &object::read::elf::ElfSymbol64| {
        symbol.name().is_ok_and(|name| name.contains(part))
    };
    let found: Vec<u64> = file
        .symbols()
        .filter(named)
        .map(|symbol| symbol.address())
        .collect();
    match found.as_slice() {
        [one] => Ok(*one),
        _ => Err(Error::new(format!(
            "{} functions {part} in {}",
            found.len(),
            program.display()
        ))),
    }
}

/// The name in the source: the compiler numbers a function's static variables (`sysctl_lock.1`).
fn source_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((plain, number))
            if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            plain
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::source_name;

    #[test]
    fn only_a_compilers_number_is_cut_off_a_name() {
        for (name, plain) in [
            ("sysctl_lock.1", "sysctl_lock"),
            ("do_sysctl.cold", "do_sysctl.cold"),
            ("a.b.2", "a.b"),
        ] {
            assert_eq!(source_name(name), plain);
        }
    }
}

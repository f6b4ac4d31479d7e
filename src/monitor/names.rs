// SPDX-License-Identifier: GPL-2.0-only
//! The names of domains: a view of [`crate::monitor::domains`] for status.

use crate::guard::ledger::Ledger;
use crate::monitor::domains::Domains;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kind is known of the names.
#[derive(Debug, Default)]
pub struct Names {
    domains: Arc<Domains>,
}

impl Names {
    /// The table that this is a view of.
    #[must_use]
    pub fn domains(&self) -> Arc<Domains> {
        Arc::clone(&self.domains)
    }

    /// The names as last read, and why some may be missing.
    #[must_use]
    pub fn get(&self) -> (BTreeMap<u16, String>, Option<String>) {
        let table = self.domains.table();
        let named = table.domains.iter().filter_map(|(domid, (_, info))| {
            let name = info.name.as_deref()?;
            Some((*domid, name.to_owned()))
        });
        (named.collect(), table.trouble.clone())
    }

    /// Keeps the names up to date until the kicker has ended.
    pub fn run(&self, ledger: &Ledger) {
        self.domains.run(ledger);
    }
}

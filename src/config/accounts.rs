// SPDX-License-Identifier: GPL-2.0-only
//! Users and groups, by the files that have them: passwd(5) and group(5).
//!
//! In: the text of one of them, and a name. Out: its number. Not asked of the C library, whose answer
//! may take the network, and brings libraries into the guard's locked memory.

/// The number of the user or group of this name in `accounts`, the text of /etc/passwd or /etc/group.
#[must_use]
pub fn id_of(accounts: &str, name: &str) -> Option<u32> {
    let mut lines = accounts.lines().map(|line| line.split(':'));
    let mut found = lines.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    found.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nxenwarden-old:x:7:\nxenwarden:x:998:ann,bob\nbad\n";
        assert_eq!(id_of(groups, "xenwarden"), Some(998));
        assert_eq!(id_of(groups, "xen"), None);
        assert_eq!(id_of(groups, "bad"), None);
    }
}

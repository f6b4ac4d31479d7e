// SPDX-License-Identifier: GPL-2.0-only
//! corosync.conf, as far as the pool's promises depend on it.
//!
//! In: its text, and that of files in uidgid.d. Out: what they say, with corosync's defaults. Promise: any text gives
//! something; what is no setting is passed over, as it is corosync that refuses it.
//!
//! Source: corosync.conf(5) and votequorum(5) of corosync 3.1.

use crate::sys::corosync::Votes;

/// `token`, ms.
const TOKEN_MS: u64 = 3_000;
/// `token_coefficient`, ms: for each node from the third on.
const COEFFICIENT_MS: u64 = 650;
/// What is granted to corosync, and to the pool's first beats on a new ring, ms.
const SPARE_MS: u64 = 2_000;

/// What is set.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    /// Each section and key with dots between, and the value, in their order.
    settings: Vec<(String, String)>,
    /// Nodes of the nodelist.
    pub nodes: u64,
}

impl Conf {
    /// Reads a file.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut within: Vec<&str> = Vec::new();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.starts_with('#')) {
            if let Some((section, _)) = line.split_once('{') {
                within.push(section.trim());
                if within == ["nodelist", "node"] {
                    conf.nodes = conf.nodes.saturating_add(1);
                }
            } else if let Some((key, value)) = line.split_once(':') {
                let key = [&within[..], &[key.trim()]].concat().join(".");
                conf.settings.push((key, value.trim().to_owned()));
            } else if line.starts_with('}') {
                within.pop();
            }
        }
        conf
    }

    /// The last of a key counts.
    fn get(&self, key: &str) -> Option<&str> {
        let mut settings = self.settings.iter().rev();
        settings
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    fn is_set(&self, key: &str) -> bool {
        self.number(key).is_some_and(|value| value != 0)
    }

    /// A quorum device.
    pub fn has_device(&self) -> bool {
        let model = self.get("quorum.device.model");
        model.is_some_and(|model| !model.is_empty())
    }

    /// How quorum is to be counted, as far as it is configured.
    pub fn votes(&self) -> Votes {
        Votes {
            two_node: self.is_set("quorum.two_node"),
            last_man_standing: self.is_set("quorum.last_man_standing"),
            auto_tie_breaker: self.is_set("quorum.auto_tie_breaker"),
            allow_downscale: self.is_set("quorum.allow_downscale"),
            qdevice: self.has_device(),
            ..Votes::default()
        }
    }

    /// How long a member may be without the beats of others while corosync makes a new ring, ms: the token is lost, and
    /// consensus found, twice, as a ring that is being made may fail.
    pub fn ring_ms(&self) -> u64 {
        let token = self.number("totem.token").unwrap_or(TOKEN_MS);
        let coefficient = self.number("totem.token_coefficient");
        let more = self.nodes.saturating_sub(2);
        let more = more.saturating_mul(coefficient.unwrap_or(COEFFICIENT_MS));
        let token = token.saturating_add(more);
        let consensus = self.number("totem.consensus");
        let consensus = consensus.unwrap_or_else(|| token.saturating_mul(6) / 5);
        let once = token.saturating_add(consensus);
        once.saturating_mul(2).saturating_add(SPARE_MS)
    }

    /// Why nobody can tell who sent a message; none where keys do. Only knet has them, and a cipher needs a hash.
    pub fn open_because(&self) -> Option<String> {
        let transport = self.get("totem.transport").unwrap_or("knet");
        if transport != "knet" {
            return Some(format!("transport: {transport}"));
        }
        let by_default = match self.get("totem.secauth") {
            Some("on") => "sha256",
            _ => "none",
        };
        let hash = self.get("totem.crypto_hash");
        let is_open = hash.unwrap_or(by_default) == "none";
        is_open.then(|| match hash {
            Some(_) => "crypto_hash: none".to_owned(),
            None => "no crypto_hash".to_owned(),
        })
    }

    /// Whether it lets one of these users, or of these groups, speak to corosync.
    pub fn admits(&self, users: &[String], groups: &[String]) -> bool {
        let is_one = |key, names: &[String]| {
            let mut settings = self.settings.iter();
            settings.any(|(k, value)| k == key && names.contains(value))
        };
        is_one("uidgid.uid", users) || is_one("uidgid.gid", groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_a_new_ring_grows_with_nodes_and_is_by_what_is_set() {
        let nodes = |n| format!("nodelist {{\n{}}}\n", "node {\n nodeid: 1\n}\n".repeat(n));
        for (text, ms) in [
            (String::new(), 2 * (3_000 + 3_600) + 2_000),
            (nodes(2), 2 * (3_000 + 3_600) + 2_000),
            (nodes(4), 2 * (4_300 + 5_160) + 2_000),
            (
                "totem {\n#token: 9\n token: 1000\n interface {\n token: 7\n }\n}\n".to_owned(),
                2 * (1_000 + 1_200) + 2_000,
            ),
            (
                format!(
                    "totem{{\ntoken:1000\nconsensus: 5000\ntoken_coefficient: 0\n}}\n{}",
                    nodes(9)
                ),
                2 * (1_000 + 5_000) + 2_000,
            ),
        ] {
            assert_eq!(Conf::parse(&text).ring_ms(), ms, "{text}");
        }
    }

    #[test]
    fn any_text_gives_something() {
        for text in [
            "}",
            "}}}\n{\n{:",
            ":",
            "totem {\ntoken: -1\n",
            "a: b: c\n{ x: y }",
        ] {
            let conf = Conf::parse(text);
            assert_eq!(conf.ring_ms(), 15_200, "{text}");
            assert!(conf.open_because().is_some(), "{text}");
        }
    }
}

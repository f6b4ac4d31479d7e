// SPDX-License-Identifier: GPL-2.0-only
//! One option's value in QEMU's syntax: `word,key=value,flag,...`.
//!
//! In: the value. Out: its pairs, which are taken one by one; what is left at the end is
//! unknown. Promises: nothing is passed over in silence: a key given twice, or one that nobody takes, is an
//! error that names it.
//!
//! A comma within a value is written twice; a key without a value is `on`, and with `no` before it `off`
//! (QEMU's qemu-options.hx and docs/about/removed-features, "short-form boolean options").

use std::path::PathBuf;

/// The pairs of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pairs {
    /// The option, for messages: `-chardev socket,id=h1`.
    option: String,
    /// The first word, which has no key.
    pub(super) first: String,
    left: Vec<(String, Option<String>)>,
}

impl Pairs {
    /// Reads `value` of the option `name`.
    pub(super) fn read(name: &str, value: &str) -> Result<Self, String> {
        let mut parts = split(value).into_iter();
        let first = parts.next().unwrap_or_default();
        let shown: String = value.chars().take(200).collect();
        let mut pairs = Self {
            option: format!("{name} {shown}"),
            first,
            left: Vec::new(),
        };
        if pairs.first.is_empty() || pairs.first.contains('=') {
            return Err(pairs.wrong("does not begin with a type"));
        }
        for part in parts {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (part, None),
            };
            if key.is_empty() {
                return Err(pairs.wrong("a name is missing between two commas"));
            }
            if pairs.left.iter().any(|(other, _)| *other == key) {
                return Err(pairs.wrong(&format!("{key} is given twice")));
            }
            pairs.left.push((key, value));
        }
        Ok(pairs)
    }

    /// A message about this option.
    pub(super) fn wrong(&self, why: &str) -> String {
        format!("{}: {why}", self.option)
    }

    /// The text of `key`, if it is given.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        let Some(at) = self.left.iter().position(|(name, _)| name == key) else {
            return Ok(None);
        };
        match self.left.remove(at) {
            (_, Some(value)) => Ok(Some(value)),
            (_, None) => Err(self.wrong(&format!("{key} needs a value: {key}=..."))),
        }
    }

    /// The text of `key`, which must be given.
    pub(super) fn needed(&mut self, key: &str) -> Result<String, String> {
        let found = self.text(key)?.filter(|value| !value.is_empty());
        found.ok_or_else(|| self.wrong(&format!("{key}= is missing")))
    }

    /// The path of `key`, if it is given.
    pub(super) fn path(&mut self, key: &str) -> Result<Option<PathBuf>, String> {
        match self.text(key)? {
            Some(path) if path.is_empty() => Err(self.wrong(&format!("{key} is empty"))),
            path => Ok(path.map(PathBuf::from)),
        }
    }

    /// The number of `key`, if it is given.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        let most = u32::MAX;
        let number = number
            .ok_or_else(|| self.wrong(&format!("{key}={text}: must be a number, 0 to {most}")));
        number.map(Some)
    }

    /// Whether `key` is on, if it is given, in one of its forms.
    pub(super) fn switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        let off = format!("no{key}");
        let Some(at) = (self.left.iter())
            .position(|(name, value)| name == key || (*name == off && value.is_none()))
        else {
            return Ok(None);
        };
        let (name, value) = self.left.remove(at);
        let on = match value.as_deref() {
            None => name == key,
            Some("on" | "yes" | "true" | "y") => true,
            Some("off" | "no" | "false" | "n") => false,
            Some(other) => {
                return Err(self.wrong(&format!("{key}={other}: must be on or off")));
            }
        };
        match self
            .left
            .iter()
            .any(|(name, _)| name == key || *name == off)
        {
            true => Err(self.wrong(&format!("{key} is given twice"))),
            false => Ok(Some(on)),
        }
    }

    /// Nothing may be left. `foreign` are options of QEMU's that mean nothing here.
    pub(super) fn end(self, foreign: &[&str]) -> Result<(), String> {
        let Some((key, _)) = self.left.first() else {
            return Ok(());
        };
        let plain = key.strip_prefix("no").unwrap_or(key);
        Err(match foreign.iter().any(|f| f == key || *f == plain) {
            true => self.wrong(&format!("{key} is QEMU's, and not supported here")),
            false => self.wrong(&format!("{key} is unknown")),
        })
    }
}

/// The parts between single commas, with each double one a comma of its part.
fn split(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        let divides = c == ',' && rest.next_if_eq(&',').is_none();
        if divides {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commas_are_one_of_the_value() {
        let mut pairs = Pairs::read("-chardev", "socket,path=/a,,b,,,id=x").expect("pairs");
        assert_eq!(pairs.text("path"), Ok(Some("/a,b,".to_owned())));
        assert_eq!(pairs.needed("id"), Ok("x".to_owned()));
        assert_eq!(pairs.end(&[]), Ok(()));
    }

    #[test]
    fn a_switch_has_a_value_or_none() {
        let cases = [
            ("server", Ok(Some(true))),
            ("noserver", Ok(Some(false))),
            ("server=on", Ok(Some(true))),
            ("server=off", Ok(Some(false))),
            ("id=x", Ok(None)),
        ];
        for (text, expected) in cases {
            let mut pairs = Pairs::read("-chardev", &format!("socket,{text}")).expect("pairs");
            assert_eq!(pairs.switch("server"), expected, "{text}");
        }
        for text in ["server=maybe", "server=", "server,noserver", "noserver=on"] {
            let mut pairs = Pairs::read("-chardev", &format!("socket,{text}")).expect("pairs");
            let read = pairs.switch("server").and_then(|_| pairs.end(&[]));
            assert!(read.is_err(), "{text}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Pacemaker's configuration, as far as our fence agent is in it.
//!
//! In: the text of cib.xml as Pacemaker writes it, an attribute in double quotes each. Out: devices of the agent, and how
//! long they may take. Templates and rules are not followed: what they set is not seen.

/// Devices of one fence agent.
#[derive(Clone, Debug, Default)]
pub struct Devices<'a> {
    /// What stands between the tags of each.
    of: Vec<&'a str>,
}

impl<'a> Devices<'a> {
    /// Those of `agent`.
    pub fn parse(cib: &'a str, agent: &str) -> Self {
        let wanted = format!("type=\"{agent}\"");
        let all = cib.split("<primitive ").skip(1);
        let all = all.filter_map(|device| {
            let (head, _) = device.split_once('>')?;
            let whole = device.split("</primitive>").next()?;
            head.contains(&wanted).then_some(whole)
        });
        Self { of: all.collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// The shortest time that this parameter gives one of them, seconds; `default`: where it is not set, or is no time.
    pub fn least_s(&self, parameter: &str, default: u64) -> Option<u64> {
        let named = format!("name=\"{parameter}\"");
        let of = |device: &&str| {
            let mut tags = device.split('<');
            let tag = tags.find(|tag| tag.contains(&named));
            tag.and_then(value)
                .and_then(seconds)
                .map_or(default, |set| set)
        };
        self.of.iter().map(of).min()
    }
}

fn value(tag: &str) -> Option<&str> {
    let (_, after) = tag.split_once(" value=\"")?;
    after.split('"').next()
}

/// A time as Pacemaker takes it: seconds, or with a unit.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at_checked(end.unwrap_or(text.len()))?;
    let number: u64 = number.parse().ok()?;
    Some(match unit.trim() {
        "" | "s" | "sec" => number,
        "ms" | "msec" => number / 1_000,
        "m" | "min" => number.saturating_mul(60),
        "h" | "hr" => number.saturating_mul(3_600),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_the_agent_count_and_the_shortest_of_their_times() {
        let device = |agent: &str, timeout: &str| {
            format!(
                "<primitive id=\"f\" class=\"stonith\" type=\"{agent}\"><instance_attributes id=\"a\">\
                 <nvpair name=\"pcmk_off_timeout\" value=\"{timeout}\" id=\"p\"/></instance_attributes></primitive>"
            )
        };
        let cib = [
            device("fence_ipmilan", "5"),
            device("a", "180s"),
            device("a", "2min"),
        ]
        .concat();
        let devices = Devices::parse(&cib, "a");
        assert_eq!(devices.least_s("pcmk_off_timeout", 60), Some(120));
        assert_eq!(devices.least_s("power_timeout", 150), Some(150));
        let none = Devices::parse(&cib, "b");
        assert!(none.is_empty() && none.least_s("x", 1).is_none());
        for text in ["", "<primitive ", "<primitive type=\"a\"", "</primitive>"] {
            assert!(Devices::parse(text, "a").is_empty(), "{text}");
        }
        for (text, expected) in [
            ("150000ms", Some(150)),
            ("x", None),
            ("", None),
            ("1 day", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}

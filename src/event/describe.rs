// SPDX-License-Identifier: GPL-2.0-only
//! An event in one line for people.
//!
//! In: an event, with names and reasons from guests and files, which may be anything. Out:
//! a line without control characters, of bounded length.

use super::{Event, Guest, NO_DOMAIN};

/// Longest line, bytes: with syslog's own header it stays within the 1024 bytes of a
/// packet (RFC 3164, 4.1).
const MAX_LINE: usize = 900;
/// Longest name of a guest, characters.
const MAX_NAME: usize = 128;

/// What happened, to whom: `guest web (UUID, domain 3): its watchdog expired, ...`.
#[must_use]
pub fn describe(event: &Event) -> String {
    let what = event.what.describe();
    let line = match &event.guest {
        Some(guest) => format!("{}: {what}", describe_guest(guest)),
        None => what,
    };
    shorten(plain(&line), MAX_LINE)
}

/// `text` as one line that shows what it is: a guest may be named anything. What would move
/// the cursor, break the line or turn the direction of writing is shown as a question mark.
#[must_use]
pub fn plain(text: &str) -> String {
    text.replace(moves_the_cursor, "?")
}

/// Control characters, line separators, and the marks of Unicode's bidirectional algorithm
/// (UAX #9), with which a name can make its line read as another.
fn moves_the_cursor(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// A time span in the coarsest unit that still tells: 0.2 s, 75 s, 12 min, 30 h.
#[must_use]
pub fn span(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// JSON whose strings do to a terminal no more than [`plain`] text does: what would move the
/// cursor is escaped (RFC 8259, 7), and still means the same.
#[must_use]
pub fn escape_controls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Spaces between tokens are none of a string's: there they are escaped already.
        if moves_the_cursor(c) && !matches!(c, '\n' | '\r' | '\t') {
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn shorten(mut line: String, most: usize) -> String {
    if line.len() > most {
        let mut end = most.saturating_sub(3);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str("...");
    }
    line
}

fn describe_guest(guest: &Guest) -> String {
    let domid = guest.domid;
    let name = guest.name.as_deref().map(|name| {
        let name: String = name.chars().take(MAX_NAME).collect();
        format!("{name} ")
    });
    let name = name.unwrap_or_default();
    match guest.uuid {
        Some(uuid) if domid == NO_DOMAIN => format!("guest {name}({uuid})"),
        Some(uuid) => format!("guest {name}({uuid}, domain {domid})"),
        None => format!("guest {name}(domain {domid})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_a_unit_that_fits() {
        let cases = [
            (0, "0.0 s"),
            (5_120, "5.1 s"),
            (61_000, "61 s"),
            (700_000, "11 min"),
            (40_000_000, "11 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn json_with_any_name_moves_no_cursor_and_means_the_same() {
        let name: String = (0..0x3000)
            .filter_map(char::from_u32)
            .chain(['\u{feff}'])
            .collect();
        let json = serde_json::to_string(&name).expect("JSON");
        let shown = escape_controls(&json);
        assert!(!shown.contains(moves_the_cursor));
        let read: String = serde_json::from_str(&shown).expect("still JSON");
        assert_eq!(read, name);
    }
}

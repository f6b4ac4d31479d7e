// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden check`: whether this host is fit to be guarded, line by line.

use super::output::{Colour, Output};
use super::text::{columns, plain};
use super::{EXIT_NOT_OK, EXIT_OK};
use crate::check::{Finding, Level, Report, System, examine};
use crate::control::protocol::line;
use std::path::Path;

/// The host is not guarded, or would not be.
const EXIT_WRONG: u8 = 2;
/// Nothing is known to be amiss, but not all is known.
const EXIT_NOT_ALL_KNOWN: u8 = 3;

/// Looks at this host with the configuration at `config`, and shows what was found.
pub fn run(config: &Path, json: bool, output: &mut Output) -> Result<u8, String> {
    let report = examine(&System::here(), config);
    let text = match json {
        true => line(&report),
        false => render(&report, output).into_bytes(),
    };
    let _ = output.write(&text)?;
    Ok(match report.worst {
        Level::Fine => EXIT_OK,
        Level::Weak => EXIT_NOT_OK,
        Level::Wrong => EXIT_WRONG,
        Level::Unknown => EXIT_NOT_ALL_KNOWN,
    })
}

/// A line for each finding, and one with what to do, where there is something.
fn render(report: &Report, output: &Output) -> String {
    let row = |finding: &Finding| {
        vec![
            word(finding.level).0.to_owned(),
            finding.area.name().to_owned(),
            plain(&finding.text),
        ]
    };
    let rows = report.findings.iter().map(row).collect();
    let lines = columns(&[], rows).into_iter();
    let mut text = String::new();
    for (line, finding) in lines.zip(&report.findings) {
        let (word, colour) = word(finding.level);
        let rest = line.strip_prefix(word).unwrap_or(&line);
        text += &format!("{}{rest}\n", output.paint(colour, word));
        if let Some(mend) = &finding.mend {
            text += &format!("         {}\n", plain(mend));
        }
    }
    text
}

fn word(level: Level) -> (&'static str, Option<Colour>) {
    match level {
        Level::Fine => ("ok", None),
        Level::Unknown => ("unknown", Some(Colour::Bold)),
        Level::Weak => ("WEAK", Some(Colour::Yellow)),
        Level::Wrong => ("WRONG", Some(Colour::Red)),
    }
}

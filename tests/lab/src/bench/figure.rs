// SPDX-License-Identifier: GPL-2.0-only
//! Figures of what was measured, as SVG that is readable on white and on black, and the same for the same data.
//!
//! In: the records. Out: text. Each mark carries its number as a tooltip (`<title>`), so that a figure can be checked against its data.

use super::data::{CostRun, WedgeRun};
use super::growth::{Axis, GrowthRun, Who, points};
use super::peers::Peer;
use super::wedges::{Case, WATCHED};
use std::fmt::Write;

/// Text and lines: about as far from white as from black.
pub const GREY: &str = "#767676";
/// Width of a figure, in its own units.
const WIDTH: f64 = 860.0;
/// A line of text.
const LINE: f64 = 15.0;

/// The colour of a daemon's marks, as far from white as from black as others can be told from it.
pub fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Xenwarden => "#1a7fe0",
        Peer::Sbd => "#c76a00",
        Peer::Watchdog => "#2a8f3c",
        Peer::Busybox => "#a455c9",
        Peer::Xenwatchdogd => "#d6453d",
    }
}

/// An SVG that is being written.
struct Svg {
    body: String,
    height: f64,
}

impl Svg {
    fn new(height: f64) -> Self {
        Svg {
            body: String::new(),
            height,
        }
    }

    /// Writing to a string does not fail.
    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), strength: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{GREY}" stroke-opacity="{strength}"/>"#
        ));
    }

    fn path(&mut self, points: &str, colour: &str) {
        self.push(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#
        ));
    }

    /// A mark of a shape of its own for each daemon: not everybody sees colours.
    fn mark(&mut self, peer: Peer, x: f64, y: f64, title: &str) {
        const R: f64 = 4.5;
        let (colour, title) = (colour(peer), escaped(title));
        let shape = match peer {
            Peer::Xenwarden => format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{R}""#),
            Peer::Sbd => format!(
                r#"<rect x="{:.1}" y="{:.1}" width="8" height="8""#,
                x - 4.0,
                y - 4.0
            ),
            Peer::Watchdog => polygon(&[(x, y - R), (x + R, y + R), (x - R, y + R)]),
            Peer::Busybox => polygon(&[(x, y - R), (x + R, y), (x, y + R), (x - R, y)]),
            Peer::Xenwatchdogd => polygon(&[(x, y + R), (x + R, y - R), (x - R, y - R)]),
        };
        let tag = shape.split_whitespace().next().unwrap_or_default()[1..].to_owned();
        self.push(format_args!(
            r#"{shape} fill="{colour}"><title>{title}</title></{tag}>"#
        ));
    }

    fn legend(&mut self, y: f64, from: f64) {
        for (n, peer) in Peer::ALL.into_iter().enumerate() {
            let x = from + n as f64 * 130.0;
            self.mark(peer, x, y - 4.0, peer.name());
            self.text(x + 9.0, y, "start", peer.name());
        }
    }

    fn end(self, title: &str) -> String {
        let (height, body, title) = (self.height, self.body, escaped(title));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"{GREY}\">\n<!-- SPDX-License-Identifier: GPL-2.0-only; made by lab bench report -->\n\
             <title>{title}</title>\n{body}</svg>\n"
        )
    }
}

fn polygon(points: &[(f64, f64)]) -> String {
    let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
    let points = points.collect::<Vec<_>>().join(" ");
    format!(r#"<polygon points="{points}""#)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What became of the host, in a tooltip.
fn came(run: &WedgeRun) -> String {
    let WedgeRun {
        wedge,
        peer,
        run: n,
        ..
    } = run;
    match run.reset_s {
        Some(at) => format!("{peer}, {wedge}, run {n}: reset after {at:.2} s"),
        None => format!("{peer}, {wedge}, run {n}: no reset"),
    }
}

/// Time to reset by wedge and daemon: a row for each case that was run, a mark for each run.
pub fn resets(cases: &[Case], runs: &[WedgeRun]) -> String {
    const LEFT: f64 = 170.0;
    const RIGHT: f64 = 740.0;
    const ALIVE: f64 = 795.0;
    const TOP: f64 = 60.0;
    const ROW: f64 = 26.0;
    let of = |case: &Case| runs.iter().filter(|run| run.wedge == case.name).count();
    let cases: Vec<&Case> = cases.iter().filter(|case| of(case) > 0).collect();
    let bottom = TOP + ROW * cases.len() as f64;
    let watched_s = WATCHED.as_secs_f64();
    let x_of = |seconds: f64| LEFT + (RIGHT - LEFT) * seconds / watched_s;
    let mut svg = Svg::new(bottom + 45.0);
    svg.legend(20.0, LEFT);
    for seconds in (0..=30).step_by(5) {
        let x = x_of(f64::from(seconds));
        svg.line((x, TOP - 8.0), (x, bottom), 0.35);
        svg.text(x, bottom + LINE, "middle", &seconds.to_string());
    }
    let axis = "seconds from the wedge to the reset";
    svg.text((LEFT + RIGHT) / 2.0, bottom + 2.2 * LINE, "middle", axis);
    svg.text(ALIVE, TOP - 14.0, "middle", "no reset in 30 s");
    for (n, case) in cases.iter().enumerate() {
        let middle = TOP + ROW * (n as f64 + 0.5);
        svg.text(LEFT - 12.0, middle + 4.0, "end", case.name);
        svg.line((LEFT, middle + ROW / 2.0), (RIGHT, middle + ROW / 2.0), 0.2);
        for (lane, peer) in Peer::ALL.into_iter().enumerate() {
            let lane = lane as f64 - 2.0;
            let of_peer = |run: &&WedgeRun| run.wedge == case.name && run.peer == peer.name();
            for run in runs.iter().filter(of_peer) {
                // Lanes keep marks at the same time from covering each other.
                match run.reset_s {
                    Some(at) => svg.mark(peer, x_of(at), middle + lane * 4.2, &came(run)),
                    None => svg.mark(peer, ALIVE + lane * 13.0, middle, &came(run)),
                }
            }
        }
    }
    svg.end("Time from a wedge to the reset of the host, by wedge and watchdog daemon")
}

/// Processor time and memory against guests: two panels, a line for each daemon.
pub fn costs(runs: &[CostRun]) -> String {
    const TOP: f64 = 70.0;
    const BOTTOM: f64 = 310.0;
    let mut svg = Svg::new(BOTTOM + 45.0);
    svg.legend(20.0, 70.0);
    let mut guests: Vec<u32> = runs.iter().map(|run| run.guests).collect();
    guests.sort_unstable();
    guests.dedup();
    type Panel = (f64, &'static str, fn(&CostRun) -> f64, [f64; 2]);
    let panels: [Panel; 2] = [
        (
            70.0,
            "processor time, ms a minute",
            cpu_ms_a_minute,
            [1.0, 100_000.0],
        ),
        (500.0, "in memory, MiB", memory_mib, [0.1, 100.0]),
    ];
    for (left, what, value, [least, most]) in panels {
        let right = left + 330.0;
        let y_of = |value: f64| {
            let part = (value.max(least) / least).log10() / (most / least).log10();
            BOTTOM - (BOTTOM - TOP) * part
        };
        let x_of = |n: usize| left + 25.0 + n as f64 * 280.0 / (guests.len().max(2) - 1) as f64;
        svg.text(left, TOP - 18.0, "start", what);
        let mut mark = least;
        while mark <= most * 1.01 {
            svg.line((left, y_of(mark)), (right, y_of(mark)), 0.35);
            svg.text(left - 6.0, y_of(mark) + 4.0, "end", &format!("{mark}"));
            mark *= 10.0;
        }
        for (n, guests) in guests.iter().enumerate() {
            svg.text(x_of(n), BOTTOM + LINE, "middle", &guests.to_string());
        }
        svg.text(
            (left + right) / 2.0,
            BOTTOM + 2.2 * LINE,
            "middle",
            "guests",
        );
        for peer in Peer::ALL {
            let mut points = Vec::new();
            for (n, guests) in guests.iter().enumerate() {
                let of_peer = |run: &&CostRun| run.peer == peer.name() && run.guests == *guests;
                for run in runs.iter().filter(of_peer) {
                    let value = value(run);
                    points.push((x_of(n), y_of(value)));
                    let title = format!(
                        "{}, {guests} guests, run {}: {value:.1} ({what})",
                        run.peer, run.run
                    );
                    svg.mark(peer, x_of(n), y_of(value), &title);
                }
            }
            let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
            let points = points.collect::<Vec<_>>().join(" ");
            svg.path(&points, colour(peer));
        }
    }
    svg.end("Processor time and memory of each watchdog daemon, by the number of guests")
}

/// Instructions of a look against guests and against pCPUs: two panels, a line for the guard and one for the monitor.
pub fn growth(runs: &[GrowthRun]) -> String {
    const TOP: f64 = 70.0;
    const BOTTOM: f64 = 310.0;
    const DECADES: i32 = 8;
    // The guard is xenwarden's own mark, the monitor the next one.
    let marks = [
        (Who::Guard, Peer::Xenwarden, 70.0),
        (Who::Monitor, Peer::Sbd, 200.0),
    ];
    let mut svg = Svg::new(BOTTOM + 45.0);
    for (who, mark, x) in marks {
        svg.mark(mark, x, 16.0, who.name());
        svg.text(x + 9.0, 20.0, "start", who.name());
    }
    let panels = [
        (70.0, "guests", Axis::Guests),
        (500.0, "pCPUs", Axis::Pcpus),
    ];
    for (left, what, axis) in panels {
        let right = left + 330.0;
        let y_of = |instructions: f64| {
            let part = instructions.max(1.0).log10() / f64::from(DECADES);
            BOTTOM - (BOTTOM - TOP) * part
        };
        svg.text(left, TOP - 18.0, "start", "instructions of a look");
        for decade in 0..=DECADES {
            let mark = 10_f64.powi(decade);
            svg.line((left, y_of(mark)), (right, y_of(mark)), 0.35);
            svg.text(left - 6.0, y_of(mark) + 4.0, "end", &format!("1e{decade}"));
        }
        svg.text((left + right) / 2.0, BOTTOM + 2.2 * LINE, "middle", what);
        for (who, mark, _) in marks {
            let points = points(runs, who, axis);
            let apart = 280.0 / (points.len().max(2) - 1) as f64;
            let mut line = Vec::new();
            for (n, (size, instructions)) in points.iter().enumerate() {
                let (x, y) = (left + 25.0 + n as f64 * apart, y_of(*instructions));
                if who == Who::Guard {
                    svg.text(x, BOTTOM + LINE, "middle", &size.to_string());
                }
                line.push(format!("{x:.1},{y:.1}"));
                let name = who.name();
                svg.mark(
                    mark,
                    x,
                    y,
                    &format!("{name}, {size} {what}: {instructions:.0}"),
                );
            }
            svg.path(&line.join(" "), colour(mark));
        }
    }
    svg.end("Instructions of one look of the guard and of the monitor, by guests and by pCPUs")
}

/// Of all programs of a daemon.
pub fn cpu_ms_a_minute(run: &CostRun) -> f64 {
    let ns: u64 = run.programs.iter().map(|program| program.cpu_ns).sum();
    ns as f64 / 1e6 * 60.0 / run.over_s
}

/// Likewise; what several processes share counts once.
pub fn memory_mib(run: &CostRun) -> f64 {
    let kib: u64 = run.programs.iter().map(|one| one.proportional_kib).sum();
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::data::Program;
    use crate::bench::wedges::cases;

    /// W3C's contrast ratio of two colours.
    fn contrast(one: &str, other: &str) -> f64 {
        let luminance = |colour: &str| {
            let part = |at: usize| {
                let byte = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
                let value = f64::from(byte) / 255.0;
                match value <= 0.039_28 {
                    true => value / 12.92,
                    false => ((value + 0.055) / 1.055).powf(2.4),
                }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5) + 0.05
        };
        let (one, other) = (luminance(one), luminance(other));
        one.max(other) / one.min(other)
    }

    fn wedge_run(wedge: &str, peer: Peer, reset_s: Option<f64>) -> WedgeRun {
        WedgeRun {
            wedge: wedge.to_owned(),
            peer: peer.name().to_owned(),
            run: 1,
            phase_ms: Some(0),
            reset_s,
            by_host_watchdog: true,
        }
    }

    /// Where the mark with this tooltip is.
    fn x_of(svg: &str, title: &str) -> f64 {
        let line = svg.lines().find(|line| line.contains(title)).unwrap();
        let x = line.split(" cx=\"").nth(1).unwrap();
        x.split('"').next().unwrap().parse().unwrap()
    }

    #[test]
    fn text_and_marks_can_be_read_on_white_and_on_black() {
        for background in ["#ffffff", "#0d1117", "#000000"] {
            assert!(contrast(GREY, background) > 4.0, "text on {background}");
            for peer in Peer::ALL {
                let ratio = contrast(colour(peer), background);
                assert!(ratio > 3.0, "{} on {background}: {ratio}", peer.name());
            }
        }
    }

    #[test]
    fn a_mark_is_where_its_number_says() {
        let name = cases()[0].name;
        let figure = |at: f64| resets(&cases(), &[wedge_run(name, Peer::Xenwarden, Some(at))]);
        let x = |at: f64| x_of(&figure(at), &format!("reset after {at:.2} s"));
        let (none, five, ten) = (x(0.0), x(5.0), x(10.0));
        assert!(((ten - none) - 2.0 * (five - none)).abs() < 0.2);
        assert!(five > none);
    }

    #[test]
    fn no_reset_is_not_drawn_as_a_late_one() {
        let name = cases()[0].name;
        let runs = [
            wedge_run(name, Peer::Xenwarden, Some(30.0)),
            wedge_run(name, Peer::Xenwarden, None),
        ];
        let svg = resets(&cases(), &runs);
        assert!(x_of(&svg, ": no reset<") > x_of(&svg, "reset after 30.00 s") + 10.0);
    }

    #[test]
    fn every_run_has_a_mark_and_no_mark_is_without_a_run() {
        let names: Vec<&str> = cases().iter().map(|case| case.name).collect();
        let runs: Vec<WedgeRun> = Peer::ALL
            .into_iter()
            .flat_map(|peer| {
                names
                    .iter()
                    .map(move |name| wedge_run(name, peer, Some(5.0)))
            })
            .collect();
        let svg = resets(&cases(), &runs);
        assert_eq!(svg.matches("reset after 5.00 s").count(), runs.len());
        assert!(resets(&cases(), &[]).matches("reset after").count() == 0);
    }

    #[test]
    fn cost_counts_all_programs_of_a_daemon() {
        let program = |cpu_ns, proportional_kib| Program {
            name: "x".to_owned(),
            processes: 1,
            threads: 1,
            cpu_ns,
            wakeups: 0,
            resident_kib: 0,
            proportional_kib,
            locked_kib: 0,
        };
        let run = CostRun {
            peer: Peer::Xenwarden.name().to_owned(),
            guests: 2,
            run: 1,
            over_s: 30.0,
            programs: vec![program(10_000_000, 1024), program(5_000_000, 512)],
        };
        assert_eq!(cpu_ms_a_minute(&run), 30.0);
        assert_eq!(memory_mib(&run), 1.5);
        let svg = costs(&[run]);
        assert!(svg.contains("xenwarden, 2 guests, run 1: 30.0 (processor time, ms a minute)"));
        assert!(svg.contains("xenwarden, 2 guests, run 1: 1.5 (in memory, MiB)"));
    }
}

//! The figures as a picture: one bar for each row and system.
//!
//! Bars begin at the native cost and end at the ratio, on a logarithmic scale.
//! A tick marks the ratio of the best pieces. Rows without a native figure are
//! only in the table.

use super::results::{Results, Row, System};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LABELS: f64 = 220.0;
const NUMBERS: f64 = 70.0;
const BAR: f64 = 11.0;
const GAP: f64 = 7.0;
const TOP: f64 = 56.0;
const TITLE: f64 = 30.0;

/// Colours that colour-blind readers can distinguish.
fn colour(system: System) -> &'static str {
    match system {
        System::Native => "#000000",
        System::Lguest => "#0072b2",
        System::Baseline => "#56b4e9",
        System::Qemu => "#d55e00",
        System::Uml => "#009e73",
    }
}

/// A picture as SVG.
pub(super) fn of(results: &Results) -> String {
    let systems: Vec<System> = results.systems();
    let systems: Vec<System> = systems
        .into_iter()
        .filter(|s| *s != System::Native)
        .collect();
    let scale = Scale::of(results, &systems);
    let mut body = String::new();
    let mut y = TOP;
    for section in &results.sections {
        let rows = section.rows.iter().filter(|row| has_ratio(row, &systems));
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            continue;
        }
        y += TITLE;
        let title = escaped(section.title);
        let at = y - 8.0;
        let _ = writeln!(
            body,
            "<text x=\"8\" y=\"{at}\" font-weight=\"bold\">{title}</text>"
        );
        for row in rows {
            y = bars(&mut body, row, &systems, &scale, y);
        }
    }
    y += TITLE;
    let about = escaped(&results.about.line());
    let _ = writeln!(
        body,
        "<text x=\"8\" y=\"{y}\" fill=\"#444444\">{about}</text>"
    );
    let height = y + 12.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" \
         height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         {}{}{body}</svg>\n",
        legend(&systems),
        scale.grid(height),
    )
}

fn has_ratio(row: &Row, systems: &[System]) -> bool {
    systems.iter().any(|system| row.ratio(*system).is_some())
}

/// The bars of a row. Returns the place of the next row.
fn bars(
    body: &mut String,
    row: &Row,
    systems: &[System],
    scale: &Scale,
    mut y: f64,
) -> f64 {
    let label = y + BAR - 1.0;
    let name = escaped(&row.name);
    let end = LABELS - 8.0;
    let _ = writeln!(
        body,
        "<text x=\"{end}\" y=\"{label}\" text-anchor=\"end\">{name}</text>"
    );
    for system in systems {
        let Some(ratio) = row.ratio(*system) else {
            continue;
        };
        let (one, here) = (scale.x(1.0), scale.x(ratio));
        let (left, width) = (one.min(here), (here - one).abs().max(1.0));
        let fill = colour(*system);
        let best = row.best_ratio(*system).map_or(here, |b| scale.x(b));
        let text = y + BAR - 1.0;
        let beside = here.max(one).max(best) + 5.0;
        let _ = writeln!(
            body,
            "<rect x=\"{left:.1}\" y=\"{y}\" width=\"{width:.1}\" \
             height=\"{BAR}\" fill=\"{fill}\"/>\n\
             <rect x=\"{best:.1}\" y=\"{y}\" width=\"2\" \
             height=\"{BAR}\" fill=\"#000000\"/>\n\
             <text x=\"{beside:.1}\" y=\"{text}\" font-size=\"10\" \
             fill=\"#444444\">{ratio:.2}</text>"
        );
        y += BAR + 1.0;
    }
    y + GAP
}

fn legend(systems: &[System]) -> String {
    let mut text = "<text x=\"8\" y=\"20\" font-size=\"14\">Cost against \
                    the same program natively (tick: the best)</text>\n"
        .to_owned();
    let mut x = 500.0;
    for system in systems {
        let (fill, name) = (colour(*system), system.name());
        let beside = x + 16.0;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" \
             fill=\"{fill}\"/>\n<text x=\"{beside}\" y=\"20\">{name}</text>"
        );
        x += 100.0;
    }
    text
}

/// From ratios to places.
struct Scale {
    /// Logarithms of the ends.
    from: f64,
    to: f64,
}

impl Scale {
    fn of(results: &Results, systems: &[System]) -> Self {
        let rows = results.sections.iter().flat_map(|s| &s.rows);
        let ratios = rows.flat_map(|row| {
            systems.iter().flat_map(|system| {
                [row.ratio(*system), row.best_ratio(*system)]
            })
        });
        let ratios = ratios.flatten();
        let (mut from, mut to) = (-1.0_f64, 1.0_f64);
        for ratio in ratios.filter(|ratio| *ratio > 0.0) {
            let power = ratio.log2();
            from = from.min(power.floor());
            to = to.max(power.ceil());
        }
        Self { from, to }
    }

    fn x(&self, ratio: f64) -> f64 {
        let part = (ratio.log2() - self.from) / (self.to - self.from);
        LABELS + part * (WIDTH - LABELS - NUMBERS)
    }

    /// A line for each power of two.
    fn grid(&self, height: f64) -> String {
        let mut text = String::new();
        let mut power = self.from;
        while power <= self.to {
            let ratio = power.exp2();
            let x = self.x(ratio);
            let ink = if power == 0.0 { "#000000" } else { "#dddddd" };
            let (top, bottom, label) = (TOP - 4.0, height - 6.0, TOP - 8.0);
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" \
                 y2=\"{bottom}\" stroke=\"{ink}\"/>\n\
                 <text x=\"{x:.1}\" y=\"{label}\" font-size=\"10\" \
                 text-anchor=\"middle\">{ratio}</text>"
            );
            power += 1.0;
        }
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::results::Figure;
    use super::*;

    #[test]
    fn twice_the_cost_has_a_bar_to_the_second_line() {
        let mut results = Results::default();
        let mut add = |row, system, value| {
            results.add("a & b", row, system, Ok(Figure::new(value, "ns")));
        };
        add("pipe", System::Native, 10.0);
        add("pipe", System::Lguest, 20.0);
        add("alone", System::Lguest, 20.0);
        let picture = of(&results);
        assert!(picture.contains("a &amp; b") && picture.contains(">2.00<"));
        assert!(picture.contains("pipe") && !picture.contains("alone"));
        // From the middle of the scale to its end.
        assert!(picture.contains("x=\"525.0\" y=\"86\" width=\"305.0\""));
    }
}

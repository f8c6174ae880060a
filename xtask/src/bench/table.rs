//! The figures for a terminal.
//!
//! For each system there are its cost and the ratio to the native cost: that of
//! the medians, and in brackets that of the best pieces.

use super::results::{Cell, Results, Row, System};
use std::fmt::Write;

/// The whole table, and below it the rows that could not be measured.
pub(super) fn of(results: &Results) -> String {
    let systems = results.systems();
    let mut text = format!("\n{}\n", results.about.line());
    for section in &results.sections {
        let _ = write!(text, "\n{:42}", section.title);
        for system in &systems {
            let width = column(*system);
            let _ = write!(text, "{:>width$}", system.name());
        }
        text.push('\n');
        for row in &section.rows {
            let _ = write!(text, "  {:40}", row.name);
            for system in &systems {
                let width = column(*system);
                let shown = cell(row, *system);
                let _ = write!(text, "{shown:>width$}");
            }
            text.push('\n');
        }
    }
    let missing = results.missing();
    if !missing.is_empty() {
        text.push_str("\nNot measured:\n");
        for line in missing {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn column(system: System) -> usize {
    match system {
        System::Native => 13,
        _ => 30,
    }
}

fn cell(row: &Row, system: System) -> String {
    let Some(median) = row.cells.get(&system).and_then(Cell::median) else {
        return "-".into();
    };
    let mut text = quantity(median, &row.unit);
    let ratios = (row.ratio(system), row.best_ratio(system));
    if let (Some(ratio), Some(best), true) =
        (ratios.0, ratios.1, system != System::Native)
    {
        let shown = format!("{}x ({}x)", places(ratio), places(best));
        let _ = write!(text, " {shown:>16}");
    }
    text
}

/// A ratio in few characters.
fn places(ratio: f64) -> String {
    match ratio {
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 10.0 => format!("{r:.1}"),
        r => format!("{r:.2}"),
    }
}

/// A number in a readable unit.
fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ns" if value >= 1e7 => format!("{:.1} ms", value / 1e6),
        "ns" if value >= 1e4 => format!("{:.1} us", value / 1e3),
        "ns" if value >= 1e2 => format!("{value:.0} ns"),
        "ns" => format!("{value:.1} ns"),
        "%" | "ms" => format!("{value:.2} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Figure;
    use super::*;

    #[test]
    fn ratios_stand_beside_figures_and_reasons_below() {
        let mut results = Results::default();
        let mut add = |system, outcome| {
            results.add("calls", "pipe", system, outcome);
        };
        add(System::Native, Ok(Figure::new(4000.0, "ns")));
        add(System::Lguest, Ok(Figure::new(12_000.0, "ns")));
        add(System::Uml, Err("no linux".into()));
        let text = of(&results);
        assert!(text.contains("4000 ns"), "{text}");
        assert!(text.contains("12.0 us    3.00x (3.00x)"), "{text}");
        assert!(text.ends_with("  uml: no linux (pipe)\n"), "{text}");
    }
}

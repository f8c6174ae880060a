//! The figures of all runs.
//!
//! The table shows the median and the slowest run of each row and system, and
//! the file has every single figure.

use super::super::about::About;
use super::super::results::median;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The system to which the others are compared.
pub(super) const NATIVE: &str = "native";

/// The figures of a row on a system.
struct Cell {
    row: String,
    system: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// All of them.
pub(super) struct Results {
    about: About,
    cells: Vec<Cell>,
    /// What was not measured, and why.
    missing: Vec<String>,
}

impl Results {
    pub(super) fn new(about: About) -> Self {
        Self {
            about,
            cells: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Records a figure.
    pub(super) fn add(
        &mut self,
        row: &str,
        system: &str,
        value: f64,
        unit: &'static str,
    ) {
        let mut cells = self.cells.iter_mut();
        match cells.find(|c| c.row == row && c.system == system) {
            Some(cell) => cell.values.push(value),
            None => self.cells.push(Cell {
                row: row.into(),
                system: system.into(),
                unit,
                values: vec![value],
            }),
        }
    }

    /// Records why something was not measured.
    pub(super) fn lacks(&mut self, row: &str, system: &str, why: &str) {
        let line = format!("{row}, {system}: {why}");
        if !self.missing.contains(&line) {
            self.missing.push(line);
        }
    }

    /// The table, and below it what was not measured.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "\n{}\n\n{:36} {:16} {:>12} {:>12} {:>5} {:>8}\n",
            self.about.line(),
            "",
            "",
            "median",
            "slowest",
            "runs",
            "native"
        );
        let mut last = "";
        for cell in &self.cells {
            let row = if cell.row == last { "" } else { &cell.row };
            last = &cell.row;
            let _ = write!(text, "{row:36} {:16}", cell.system);
            for value in [median(&cell.values), most(&cell.values)] {
                let shown = quantity(value.unwrap_or(0.0), cell.unit);
                let _ = write!(text, " {shown:>12}");
            }
            let _ = write!(text, " {:>5}", cell.values.len());
            if let Some(ratio) = self.ratio(cell) {
                let _ = write!(text, " {ratio:>7.2}x");
            }
            text.push('\n');
        }
        if !self.missing.is_empty() {
            text.push_str("\nNot measured:\n");
        }
        for line in &self.missing {
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    /// The median divided by the native one.
    fn ratio(&self, cell: &Cell) -> Option<f64> {
        let mut cells = self.cells.iter();
        let native = cells.find(|c| c.row == cell.row && c.system == NATIVE)?;
        let native = median(&native.values)?;
        (native > 0.0).then_some(median(&cell.values)? / native)
    }

    /// All figures, for programs.
    pub(super) fn json(&self) -> String {
        let cells = self.cells.iter().map(|cell| {
            let mut object = Map::new();
            object.insert("row".into(), cell.row.as_str().into());
            object.insert("system".into(), cell.system.as_str().into());
            object.insert("unit".into(), cell.unit.into());
            object.insert("median".into(), median(&cell.values).into());
            object.insert("slowest".into(), most(&cell.values).into());
            object.insert("ratio".into(), self.ratio(cell).into());
            object.insert("runs".into(), cell.values.clone().into());
            Value::from(object)
        });
        let whole = json!({
            "version": 1,
            "about": self.about.json(),
            "figures": cells.collect::<Vec<_>>(),
            "not_measured": self.missing,
        });
        format!("{whole:#}\n")
    }
}

fn most(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

fn quantity(value: f64, unit: &str) -> String {
    match value {
        v if v.abs() >= 1000.0 && unit == "ms" => {
            format!("{:.2} s", v / 1000.0)
        }
        v if v.fract() == 0.0 => format!("{v:.0} {unit}"),
        v => format!("{v:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_slowest_ratios_and_reasons_are_in_the_table() {
        let mut results = Results::new(About::default());
        for (system, values) in
            [(NATIVE, [2.0, 1.0, 3.0]), ("warm", [9.0, 8.0, 1500.0])]
        {
            for value in values {
                results.add("true", system, value, "ms");
            }
        }
        results.lacks("true", "qemu", "no qemu-system-i386");
        results.lacks("true", "qemu", "no qemu-system-i386");
        let text = results.table();
        for part in ["9 ms", "1.50 s", "4.50x", "true, qemu: no qemu"] {
            assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
        }
        let json: Value = serde_json::from_str(&results.json()).unwrap();
        assert_eq!(json["figures"][1]["slowest"], 1500.0);
        assert_eq!(json["figures"][1]["ratio"], 4.5);
    }
}

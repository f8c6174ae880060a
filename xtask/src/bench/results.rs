//! The results: for each row and system, a number for each round.
//!
//! Each round has two numbers: the mean cost, and the cost in the best of some
//! short pieces. On a busy machine the second is more accurate.

use super::about::About;
use std::collections::BTreeMap;

/// The systems on which a row is measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum System {
    /// An ordinary process.
    Native,
    /// The lguest of this tree.
    Lguest,
    /// Another lguest, for comparison.
    Baseline,
    /// `qemu-system-i386` without help from the processor.
    Qemu,
    /// User Mode Linux.
    Uml,
}

impl System {
    pub(super) const ALL: [Self; 5] = [
        Self::Native,
        Self::Lguest,
        Self::Baseline,
        Self::Qemu,
        Self::Uml,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Lguest => "lguest",
            Self::Baseline => "baseline",
            Self::Qemu => "qemu-tcg",
            Self::Uml => "uml",
        }
    }
}

/// The figures of a row on one system.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    values: Vec<f64>,
    bests: Vec<f64>,
    /// Why there are no figures.
    pub(super) why_not: Option<String>,
}

/// A row: one operation whose cost is measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) cells: BTreeMap<System, Cell>,
}

/// Rows of one kind, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) rows: Vec<Row>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Results {
    pub(super) about: About,
    pub(super) sections: Vec<Section>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) value: f64,
    pub(super) unit: String,
    pub(super) best: f64,
}

impl Figure {
    pub(super) fn new(value: f64, unit: &str) -> Self {
        Self {
            value,
            unit: unit.into(),
            best: value,
        }
    }
}

impl Results {
    /// Records a figure, or the reason why there is none.
    pub(super) fn add(
        &mut self,
        section: &'static str,
        row: &str,
        system: System,
        outcome: Result<Figure, String>,
    ) {
        let row = self.row(section, row);
        let cell = row.cells.entry(system).or_default();
        match outcome {
            Ok(figure) => {
                row.unit = figure.unit;
                cell.values.push(figure.value);
                cell.bests.push(figure.best);
            }
            Err(why) => cell.why_not = Some(why),
        }
    }

    fn row(&mut self, title: &'static str, name: &str) -> &mut Row {
        let known = self.sections.iter().position(|s| s.title == title);
        let at = known.unwrap_or_else(|| {
            let rows = Vec::new();
            self.sections.push(Section { title, rows });
            self.sections.len() - 1
        });
        let rows = &mut self.sections[at].rows;
        let known = rows.iter().position(|row| row.name == name);
        let at = known.unwrap_or_else(|| {
            rows.push(Row {
                name: name.into(),
                unit: String::new(),
                cells: BTreeMap::new(),
            });
            rows.len() - 1
        });
        &mut rows[at]
    }

    /// Records a reason if there is neither a figure nor a reason.
    pub(super) fn must_have(
        &mut self,
        section: &'static str,
        row: &str,
        system: System,
    ) {
        let cell = self.row(section, row).cells.entry(system).or_default();
        if cell.values.is_empty() && cell.why_not.is_none() {
            cell.why_not = Some("there was no answer".into());
        }
    }

    /// Rows that could not be measured at least once, a line for each system
    /// and reason.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for row in self.sections.iter().flat_map(|s| &s.rows) {
            for (system, cell) in &row.cells {
                let Some(why) = &cell.why_not else {
                    continue;
                };
                let reason = format!("{}: {why}", system.name());
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, rows)) => rows.push(&row.name),
                    None => reasons.push((reason, vec![&row.name])),
                }
            }
        }
        let line = |(reason, rows): (String, Vec<&str>)| {
            format!("{reason} ({})", rows.join(", "))
        };
        reasons.into_iter().map(line).collect()
    }

    /// The systems that there are figures or reasons for.
    pub(super) fn systems(&self) -> Vec<System> {
        let has = |system: &System| {
            let mut rows = self.sections.iter().flat_map(|s| &s.rows);
            rows.any(|row| row.cells.contains_key(system))
        };
        System::ALL.into_iter().filter(has).collect()
    }
}

impl Row {
    /// Whether more is better.
    pub(super) fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// The cost on this system divided by the native one: 2 is twice the
    /// native cost.
    pub(super) fn ratio(&self, system: System) -> Option<f64> {
        self.compare(system, Cell::median)
    }

    /// The same, of the best.
    pub(super) fn best_ratio(&self, system: System) -> Option<f64> {
        let best = |cell: &Cell| cell.best(self.is_rate());
        self.compare(system, best)
    }

    fn compare(
        &self,
        system: System,
        figure: impl Fn(&Cell) -> Option<f64>,
    ) -> Option<f64> {
        if self.unit == "%" {
            return None; // a share of a processor is no cost
        }
        let native = figure(self.cells.get(&System::Native)?)?;
        let here = figure(self.cells.get(&system)?)?;
        let (above, below) = if self.is_rate() {
            (native, here)
        } else {
            (here, native)
        };
        (below > 0.0).then_some(above / below)
    }
}

impl Cell {
    pub(super) fn median(&self) -> Option<f64> {
        median(&self.values)
    }

    /// The best of all pieces.
    pub(super) fn best(&self, rate: bool) -> Option<f64> {
        let better = if rate { f64::max } else { f64::min };
        self.bests.iter().copied().reduce(better)
    }

    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }
}

/// The middle one; of two, the mean.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn two_is_twice_the_cost_for_times_and_for_rates() {
        let mut results = Results::default();
        let mut add = |row, system, value, unit| {
            results.add("a", row, system, Ok(Figure::new(value, unit)));
        };
        add("time", System::Native, 10.0, "ns");
        add("time", System::Lguest, 20.0, "ns");
        add("rate", System::Native, 10.0, "MB/s");
        add("rate", System::Lguest, 5.0, "MB/s");
        add("alone", System::Lguest, 5.0, "ms");
        for row in &results.sections[0].rows {
            let expected = (row.name != "alone").then_some(2.0);
            assert_eq!(row.ratio(System::Lguest), expected, "{}", row.name);
            assert_eq!(row.best_ratio(System::Lguest), expected);
        }
        assert_eq!(results.systems(), [System::Native, System::Lguest]);
    }

    #[test]
    fn a_reason_does_not_undo_what_was_measured() {
        let mut results = Results::default();
        let figure = Ok(Figure::new(1.0, "ns"));
        results.add("a", "b", System::Qemu, figure);
        results.add("a", "b", System::Qemu, Err("it stopped".into()));
        let cell = &results.sections[0].rows[0].cells[&System::Qemu];
        assert_eq!(cell.median(), Some(1.0));
        assert_eq!(cell.why_not.as_deref(), Some("it stopped"));
        results.add("a", "c", System::Qemu, Err("it stopped".into()));
        assert_eq!(results.missing(), ["qemu-tcg: it stopped (b, c)"]);
    }
}

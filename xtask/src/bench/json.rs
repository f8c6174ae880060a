//! The figures for programs: every round, and the results.
//!
//! A missing ratio is null, with a reason beside it. All single figures are
//! there, so that other averages can be computed.

use super::results::{Results, Row};
use serde_json::{Map, Value, json};

/// One object: for each section its rows, for each row its systems.
pub(super) fn of(results: &Results) -> String {
    let mut sections = Map::new();
    for section in &results.sections {
        let rows: Vec<Value> = section.rows.iter().map(row).collect();
        sections.insert(section.title.into(), rows.into());
    }
    let whole = json!({
        "version": 1,
        "about": results.about.json(),
        "sections": sections,
    });
    format!("{whole:#}\n")
}

fn row(row: &Row) -> Value {
    let mut systems = Map::new();
    for (system, cell) in &row.cells {
        let mut about = Map::new();
        about.insert("rounds".into(), cell.values().into());
        about.insert("median".into(), cell.median().into());
        about.insert("best".into(), cell.best(row.is_rate()).into());
        about.insert("ratio".into(), row.ratio(*system).into());
        about.insert("best_ratio".into(), row.best_ratio(*system).into());
        if let Some(why) = &cell.why_not {
            about.insert("not_measured".into(), why.as_str().into());
        }
        systems.insert(system.name().into(), about.into());
    }
    json!({ "row": row.name, "unit": row.unit, "systems": systems })
}

#[cfg(test)]
mod tests {
    use super::super::results::{Figure, System};
    use super::*;

    #[test]
    fn it_can_be_read_again() {
        let mut results = Results::default();
        let figure = Ok(Figure::new(4.0, "ns"));
        results.add("calls", "pipe", System::Native, figure);
        results.add("calls", "pipe", System::Uml, Err("no \"linux\"".into()));
        let value: Value = serde_json::from_str(&of(&results)).unwrap();
        let systems = &value["sections"]["calls"][0]["systems"];
        assert_eq!(systems["native"]["median"], 4.0);
        assert_eq!(systems["native"]["ratio"], 1.0);
        assert_eq!(systems["uml"]["not_measured"], "no \"linux\"");
        assert_eq!(systems["uml"]["median"], Value::Null);
    }
}

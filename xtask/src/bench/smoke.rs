//! The check of CI: the benchmark still measures all rows.
//!
//! Figures are not checked, because the load of the machine is unknown. A row
//! that is missing is a mistake.

use super::options::Options;
use super::results::Results;
use super::{embedded, json, plot, snapshots, table};
use crate::place;
use std::path::Path;

/// Measures the embedded Guest and snapshots of it quickly, with the Launcher
/// that was built. Returns what is missing.
pub(crate) fn smoke(root: &Path) -> Vec<String> {
    let mut options = Options::usual();
    options.quick = true;
    options.rounds = 1;
    let mut results = Results::default();
    let lguest = place::release(root);
    embedded::measure(&options, &lguest, &mut results);
    let folder = root.join("target/bench");
    snapshots::measure_built_in(&options, &lguest, &folder, &mut results);
    let shown = table::of(&results);
    let mut missing = results.missing();
    for section in &results.sections {
        for row in &section.rows {
            if !shown.contains(&row.name) {
                missing.push(format!("{} is not in the table", row.name));
            }
        }
    }
    if !json::of(&results).starts_with('{') {
        missing.push("the figures are not JSON".into());
    }
    if !plot::of(&results).ends_with("</svg>\n") {
        missing.push("the plot is not complete".into());
    }
    missing
}

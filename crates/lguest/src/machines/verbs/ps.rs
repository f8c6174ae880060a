//! `lguest ps`: all machines of the user.
//!
//! It changes nothing, except that it cleans up after Launchers that were
//! killed, as each of these commands does.

use super::facts::{json, watch};
use crate::cli::exit::Outcome;
use crate::devices::console::backlog::now;
use crate::engine::printable;
use crate::machines::error::MachineError;
use crate::machines::folder::{Folder, Place};
use crate::machines::protocol::State;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// A machine.
#[derive(Serialize)]
struct Row {
    name: String,
    /// `starting`, `running`, `paused`, `ending` or `ended`.
    state: String,
    pid: Option<u32>,
    /// When it was started, in milliseconds since 1970.
    started: Option<u64>,
    memory: Option<String>,
    kernel: Option<String>,
    exit_code: Option<u8>,
    reason: Option<String>,
}

pub(super) fn ps(as_json: bool, again: bool) -> Result<Outcome, MachineError> {
    watch(again, || {
        let rows = rows()?;
        Ok(if as_json { json(&rows) } else { table(&rows) })
    })
}

/// All machines, from their files: this wakes no Launcher, and does not wait
/// for one that is stopped.
fn rows() -> Result<Vec<Row>, MachineError> {
    let Some(place) = Place::open()? else {
        return Ok(Vec::new());
    };
    Ok(place.list()?.iter().map(Row::new).collect())
}

impl Row {
    fn new(folder: &Folder) -> Self {
        let (facts, end) = (folder.facts(), folder.end());
        let state = match (folder.state(), &end) {
            (_, Some(_)) => "ended",
            (Some(State::Ended), None) => "ending",
            (Some(State::Running), None) => "running",
            (Some(State::Paused), None) => "paused",
            (Some(State::Starting) | None, None) => "starting",
        };
        let settings = facts.as_ref().map(|facts| &facts.settings);
        let kernel = settings.map(|settings| {
            settings
                .kernel
                .clone()
                .unwrap_or_else(|| "(built in)".into())
        });
        let memory = settings.and_then(|settings| settings.memory.clone());
        Self {
            name: folder.name.to_string(),
            state: state.into(),
            pid: facts.as_ref().filter(|_| end.is_none()).map(|f| f.pid),
            started: facts.as_ref().map(|facts| facts.started),
            memory,
            kernel,
            exit_code: end.as_ref().map(|end| end.exit_code),
            reason: end.map(|end| end.reason),
        }
    }
}

/// The rows as a table.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        ["NAME", "STATE", "PID", "AGE", "MEMORY", "KERNEL"].map(str::to_owned),
    ];
    for row in rows {
        let state = match (&row.reason, row.exit_code) {
            (Some(_), Some(code)) => format!("ended {code}"),
            _ => row.state.clone(),
        };
        let cell = |text: &Option<String>| {
            text.as_ref()
                .map_or("-".into(), |text| printable(text.as_bytes()))
        };
        let age = row.started.map(|then| age(now().saturating_sub(then)));
        let kernel = row.reason.as_ref().or(row.kernel.as_ref()).cloned();
        lines.push([
            row.name.clone(),
            state,
            row.pid.map_or("-".into(), |pid| pid.to_string()),
            age.unwrap_or_else(|| "-".into()),
            cell(&row.memory),
            cell(&kernel),
        ]);
    }
    lines[0][5] = "KERNEL, OR END".into();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            // The last column has no end.
            let width = if column == 5 { 0 } else { widths[column] + 2 };
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:<width$}");
        }
        text.push('\n');
    }
    text
}

/// A time in the largest whole unit.
fn age(milliseconds: u64) -> String {
    let seconds = Duration::from_millis(milliseconds).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [0, 59_999, 60_000, 7_200_000, 200_000_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "2h", "2d"]);
    }

    #[test]
    fn a_reason_cannot_speak_to_the_terminal() {
        let row = Row {
            name: "web".into(),
            state: "ended".into(),
            pid: None,
            started: None,
            memory: None,
            kernel: None,
            exit_code: Some(1),
            reason: Some("CRASH: \x1b[2J".into()),
        };
        let text = table(&[row]);
        assert!(text.ends_with("-    -       CRASH: \\u{1b}[2J\n"), "{text}");
    }
}

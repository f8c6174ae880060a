//! `lguest inspect` and `stats`: what is known of a machine.
//!
//! What is known of one that has ended is in the files of its folder.

use super::found::{DONE, find};
use super::sample::Sampler;
use crate::cli::exit::Outcome;
use crate::engine::printable;
use crate::machines::error::MachineError;
use crate::machines::folder::Folder;
use crate::machines::link::Link;
use crate::machines::metrics::prometheus;
use crate::machines::name::Name;
use crate::machines::printed::without_controls;
use crate::machines::protocol::{Call, Counts, Inspected, State};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a machine, whether it runs or has ended.
fn known(folder: &Folder) -> Result<Inspected, MachineError> {
    let inspect = |mut link: Link| link.ask(&Call::Inspect {});
    match Link::to(folder).and_then(inspect) {
        Ok(inspected) => Ok(inspected),
        Err(error) => {
            let (Some(facts), Some(end)) = (folder.facts(), folder.end())
            else {
                return Err(error);
            };
            let (output_first, output_end) =
                folder.output().map_or((0, 0), |output| output.range());
            Ok(Inspected {
                facts,
                state: State::Ended,
                output_first,
                output_end,
                clients: 0,
                types: None,
                end: Some(end),
            })
        }
    }
}

pub(super) fn inspect(
    name: &Name,
    toml: bool,
    ready: bool,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let known = known(&folder)?;
    let text = if toml {
        known.facts.settings.to_toml()
    } else {
        json(&known)
    };
    // If the reader has closed the pipe, the exit code is enough.
    let _ = print(&text);
    match known.state {
        State::Running => Ok(DONE),
        _ if !ready => Ok(DONE),
        state => Err(MachineError::NotRunning(name.clone(), state)),
    }
}

/// JSON for a person.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    without_controls(&text) + "\n"
}

/// Prints text to standard output.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints what `look` returns, once or every second. On a terminal, each time
/// replaces the one before.
pub(super) fn watch(
    watch: bool,
    mut look: impl FnMut() -> Result<String, MachineError>,
) -> Result<Outcome, MachineError> {
    loop {
        let mut text = look()?;
        if watch && io::stdout().is_terminal() {
            text.insert_str(0, "\x1b[H\x1b[2J");
        }
        // If the reader has closed the pipe, the exit code is enough.
        let printed = print(&text);
        if !watch || printed.is_err() {
            return Ok(DONE);
        }
        std::thread::sleep(LOOK);
    }
}

pub(super) fn stats(
    name: &Name,
    as_json: bool,
    again: bool,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let mut link = Link::to(&folder)?;
    watch(again, || {
        let counts: Counts = link.ask(&Call::Stats {})?;
        Ok(if as_json {
            json(&counts)
        } else {
            table(&counts)
        })
    })
}

/// Prints the counters of machines in the format of Prometheus; of all that run
/// if there are no `names`.
pub(super) fn metrics(names: &[Name]) -> Result<Outcome, MachineError> {
    let mut sampler = Sampler::default();
    let samples = if names.is_empty() {
        sampler.all()?
    } else {
        let folder = |name| Ok(find(name)?.1);
        let folders = names.iter().map(folder);
        sampler.of(folders.collect::<Result<_, MachineError>>()?)
    };
    let machines: Vec<_> = samples
        .iter()
        .map(|sample| (&sample.name, sample.counts.as_ref()))
        .collect();
    // If the reader has closed the pipe, the exit code is enough.
    let _ = print(&prometheus(&machines));
    Ok(DONE)
}

/// Counters, one a line.
fn table(counts: &Counts) -> String {
    let mut text = String::new();
    let mut line = |name: &str, count: u64| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<40} {count}", printable(name.as_bytes()));
    };
    line("huge_pages", counts.huge_pages);
    line("processor_us", counts.processor_us);
    line("memory_bytes", counts.memory_bytes);
    for (name, count) in &counts.host {
        line(&format!("host.{name}"), *count);
    }
    for (n, device) in counts.devices.iter().enumerate() {
        for (name, count) in &device.counts {
            line(&format!("device{n}.{}.{name}", device.r#type), *count);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_speak_to_the_terminal() {
        let text = json(&"a\u{1b}[2J\u{9b}5\u{7f}\n");
        assert_eq!(text, "\"a\\u001b[2J\\u009b5\\u007f\\n\"\n");
    }
}

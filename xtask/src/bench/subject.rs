//! A system under test: asked for rows, and started again when it breaks.
//!
//! Its answers are recorded as they are. If there is no answer, the last line
//! of its output is recorded as the reason.

use super::conversation::Conversation;
use super::machines::{Machine, is_there};
use super::options::Options;
use super::results::{Figure, Results};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long one row may take on the slowest system.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine, and the lines to write after its start.
pub(super) struct Subject<'a> {
    pub(super) machine: Machine<'a>,
    greetings: Vec<String>,
    running: Option<Conversation>,
    /// Why it is not tried again.
    given_up: Option<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(
        machine: Machine<'a>,
        options: &Options,
        greetings: &[&str],
    ) -> Self {
        let given_up = is_there(machine.system, machine.kit).err();
        let mut all = vec![format!("ms {}", options.milliseconds)];
        all.extend(greetings.iter().map(|&line| line.to_owned()));
        Self {
            machine,
            greetings: all,
            running: None,
            given_up,
        }
    }

    /// Asks for a row, and records the answer under the row's name and
    /// `suffix`.
    pub(super) fn ask(
        &mut self,
        section: &'static str,
        row: &str,
        suffix: &str,
        results: &mut Results,
    ) {
        let system = self.machine.system;
        let mut add = |row: &str, outcome| {
            results.add(section, &format!("{row}{suffix}"), system, outcome);
        };
        match self.say(row) {
            Ok(lines) => {
                for line in &lines {
                    if let Some((row, outcome)) = figure(line) {
                        add(row, outcome);
                    }
                }
                let row = format!("{row}{suffix}");
                results.must_have(section, &row, system);
            }
            Err(why) => add(row, Err(why)),
        }
    }

    /// Writes a line to the machine. Starts it if it is not running.
    pub(super) fn say(&mut self, line: &str) -> Result<Vec<String>, String> {
        if let Some(why) = &self.given_up {
            return Err(why.clone());
        }
        let started = self.running.is_none();
        let disk = self.machine.disks.as_ref().map(|disks| disks[0].clone());
        let help = |wish: &str| match (wish, &disk) {
            ("forget", Some(disk)) => forget(disk),
            _ => Err(format!("it asks for {wish:?}")),
        };
        let answer = self.running().and_then(|m| m.ask(line, PATIENCE, help));
        if let Err(why) = &answer {
            self.running = None;
            // It does not start, or fails early.
            if started {
                self.given_up = Some(why.clone());
            }
        }
        answer
    }

    /// The machine's process.
    pub(super) fn id(&mut self) -> Result<u32, String> {
        Ok(self.running()?.id())
    }

    fn running(&mut self) -> Result<&mut Conversation, String> {
        if let Some(why) = &self.given_up {
            return Err(why.clone());
        }
        if self.running.is_none() {
            let (mut machine, _) = self.machine.start()?;
            for line in &self.greetings {
                let nothing = |wish: &str| Err(format!("it asks for {wish:?}"));
                for said in machine.ask(line, PATIENCE, nothing)? {
                    if let Some((what, Err(why))) = figure(&said) {
                        return Err(format!("{what}: {why}"));
                    }
                }
            }
            self.running = Some(machine);
        }
        self.running.as_mut().ok_or_else(|| "it is gone".into())
    }
}

/// Writes the file at `path` to disk, and makes the kernel drop its pages of
/// it.
fn forget(path: &Path) -> Result<String, String> {
    let mut command = Command::new("dd");
    command.arg(format!("of={}", path.display()));
    command.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"]);
    match command.stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok("forgotten".into()),
        Ok(status) => Err(format!("dd: {status}")),
        Err(error) => Err(format!("dd: {error}")),
    }
}

/// A line of the program: a row, and its figure or the reason why there is
/// none.
fn figure(line: &str) -> Option<(&str, Result<Figure, String>)> {
    let (row, rest) = line.split_once(' ')?;
    if let Some(why) = rest.strip_prefix("- ") {
        return Some((row, Err(why.into())));
    }
    let mut words = rest.split(' ');
    let value = words.next()?.parse().ok()?;
    let unit = words.next()?.to_owned();
    let best = words.next()?.parse().ok()?;
    let figure = Figure { value, unit, best };
    words.next().is_none().then_some((row, Ok(figure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_figures_or_reasons_or_nothing() {
        let (row, found) = figure("pipe 7812.5 ns 7700.0").unwrap();
        let found = found.unwrap();
        assert_eq!((row, found.value, found.best), ("pipe", 7812.5, 7700.0));
        assert_eq!(found.unit, "ns");
        let (row, found) = figure("tar - no busybox").unwrap();
        assert_eq!((row, found.unwrap_err().as_str()), ("tar", "no busybox"));
        assert!(figure("hdc: lost interrupt").is_none());
        assert!(figure("[  0.5] a b c d").is_none());
    }
}

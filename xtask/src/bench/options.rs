//! The options: which rows are measured, and how long.
//!
//! Without options all rows are measured. To judge a change, choose its rows,
//! and more rounds.

use std::path::PathBuf;

pub(super) const HELP: &str = "\
usage: cargo xtask bench [OPTION...]
       cargo xtask bench exec [OPTION...]  (has its own --help)

  --quick            a round of short pieces, and nothing that takes long
  --rounds N         how often each row is measured (5)
  --ms N             how long a row takes each time (80)
  --only ROW,ROW     rows whose names begin with one of these
  --no-peers         neither QEMU nor UML, even where they are installed
  --lguest FILE      measure this lguest instead of building one
  --baseline FILE    another lguest beside it, to compare with
  --json FILE        where the figures go (target/bench/bench.json)
  --svg FILE         where the plot goes (target/bench/bench.svg)

The embedded guest needs nothing. Linux needs LGUEST_TEST_VMLINUX,
LGUEST_TEST_INITRD and LGUEST_BENCH_PROGRAM: see docs/performance.md.
";

/// The parsed options.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) quick: bool,
    pub(super) rounds: u32,
    /// Milliseconds for each row and round.
    pub(super) milliseconds: u32,
    only: Only,
    pub(super) peers: bool,
    pub(super) lguest: Option<PathBuf>,
    pub(super) baseline: Option<PathBuf>,
    pub(super) json: Option<PathBuf>,
    pub(super) svg: Option<PathBuf>,
}

impl Options {
    /// All rows, with the usual rounds.
    pub(super) fn usual() -> Self {
        Self {
            quick: false,
            rounds: 5,
            milliseconds: 80,
            only: Only::default(),
            peers: true,
            lguest: None,
            baseline: None,
            json: None,
            svg: None,
        }
    }

    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self::usual();
        if words.contains(&"--quick") {
            options.quick = true;
            options.rounds = 1;
            options.milliseconds = 20;
        }
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.copied().ok_or(format!("{word}: what?"))
            };
            match word {
                "--quick" => {}
                "--no-peers" => options.peers = false,
                "--rounds" => options.rounds = number(value()?)?,
                "--ms" => options.milliseconds = number(value()?)?,
                "--only" => options.only.add(value()?),
                "--lguest" => options.lguest = Some(value()?.into()),
                "--baseline" => options.baseline = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                _ => return Err(format!("what is {word}?")),
            }
        }
        Ok(options)
    }

    /// Whether this row is to be measured.
    pub(super) fn wants(&self, row: &str) -> bool {
        self.only.wants(row)
    }

    /// Those of `rows` that are to be measured.
    pub(super) fn wanted<const N: usize>(
        &self,
        rows: [&'static str; N],
    ) -> Vec<&'static str> {
        rows.into_iter().filter(|row| self.wants(row)).collect()
    }
}

/// The beginnings of the rows that are chosen; none of them: all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Only(Vec<String>);

impl Only {
    /// Adds what an option says: beginnings with commas between them.
    pub(super) fn add(&mut self, rows: &str) {
        self.0.extend(rows.split(',').map(str::to_owned));
    }

    /// Whether a row is to be measured.
    pub(super) fn wants(&self, row: &str) -> bool {
        let named = |start: &String| row.starts_with(start.as_str());
        self.0.is_empty() || self.0.iter().any(named)
    }
}

/// A number of runs.
pub(super) fn number(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text}: give a number from 1 up")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_a_start_that_others_may_change() {
        let options = Options::parse(&["--rounds", "3", "--quick"]).unwrap();
        assert_eq!((options.rounds, options.milliseconds), (3, 20));
        assert!(Options::parse(&["--rounds", "0"]).is_err());
        assert!(Options::parse(&["--rounds"]).is_err());
        assert!(Options::parse(&["fork"]).is_err());
    }

    #[test]
    fn rows_are_chosen_by_how_they_begin() {
        let options = Options::parse(&["--only", "fork,pipe"]).unwrap();
        assert!(options.wants("fork-exit") && options.wants("pipe"));
        assert!(!options.wants("mmap"));
        assert!(Options::usual().wants("mmap"));
    }
}

//! `lguest top`: all machines that run, each second.
//!
//! The table is drawn over the one before. The terminal keeps its screen and
//! its cursor, so there is nothing to put back but its mode, which every way
//! out does.

use super::found::DONE;
use super::sample::{Sample, Sampler};
use crate::cli::exit::Outcome;
use crate::machine::terminal;
use crate::machines::error::MachineError;
use crate::machines::name::Name;
use crate::machines::protocol::{Counts, State};
use crate::machines::verbs::console::catch_signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};
use termion::{clear, cursor, style};

/// How often the table is drawn.
const LOOK: Duration = Duration::from_secs(1);

/// What the rows are sorted by.
#[derive(Clone, Copy)]
enum Order {
    Processor,
    Memory,
    Name,
}

/// A row of the table. Rates are `None` before the second look.
#[derive(Debug, Default, PartialEq)]
struct Row {
    name: String,
    state: &'static str,
    /// Hundredths of a processor.
    processor: Option<f64>,
    memory: Option<u64>,
    /// A second: times that the Guest was left, system calls of its programs,
    /// its page faults, interrupts.
    exits: [Option<f64>; 4],
    /// Bytes a second.
    disk: Option<f64>,
    /// Bytes a second.
    net: Option<f64>,
}

/// Columns: the width and the title. The last one has no end.
const COLUMNS: [(usize, &str); 10] = [
    (18, "NAME"),
    (10, "STATE"),
    (7, "CPU%"),
    (9, "MEMORY"),
    (9, "EXITS/s"),
    (9, "CALLS/s"),
    (9, "FAULTS/s"),
    (8, "IRQS/s"),
    (9, "DISK/s"),
    (0, "NET/s"),
];

pub(super) fn top() -> Result<Outcome, MachineError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why = "standard input and output are no terminal: 'lguest ps' and \
                   'lguest stats --prometheus' print to a file";
        return Err(MachineError::Own("draw", io::Error::other(why)));
    }
    catch_signals()
        .map_err(|error| MachineError::Own("catch signals", error))?;
    terminal::enter();
    let shown = until_left();
    terminal::leave();
    shown.map(|()| DONE)
}

/// Draws until `q` or ^C is typed, or the terminal is gone.
fn until_left() -> Result<(), MachineError> {
    let mut sampler = Sampler::default();
    let mut before = BTreeMap::new();
    let mut order = Order::Processor;
    loop {
        let now = sampler.all()?;
        let mut rows: Vec<Row> = now
            .iter()
            .map(|new| row(before.get(&new.name), new))
            .collect();
        before = by_name(now);
        let deadline = Instant::now() + LOOK;
        loop {
            sort(&mut rows, order);
            draw(&rows)?;
            match key(deadline)? {
                Some(b'q' | 3 | 4) => return leave(),
                Some(b'c') => order = Order::Processor,
                Some(b'm') => order = Order::Memory,
                Some(b'n') => order = Order::Name,
                Some(_) => {}
                None => break,
            }
        }
    }
}

fn by_name(samples: Vec<Sample>) -> BTreeMap<Name, Sample> {
    samples.into_iter().map(|s| (s.name.clone(), s)).collect()
}

/// The next key; `None` at `deadline`. A terminal that is gone counts as `q`.
fn key(deadline: Instant) -> Result<Option<u8>, MachineError> {
    let failed = |error: Errno| MachineError::Own("read keys", error.into());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left).ok();
        let stdin = rustix::stdio::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error)),
        }
        let mut byte = [0];
        match rustix::io::read(stdin, &mut byte) {
            Ok(0) => return Ok(Some(b'q')),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The row of a machine, from two samples.
fn row(before: Option<&Sample>, now: &Sample) -> Row {
    let state = match (&now.state, &now.counts) {
        (_, None) => "silent",
        (Some(State::Paused), _) => "paused",
        (Some(State::Starting) | None, _) => "starting",
        (Some(State::Running), _) => "running",
        (Some(State::Ended), _) => "ending",
    };
    let mut row = Row {
        name: now.name.to_string(),
        state,
        ..Row::default()
    };
    let Some(counts) = &now.counts else {
        return row;
    };
    row.memory = Some(counts.memory_bytes);
    let Some((old, at)) = before.and_then(|b| Some((b.counts.as_ref()?, b.at)))
    else {
        return row;
    };
    let time = now.at.saturating_duration_since(at).as_secs_f64();
    let rate = |count: &dyn Fn(&Counts) -> u64| {
        let grown = count(counts).saturating_sub(count(old));
        // Counts of a second are exact in this type.
        #[expect(clippy::cast_precision_loss, reason = "they are shown")]
        let grown = grown as f64;
        (time > 0.0).then_some(grown / time)
    };
    row.processor = rate(&|c| c.processor_us).map(|us| us / 10_000.0);
    row.exits = [
        rate(&|c| host(c, &["entries"])),
        rate(&|c| host(c, &["system_calls"])),
        rate(&|c| host(c, &["guest_faults", "shadow_faults"])),
        rate(&|c| host(c, &["interrupt."])),
    ];
    row.disk = rate(&|c| devices(c, &["bytes_read", "bytes_written"]));
    row.net = rate(&|c| devices(c, &["bytes_sent", "bytes_received"]));
    row
}

/// The sum of the Host's counters with these names. A name that ends in a dot
/// stands for all that begin with it.
fn host(counts: &Counts, names: &[&str]) -> u64 {
    let wanted = |name: &str| {
        names.iter().any(|wanted| match wanted.ends_with('.') {
            true => name.starts_with(wanted),
            false => name == *wanted,
        })
    };
    let counts = counts.host.iter().filter(|(name, _)| wanted(name));
    counts.fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

/// The sum of these counters of all devices.
fn devices(counts: &Counts, names: &[&str]) -> u64 {
    let counts = counts.devices.iter().flat_map(|device| &device.counts);
    let counts = counts.filter(|(name, _)| names.contains(&name.as_str()));
    counts.fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

fn sort(rows: &mut [Row], order: Order) {
    rows.sort_by(|one, other| {
        let most = match order {
            Order::Processor => other
                .processor
                .unwrap_or(0.0)
                .total_cmp(&one.processor.unwrap_or(0.0)),
            Order::Memory => other.memory.cmp(&one.memory),
            Order::Name => std::cmp::Ordering::Equal,
        };
        most.then_with(|| one.name.cmp(&other.name))
    });
}

/// Draws the rows over what is on the terminal.
fn draw(rows: &[Row]) -> Result<(), MachineError> {
    let (columns, lines) = size();
    write(&screen(rows, (columns.into(), lines.into())))
}

/// Columns and lines of the terminal. Some do not say, or say 0.
fn size() -> (u16, u16) {
    let (columns, lines) = termion::terminal_size().unwrap_or_default();
    match columns.min(lines) {
        0 => (80, 24),
        _ => (columns, lines),
    }
}

fn write(text: &str) -> Result<(), MachineError> {
    terminal::write_all(rustix::stdio::stdout(), text.as_bytes())
        .map_err(|error| MachineError::Own("write to standard output", error))
}

/// The cursor goes below the table.
fn leave() -> Result<(), MachineError> {
    write(&format!("{}\r\n", cursor::Goto(1, size().1)))
}

/// What is written to a terminal of this size. The last line stays free for
/// the cursor.
fn screen(rows: &[Row], (columns, lines): (usize, usize)) -> String {
    let mut text = format!("{}", cursor::Goto(1, 1));
    let mut line = |line: &str, bold: bool| {
        let line: String = line.chars().take(columns).collect();
        let (on, off) = match bold {
            true => (style::Invert.to_string(), style::Reset.to_string()),
            false => (String::new(), String::new()),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{on}{line}{off}{}\r\n", clear::UntilNewline);
    };
    let room = lines.saturating_sub(3);
    let count = match rows.len() {
        1 => "1 machine runs".to_owned(),
        n if n > room => format!("{n} machines run, {room} are shown"),
        n => format!("{n} machines run"),
    };
    line(
        &format!("{count}; q leaves; sort by: c processor, m memory, n name"),
        false,
    );
    line(&cells(COLUMNS.map(|(_, title)| title.to_owned())), true);
    for row in rows.iter().take(room) {
        line(&cells(row.cells()), false);
    }
    let _ = write!(text, "{}", clear::AfterCursor);
    text
}

/// Cells below the titles.
fn cells(cells: [String; COLUMNS.len()]) -> String {
    let mut text = String::new();
    for (n, (cell, (width, _))) in cells.iter().zip(COLUMNS).enumerate() {
        // Names are on the left, numbers on the right.
        let _ = match n {
            0 | 1 => write!(text, "{cell:<width$} "),
            _ => write!(text, "{cell:>width$} "),
        };
    }
    text
}

impl Row {
    fn cells(&self) -> [String; COLUMNS.len()] {
        let rate = |rate: &Option<f64>| {
            rate.map_or("-".into(), |rate| format!("{rate:.0}"))
        };
        let bytes =
            |bytes: Option<f64>| bytes.map_or_else(|| "-".into(), short);
        #[expect(clippy::cast_precision_loss, reason = "it is shown in MB")]
        let memory = self.memory.map(|bytes| bytes as f64);
        let [exits, calls, faults, interrupts] = &self.exits;
        [
            self.name.clone(),
            self.state.into(),
            self.processor
                .map_or("-".into(), |share| format!("{share:.1}")),
            bytes(memory),
            rate(exits),
            rate(calls),
            rate(faults),
            rate(interrupts),
            bytes(self.disk),
            bytes(self.net),
        ]
    }
}

/// Bytes, with a unit.
fn short(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["B", "K", "M", "G"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let places = usize::from(unit > 0 && value < 100.0);
    format!("{value:.places$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::protocol::DeviceCounts;

    fn sample(at: Instant, of: u64) -> Sample {
        let count = |name: &str, n| (name.to_owned(), n);
        Sample {
            name: "web".parse().unwrap(),
            state: Some(State::Running),
            counts: Some(Counts {
                host: [
                    count("entries", 10 * of),
                    count("interrupt.0", of),
                    count("interrupt.1", of),
                ]
                .into(),
                devices: vec![DeviceCounts {
                    r#type: "block".into(),
                    counts: [count("bytes_read", 2048 * of)].into(),
                }],
                huge_pages: 0,
                processor_us: 500_000 * of,
                memory_bytes: 12 << 20,
            }),
            at,
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let start = Instant::now();
        let (old, new) =
            (sample(start, 0), sample(start + Duration::from_secs(2), 2));
        let first = row(None, &old);
        assert_eq!((first.processor, first.memory), (None, Some(12 << 20)));
        let row = row(Some(&old), &new);
        assert_eq!(row.processor, Some(50.0));
        assert_eq!(row.exits, [Some(10.0), Some(0.0), Some(0.0), Some(2.0)]);
        assert_eq!((row.disk, row.net), (Some(2048.0), Some(0.0)));
        let line = cells(row.cells());
        let words: Vec<&str> = line.split_whitespace().collect();
        let expected = "web running 50.0 12.0M 10 0 0 2 2.0K 0B";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let row = |n: u32| Row {
            name: format!("machine{n}"),
            ..Row::default()
        };
        let rows: Vec<Row> = (0..50).map(row).collect();
        let text = screen(&rows, (30, 10));
        assert_eq!(text.matches("\r\n").count(), 9);
        assert!(text.contains("50 machines run, 7 are shown"), "{text:?}");
        assert!(text.contains("machine6 "), "{text:?}");
        assert!(!text.contains("machine7"), "{text:?}");
        assert!(!text.contains("CPU%     MEMORY"), "{text:?}");
    }
}

//! `monitor` in GDB: questions that its own commands have no words for.
//!
//! The answers are texts, made of what the Host and the Launcher know.

use super::target::{Debugged, Gone};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};
use lg_abi::page::{LINEAR, Pte};
use lg_wire::debug::{Order, Space, Word, Words};
use std::fmt::Write as _;

const HELP: &str = "\
monitor help                     this text
monitor tables                   the page directories that have a process
monitor tables ADDRESS           the entries of the loaded one for ADDRESS
monitor physical ADDRESS [COUNT] words of physical memory (COUNT: 1 to 256)
monitor devices                  the devices of the guest
monitor stats                    the counts of the host
";

/// The most words that are shown at once.
const MOST_WORDS: u32 = 256;

impl MonitorCmd for Debugged {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Gone> {
        let command = String::from_utf8_lossy(command);
        let answer = self.answer(&command)?;
        out.write_raw(answer.as_bytes());
        Ok(())
    }
}

impl Debugged {
    fn answer(&self, command: &str) -> Result<String, Gone> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["help"] | [] => Ok(HELP.into()),
            ["tables"] => self.list_directories(),
            ["tables", at] => match number(at) {
                Some(at) => self.walk(at),
                None => Ok(not_an_address(at)),
            },
            ["physical", at] | ["physical", at, _] => {
                let count = words.get(2).copied().unwrap_or("4");
                match (number(at), number(count)) {
                    (Some(at), Some(count @ 1..=MOST_WORDS)) => {
                        self.physical(at, count)
                    }
                    (None, _) => Ok(not_an_address(at)),
                    _ => Ok(format!("'{count}' is not from 1 to 256\n")),
                }
            }
            ["devices"] => Ok(self.devices.iter().fold(
                String::new(),
                |mut all, device| {
                    all += device;
                    all.push('\n');
                    all
                },
            )),
            ["stats"] => Ok(self.stats()),
            _ => Ok(format!("there is no 'monitor {command}':\n{HELP}")),
        }
    }

    fn stats(&self) -> String {
        let counters = self.guest.counters();
        let mut all = String::new();
        for (name, count) in counters.host {
            let _ = writeln!(all, "{name:30} {count}");
        }
        let _ = writeln!(all, "{:30} {}", "huge_pages", counters.huge_pages);
        all
    }

    fn list_directories(&self) -> Result<String, Gone> {
        let words = self.words()?;
        let loaded = words[Word::Cr3 as usize];
        let mut all = format!("{}\n", state(&words));
        for cr3 in self.known_directories()? {
            let mark = if cr3 == loaded { " (loaded)" } else { "" };
            let _ = match cr3 {
                LINEAR => writeln!(all, "no paging yet{mark}"),
                _ => writeln!(all, "page directory {cr3:#010x}{mark}"),
            };
        }
        Ok(all)
    }

    fn walk(&self, at: u32) -> Result<String, Gone> {
        let cr3 = self.words()?[Word::Cr3 as usize];
        if cr3 == LINEAR {
            return Ok("no paging yet: an address is a physical one\n".into());
        }
        let told = self.ask(Order::Walk, [at, 0, 0])?;
        let mut all = format!("{at:#010x}, page directory {cr3:#010x}\n");
        for entry in told.bytes.chunks_exact(8) {
            let word = |n: usize| {
                let bytes =
                    [entry[n], entry[n + 1], entry[n + 2], entry[n + 3]];
                u32::from_le_bytes(bytes)
            };
            let _ = writeln!(
                all,
                "  at {:#010x}: {}",
                word(0),
                describe(Pte(word(4)))
            );
        }
        Ok(all)
    }

    fn physical(&self, at: u32, count: u32) -> Result<String, Gone> {
        let physical = (Order::Read, Space::Physical as u32);
        let mut bytes = vec![0; count as usize * 4];
        let read = self.look(physical, at, &mut bytes)?;
        if read < 4 {
            return Ok(format!("there is no memory at {at:#x}\n"));
        }
        let mut all = String::new();
        for (line, at) in bytes[..read].chunks(16).zip((at..).step_by(16)) {
            let _ = write!(all, "{at:#010x}:");
            for word in line.chunks_exact(4) {
                let word = [word[0], word[1], word[2], word[3]];
                let _ = write!(all, " {:08x}", u32::from_le_bytes(word));
            }
            all.push('\n');
        }
        Ok(all)
    }
}

/// What the Guest does.
pub(super) fn state(words: &Words) -> &'static str {
    let is = |word: Word| words[word as usize] != 0;
    match (is(Word::Halted), is(Word::User)) {
        (true, _) => "it waits for an interrupt",
        (false, true) => "it runs user code",
        (false, false) => "it runs its kernel",
    }
}

/// An entry of a page table in words.
fn describe(entry: Pte) -> String {
    if !entry.has(Pte::PRESENT) {
        return format!("{:#010x}, not present", entry.0);
    }
    let mut all = format!("{:#010x}, frame {:#010x}", entry.0, entry.frame());
    for (flag, name) in [
        (Pte::WRITE, "writable"),
        (Pte::USER, "user"),
        (Pte::ACCESSED, "accessed"),
        (Pte::DIRTY, "dirty"),
    ] {
        if entry.has(flag) {
            let _ = write!(all, ", {name}");
        }
    }
    all
}

/// A number, with `0x` before it or without.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn not_an_address(text: &str) -> String {
    format!("'{text}' is no address: give one like 0xc0100000\n")
}

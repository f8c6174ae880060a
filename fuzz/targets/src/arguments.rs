//! The command line.
//!
//! Words of every kind, old form and new, valid text or not. The result is a
//! Guest that can be built, or an error message.

use crate::input::Input;
use lguest::cli::{Task, UsageError, parse};
use lguest::memory::MAX_RAM;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Words that the command line knows.
const WORDS: &[&str] = &[
    "run",
    "--memory",
    "--memory=64M",
    "--kernel",
    "--disk",
    "--disk=f,ro",
    "--net",
    "--net=sharenet=f",
    "--net=tap=10.0.0.1",
    "--net=bridge=br0",
    "--net=tap=10.0.0.1/8",
    "--net=stream=unix:s,server",
    "--net=stream=fd:5",
    "--net=user",
    "--net=user,publish=[::1]:80:80/udp,restrict",
    "--append",
    "--stats=-",
    "--stats",
    "--initrd=f",
    "--block=f",
    "--sharenet=f",
    "--tunnet=192.168.19.1",
    "--tunnet=bridge:br0",
    "--verbose",
    "--help",
    "--version",
    "--",
    "-",
    "",
    "64",
    "0",
    "1",
    "5000",
    "64M",
    "1G",
    "99999999999999999999",
    "vmlinux",
    "root=/dev/lgba",
    "help",
    "--slow",
    "doctor",
    "--json",
    "--disk=f,fail=0,ro",
    "--timeout",
    "--timeout=5m",
    "--exit-on-eof",
    "--die-with-parent",
    "--die-with-parent=1",
    "--log=f",
    "-v",
    "rum",
];

/// An amount of memory, alone or as the value of its option.
fn size(input: &mut Input<'_>) -> String {
    let option = if input.bit() { "--memory=" } else { "" };
    let number = input.one_of(&[0, 1, 1023, 1024, 1025, 4080, 4081, 4_177_920]);
    let unit = ["", "K", "k", "KiB", "M", "G", "T"][input.below(7) as usize];
    format!("{option}{number}{unit}")
}

/// Parses one line.
///
/// # Panics
///
/// If the result is a Guest that cannot be built.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut words = vec![OsString::from("lguest")];
    while !input.is_empty() && words.len() < 64 {
        let choice = usize::from(input.byte());
        words.push(match WORDS.get(choice) {
            Some(word) => OsString::from(word),
            None if choice >= 0xE0 => size(&mut input).into(),
            None => OsString::from_vec(input.bytes(choice % 16).to_vec()),
        });
    }
    match parse(words) {
        Ok(Task::Run(config)) => {
            let ram = config.memory;
            assert!(ram % 4096 == 0 && ram <= MAX_RAM, "{ram:#x}");
            assert!(ram >= 1 << 20, "{ram:#x}");
            assert!(config.devices.len() < 16, "too many devices");
            assert!(config.command_line.len() < 4096, "too long");
        }
        // The other tasks have no numbers to check.
        Ok(_) => {}
        Err(UsageError::Words(error)) => {
            assert!(!error.to_string().is_empty());
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty());
        }
    }
}

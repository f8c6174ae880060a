//! Lesson 7: a shell's commands.
//!
//! They are apart from the console, so that a test needs no keys.

#![no_std]

extern crate alloc;

pub mod exercise;

use alloc::format;
use alloc::string::String;
use lg_guest::boot::Boot;
use lg_guest::{heap, time};

/// What a shell does after a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It prints a text.
    Text(String),
    /// It sleeps for so many nanoseconds.
    Sleep(u64),
    /// It powers the machine off.
    Leave,
    /// Nothing.
    Nothing,
}

/// The answer to a command and its arguments.
pub fn answer(boot: &Boot, words: &[&str]) -> Answer {
    Answer::Text(match *words {
        [] => return Answer::Nothing,
        ["exit"] => return Answer::Leave,
        ["help"] => "echo WORDS, mem, uptime, sleep SECONDS, exit".into(),
        ["echo", ref rest @ ..] => rest.join(" "),
        ["mem"] => {
            let (used, free) = heap::usage();
            let all = boot.memory >> 20;
            format!("{all} MiB; the heap: {used} bytes used, {free} free")
        }
        ["uptime"] => format!("{} ms", time::now() / time::MILLISECOND),
        ["sleep", seconds] => match seconds.parse::<u32>() {
            Ok(seconds) => {
                return Answer::Sleep(u64::from(seconds) * time::SECOND);
            }
            Err(error) => format!("{seconds}: {error}"),
        },
        [other, ..] => format!("{other}: there is no such command; try help"),
    })
}

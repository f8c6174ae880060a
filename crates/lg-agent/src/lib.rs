//! The agent: runs commands in a Linux guest for clients outside.
//!
//! It is the guest's first process, or is started by that. It finds its port,
//! speaks the protocol of `lg-exec`, and waits in one place for everything: the
//! port, the programs' output, signals. In reading order:
//!
//! - [`sys`]: system calls with checked types;
//! - [`files`]: small files, and files that go in and out;
//! - [`users`]: users by name;
//! - [`spawn`]: how a program is started, and how all its processes end;
//! - [`run`]: one program, its output, its limits;
//! - [`machine`]: clock and random pool after a restore, the end;
//! - [`port`]: the way outside;
//! - [`agent`]: the loop;
//! - [`init`]: what the first process has to do.
//!
//! It trusts its clients, which may run any program. But no message of theirs
//! ends it, and no run makes another one wait. On other machines than the
//! guest's the same code is an ordinary program for tests (`--fd`).

#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod sys;

pub mod files;
pub mod users;

pub mod spawn;

pub mod run;

pub mod machine;
pub mod port;

pub mod agent;
pub mod init;

use alloc::ffi::CString;
use alloc::format;
use sys::Fd;

/// The command line is wrong.
const USAGE: u8 = 2;

/// There is no port.
const NO_PORT: u8 = 3;

/// Runs the agent until its port is closed, and returns its exit code.
/// As the first process it does not return.
pub fn main(arguments: &[CString]) -> u8 {
    let is_init = sys::pid() == 1;
    let mut arguments = arguments.iter().skip(1).map(|a| a.as_bytes());
    let share = lg_exec::SHARE_WORD.as_bytes();
    let has_share = arguments.clone().any(|argument| argument == share);
    let given = match (is_init, arguments.next(), arguments.next()) {
        // The kernel passes on what it does not know itself.
        (true, ..) | (false, None, None) => None,
        (false, Some(b"--fd"), Some(number)) => {
            let number = core::str::from_utf8(number).ok();
            match number.and_then(|number| number.parse().ok()) {
                Some(number) => Some(Fd::inherited(number)),
                None => return usage(),
            }
        }
        _ => return usage(),
    };
    if is_init {
        init::prepare();
        if has_share {
            init::mount_share();
        }
    }
    let port = match given {
        Some(fd) => fd,
        None => match port::find(is_init) {
            Ok(fd) => fd,
            Err(why) => {
                say(&format!("no port `{}`: {}", lg_exec::PORT, why.words()));
                return NO_PORT;
            }
        },
    };
    match agent::Agent::new(port, is_init) {
        Ok(mut agent) => agent.serve(),
        Err(why) => say(why.words()),
    }
    if is_init {
        init::power_off();
    }
    0
}

fn usage() -> u8 {
    say("usage: lg-agent [--fd NUMBER]");
    USAGE
}

/// Writes a line where errors go; for the first process that is the console.
pub fn say(text: &str) {
    let line = format!("lg-agent: {text}\n");
    let stderr = core::mem::ManuallyDrop::new(Fd::inherited(2));
    let _ = sys::write(&stderr, line.as_bytes());
}

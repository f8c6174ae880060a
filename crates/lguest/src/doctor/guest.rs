//! A run of the built-in guest, in a copy of this process.
//!
//! The copy does what `lguest run` does, from the first step to the last, so
//! that the doctor reports what a run would report. Only the copy gives up
//! rights, and only the copy is killed if a filter kills.

use super::attempt;
use crate::cli::{self, Task};
use crate::engine::{Isolation, clock};
use crate::machine;
use crate::machine::config::Config;
use crate::machine::terminal;
use crate::needs::{self, Lack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// The reason why the Guest does not run, and what to do.
pub(super) struct Refusal {
    pub(super) said: String,
    pub(super) cure: Cow<'static, str>,
}

impl From<Lack> for Refusal {
    fn from(lack: Lack) -> Self {
        Self {
            said: format!("cannot {}: {}", lack.doing, lack.cause),
            cure: lack.cause.cure().into(),
        }
    }
}

/// The input of the Guest.
const TYPED: &[u8] = b"poweroff\n";

/// How long a run may take. It takes far less.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Runs the built-in Guest until it powers itself off.
pub(super) fn run(isolation: Isolation) -> Result<(), Refusal> {
    // A run would report this before anything else. The probe of calls has
    // shown that no call of these kills.
    needs::refused(|_| ()).map_or(Ok(()), Err)?;
    let lack = |error| Lack::when("talk to the guest's processes", error);
    let (mut input, its_input) = UnixStream::pair().map_err(lack)?;
    let (mut errors, its_errors) = UnixStream::pair().map_err(lack)?;
    // What it prints fits into the socket, and is not read.
    let (output, its_output) = UnixStream::pair().map_err(lack)?;
    let config = config(isolation);
    let child = attempt::copy(|| {
        // The copy has one thread. These are its standard streams from here on.
        let streams = rustix::stdio::dup2_stdin(&its_input)
            .and_then(|()| rustix::stdio::dup2_stdout(&its_output))
            .and_then(|()| rustix::stdio::dup2_stderr(&its_errors));
        let ours = [&input, &errors, &output];
        let its = [&its_input, &its_errors, &its_output];
        attempt::close_in_copy(ours.into_iter().chain(its));
        match (streams, config) {
            (Ok(()), Some(config)) => start(&config),
            _ => 1,
        }
    })?;
    drop((its_input, its_errors, its_output));
    // If the copy does not read its input, its messages say why.
    let _ = input.write_all(TYPED);
    let _ = input.shutdown(Shutdown::Write);
    let said = listen(child, &mut errors);
    drop(output);
    let end = attempt::end_of(child)?;
    if end.exit_status() == Some(0) {
        return Ok(());
    }
    Err(match end.terminating_signal() {
        Some(signal) => Refusal {
            said: format!("it is killed by signal {signal}"),
            cure: "cure what is lacking above".into(),
        },
        None => refusal(&said),
    })
}

/// A Guest of 16 MB with a console and no other device.
fn config(isolation: Isolation) -> Option<Config> {
    let isolation = match isolation {
        Isolation::Guest => "--isolation=guest",
        Isolation::User => "--isolation=user",
    };
    let words = ["lguest", "run", "--memory=16M", isolation];
    match cli::parse(words.map(OsString::from)) {
        Ok(Task::Run(config)) => Some(*config),
        _ => None,
    }
}

/// What `main` does.
fn start(config: &Config) -> u8 {
    let ended = machine::launch(config, clock::start());
    let outcome = ended.unwrap_or_else(|error| {
        terminal::tell(&error.to_string());
        error.outcome()
    });
    outcome.code()
}

/// Reads the messages of the copy until it has ended. Kills a copy that hangs.
fn listen(child: Pid, errors: &mut UnixStream) -> String {
    let mut said = Vec::new();
    loop {
        let mut ready = [PollFd::new(&*errors, PollFlags::IN)];
        match poll(&mut ready, Some(&PATIENCE)) {
            Ok(0) => {
                let _ = kill_process(child, Signal::KILL);
                said.extend(b"lguest: the guest hangs\n");
                break;
            }
            Err(rustix::io::Errno::INTR) => continue,
            Ok(_) | Err(_) => {}
        }
        let mut part = [0; 1024];
        match errors.read(&mut part) {
            Ok(n @ 1..) => said.extend(&part[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Splits a message of the copy into what happened and what to do.
fn refusal(said: &str) -> Refusal {
    let line = said.lines().find_map(|line| line.strip_prefix("lguest: "));
    let line = line.unwrap_or("it ends without a message");
    let (said, cure) = line
        .split_once("; ")
        .unwrap_or((line, "cure what is lacking above"));
    Refusal {
        said: said.to_owned(),
        cure: cure.to_owned().into(),
    }
}

//! What `lguest exec` is asked for.
//!
//! The command line fills this in, and a part of it goes to the agent.

use crate::images::Stored;
use crate::machines::Name;
use lg_exec::command::{Limits, Size, Start};
use lg_exec::report::Failure;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In a machine that runs.
    Machine(Name),
    /// In a copy of a machine, which goes on from the snapshot in this folder
    /// and ends with the command.
    Snapshot(PathBuf),
    /// In a new machine of this image, which ends with the command.
    Image(Box<Stored>),
}

/// What a command may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How long all of it may take.
    pub timeout: Option<Duration>,
    /// Bytes of memory of each process.
    pub memory: Option<u64>,
    /// Processes of its user.
    pub processes: Option<u64>,
    /// Bytes of each file.
    pub file_size: Option<u64>,
    /// Bytes of output and errors together.
    pub output: Option<u64>,
}

/// What `lguest exec` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where.
    pub target: Target,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Its environment: `NAME=VALUE`.
    pub env: Vec<OsString>,
    /// Its folder.
    pub cwd: Option<OsString>,
    /// Its user.
    pub user: String,
    /// What it may use.
    pub bounds: Bounds,
    /// How long the agent may take to answer.
    pub patience: Duration,
    /// Prints the result as JSON, with the output.
    pub json: bool,
    /// Goes on when the process that has started this one has ended.
    pub outlives: bool,
    /// Shows what the Launcher of a new machine says.
    pub verbose: bool,
    /// Options of `lguest restore` for a new machine.
    pub words: Vec<OsString>,
}

impl Asked {
    /// Whether this failure of the agent means that the share in which the
    /// command runs is not there.
    pub(super) fn lacks_share(&self, failure: Failure) -> bool {
        let word = format!("--append={}", lg_exec::SHARE_WORD);
        let folder = self.cwd.as_deref();
        failure == Failure::NoFolder
            && folder == Some(OsStr::new(lg_exec::SHARE_FOLDER))
            && self.words.iter().any(|given| *given == *word)
    }

    /// What the agent is told, with a terminal of this size.
    pub(super) fn start(&self, terminal: Option<Size>) -> Start {
        let bytes = |word: &OsString| word.as_bytes().to_vec();
        let all = |words: &[OsString]| words.iter().map(bytes).collect();
        let Bounds {
            timeout,
            memory,
            processes,
            file_size,
            output,
        } = self.bounds;
        let ms = |time: Duration| u64::try_from(time.as_millis());
        let mut env: Vec<Vec<u8>> = all(&self.env);
        if terminal.is_some()
            && !env.iter().any(|word| word.starts_with(b"TERM="))
            && let Some(term) = std::env::var_os("TERM")
        {
            let mut word = OsStr::new("TERM=").to_owned();
            word.push(term);
            env.push(word.into_vec());
        }
        Start {
            version: lg_exec::VERSION,
            argv: all(&self.command),
            env,
            cwd: self.cwd.as_ref().map(bytes),
            user: self.user.clone(),
            terminal,
            limits: Limits {
                time_ms: timeout.map(|t| ms(t).unwrap_or(u64::MAX)),
                memory,
                processes,
                file_size,
                output,
                ..Limits::default()
            },
        }
    }
}

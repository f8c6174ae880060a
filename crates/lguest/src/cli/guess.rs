//! Guesses what a wrong command line was meant to say.
//!
//! In the form of 2007 any first word is a size of memory, and clap reports the
//! word after the wrong one. So the line is examined once more here. Options
//! may stand before a command. A misspelt command is recognised. An option of
//! one form is translated into the other.

use super::error::UsageError;
use super::grammar::Cli;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// The names of the commands.
fn commands() -> Vec<String> {
    let cli = Cli::command();
    let names = cli.get_subcommands().map(clap::Command::get_name);
    names.map(str::to_owned).collect()
}

/// A word counts as a misspelt command if at most one letter in so many is
/// wrong, missing or added.
const MISSPELT: usize = 3;

/// Moves the command before the options: `lguest -v run` becomes
/// `lguest run -v`.
pub(super) fn command_first(mut words: Vec<OsString>) -> Vec<OsString> {
    let commands = commands();
    let is_command = |word: &OsString| commands.iter().any(|c| word == &**c);
    if let Some(at) = first_word(&words)
        && is_command(&words[at])
    {
        words[1..=at].rotate_right(1);
    }
    words
}

/// The index of the first word that is neither an option nor the value of one.
pub(super) fn first_word(words: &[OsString]) -> Option<usize> {
    let cli = Cli::command();
    let run = cli.find_subcommand("run");
    let options = run.into_iter().chain([&cli]);
    let options: Vec<_> = options.flat_map(|c| c.get_arguments()).collect();
    let takes_value = |option: &[u8]| {
        let mut named = options.iter().filter(|arg| match option {
            [b'-', b'-', long @ ..] => {
                arg.get_long().is_some_and(|name| name.as_bytes() == long)
            }
            [b'-', short] => arg.get_short() == Some(char::from(*short)),
            _ => false,
        });
        named.any(|arg| {
            arg.get_action().takes_values() && !arg.is_require_equals_set()
        })
    };
    let mut at = 1;
    loop {
        match words.get(at)?.as_bytes() {
            b"--" => return None,
            option @ [b'-', _, ..] if takes_value(option) => at += 2,
            [b'-', _, ..] => at += 1,
            _ => return Some(at),
        }
    }
}

/// The command that `word` resembles, if there is one.
fn command_like(word: &str) -> Option<String> {
    let word = word.to_lowercase();
    commands().into_iter().find(|command| {
        strsim::osa_distance(&word, command) <= command.len() / MISSPELT
    })
}

/// A better error than clap's `error` about `words`, if there is one.
pub(super) fn explain(words: &[OsString], error: clap::Error) -> UsageError {
    if error.kind() != ErrorKind::UnknownArgument {
        return error.into();
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
    else {
        return error.into();
    };
    let first = first_word(words).map(|at| words[at].to_string_lossy());
    let first = first.filter(|word| super::values::size(word).is_err());
    if first.as_deref() == Some("run") {
        return match in_run(option) {
            Some(there) => UsageError::OptionOf2007(option.clone(), there),
            None => error.into(),
        };
    }
    if first
        .as_ref()
        .is_some_and(|word| commands().iter().any(|c| c == word))
    {
        return error.into();
    }
    let meant = first.and_then(|word| Some((command_like(&word)?, word)));
    match meant {
        Some((command, word)) => UsageError::NoCommand(word.into(), command),
        None if belongs_to_run(option) => {
            UsageError::OptionOfRun(option.clone())
        }
        None => error.into(),
    }
}

/// The name in `lguest run` of an option of 2007.
fn in_run(option: &str) -> Option<&'static str> {
    match option {
        "--block" => Some("--disk FILE"),
        "--sharenet" => Some("--net sharenet=FILE"),
        "--tunnet" => Some("--net tap=IP' or '--net bridge=BR"),
        _ => None,
    }
}

/// Whether `lguest run` has this option.
fn belongs_to_run(option: &str) -> bool {
    let cli = Cli::command();
    let run = cli.find_subcommand("run");
    let mut options = run.into_iter().flat_map(|run| run.get_arguments());
    options.any(|arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        [long, short]
            .into_iter()
            .flatten()
            .any(|name| name == option)
    })
}

/// The error for a first word that is no size of memory.
pub(super) fn not_a_size(text: &str) -> UsageError {
    if let Some(command) = command_like(text) {
        return UsageError::NoCommand(text.into(), command);
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) || text.is_empty() {
        return UsageError::NotASize(text.into());
    }
    UsageError::SizeMissing(text.into())
}

/// The error for words after `lguest run` that belong to no option.
pub(super) fn stray(words: &[OsString], has_kernel: bool) -> UsageError {
    let word = words[0].to_string_lossy().into_owned();
    if super::values::size(&word).is_ok() {
        return UsageError::StrayWord(word, "memory", "--memory");
    }
    if !has_kernel && !word.contains('=') {
        return UsageError::StrayWord(word, "a kernel", "--kernel");
    }
    UsageError::StrayWord(word, "an argument of the kernel", "--append")
}

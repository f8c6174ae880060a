//! The `lguest` command: from the command line to an exit code.
//!
//! All work is done by the library. This file does what only a program may do:
//! read its arguments, write to standard error, handle panics, and end.

use clap_complete::Shell;
use lguest::cli::documents;
use lguest::cli::exit::Outcome;
use lguest::cli::{Task, UsageError};
use lguest::engine::clock;
use lguest::exec::{self, Asked};
use lguest::machine::{LaunchError, terminal};
use lguest::machines::verbs::{self, Verb};
use lguest::needs::{self, Allocator, Lack};
use lguest::project::{self, ProjectError, Template};
use lguest::{cli, doctor, images, machine};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let started = clock::start();
    end_on_panic();
    if let Some(cause) = needs::stack() {
        terminal::tell(&Lack::new("run", cause).to_string());
        return ExitCode::from(Outcome::BadMachine.code());
    }
    carry_out(started)
}

/// Carries out the command line. The process began at `started`, by the
/// time-stamp counter. This is a function of its own: what it keeps on the
/// stack has no room below a limit that [`main`] has to report.
#[inline(never)]
fn carry_out(started: u64) -> ExitCode {
    let config = match cli::parse(std::env::args_os()) {
        Ok(Task::Run(config)) => config,
        Ok(Task::Restore(restore)) => {
            return end_of_run(machine::restore(&restore, started));
        }
        Ok(Task::Exec(asked)) => return end_of_exec(&asked),
        Ok(Task::Doctor { json }) => return examine(json),
        Ok(Task::Image { file, json }) => return describe(&file, json),
        Ok(Task::Images(verb)) => return do_with_images(verb),
        Ok(Task::Completion(shell)) => return complete(shell),
        Ok(Task::Manual(dir)) => return manual(&dir),
        Ok(Task::Machines(verb)) => return do_with_machines(verb),
        Ok(Task::New { place, template }) => return make(&place, template),
        Ok(Task::Test { image, choice }) => return test(&image, &choice),
        // Help and version are such errors, too, with another exit code.
        Err(UsageError::Words(error)) => error.exit(),
        Err(error) => {
            terminal::tell(&error.to_string());
            return ExitCode::from(error.outcome().code());
        }
    };
    end_of_run(machine::launch(&config, started))
}

/// The exit code of a run. Prints what has gone wrong.
fn end_of_run(run: Result<Outcome, LaunchError>) -> ExitCode {
    let outcome = run.unwrap_or_else(|error| error.told());
    ExitCode::from(outcome.code())
}

/// Runs a command in a Guest. Prints what has gone wrong.
fn end_of_exec(asked: &Asked) -> ExitCode {
    let outcome = exec::run(asked).unwrap_or_else(|error| {
        terminal::tell(&error.to_string());
        error.outcome()
    });
    ExitCode::from(outcome.code())
}

/// Examines the machine, and prints the result to standard output.
fn examine(json: bool) -> ExitCode {
    let found = doctor::examine();
    let text = if json { found.json() } else { found.lines() };
    // If the reader has closed the pipe, the exit code is enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(found.outcome().code())
}

/// Describes a kernel's file on standard output.
fn describe(file: &Path, json: bool) -> ExitCode {
    let found = match machine::describe(file) {
        Ok(found) => found,
        Err(error) => {
            terminal::tell(&error.to_string());
            return ExitCode::from(error.outcome().code());
        }
    };
    let text = if json {
        found.json()
    } else {
        found.to_string()
    };
    // If the reader has closed the pipe, the exit code is enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let outcome = if found.runs {
        Outcome::PoweredOff(0)
    } else {
        Outcome::BadFile
    };
    ExitCode::from(outcome.code())
}

/// Prints a script for a shell to standard output.
fn complete(shell: Shell) -> ExitCode {
    let script = documents::completion(shell);
    // The reader may have closed the pipe.
    let _ = std::io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// Does something with machines that have a name.
fn do_with_machines(verb: Verb) -> ExitCode {
    let outcome = verbs::run(verb).unwrap_or_else(|error| {
        terminal::tell(&error.to_string());
        error.outcome()
    });
    ExitCode::from(outcome.code())
}

/// Does something with images.
fn do_with_images(verb: images::verbs::Verb) -> ExitCode {
    let outcome = images::verbs::run(verb).unwrap_or_else(|error| {
        terminal::tell(&error.to_string());
        error.outcome()
    });
    ExitCode::from(outcome.code())
}

/// Makes a crate of a guest.
fn make(place: &Path, template: Template) -> ExitCode {
    let made = project::make(place, template, &|text| terminal::tell(text));
    end_of(made.map(|()| Outcome::PoweredOff(0)))
}

/// Runs the tests in an image.
fn test(image: &Path, choice: &project::testing::Choice) -> ExitCode {
    end_of(project::testing::run(image, choice))
}

fn end_of(result: Result<Outcome, ProjectError>) -> ExitCode {
    let outcome = result.unwrap_or_else(|error| {
        terminal::tell(&error.to_string());
        error.outcome()
    });
    ExitCode::from(outcome.code())
}

/// Writes the manual pages into a folder.
fn manual(dir: &Path) -> ExitCode {
    match documents::write_manual(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(&error.to_string());
            ExitCode::from(Outcome::BadFile.code())
        }
    }
}

/// Makes a panic in any thread end the Launcher: without one of its threads,
/// the Guest would wait for ever. The terminal is put back first, so that the
/// message can be read.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        terminal::leave_for_good();
        print(info);
        std::process::exit(Outcome::Failed.code().into());
    }));
}

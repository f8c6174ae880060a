//! The commands about images.
//!
//! What an image says of itself is a stranger's: it is made printable.

use super::build::{Source, build};
use super::error::ImageError;
use super::place::{Place, Stored};
use super::shown::shown;
use super::warm::warm;
use crate::cli::exit::Outcome;
use crate::machines::Name;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// A command about images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Builds one.
    Build(Name, Source),
    /// Makes a snapshot of a guest in which a command has run.
    Warm(Name, Vec<OsString>),
    /// Lists them.
    List {
        /// As JSON.
        json: bool,
    },
    /// Removes some.
    Remove {
        /// The images.
        names: Vec<Name>,
        /// Removes changes that are kept above them, too.
        force: bool,
    },
    /// Prints what is known of one.
    Inspect {
        /// The image.
        name: Name,
        /// As JSON.
        json: bool,
    },
}

/// Carries out `verb`.
///
/// # Errors
///
/// [`ImageError`], with a message and an exit code.
pub fn run(verb: Verb) -> Result<Outcome, ImageError> {
    match verb {
        Verb::Build(name, source) => {
            let made = build(&source, &name)?;
            let (files, bytes) = (made.files, made.bytes >> 20);
            print(&format!(
                "image '{name}': {files} files, {bytes} MB, {}\n",
                made.kernel
            ));
        }
        Verb::Warm(name, command) => {
            warm(&Stored::find(&name)?.with_agent()?, &command)?;
        }
        Verb::List { json } => list(json)?,
        Verb::Remove { names, force } => remove(&names, force)?,
        Verb::Inspect { name, json } => {
            let shown = Shown::of(&Stored::find(&name)?)?;
            print(&if json { to_json(&shown) } else { shown.lines() });
        }
    }
    Ok(Outcome::PoweredOff(0))
}

/// What is printed of an image.
#[derive(Serialize)]
struct Shown {
    name: String,
    path: PathBuf,
    disk: PathBuf,
    /// Bytes on the disk of this machine.
    stored_bytes: u64,
    files: u64,
    bytes: u64,
    from: String,
    built: u64,
    kernel: String,
    agent: String,
    memory: String,
    arguments: String,
    command: Vec<String>,
    environment: Vec<String>,
    user: String,
    folder: String,
    /// Names of changes that are kept.
    kept: Vec<String>,
    /// Whether a guest waits in a snapshot.
    warm: bool,
}

impl Shown {
    fn of(image: &Stored) -> Result<Self, ImageError> {
        let recipe = image.recipe.clone();
        let kept = image.all_kept()?;
        Ok(Self {
            name: image.name.to_string(),
            path: image.path.clone(),
            disk: image.disk(),
            stored_bytes: image.bytes(),
            files: recipe.files,
            bytes: recipe.bytes,
            from: recipe.from,
            built: recipe.built,
            kernel: recipe.kernel,
            agent: recipe.agent,
            memory: recipe.memory,
            arguments: recipe.arguments,
            command: recipe.command,
            environment: recipe.environment,
            user: recipe.user,
            folder: recipe.folder,
            kept: kept.iter().map(ToString::to_string).collect(),
            warm: image.warm().is_dir(),
        })
    }

    fn lines(&self) -> String {
        let text = |text: &str| shown(text.as_bytes());
        let words = |words: &[String]| text(&words.join(" "));
        let or = |word: &str, other: &str| match word {
            "" => other.to_owned(),
            word => text(word),
        };
        let mut lines = String::new();
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                lines.push_str(&format!("{name:12} {value}\n"));
            }
        };
        line("name", &self.name);
        line("folder", &self.path.display().to_string());
        line("from", &text(&self.from));
        line("kernel", &text(&self.kernel));
        let megabytes = self.stored_bytes >> 20;
        let files = format!("{}, {megabytes} MB stored", self.files);
        line("files", &files);
        line("memory", &text(&self.memory));
        line("arguments", &text(&self.arguments));
        line("agent", &or(&self.agent, "none"));
        line("command", &words(&self.command));
        for variable in &self.environment {
            line("environment", &text(variable));
        }
        line("user", &or(&self.user, "root"));
        line("starts in", &or(&self.folder, "/"));
        line("kept", &self.kept.join(" "));
        line("warm", if self.warm { "yes" } else { "no" });
        lines
    }
}

fn list(json: bool) -> Result<(), ImageError> {
    let mut all = Vec::new();
    if let Some(place) = Place::existing()? {
        for name in place.names()? {
            match place.find(&name) {
                Ok(image) => all.push(Shown::of(&image)?),
                // The error is reported, and the others are listed.
                Err(error) => {
                    crate::machine::terminal::tell(&error.to_string());
                }
            }
        }
    }
    if json {
        print(&to_json(&all));
        return Ok(());
    }
    let mut lines = format!(
        "{:16} {:>8} {:>8} {:4} {:18} FROM\n",
        "NAME", "FILES", "MB", "WARM", "KERNEL"
    );
    for image in &all {
        lines.push_str(&format!(
            "{:16} {:>8} {:>8} {:4} {:18} {}\n",
            image.name,
            image.files,
            image.stored_bytes >> 20,
            if image.warm { "yes" } else { "no" },
            shown(image.kernel.as_bytes()),
            shown(image.from.as_bytes()),
        ));
    }
    print(&lines);
    Ok(())
}

/// Removes images: all of them, or the error of the first that is not.
fn remove(names: &[Name], force: bool) -> Result<(), ImageError> {
    let place = Place::existing()?;
    let mut failed = None;
    for name in names {
        let removed = match &place {
            Some(place) => place.remove(name, force),
            None => Err(ImageError::NoSuch(name.clone())),
        };
        if let (Err(error), None) = (removed, &failed) {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn to_json(value: &impl Serialize) -> String {
    // There is nothing in it that JSON cannot say.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    crate::machines::without_controls(&text) + "\n"
}

fn print(text: &str) {
    // If the reader has closed the pipe, the exit code is enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

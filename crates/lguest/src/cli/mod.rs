//! The command line, old and new.
//!
//! `lguest 64 vmlinux --block=rootfile root=/dev/lgba` has to work as it did in
//! 2007: options anywhere, devices in the order of their options, and
//! everything that is neither an option nor one of the first two words goes to
//! the kernel. `lguest run` says the same with today's flags. Clap parses the
//! words. This file turns them into a [`Config`] or another [`Task`], or into
//! an error.

use crate::engine::Tracing;
use crate::exec::Asked;
use crate::images::Stored;
use crate::machine::Restore;
use crate::machine::config::{
    Agent, Config, DebuggerAt, DeviceConfig, Kernel, Limits, Named, Stats,
};
use crate::machines::settings::Settings;
use crate::machines::verbs::Verb;
use crate::project::{Template, runner, testing};
use crate::trace::groups;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, ValueEnum};
use clap_complete::Shell;
use lg_abi::boot::COMMAND_LINE_MAX;
use lg_abi::device::LGUEST_MAX_DEVICES;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

mod error;
pub use error::UsageError;

mod grammar;
use grammar::{Cli, Command, Common, Form, Historic, Run};

pub mod documents;

pub mod exit;

mod ends;

mod restore;

mod values;

pub mod networks;

mod machines;

mod exec;

mod images;

mod limits;

mod guess;

/// Parses a command line.
///
/// # Errors
///
/// [`UsageError`]. A request for help is one, too.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
) -> Result<Task, UsageError> {
    let words = guess::command_first(words.into_iter().collect());
    let words = with_settings(words)?;
    let matches = Cli::command()
        .try_get_matches_from(&words)
        .map_err(|error| guess::explain(&words, error))?;
    let cli = Cli::from_arg_matches(&matches)?;
    let config = match (cli.command, matches.subcommand()) {
        (Some(Command::Doctor(Form { json })), _) => {
            return Ok(Task::Doctor { json });
        }
        (Some(Command::Image(image)), _) => {
            return Ok(match image.verb {
                Some(verb) => Task::Images(verb.verb()),
                None => Task::Image {
                    // The grammar requires it.
                    file: image.file.unwrap_or_default(),
                    json: image.form.json,
                },
            });
        }
        (Some(Command::Restore(restore)), _) => {
            return Ok(Task::Restore(Box::new(restore.meaning()?)));
        }
        (Some(Command::Exec(exec)), _) => {
            return Ok(Task::Exec(Box::new(exec.meaning()?)));
        }
        (Some(Command::Completion { shell }), _) => {
            return Ok(Task::Completion(shell));
        }
        (Some(Command::Machines(machines)), _) => {
            return Ok(Task::Machines(machines.verb()?));
        }
        (Some(Command::Man { dir }), _) => return Ok(Task::Manual(dir)),
        (Some(Command::New { place, template }), _) => {
            return Ok(Task::New { place, template });
        }
        (Some(Command::Runner { image, words }), _) => {
            if !runner::has_tests(&image) {
                let settings = runner::SETTINGS;
                return parse(runner::run_words(&image, &words, settings));
            }
            let choice = testing::choice(&words)?;
            return Ok(Task::Test { image, choice });
        }
        (Some(Command::Run(run)), Some((_, matches))) => run.config(matches),
        _ => cli.historic.config(&matches),
    }?;
    check(config).map(|config| Task::Run(Box::new(config)))
}

/// Replaces a configuration file after `lguest run` by the options that it
/// stands for. An option on the command line counts more than the file.
fn with_settings(
    mut words: Vec<OsString>,
) -> Result<Vec<OsString>, UsageError> {
    let Some(at) = settings_file(&words) else {
        return Ok(words);
    };
    let file = words.remove(at);
    let settings = Settings::read(Path::new(&file))?;
    // What is wrong with the words is said later.
    let command = Cli::command().ignore_errors(true);
    let matches = command.try_get_matches_from(&words).ok();
    let run = matches.as_ref().and_then(ArgMatches::subcommand);
    let given = |name: &str| {
        let id = name.replace('-', "_");
        let source = run.and_then(|(_, run)| run.value_source(&id));
        source == Some(ValueSource::CommandLine)
    };
    let options = settings.words(given);
    words.splice(2..2, options);
    Ok(words)
}

/// The index of the configuration file, if the first word after `lguest run`
/// that is no option is one.
fn settings_file(words: &[OsString]) -> Option<usize> {
    let (program, rest) = words.split_first()?;
    let (command, rest) = rest.split_first()?;
    let after: Vec<_> = [program].into_iter().chain(rest).cloned().collect();
    let at = guess::first_word(&after)?;
    let is_file = after[at].as_bytes().ends_with(b".toml");
    (command == "run" && is_file).then_some(at + 1)
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run this Guest.
    Run(Box<Config>),
    /// Run a Guest that goes on from a snapshot.
    Restore(Box<Restore>),
    /// Run a command in a Guest.
    Exec(Box<Asked>),
    /// Describe a kernel's file.
    Image {
        /// The file.
        file: PathBuf,
        /// As JSON, for a script.
        json: bool,
    },
    /// Do this with images.
    Images(crate::images::verbs::Verb),
    /// Print a script that completes words in this shell.
    Completion(Shell),
    /// Write the manual pages to this folder.
    Manual(PathBuf),
    /// Do this with machines that have a name.
    Machines(Verb),
    /// Make a crate of a Guest.
    New {
        /// Its folder.
        place: PathBuf,
        /// What it is at first.
        template: Template,
    },
    /// Run the tests in an image.
    Test {
        /// The image.
        image: PathBuf,
        /// Which ones, and how.
        choice: testing::Choice,
    },
    /// Examine this machine.
    Doctor {
        /// As JSON, for a script.
        json: bool,
    },
}

impl Historic {
    fn config(self, matches: &ArgMatches) -> Result<Config, UsageError> {
        let mut devices = placed(matches, "block", self.block, |path| {
            Ok(values::block(path))
        })?;
        devices.extend(placed(matches, "sharenet", self.sharenet, |path| {
            Ok(DeviceConfig::ShareNet(path))
        })?);
        devices.extend(placed(matches, "tunnet", self.tunnet, |text| {
            networks::tunnet(&text)
        })?);
        let (memory, kernel) = match (self.mem, self.image) {
            (None, _) => (DEFAULT_MEMORY, Kernel::Embedded),
            (Some(mem), Some(image)) => {
                (historic_size(&mem)?, Kernel::File(image))
            }
            (Some(mem), None) => {
                historic_size(&mem)?;
                return Err(UsageError::NoImage(mem));
            }
        };
        Ok(Config {
            memory,
            kernel,
            initrd: self.initrd,
            devices: in_order(devices),
            command_line: joined(&self.args),
            ..self.common.config()
        })
    }
}

impl Run {
    fn config(mut self, matches: &ArgMatches) -> Result<Config, UsageError> {
        if !self.stray.is_empty() {
            return Err(guess::stray(&self.stray, self.kernel.is_some()));
        }
        let image = self.image.as_ref().map(Stored::find).transpose()?;
        if let Some(image) = &image
            && matches.value_source("memory") != Some(ValueSource::CommandLine)
        {
            self.memory.clone_from(&image.recipe.memory);
        }
        let named = self.named();
        let limits = self.limited.limits()?;
        let mut devices =
            placed(matches, "disk", self.disk, |text| values::disk(&text))?;
        devices.extend(placed(matches, "share", self.share, |text| {
            values::share(&text)
        })?);
        let networks = placed(matches, "net", self.net, Ok)?;
        for (place, text) in networks {
            if text != networks::NONE {
                devices.push((place, networks::net(&text)?));
            }
        }
        let mut devices = in_order(devices);
        let mut words = self.append;
        if let Some(image) = &image {
            devices.insert(0, images::disk(image, self.keep.as_ref()));
            words.insert(0, image.recipe.arguments.clone().into());
        }
        let own = image.map(|image| image.kernel());
        let kernel = self.kernel.or(own);
        Ok(Config {
            memory: values::size(&self.memory)?,
            kernel: kernel.map_or(Kernel::Embedded, Kernel::File),
            initrd: self.initrd,
            devices,
            command_line: joined(&words),
            named,
            limits,
            metrics: self.metrics,
            agent: self.agent.then_some(Agent {
                owner: self.agent_owner,
            }),
            ..self.common.config()
        })
    }

    fn named(&self) -> Option<Named> {
        Some(Named {
            name: self.name.clone()?,
            replace: self.replace,
            detach: self.detach,
            until: self.until.clone(),
            stop_with: self.stop_with.clone(),
            settings: self.settings(),
        })
    }

    /// The same words, for `lguest inspect`.
    fn settings(&self) -> Settings {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let common = &self.common;
        Settings {
            name: self.name.as_ref().map(ToString::to_string),
            memory: Some(self.memory.clone()),
            kernel: self.kernel.as_ref().map(path),
            initrd: self.initrd.as_ref().map(path),
            image: self.image.as_ref().map(ToString::to_string),
            keep: self.keep.as_ref().map(ToString::to_string),
            disk: all(&self.disk),
            net: all(&self.net),
            share: all(&self.share),
            append: all(&self.append),
            isolation: common
                .isolation
                .to_possible_value()
                .map(|value| value.get_name().to_owned()),
            log: common.log.as_ref().map(path),
            timeout: common.ends.timeout.map(values::duration_text),
            stats: common.stats.as_ref().map(path),
            no_fast_path: common.no_fast_path.clone(),
            no_confine: common.no_confine.clone(),
            until: self.until.clone(),
            stop_with: self.stop_with.clone(),
            agent: self.agent.then_some(true),
            metrics: self.metrics.map(|address| address.to_string()),
            ..self.limited.settings()
        }
    }
}

impl restore::Restore {
    fn meaning(self) -> Result<Restore, UsageError> {
        let limits = self.limited.limits()?;
        let network = |text: &OsString| match text == networks::NONE {
            true => Ok(None),
            false => networks::net(text).map(Some),
        };
        let networks = self.net.iter().map(network);
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        let shares = self.share.iter().map(|text| values::share(text));
        let shares = shares.collect::<Result<Vec<_>, _>>()?;
        check_tags(&shares)?;
        let shares = shares.into_iter().filter_map(|device| match device {
            DeviceConfig::Share(share) => Some(share),
            _ => None,
        });
        let log = self.log.clone().or_else(log_of_environment);
        check_limits(&limits, networks.iter().flatten(), log.as_ref())?;
        Ok(Restore {
            limits,
            networks,
            shares: shares.collect(),
            settings: Settings {
                net: all(&self.net),
                share: all(&self.share),
                log: self.log.as_ref().map(|p| p.to_string_lossy().into()),
                timeout: self.ends.timeout.map(values::duration_text),
                ..self.limited.settings()
            },
            folder: self.dir,
            name: self.name,
            detach: self.detach,
            changes: self.changes,
            bases: self.base,
            log,
            timeout: self.ends.timeout,
            exit_on_eof: self.ends.exit_on_eof,
            die_with: self.ends.die_with_parent,
            verbose: self.verbose,
            agent_owner: self.agent_owner,
        })
    }
}

impl Common {
    /// A Guest without devices, from the options that both forms have.
    fn config(self) -> Config {
        Config {
            memory: DEFAULT_MEMORY,
            kernel: Kernel::Embedded,
            initrd: None,
            devices: Vec::new(),
            command_line: Vec::new(),
            log: self.log.or_else(log_of_environment),
            timeout: self.ends.timeout,
            exit_on_eof: self.ends.exit_on_eof,
            die_with: self.ends.die_with_parent,
            stats: self.stats.map(values::stats),
            explain: self.explain,
            symbols: self.symbols,
            core: self.core,
            tracing: Tracing {
                records: self.trace_records,
                groups: match &self.trace {
                    // The grammar knows the names.
                    Some(_) => groups(&self.trace_filter).unwrap_or(0),
                    None => 0,
                },
            },
            trace: self.trace,
            debugger: self.gdb,
            wait_for_debugger: self.gdb_wait,
            slow_paths: values::slow_paths(&self.no_fast_path),
            open_walls: values::open_walls(&self.no_confine),
            isolation: self.isolation,
            verbose: self.verbose,
            limits: Limits::default(),
            metrics: None,
            named: None,
            agent: None,
        }
    }
}

/// The file of `--log` when that is not given.
fn log_of_environment() -> Option<PathBuf> {
    let path = std::env::var_os("LGUEST_LOG")?;
    (!path.is_empty()).then(|| path.into())
}

/// RAM of a Guest when no size is given.
const DEFAULT_MEMORY: u32 = 32 << 20;

/// Checks that concern both forms.
fn check(config: Config) -> Result<Config, UsageError> {
    let devices = config.devices.len() + 1;
    if devices > LGUEST_MAX_DEVICES {
        return Err(UsageError::TooManyDevices(devices));
    }
    let to_gdb = config.debugger == Some(DebuggerAt::Stdio);
    if to_gdb && config.stats == Some(Stats::Stdout) {
        return Err(UsageError::BothOnStdout);
    }
    check_limits(&config.limits, config.devices.iter(), config.log.as_ref())?;
    check_tags(&config.devices)?;
    let len = config.command_line.len();
    let most = COMMAND_LINE_MAX as usize - 1 - config.kernel.words_of_ours();
    if len > most {
        return Err(UsageError::CommandLineTooLong { len, most });
    }
    Ok(config)
}

/// Checks that there is what the limits bound.
fn check_limits<'a>(
    limits: &Limits,
    mut devices: impl Iterator<Item = &'a DeviceConfig>,
    log: Option<&PathBuf>,
) -> Result<(), UsageError> {
    let lan =
        |device: &DeviceConfig| matches!(device, DeviceConfig::ShareNet(_));
    if limits.net.is_some() && devices.any(lan) {
        return Err(UsageError::UnlimitedNetwork);
    }
    if limits.log.is_some() && log.is_none() {
        return Err(UsageError::NoLogToLimit);
    }
    Ok(())
}

/// No two shares have the same name.
fn check_tags(devices: &[DeviceConfig]) -> Result<(), UsageError> {
    let mut tags = HashSet::new();
    for device in devices {
        if let DeviceConfig::Share(share) = device
            && !tags.insert(&share.tag)
        {
            return Err(UsageError::SameTag(share.tag.clone()));
        }
    }
    Ok(())
}

/// Words as they were written.
fn all(words: &[OsString]) -> Vec<String> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    words.iter().map(text).collect()
}

/// Converts each value of option `name`, and adds its position among the words.
fn placed<T, M>(
    matches: &ArgMatches,
    name: &str,
    values: Vec<T>,
    meaning: impl Fn(T) -> Result<M, UsageError>,
) -> Result<Vec<(usize, M)>, UsageError> {
    let places = matches.indices_of(name).into_iter().flatten();
    places
        .zip(values)
        .map(|(place, value)| Ok((place, meaning(value)?)))
        .collect()
}

fn in_order(mut devices: Vec<(usize, DeviceConfig)>) -> Vec<DeviceConfig> {
    devices.sort_by_key(|&(place, _)| place);
    devices.into_iter().map(|(_, device)| device).collect()
}

/// A size of memory in the form of 2007. If it is none, the error guesses what
/// was meant.
fn historic_size(text: &str) -> Result<u32, UsageError> {
    values::size(text).map_err(|error| match error {
        UsageError::NotASize(text) => guess::not_a_size(&text),
        other => other,
    })
}

fn joined(words: &[OsString]) -> Vec<u8> {
    words.join(OsStr::new(" ")).into_vec()
}

#[cfg(test)]
mod tests;

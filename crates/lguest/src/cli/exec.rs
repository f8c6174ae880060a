//! `lguest exec`, for clap.
//!
//! The comment of a field is its text in `--help`.

use super::error::UsageError;
use super::values;
use crate::exec::{Asked, Bounds, KEPT_MOST, Target};
use crate::images::Stored;
use crate::machines::Name;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What comes after the options in `--help`.
pub(super) const AFTER: &str = "\
Exit status:
  that of the command
  2        the command line is wrong
  120      the snapshot, or the folder for machines, cannot be used
  121      this machine lacks something that guests need ('lguest doctor')
  122      the guest or its agent has ended, or has broken the protocol
  123      lguest itself failed
  124      ended by --timeout
  125      ended by --output-limit
  126      the command cannot be run, or the machine cannot do it now
  127      there is no such command, or no machine with that name
  128 + N  the command, or lguest, was ended by signal N (137: killed; 141: the
           reader of the output is gone; 143: also the end of the parent)
  With --json, the field 'reason' tells these apart.

Examples:
  lguest exec --image debian -- python3 -c 'print(6*7)'
  lguest exec --image debian --share .,ro --timeout 10s -- make test
  lguest exec web -- ps aux
  tar c . | lguest exec web --cwd /src -- sh -c 'tar x && make test'
  lguest exec --snapshot base.snap --timeout 10s -- python3 -c 'print(6*7)'";

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// A machine that runs, which was started with 'lguest run --agent'
    #[arg(
        value_name = "NAME",
        required_unless_present_any = ["snapshot", "image"],
        conflicts_with_all = ["snapshot", "image"]
    )]
    name: Option<Name>,
    /// Run it in a new machine of this image, which ends with the command: from
    /// its snapshot ('lguest image warm'), or else it boots
    #[arg(long, value_name = "NAME", conflicts_with_all = ["snapshot", "base"])]
    image: Option<Name>,
    /// Run it in a copy of the machine in this snapshot, which ends with the
    /// command
    #[arg(long, value_name = "DIR")]
    snapshot: Option<PathBuf>,
    /// A variable of the command's environment; without a value, that of this
    /// process
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// The folder of the command
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<OsString>,
    /// The user of the command, by name or number; without it, that of the
    /// agent
    #[arg(long, short, value_name = "USER[:GROUP]", default_value = "")]
    user: String,
    /// End the command after this time: 90, 90s, 500ms, 5m, 2h or 1d
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// The most memory of each process: 64M, 1G
    #[arg(long, short, value_name = "SIZE", value_parser = values::bytes)]
    memory: Option<u64>,
    /// The most processes of the command's user
    #[arg(long, value_name = "N")]
    processes: Option<u64>,
    /// The longest file that it may write: 64M, 1G
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    file_limit: Option<u64>,
    /// End the command when its output and errors together are longer: 64K, 1M
    /// (with --json 16M, if nothing is said)
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    output_limit: Option<u64>,
    /// How long the agent in the guest may take to answer
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = values::duration,
    )]
    patience: Duration,
    /// Print the result as JSON: exit code, reason, output, errors, time,
    /// memory
    #[arg(long)]
    json: bool,
    /// Go on when the process that has started lguest ends
    #[arg(long)]
    outlive_parent: bool,
    /// Connect a network interface of the copy, as 'lguest restore' does;
    /// without it, its interfaces are connected to nothing
    #[arg(long, value_name = "KIND=...", conflicts_with = "name")]
    net: Vec<OsString>,
    /// Give the copy a folder, as 'lguest restore' does; without a tag, the
    /// command of an image runs in it (/mnt/share)
    #[arg(long, value_name = "DIR[,TAG][,ro]", conflicts_with = "name")]
    share: Vec<OsString>,
    /// Let the copy read this file, which is under a disk and not in the
    /// snapshot
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    base: Vec<PathBuf>,
    /// The share of a processor that the copy may use, from 1% to 100%
    #[arg(long, value_name = "PERCENT", conflicts_with = "name")]
    cpu_share: Option<OsString>,
    /// The processors that it runs on: numbers and ranges, as in 0,2-3
    #[arg(long, value_name = "LIST", conflicts_with = "name")]
    cpus: Option<OsString>,
    /// What its disks together may do in a second, as of 'lguest run'
    #[arg(long, value_name = "[BYTES][,ops=N]", conflicts_with = "name")]
    io_limit: Option<OsString>,
    /// Show the console of the copy, and what its launcher says
    #[arg(long, short, conflicts_with = "name")]
    verbose: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    command: Vec<OsString>,
}

impl Exec {
    /// What it means.
    pub(super) fn meaning(self) -> Result<Asked, UsageError> {
        let mut words = Vec::new();
        let options = [
            ("--cpu-share=", self.cpu_share),
            ("--cpus=", self.cpus),
            ("--io-limit=", self.io_limit),
        ];
        let bases = self.base.into_iter().map(|path| ("--base=", path.into()));
        let nets = self.net.into_iter().map(|net| ("--net=", net));
        let has_share = self.share.iter().any(|s| values::has_no_tag(s));
        if has_share && self.image.is_none() {
            return Err(UsageError::NeedsTag);
        }
        let shares = self.share.into_iter().map(|share| {
            let share = match values::has_no_tag(&share) {
                true => with_tag(&share),
                false => share,
            };
            ("--share=", share)
        });
        let given = options.into_iter().filter_map(|(o, v)| Some((o, v?)));
        for (option, value) in given.chain(bases).chain(nets).chain(shares) {
            let mut word = OsString::from(option);
            word.push(value);
            words.push(word);
        }
        if has_share {
            // The agent mounts it.
            words.push(format!("--append={}", lg_exec::SHARE_WORD).into());
        }
        let kept = self.json.then_some(KEPT_MOST);
        let given = self.env.into_iter().map(variable);
        let given = given.collect::<Result<Vec<_>, _>>()?;
        let (mut env, mut cwd, mut user) = (Vec::new(), self.cwd, self.user);
        let target = match (self.name, self.snapshot, self.image) {
            (_, Some(folder), _) => {
                // A newcomer tries the name of an image.
                if let Some(image) = image_instead(&folder) {
                    return Err(UsageError::IsImage(image));
                }
                Target::Snapshot(folder)
            }
            (Some(name), ..) => Target::Machine(name),
            (.., Some(name)) => {
                let image = Stored::find(&name)?.with_agent()?;
                let recipe = &image.recipe;
                env.extend(recipe.environment.iter().map(OsString::from));
                let folder = match has_share {
                    true => lg_exec::SHARE_FOLDER,
                    false => &recipe.folder,
                };
                let folder = Some(folder).filter(|f| !f.is_empty());
                cwd = cwd.or(folder.map(OsString::from));
                if user.is_empty() {
                    user.clone_from(&recipe.user);
                }
                Target::Image(Box::new(image))
            }
            (None, None, None) => return Err(UsageError::NoTarget),
        };
        env.extend(given);
        Ok(Asked {
            target,
            command: self.command,
            env,
            cwd,
            user,
            bounds: Bounds {
                timeout: self.timeout,
                memory: self.memory,
                processes: self.processes,
                file_size: self.file_limit,
                output: self.output_limit.or(kept),
            },
            patience: self.patience,
            json: self.json,
            outlives: self.outlive_parent,
            verbose: self.verbose,
            words,
        })
    }
}

/// The image with the name of a snapshot that is not there.
fn image_instead(folder: &Path) -> Option<Name> {
    if folder.exists() {
        return None;
    }
    let name = folder.to_str()?.parse().ok()?;
    Stored::find(&name).is_ok().then_some(name)
}

/// `DIR,TAG[,ro]` for a share that has no tag.
fn with_tag(share: &OsStr) -> OsString {
    let bytes = share.as_bytes();
    let (folder, end) = match bytes.strip_suffix(b",ro") {
        Some(folder) => (folder, ",ro"),
        None => (bytes, ""),
    };
    let mut word = OsStr::from_bytes(folder).to_owned();
    word.push(format!(",{}{end}", lg_exec::SHARE_TAG));
    word
}

/// `NAME=VALUE`, or `NAME` for the value that this process has.
fn variable(word: OsString) -> Result<OsString, UsageError> {
    let equals = word.as_bytes().iter().position(|&byte| byte == b'=');
    match equals {
        Some(0) => Err(UsageError::NotAVariable(word)),
        Some(_) => Ok(word),
        None if word.is_empty() => Err(UsageError::NotAVariable(word)),
        None => {
            let value = std::env::var_os(&word);
            let value = value.ok_or_else(|| UsageError::Unset(word.clone()))?;
            Ok([word.as_os_str(), OsStr::new("="), &value]
                .into_iter()
                .collect())
        }
    }
}

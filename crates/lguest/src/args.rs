//! The command line, old and new.
//!
//! `lguest 64 vmlinux --block=rootfile root=/dev/lgba` has to work as it did
//! in 2007: options anywhere, devices in the order of their options, and
//! everything that is neither an option nor one of the first two words goes
//! to the kernel. `lguest run` says the same with today's flags. Clap takes
//! the words apart; this file says what they mean, or why they mean nothing.

use crate::config::{
    Config, DeviceConfig, Isolation, Kernel, Stats, TapConfig,
};
use crate::confine::wall;
use crate::memory::MAX_RAM;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use lg_abi::boot::COMMAND_LINE_MAX;
use lg_abi::device::LGUEST_MAX_DEVICES;
use lg_host::gates::path;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the words of a command line mean.
///
/// # Errors
///
/// [`UsageError`]; to ask for help is one, too.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
) -> Result<Task, UsageError> {
    let words: Vec<OsString> = words.into_iter().collect();
    let matches = Cli::command()
        .try_get_matches_from(&words)
        .map_err(|error| misspelt_run(&words, error))?;
    let cli = Cli::from_arg_matches(&matches)?;
    let config = match (cli.command, matches.subcommand()) {
        (Some(Command::Doctor(doctor)), _) => {
            return Ok(Task::Doctor { json: doctor.json });
        }
        (Some(Command::Run(run)), Some((_, matches))) => run.config(matches),
        _ => cli.historic.config(&matches),
    }?;
    check(config).map(Task::Run)
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run this Guest.
    Run(Config),
    /// Tell what this machine offers.
    Doctor {
        /// To a script.
        json: bool,
    },
}

/// A command line that describes no Guest.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Words that are not well-formed, or `--help` and the like. Clap has the
    /// text, the place for it and the exit code.
    #[error(transparent)]
    Words(#[from] clap::Error),
    /// No size of memory.
    #[error("memory '{0}' is not a size: give megabytes (64) or a unit (64M)")]
    NotASize(String),
    /// Less memory than any Guest needs.
    #[error("memory '{0}': a guest needs at least 1 MB")]
    TooLittleMemory(String),
    /// More memory than can be mapped.
    #[error(
        "memory '{0}': a guest has at most {max} MB",
        max = MAX_RAM >> 20
    )]
    TooMuchMemory(String),
    /// A word where the size of memory belongs.
    #[error(
        "memory '{0}' is not a size: did you mean 'lguest run'? \
         ('lguest --help' shows both forms)"
    )]
    NotRun(String),
    /// A size of memory and nothing to put there.
    #[error(
        "no image: give a kernel behind the memory size ('lguest {0} vmlinux')"
    )]
    NoImage(String),
    /// No kind of network.
    #[error(
        "network '{0}' is not sharenet=FILE, tap=IP or bridge=BR: give one"
    )]
    NotANetwork(String),
    /// Not the other end of a tunnel.
    #[error("tunnet '{0}' is neither an IP address nor bridge:BR: give one")]
    NotATunnel(String),
    /// More devices than descriptors.
    #[error(
        "{0} devices are too many: a guest has {LGUEST_MAX_DEVICES}, its \
         console among them; leave some out"
    )]
    TooManyDevices(usize),
    /// More for the kernel than there is room for.
    #[error(
        "the kernel's command line has {0} bytes: shorten it to {max}",
        max = COMMAND_LINE_MAX - 1
    )]
    CommandLineTooLong(usize),
}

const EXIT_CODES: &str = "\
Without MEM and IMAGE, or with 'lguest run' alone, the guest that is part of
this program boots. Three ^C within a second end any guest, when typed on a
terminal.

Exit status:
  0        the guest powered itself off; doctor: guests can run here
  1 - 119  the guest's own code; 1 also when it crashed or was killed
  2        the command line makes no sense
  120      a file (image, initrd, disk, network, statistics) cannot be used
  121      this machine lacks something that guests need ('lguest doctor')
  122      a process of the guest was lost
  123      the launcher itself failed, or was stopped at a system call that it
           does not make
  128 + N  ended by signal N (130: by ^C^C^C, too)

Examples:
  lguest
  lguest 64 vmlinux --block=rootfile root=/dev/lgba
  lguest run --memory 64M --kernel bzImage --disk root.img --append root=/dev/lgba";

/// Virtual machines inside an ordinary process.
#[derive(Debug, Parser)]
#[command(
    name = "lguest",
    version,
    after_help = EXIT_CODES,
    args_conflicts_with_subcommands = true,
    override_usage = "\
lguest [--verbose] [--sharenet=FILE|--tunnet=(IP|bridge:BR)|--block=FILE|\
--initrd=FILE]... MEM IMAGE [ARGS]...
       lguest run [--memory SIZE] [--kernel IMAGE] [OPTIONS]
       lguest doctor [--json]
       lguest"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    historic: Historic,
}

#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a guest, by today's names
    Run(Run),
    /// Tell what this machine offers and lacks, and the cure
    Doctor(Doctor),
}

#[derive(Debug, Args)]
struct Doctor {
    /// For a script
    #[arg(long)]
    json: bool,
}

/// The options of 2007. The order of --block, --sharenet and --tunnet is the
/// order of the devices.
#[derive(Debug, Args)]
struct Historic {
    /// Tell what is being done, on standard error
    #[arg(long, short)]
    verbose: bool,
    /// What keeps programs from their own kernel: 'guest' is fast and stops
    /// accidents, 'user' stops attacks
    #[arg(long, value_name = "WALL", default_value = "guest")]
    isolation: Isolation,
    /// A network between guests that name the same FILE
    #[arg(long, value_name = "FILE")]
    sharenet: Vec<PathBuf>,
    /// A network with this machine, at IP or on bridge BR
    #[arg(long, value_name = "IP|bridge:BR")]
    tunnet: Vec<String>,
    /// A disk
    #[arg(long, value_name = "FILE")]
    block: Vec<PathBuf>,
    /// An initial ram disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// At the end, write counters as JSON to FILE, or standard output (-)
    #[arg(long, value_name = "FILE|-")]
    stats: Option<PathBuf>,
    /// Do without a short cut, to see whether it is to blame
    #[arg(long, value_name = "NAME", value_parser = fast_paths())]
    no_fast_path: Vec<String>,
    /// Do without a wall around the launcher, to see whether it is to blame
    #[arg(long, value_name = "NAME", value_parser = walls())]
    no_confine: Vec<String>,
    /// Memory, in megabytes
    #[arg(value_name = "MEM")]
    mem: Option<String>,
    /// The kernel: an i386 ELF file (vmlinux) or a bzImage
    #[arg(value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// Arguments for the kernel
    #[arg(value_name = "ARGS")]
    args: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Run {
    /// Memory: 64M, 65536K, or a number of megabytes
    #[arg(long, short, value_name = "SIZE", default_value = "32M")]
    memory: String,
    /// The kernel: an i386 ELF file (vmlinux) or a bzImage
    #[arg(long, short, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// An initial ram disk
    #[arg(long, short, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A disk; ',ro' makes it read-only, ',fail=N' one request in N fail
    #[arg(long, short, value_name = "FILE[,ro][,fail=N]")]
    disk: Vec<OsString>,
    /// A network with other guests, or with this machine
    #[arg(long, short, value_name = "sharenet=FILE|tap=IP|bridge=BR")]
    net: Vec<OsString>,
    /// Arguments for the kernel
    #[arg(long, short, value_name = "ARGS", allow_hyphen_values = true)]
    append: Vec<OsString>,
    /// At the end, write counters as JSON to FILE, or standard output (-)
    #[arg(long, value_name = "FILE|-")]
    stats: Option<PathBuf>,
    /// Do without a short cut, to see whether it is to blame
    #[arg(long, value_name = "NAME", value_parser = fast_paths())]
    no_fast_path: Vec<String>,
    /// Do without a wall around the launcher, to see whether it is to blame
    #[arg(long, value_name = "NAME", value_parser = walls())]
    no_confine: Vec<String>,
    /// What keeps programs from their own kernel: 'guest' is fast and stops
    /// accidents, 'user' stops attacks
    #[arg(long, value_name = "WALL", default_value = "guest")]
    isolation: Isolation,
    /// Tell what is being done, on standard error
    #[arg(long, short)]
    verbose: bool,
}

impl Historic {
    fn config(self, matches: &ArgMatches) -> Result<Config, UsageError> {
        let disk = |path| DeviceConfig::Disk {
            path,
            read_only: false,
            fail: None,
        };
        let mut devices =
            placed(matches, "block", self.block, |path| Ok(disk(path)))?;
        devices.extend(placed(matches, "sharenet", self.sharenet, |path| {
            Ok(DeviceConfig::ShareNet(path))
        })?);
        devices.extend(placed(matches, "tunnet", self.tunnet, |text| {
            tunnet(&text).map(DeviceConfig::Tap)
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
            stats: self.stats.map(stats),
            slow_paths: slow_paths(&self.no_fast_path),
            open_walls: open_walls(&self.no_confine),
            isolation: self.isolation,
            verbose: self.verbose,
        })
    }
}

impl Run {
    fn config(self, matches: &ArgMatches) -> Result<Config, UsageError> {
        let mut devices =
            placed(matches, "disk", self.disk, |text| Ok(disk(&text)))?;
        devices.extend(placed(matches, "net", self.net, |text| net(&text))?);
        Ok(Config {
            memory: size(&self.memory)?,
            kernel: self.kernel.map_or(Kernel::Embedded, Kernel::File),
            initrd: self.initrd,
            devices: in_order(devices),
            command_line: joined(&self.append),
            stats: self.stats.map(stats),
            slow_paths: slow_paths(&self.no_fast_path),
            open_walls: open_walls(&self.no_confine),
            isolation: self.isolation,
            verbose: self.verbose,
        })
    }
}

impl clap::ValueEnum for Isolation {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Guest, Self::User]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::Guest => "guest",
            Self::User => "user",
        }))
    }
}

/// The short cuts that one can do without.
fn fast_paths() -> clap::builder::PossibleValuesParser {
    path::ALL.map(|(name, _)| name).into()
}

/// The bits of the paths with these names.
fn slow_paths(names: &[String]) -> u32 {
    let named = |&&(name, _): &&(&str, u32)| names.iter().any(|n| n == name);
    path::ALL.iter().filter(named).map(|&(_, bit)| bit).sum()
}

/// The walls that one can do without, and a name for all of them.
fn walls() -> clap::builder::PossibleValuesParser {
    let names = wall::ALL.iter().map(|&(name, _)| name);
    names.chain([EVERY_WALL]).collect::<Vec<_>>().into()
}

const EVERY_WALL: &str = "all";

/// The bits of the walls with these names.
fn open_walls(names: &[String]) -> u32 {
    let named = |&&(name, _): &&(&str, u32)| {
        names.iter().any(|n| n == name || n == EVERY_WALL)
    };
    wall::ALL.iter().filter(named).map(|&(_, bit)| bit).sum()
}

/// RAM of a Guest for which nobody named a size.
const DEFAULT_MEMORY: u32 = 32 << 20;

/// What is wrong with a Guest whatever form it was asked for in.
fn check(config: Config) -> Result<Config, UsageError> {
    let devices = config.devices.len() + 1;
    if devices > LGUEST_MAX_DEVICES {
        return Err(UsageError::TooManyDevices(devices));
    }
    let len = config.command_line.len();
    if len >= COMMAND_LINE_MAX as usize {
        return Err(UsageError::CommandLineTooLong(len));
    }
    Ok(config)
}

/// The meaning of each value of option `name`, with its place among the words.
fn placed<T>(
    matches: &ArgMatches,
    name: &str,
    values: Vec<T>,
    meaning: impl Fn(T) -> Result<DeviceConfig, UsageError>,
) -> Result<Vec<(usize, DeviceConfig)>, UsageError> {
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

/// Clap takes a misspelt `run` for a size of memory, and complains about what
/// comes after it.
fn misspelt_run(words: &[OsString], error: clap::Error) -> UsageError {
    let first = words.get(1).and_then(|word| word.to_str());
    match (error.kind(), first) {
        (ErrorKind::UnknownArgument, Some(word))
            if word != "run" && starts_with_letter(word) =>
        {
            UsageError::NotRun(word.into())
        }
        _ => error.into(),
    }
}

fn starts_with_letter(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// A size of memory where the original takes it: somebody may have meant to
/// write a subcommand there.
fn historic_size(text: &str) -> Result<u32, UsageError> {
    size(text).map_err(|error| match error {
        UsageError::NotASize(text) if starts_with_letter(&text) => {
            UsageError::NotRun(text)
        }
        other => other,
    })
}

/// `64`, `64M`, `64MB`, `64MiB`, `65536K`, `1G`; a plain number is megabytes.
fn size(text: &str) -> Result<u32, UsageError> {
    let not_a_size = || UsageError::NotASize(text.into());
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(not_a_size()),
    };
    if number.is_empty() {
        return Err(not_a_size());
    }
    // More digits than fit are too much memory as well.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    let bytes = number.saturating_mul(1 << shift);
    if bytes > u64::from(MAX_RAM) {
        return Err(UsageError::TooMuchMemory(text.into()));
    }
    let bytes = u32::try_from(bytes).unwrap_or(MAX_RAM);
    if bytes < 1 << 20 {
        return Err(UsageError::TooLittleMemory(text.into()));
    }
    Ok(bytes - bytes % lg_abi::page::PAGE_SIZE)
}

/// `FILE`, `FILE,ro`, or `FILE,rw` for names that end like that themselves;
/// and behind all that, `,fail=N`.
fn disk(text: &OsStr) -> DeviceConfig {
    let (bytes, fail) = failing(text.as_bytes());
    let (path, read_only) = match bytes {
        [path @ .., b',', b'r', b'o'] => (path, true),
        [path @ .., b',', b'r', b'w'] => (path, false),
        path => (path, false),
    };
    DeviceConfig::Disk {
        path: OsStr::from_bytes(path).into(),
        read_only,
        fail,
    }
}

/// What stands before `,fail=N`, and that number.
fn failing(bytes: &[u8]) -> (&[u8], Option<u32>) {
    let comma = bytes.iter().rposition(|&byte| byte == b',');
    let (before, last) = bytes.split_at(comma.unwrap_or(bytes.len()));
    let number = last.strip_prefix(b",fail=");
    let number = number.and_then(|n| std::str::from_utf8(n).ok());
    match number.and_then(|n| n.parse().ok()) {
        Some(one_in) if one_in > 0 => (before, Some(one_in)),
        _ => (bytes, None),
    }
}

fn net(text: &OsStr) -> Result<DeviceConfig, UsageError> {
    let unknown = || UsageError::NotANetwork(text.to_string_lossy().into());
    let bytes = text.as_bytes();
    if let Some(file) = bytes.strip_prefix(b"sharenet=") {
        if file.is_empty() {
            return Err(unknown());
        }
        return Ok(DeviceConfig::ShareNet(OsStr::from_bytes(file).into()));
    }
    let text = text.to_str().ok_or_else(unknown)?;
    if let Some(address) = text.strip_prefix("tap=") {
        let address = address.parse().map_err(|_| unknown())?;
        return Ok(DeviceConfig::Tap(TapConfig::Address(address)));
    }
    match text.strip_prefix("bridge=") {
        Some(name) if !name.is_empty() => {
            Ok(DeviceConfig::Tap(TapConfig::Bridge(name.into())))
        }
        _ => Err(unknown()),
    }
}

fn tunnet(text: &str) -> Result<TapConfig, UsageError> {
    match text.strip_prefix("bridge:") {
        Some(name) if !name.is_empty() => Ok(TapConfig::Bridge(name.into())),
        _ => text
            .parse()
            .map(TapConfig::Address)
            .map_err(|_| UsageError::NotATunnel(text.into())),
    }
}

fn stats(path: PathBuf) -> Stats {
    match path.as_os_str().as_bytes() {
        b"-" => Stats::Stdout,
        _ => Stats::File(path),
    }
}

fn joined(words: &[OsString]) -> Vec<u8> {
    words.join(OsStr::new(" ")).into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Config, UsageError> {
        let words = words.split_whitespace().map(OsString::from);
        match parse([OsString::from("lguest")].into_iter().chain(words))? {
            Task::Run(config) => Ok(config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_doctor_is_a_word_and_not_a_size_of_memory() {
        for (words, json) in [("doctor", false), ("doctor --json", true)] {
            let words = format!("lguest {words}");
            let task = parse(words.split(' ').map(OsString::from)).unwrap();
            assert_eq!(task, Task::Doctor { json });
        }
        assert!(parse_words("doctor 64").is_err());
    }

    fn error(words: &str) -> String {
        parse_words(words).unwrap_err().to_string()
    }

    fn disk(path: &str, read_only: bool) -> DeviceConfig {
        DeviceConfig::Disk {
            path: path.into(),
            read_only,
            fail: None,
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_old_form_takes_options_anywhere_and_devices_in_order() {
        let config = parse_words(
            "--block=a --sharenet=lan 64 vmlinux --tunnet=192.168.19.1 \
             root=/dev/lgba --tunnet=bridge:br0 --block=b quiet --initrd=rd",
        )
        .unwrap();
        assert_eq!(config.memory, 64 << 20);
        assert_eq!(config.kernel, Kernel::File("vmlinux".into()));
        assert_eq!(config.initrd, Some("rd".into()));
        assert_eq!(config.command_line, b"root=/dev/lgba quiet");
        let address = TapConfig::Address([192, 168, 19, 1].into());
        let expected = [
            disk("a", false),
            DeviceConfig::ShareNet("lan".into()),
            DeviceConfig::Tap(address),
            DeviceConfig::Tap(TapConfig::Bridge("br0".into())),
            disk("b", false),
        ];
        assert_eq!(config.devices, expected);
        assert!(!config.verbose);
    }

    #[test]
    fn the_new_form_means_the_same() {
        let config = parse_words(
            "run --disk a,ro --net sharenet=lan --memory 4080 --kernel bz \
             --disk b --net tap=10.0.0.1 --net bridge=br0 --append root=x \
             --append -v --stats - --no-fast-path iret \
             --no-fast-path eager",
        )
        .unwrap();
        let address = TapConfig::Address([10, 0, 0, 1].into());
        let expected = [
            disk("a", true),
            DeviceConfig::ShareNet("lan".into()),
            disk("b", false),
            DeviceConfig::Tap(address),
            DeviceConfig::Tap(TapConfig::Bridge("br0".into())),
        ];
        assert_eq!(config.devices, expected);
        assert_eq!(config.memory, MAX_RAM);
        assert_eq!(config.command_line, b"root=x -v");
        assert_eq!(config.stats, Some(Stats::Stdout));
        assert_eq!(config.slow_paths, path::IRET | path::EAGER);
        assert_eq!(config.isolation, Isolation::Guest);
        let config = parse_words("run --isolation=user").unwrap();
        assert_eq!(config.isolation, Isolation::User);
        let config = parse_words("--isolation=user 1 v").unwrap();
        assert_eq!(config.isolation, Isolation::User);
    }

    #[test]
    fn without_a_kernel_it_is_our_own() {
        for words in ["", "run", "--stats=s", "run --disk d"] {
            let config = parse_words(words).unwrap();
            assert_eq!(config.kernel, Kernel::Embedded, "{words}");
            assert_eq!(config.memory, 32 << 20, "{words}");
        }
    }

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(size("1").unwrap(), 1 << 20);
        assert_eq!(size("64M").unwrap(), 64 << 20);
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("2049k").unwrap(), 2 << 20);
        let refused = |text| size(text).unwrap_err().to_string();
        for too_much in ["4G", "5000", "4097g", "99999999999999999999"] {
            let error = UsageError::TooMuchMemory(too_much.into());
            assert_eq!(refused(too_much), error.to_string());
        }
        for too_little in ["0", "0G", "1023K"] {
            let error = UsageError::TooLittleMemory(too_little.into());
            assert_eq!(refused(too_little), error.to_string());
        }
        for nothing in ["", "M", "64X", "-1", "6 4", "1.5G"] {
            let error = UsageError::NotASize(nothing.into());
            assert_eq!(refused(nothing), error.to_string());
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_cure() {
        assert!(error("rum --memory 5").contains("did you mean 'lguest run'"));
        assert!(error("rum vmlinux").contains("did you mean 'lguest run'"));
        assert!(error("64").contains("'lguest 64 vmlinux'"));
        assert!(error("run --net lan").contains("'lan' is not sharenet="));
        assert!(error("run --net tap=x").contains("'tap=x' is not"));
        assert!(error("run --net sharenet=").contains("is not sharenet="));
        assert!(error("--tunnet=x 1 v").contains("neither an IP address"));
        assert!(error("--blok=x 1 v").contains("--block"));
        assert!(error("run --memroy 1").contains("--memory"));
        let many = "--block=x ".repeat(16);
        assert!(error(&many).contains("17 devices are too many"));
        assert!(parse_words(&"--block=x ".repeat(15)).is_ok());
        let long = format!("1 v {}", "x".repeat(4096));
        assert!(error(&long).contains("4096 bytes: shorten it to 4095"));
    }

    #[test]
    fn names_may_end_like_an_option() {
        assert_eq!(super::disk("a,ro,rw".as_ref()), disk("a,ro", false));
        assert_eq!(super::disk("a,ro".as_ref()), disk("a", true));
        for name in ["a,fail=", "a,fail=0", "a,fail=x"] {
            assert_eq!(super::disk(name.as_ref()), disk(name, false));
        }
        assert_eq!(
            super::disk("a,fail=1,rw".as_ref()),
            disk("a,fail=1", false)
        );
        let failing = DeviceConfig::Disk {
            path: "a".into(),
            read_only: true,
            fail: Some(20),
        };
        assert_eq!(super::disk("a,ro,fail=20".as_ref()), failing);
        assert_eq!(super::disk("a,b".as_ref()), disk("a,b", false));
    }

    #[test]
    fn behind_two_dashes_everything_is_the_kernels() {
        let config = parse_words("1 v -- --block=x").unwrap();
        assert_eq!(config.command_line, b"--block=x");
        assert!(config.devices.is_empty());
    }
}

//! The grammar of both command lines, for clap.
//!
//! Each form is a struct here. The comment of a field is its text in `--help`.
//! Options that both forms have are in [`Common`].

use super::ends::Ends;
use super::exec::{self, Exec};
use super::images::Image;
use super::limits::Limited;
use super::machines::Machines;
use super::restore::Restore;
use super::values;
use crate::confine::wall;
use crate::engine::Isolation;
use crate::machine::config::DebuggerAt;
use crate::machines::Name;
use crate::project::Template;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser};
use clap_complete::Shell;
use lg_wire::fast_path;
use lg_wire::trace::RECORDS;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit status:
  0        the guest powered itself off; doctor: guests can run here
  1 - 119  the guest's own code; 1 also when it crashed or was killed
  2        the command line is wrong
  120      a file (image, initrd, disk, network, statistics, log) cannot be used
  121      this machine lacks something that guests need ('lguest doctor')
  122      a process of the guest was lost
  123      the launcher itself failed, or was stopped at a system call that it
           does not make
  124      ended by --timeout
  125      ended by --exit-on-eof
  126      the name is taken by another machine
  128      the guest asked for a restart, as by 'reboot': start it again
  128 + N  ended by signal N (130: also ^C^C^C; 137: also by the debugger;
           141: the reader of the guest's output is gone; 143: also
           --die-with-parent)
  193      ended by --memory-limit";

const RESTORE_CODES: &str = "\
Exit status:
  as 'lguest run'; 120 also if the snapshot cannot be used";

const EXAMPLES: &str = "\
Examples:
  lguest
  lguest 64 vmlinux --block=rootfile root=/dev/lgba
  lguest run --memory 64M --kernel bzImage --disk root.img --append root=/dev/lgba";

const RUN_EXAMPLES: &str = "\
Examples:
  lguest run -m 64M -k bzImage -i initrd.gz -a 'console=hvc0 quiet'
  lguest run -k vmlinux -d root.img -d data.img,ro -a root=/dev/lgba
  lguest run --net sharenet=lan --log console.log
  lguest run web.toml --memory 128M
  lguest run --timeout 30s --append 'quiet run=\"uptime;poweroff\"'";

const EMBEDDED: &str = "\
The guest that is part of this program takes these words by --append:
  run=\"COMMAND;COMMAND\"  commands to carry out before the first prompt
  ip=A.B.C.D/N           its address on the network
  gw=A.B.C.D             the way to other networks
  quiet                  no messages while it boots";

const KERNELS: &str = "\
Without MEM and IMAGE, or with 'lguest run' alone, the guest that is part of
this program boots. Three ^C within a second end any guest, when typed on a
terminal.";

/// Virtual machines inside an ordinary process.
#[derive(Debug, Parser)]
#[command(
    name = "lguest",
    version,
    after_help = format!("{KERNELS}\n\n{EXIT_CODES}\n\n{EXAMPLES}"),
    args_conflicts_with_subcommands = true,
    override_usage = "\
lguest [--verbose] [--sharenet=FILE|--tunnet=(IP|bridge:BR)|--block=FILE|\
--initrd=FILE]... MEM IMAGE [ARGS]...
       lguest run [--memory SIZE] [--kernel IMAGE] [OPTIONS] [FILE.toml]
       lguest restore DIR [OPTIONS]
       lguest exec (NAME|--image NAME|--snapshot DIR) [OPTIONS] -- COMMAND...
       lguest image [--json] FILE
       lguest image (build|warm|ls|rm|inspect) ...
       lguest doctor [--json]
       lguest (ps|top|console|logs|stop|kill|pause|resume|wait|stats|inspect|rm|\
send|device|snapshot|clone|\
trace|profile) ...
       lguest new [--template WHAT] NAME
       lguest completion SHELL
       lguest man DIR
       lguest"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) historic: Historic,
}

#[expect(clippy::large_enum_variant, reason = "there is one, and not for long")]
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run a guest, with today's option names
    #[command(
        after_help = format!("{EMBEDDED}\n\n{EXIT_CODES}\n\n{RUN_EXAMPLES}")
    )]
    Run(Run),
    /// Run a guest that goes on from a snapshot
    #[command(after_help = RESTORE_CODES)]
    Restore(Restore),
    /// Run a command in a guest, and end with its exit code
    #[command(after_help = exec::AFTER)]
    Exec(Exec),
    /// Examine this machine: what guests need, what is lacking, and the cure
    #[command(after_help = "\
Exit status:
  0    guests can run here
  121  they cannot: the output says what is lacking, and the cure")]
    Doctor(Form),
    /// Describe a kernel's file, and say whether it runs here; or build, list,
    /// inspect and remove images
    #[command(after_help = "\
Exit status:
  0    it runs here
  120  it does not, or cannot be read: the last line says why")]
    Image(Image),
    /// Print a script that completes the words of lguest in a shell
    #[command(after_help = "\
Examples:
  lguest completion bash > /etc/bash_completion.d/lguest
  lguest completion zsh > ~/.zfunc/_lguest
  lguest completion fish > ~/.config/fish/completions/lguest.fish")]
    Completion {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    #[command(flatten)]
    Machines(Machines),
    /// Make a crate for a guest of your own: 'cargo run' there runs it
    #[command(after_help = "\
Exit status:
  0    the crate is there
  2    the name cannot be that of a crate, or the folder is in use
  120  a file cannot be written
  121  no Rust compiler for guests is here, and none could be fetched")]
    New {
        /// The folder to make; its name is that of the crate
        #[arg(value_name = "NAME")]
        place: PathBuf,
        /// What the crate is at first
        #[arg(long, value_name = "WHAT", default_value = "hello")]
        template: Template,
    },
    /// Run what cargo has built: a guest, or the tests of one
    #[command(after_help = "\
Cargo starts this, because a crate of 'lguest new' names it in .cargo/config.toml.
The file lguest.toml beside the crate's manifest has options of 'lguest run', and
lguest-tests.toml has those for tests.

Exit status:
  that of 'lguest run', or for an image of tests:
  0    all tests have passed
  101  a test has failed")]
    Runner {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: PathBuf,
        /// Words for the guest, or for an image of tests the options of 'cargo
        /// test --'
        #[arg(
            value_name = "WORDS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        words: Vec<OsString>,
    },
    /// Write the manual pages to a folder
    #[command(after_help = "\
Example:
  lguest man /usr/local/share/man/man1")]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// The form in which a command prints what it found.
#[derive(Debug, Args)]
pub(super) struct Form {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(super) json: bool,
}

/// Options that both forms have.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Report each step on standard error
    #[arg(long, short)]
    pub(super) verbose: bool,
    /// What protects the guest's kernel from its programs: 'guest' is fast and
    /// stops accidents, 'user' stops attacks
    #[arg(long, value_name = "WALL", default_value = "guest")]
    pub(super) isolation: Isolation,
    /// Append the guest's console output to FILE, without carriage returns. The
    /// variable LGUEST_LOG names the file when this is not given
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) ends: Ends,
    /// At the end, write counters as JSON to FILE, or to standard output (-)
    #[arg(long, value_name = "FILE|-")]
    pub(super) stats: Option<PathBuf>,
    /// If the guest dies, say how it was then: registers, code and frames with
    /// the names in the kernel's file, page tables, hypercalls, usual causes
    #[arg(long)]
    pub(super) explain: bool,
    /// Take the names for --explain and --trace from FILE, an ELF file or a
    /// System.map, instead of the kernel's file
    #[arg(long, value_name = "FILE")]
    pub(super) symbols: Option<PathBuf>,
    /// If the guest dies, write its memory and registers to FILE, for GDB
    #[arg(long, value_name = "FILE")]
    pub(super) core: Option<PathBuf>,
    /// At the end, write what the guest did last to FILE, for ui.perfetto.dev:
    /// each exit, hypercall, trap, interrupt, mapped page, patch and request
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Trace these groups of events only: exits, hypercalls, traps, interrupts,
    /// pages, patches, requests, directories, sleep
    #[arg(
        long,
        value_name = "GROUP,...",
        value_delimiter = ',',
        requires = "trace",
        value_parser = values::groups(),
        hide_possible_values = true,
    )]
    pub(super) trace_filter: Vec<String>,
    /// Keep the last N events of the trace, a power of two from 256 to 1048576;
    /// one takes 32 bytes
    #[arg(
        long,
        value_name = "N",
        default_value_t = RECORDS,
        value_parser = values::records,
    )]
    pub(super) trace_records: u32,
    /// Let GDB debug the guest: it connects to a port of this machine or to
    /// unix:PATH at any time, or starts lguest itself (stdio; the guest's
    /// console is standard error then)
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT|unix:PATH|stdio",
        value_parser = values::debugger(),
    )]
    pub(super) gdb: Option<DebuggerAt>,
    /// Stop at the guest's first instruction until GDB has come
    #[arg(long, requires = "gdb")]
    pub(super) gdb_wait: bool,
    /// Switch off a fast path, to find out whether it causes a fault
    #[arg(long, value_name = "NAME", value_parser = fast_paths())]
    pub(super) no_fast_path: Vec<String>,
    /// Switch off a wall around the launcher, to find out whether it causes a
    /// fault
    #[arg(long, value_name = "NAME", value_parser = walls())]
    pub(super) no_confine: Vec<String>,
}

/// The options of 2007. Devices have the order of --block, --sharenet and
/// --tunnet on the command line.
#[derive(Debug, Args)]
pub(super) struct Historic {
    #[command(flatten)]
    pub(super) common: Common,
    /// A network between guests that name the same FILE
    #[arg(long, value_name = "FILE")]
    pub(super) sharenet: Vec<PathBuf>,
    /// A network with this machine, at IP or on bridge BR
    #[arg(long, value_name = "IP|bridge:BR")]
    pub(super) tunnet: Vec<String>,
    /// A disk
    #[arg(long, value_name = "FILE")]
    pub(super) block: Vec<PathBuf>,
    /// An initial ram disk
    #[arg(long, value_name = "FILE")]
    pub(super) initrd: Option<PathBuf>,
    /// Memory, in megabytes
    #[arg(value_name = "MEM")]
    pub(super) mem: Option<String>,
    /// The kernel: an i386 ELF file (vmlinux) or a bzImage
    #[arg(value_name = "IMAGE")]
    pub(super) image: Option<PathBuf>,
    /// Arguments for the kernel
    #[arg(value_name = "ARGS")]
    pub(super) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Memory: 64M, 65536K, or a number of megabytes
    #[arg(long, short, value_name = "SIZE", default_value = "32M")]
    pub(super) memory: String,
    /// The kernel: an i386 ELF file (vmlinux) or a bzImage
    #[arg(long, short, value_name = "IMAGE")]
    pub(super) kernel: Option<PathBuf>,
    /// An initial ram disk
    #[arg(long, short, value_name = "FILE")]
    pub(super) initrd: Option<PathBuf>,
    /// An image of 'lguest image build': its kernel, and its disk before those
    /// of --disk. What the guest writes there is thrown away at the end
    #[arg(long, value_name = "NAME")]
    pub(super) image: Option<Name>,
    /// Keep what the guest writes to the disk of the image by this name; the
    /// next run with it goes on from there
    #[arg(long, value_name = "NAME", requires = "image")]
    pub(super) keep: Option<Name>,
    /// A disk, raw or qcow2; ',ro' makes it read-only, ',overlay=FILE' leaves
    /// it as it is and puts changes into the qcow2 image FILE, which is made if
    /// it does not exist, ',snapshot' throws changes away at the end, ',raw'
    /// uses it as a raw disk even if it begins like a qcow2 image, ',fail=N'
    /// makes one request in N fail
    #[arg(
        long,
        short,
        value_name = "FILE[,ro][,overlay=FILE][,snapshot][,raw][,fail=N]"
    )]
    pub(super) disk: Vec<OsString>,
    // A link for rustdoc, and a part that may be left out for a reader.
    #[allow(rustdoc::broken_intra_doc_links)]
    /// A network: with what you may reach yourself, by the program passt (user;
    /// ',publish=[ADDRESS:]PORT:PORT[/udp]' leads a port of this machine to one
    /// of the guest, ',restrict' allows no more than that, and
    /// ',allow=HOST:PORT[/udp]' behind it what it names), with other guests
    /// (sharenet=FILE), with another process (stream=unix:PATH or stream=fd:N;
    /// ',server' waits for it to connect), or with this machine
    /// (tap=IP[/BITS], tap=fd:N or bridge=BR). ',mac=ADDRESS' gives the guest
    /// an address, ',mtu=BYTES' packets of up to 9000 bytes, ',pcap=FILE'
    /// records all frames. 'none' is no network
    #[arg(long, short, value_name = "KIND=...")]
    pub(super) net: Vec<OsString>,
    /// A folder, which the guest mounts by the name TAG ('mount -t 9p -o
    /// trans=virtio,version=9p2000.L TAG /mnt'); ',ro' makes it read-only
    #[arg(long, value_name = "DIR,TAG[,ro]")]
    pub(super) share: Vec<OsString>,
    /// Arguments for the kernel
    #[arg(long, short, value_name = "ARGS", allow_hyphen_values = true)]
    pub(super) append: Vec<OsString>,
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) limited: Limited,
    /// Answer 'GET /metrics' at this port with the counters, in the text format
    /// of Prometheus. Without ADDRESS, only this machine may ask
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT",
        value_parser = values::listens_at,
    )]
    pub(super) metrics: Option<SocketAddr>,
    /// A name, by which 'lguest ps', 'lguest console' and others find the
    /// machine
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<Name>,
    /// Remove a machine of that name that has ended, as 'lguest rm' does
    #[arg(long, requires = "name")]
    pub(super) replace: bool,
    /// End this command when the machine runs; it runs on without a terminal
    #[arg(
        long,
        requires = "name",
        conflicts_with_all = ["exit_on_eof", "die_with_parent"],
    )]
    pub(super) detach: bool,
    /// The machine is ready when it has printed TEXT; with --detach, this
    /// command ends then
    #[arg(long, value_name = "TEXT", requires = "name")]
    pub(super) until: Option<String>,
    /// Give the guest a port to an agent, by which 'lguest exec' runs commands
    /// in it. Its kernel is Linux 2.6.35 or later
    #[arg(long)]
    pub(super) agent: bool,
    /// A descriptor of a client of the agent, with which the machine ends
    #[arg(long, value_name = "N", hide = true, requires = "agent")]
    pub(super) agent_owner: Option<RawFd>,
    /// The line that 'lguest stop' types to ask the guest to power off
    #[arg(long, value_name = "TEXT", requires = "name")]
    pub(super) stop_with: Option<String>,
    /// A file of settings (FILE.toml): the same options, without '--'. An
    /// option on the command line counts more
    #[arg(value_name = "FILE.toml")]
    pub(super) stray: Vec<OsString>,
}

impl clap::ValueEnum for Isolation {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Guest, Self::User]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Guest => "guest",
            Self::User => "user",
        }))
    }
}

/// The fast paths that can be switched off.
fn fast_paths() -> PossibleValuesParser {
    fast_path::ALL.map(|(name, _)| name).into()
}

/// The walls that can be switched off, and a name for all of them.
fn walls() -> PossibleValuesParser {
    let names = wall::ALL.iter().map(|&(name, _)| name);
    names.chain([values::EVERY_WALL]).collect::<Vec<_>>().into()
}

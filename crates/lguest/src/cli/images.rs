//! The commands about images, for clap.
//!
//! The comment of a field is its text in `--help`. `lguest image FILE` is
//! older, and about a kernel's file.

use super::values;
use crate::images::verbs::Verb;
use crate::images::{Source, Stored};
use crate::machine::config::{Changes, DeviceConfig, DiskConfig};
use crate::machines::Name;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// The exit codes of these commands.
const CODES: &str = "\
Exit status:
  0    done
  2    the command line is wrong
  120  a file cannot be used: the folder or archive, the kernel, the folder for
       images
  121  a program is not on this machine: mke2fs, debugfs
  126  it cannot be done now: there is such an image, or another command builds
       it, or changes above it are kept
  127  there is no image with that name
  128 + N  ended by signal N; nothing is left of it";

const EXAMPLES: &str = "\
Examples:
  docker save alpine-386 | lguest image build --from - --kernel bzImage alpine
  skopeo copy --override-arch 386 docker://debian:12 oci-archive:debian.tar
  lguest image build --from debian.tar --kernel bzImage debian
  lguest run --image debian";

/// What can be done with images, and with a kernel's file.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(super) struct Image {
    #[command(subcommand)]
    pub(super) verb: Option<Images>,
    /// A vmlinux or bzImage, which is described
    #[arg(value_name = "FILE", required = true)]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) form: Form,
}

/// How something is printed.
#[derive(Debug, Args)]
pub(super) struct Form {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(super) json: bool,
}

/// The commands about images.
#[derive(Debug, Subcommand)]
pub(super) enum Images {
    /// Build an image of a folder or an archive: a disk for 'lguest run
    /// --image', without root
    #[command(after_help = format!("{CODES}\n\n{EXAMPLES}"))]
    Build {
        /// A folder with a root file system, a tar archive of one, or an
        /// archive of an image for linux/386 as 'docker save' and 'skopeo copy
        /// ... oci-archive:FILE' write it; also packed by gzip or zstd; '-' is
        /// standard input
        #[arg(long, value_name = "DIR|FILE|-")]
        from: PathBuf,
        /// The kernel: an i386 ELF file (vmlinux) or a bzImage. Without it, one
        /// in the folder /boot of the image
        #[arg(long, short, value_name = "FILE")]
        kernel: Option<PathBuf>,
        /// The size of the disk; a guest can write 1 GiB if it is not given
        #[arg(long, value_name = "SIZE", value_parser = values::disk_size)]
        size: Option<u64>,
        /// Take the place of an image with that name
        #[arg(long)]
        replace: bool,
        /// The name
        #[arg(value_name = "NAME")]
        name: Name,
    },
    /// Make a snapshot of a guest of an image, from which 'lguest exec --image'
    /// goes on instead of booting
    #[command(after_help = CODES)]
    Warm {
        /// The image
        #[arg(value_name = "NAME")]
        name: Name,
        /// A command that the guest has run before, for example one that reads
        /// what others need
        #[arg(value_name = "COMMAND", last = true)]
        command: Vec<OsString>,
    },
    /// List your images
    #[command(after_help = CODES)]
    Ls(Form),
    /// Remove images
    #[command(after_help = CODES)]
    Rm {
        /// The images
        #[arg(value_name = "NAME", required = true)]
        names: Vec<Name>,
        /// Remove changes that are kept above them, too
        #[arg(long)]
        force: bool,
    },
    /// Print what is known of an image
    #[command(after_help = CODES)]
    Inspect {
        /// The image
        #[arg(value_name = "NAME")]
        name: Name,
        #[command(flatten)]
        form: Form,
    },
}

/// The disk of an image, with changes that are kept by a name or thrown away.
pub(super) fn disk(image: &Stored, keep: Option<&Name>) -> DeviceConfig {
    DeviceConfig::Disk(DiskConfig {
        path: image.disk(),
        layers: Vec::new(),
        read_only: false,
        changes: match keep {
            Some(name) => Changes::Overlay(image.kept(name)),
            None => Changes::ThrownAway,
        },
        // Its first block is of the image, and could be anything.
        raw: true,
        fail: None,
    })
}

impl Images {
    /// What to do.
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Build {
                from,
                kernel,
                size,
                replace,
                name,
            } => Verb::Build(
                name,
                Source {
                    from,
                    kernel,
                    size,
                    replace,
                },
            ),
            Self::Warm { name, command } => Verb::Warm(name, command),
            Self::Ls(form) => Verb::List { json: form.json },
            Self::Rm { names, force } => Verb::Remove { names, force },
            Self::Inspect { name, form } => Verb::Inspect {
                name,
                json: form.json,
            },
        }
    }
}

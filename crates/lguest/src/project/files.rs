//! What a new crate is made of: the guest kit, the templates, and the course.
//!
//! All of it is part of this program, so that `lguest new` needs no network for
//! it, and the kit speaks the interface that this program has.

use clap::ValueEnum;

/// The target of guests.
pub(super) const TARGET: &str = "i686-unknown-linux-gnu";

/// The files of the kit: their names below `kit`, and their texts. The build
/// script makes the list.
pub(super) const KIT: &[(&str, &str)] =
    include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// The files of the course: a workspace, in the same form.
pub(super) const COURSE: &[(&str, &str)] =
    include!(concat!(env!("OUT_DIR"), "/course.rs"));

/// What a new crate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A kernel that prints a line
    Hello,
    /// A prompt with some commands
    Shell,
    /// A library with tests
    Test,
    /// A web server, by smoltcp
    Http,
    /// Two programs in user mode, which the timer gives turns
    Scheduler,
    /// The guests of the course in docs/course: a folder for each lesson
    Course,
}

/// A file of a template, by its name in the new crate and in the tree.
macro_rules! files {
    ($template:literal: $($name:literal),*) => {
        &[$((
            $name,
            include_str!(concat!(
                "../../../../guests/templates/", $template, "/", $name
            )),
        )),*]
    };
}

/// A text of all templates.
macro_rules! common {
    ($name:literal) => {
        include_str!(concat!("../../../../guests/templates/", $name))
    };
}

/// The manifest of a crate, with words to replace: `NAME`, `DEPENDENCIES`,
/// `FEATURES`, `MEMBERS`.
pub(super) const MANIFEST: &str = common!("Cargo.toml.in");

/// The configuration of cargo in a crate: `RUSTC`, `LGUEST`, `LINKER`.
pub(super) const CONFIG: &str = common!("config.toml.in");

/// The manifest of the kit: `VERSION`.
pub(super) const KIT_MANIFEST: &str = common!("kit.toml.in");

/// The versions of other packages: those that this program's guests have. Cargo
/// removes the lines that a crate does not need.
pub(super) const LOCK: &str = include_str!("../../../../guests/Cargo.lock");

/// The script that fetches a compiler.
pub(super) const TOOLCHAIN: &str =
    include_str!("../../../../guests/toolchain.sh");

impl Template {
    /// Its own files. `LIBRARY` is the name of the crate's library.
    pub(super) const fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Hello => files!("hello": "src/main.rs", "tests/guest.rs"),
            Self::Shell => files!("shell": "src/main.rs", "tests/guest.rs"),
            // It is no single crate.
            Self::Course => &[],
            Self::Test => {
                files!("test": "src/lib.rs", "src/main.rs", "tests/guest.rs")
            }
            Self::Http => {
                files!(
                    "http": "src/main.rs", "tests/guest.rs", "lguest.toml"
                )
            }
            Self::Scheduler => {
                files!(
                    "scheduler": "build.rs", "src/lib.rs", "src/main.rs",
                    "programs/Cargo.toml", "programs/src/bin/primes.rs",
                    "programs/src/bin/ticks.rs", "tests/guest.rs"
                )
            }
        }
    }

    /// The features of the kit that it uses.
    pub(super) const fn features(self) -> &'static str {
        match self {
            Self::Http => ", features = [\"smoltcp\"]",
            _ => "",
        }
    }

    /// What its manifest has beside that of the others.
    pub(super) const fn dependencies(self) -> &'static str {
        match self {
            Self::Hello | Self::Shell | Self::Course => "",
            Self::Http => {
                "# TCP/IP.\nsmoltcp = { version = \"0.12\", default-features = \
                 false, features = [\"alloc\", \"medium-ethernet\", \
                 \"proto-ipv4\", \"proto-dhcpv4\", \"socket-tcp\", \
                 \"socket-dhcpv4\"] }\n"
            }
            Self::Test => {
                "\n[lib]\ntest = false # its tests are in tests/\n\
                 doctest = false\n"
            }
            Self::Scheduler => {
                "\n[build-dependencies]\n# Compiles the programs.\nlg-user = \
                 { path = \"kit/lg-user\", features = [\"build\"] }\n\n[lib]\n\
                 test = false # its tests are in tests/\ndoctest = false\n"
            }
        }
    }

    /// The first line of its workspace, if it has other packages.
    pub(super) const fn members(self) -> &'static str {
        match self {
            Self::Scheduler => "members = [\"programs\"]\n",
            _ => "",
        }
    }
}

//! The fuzz targets: functions of bytes.
//!
//! Each target takes any bytes, turns them into actions of a hostile Guest, a
//! hostile Launcher or a user, and panics if a promise is broken. libFuzzer
//! calls them, and so does the driver in `main.rs`, which needs only a stable
//! compiler.

pub mod input;

pub mod machine;

pub mod host;

pub mod copies;

pub mod tables;

pub mod descriptors;

pub mod pci;

pub mod registers;

pub mod instructions;

pub mod guest;

pub mod dma;

pub mod block;

pub mod lent;

pub mod console;

pub mod net;

pub mod lan;

pub mod stream;

pub mod restrict;

pub mod debugger;

pub mod control;

pub mod virtio;

pub mod reports;

pub mod commands;

pub mod snapshot;

pub mod share;

pub mod image;

pub mod images;

pub mod archives;

pub mod mailbox;

pub mod arguments;

/// A target by name.
pub struct Target {
    /// Its name, here and in `fuzz_targets`.
    pub name: &'static str,
    /// The function that is called with the input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "host",
        run: host::target,
    },
    Target {
        name: "copies",
        run: copies::target,
    },
    Target {
        name: "tables",
        run: tables::target,
    },
    Target {
        name: "descriptors",
        run: descriptors::target,
    },
    Target {
        name: "pci",
        run: pci::target,
    },
    Target {
        name: "registers",
        run: registers::target,
    },
    Target {
        name: "instructions",
        run: instructions::target,
    },
    Target {
        name: "dma",
        run: dma::target,
    },
    Target {
        name: "block",
        run: block::target,
    },
    Target {
        name: "lent",
        run: lent::target,
    },
    Target {
        name: "console",
        run: console::target,
    },
    Target {
        name: "net",
        run: net::target,
    },
    Target {
        name: "lan",
        run: lan::target,
    },
    Target {
        name: "stream",
        run: stream::target,
    },
    Target {
        name: "restrict",
        run: restrict::target,
    },
    Target {
        name: "debugger",
        run: debugger::target,
    },
    Target {
        name: "control",
        run: control::target,
    },
    Target {
        name: "virtio",
        run: virtio::target,
    },
    Target {
        name: "reports",
        run: reports::target,
    },
    Target {
        name: "commands",
        run: commands::target,
    },
    Target {
        name: "share",
        run: share::target,
    },
    Target {
        name: "image",
        run: image::target,
    },
    Target {
        name: "images",
        run: images::target,
    },
    Target {
        name: "archives",
        run: archives::target,
    },
    Target {
        name: "mailbox",
        run: mailbox::target,
    },
    Target {
        name: "arguments",
        run: arguments::target,
    },
    Target {
        name: "snapshot",
        run: snapshot::target,
    },
];

//! Programs in the file of their kernel: what its build script does.
//!
//! The programs are a package in a folder of the kernel's package, one in each
//! file of its `src/bin`. They are compiled as the kernel is, for the same
//! target and with the same profile, but linked to run in user mode.
//!
//! ```no_run
//! // In the main function of build.rs:
//! lg_user::programs::build("programs");
//! ```
//!
//! `lg_guest::program!("NAME")` in the kernel is then the file of a program.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker script of programs.
const SCRIPT: &str = include_str!("../link.ld");

/// What separates flags in cargo's variables.
const SEPARATOR: &str = "\x1f";

/// Compiles the programs of the package in `folder`.
///
/// # Panics
///
/// If it is not called by a build script, or the programs cannot be compiled:
/// the build ends with the reason.
pub fn build(folder: &str) {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join(folder);
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo:rerun-if-changed={}", package.display());
    let names = names(&package);
    let script = out.join("user.ld");
    fs::write(&script, SCRIPT).expect("OUT_DIR can be written");
    let target = text("TARGET");
    let release = text("PROFILE") == "release";
    let built = out.join("programs");
    let mut command = Command::new(variable("CARGO"));
    command
        .current_dir(&package)
        .args(["build", "--bins", "--target", &target])
        .args(["--profile", if release { "release" } else { "dev" }])
        .arg("--target-dir")
        .arg(&built)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&script));
    // What cargo sets for this build only.
    for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        command.env_remove(name);
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "the programs do not compile: see above");
    let profile = if release { "release" } else { "debug" };
    let built = built.join(target).join(profile);
    for name in names {
        let program = fs::read(built.join(&name)).expect("cargo has made it");
        let program = loadable(program);
        fs::write(out.join(&name), program).expect("OUT_DIR can be written");
    }
}

/// The part of an ELF file that a kernel loads: what comes behind its segments
/// is cut off. Debug information stays in the file that cargo has made.
fn loadable(mut file: Vec<u8>) -> Vec<u8> {
    /// Where the fields of the header are that name sections, and their sizes.
    const SECTIONS: [(usize, usize); 3] = [(32, 4), (48, 2), (50, 2)];
    /// Of the first program header: offset and size of its segment.
    const SEGMENT: (usize, usize) = (4, 16);
    let number = |at: usize, bytes: usize| -> usize {
        let bytes = file[at..at + bytes].iter().rev();
        bytes.fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    let (table, size, count) = (number(28, 4), number(42, 2), number(44, 2));
    let headers = (0..count).map(|n| table + n * size);
    let ends =
        headers.map(|at| number(at + SEGMENT.0, 4) + number(at + SEGMENT.1, 4));
    let end = ends.max().unwrap_or(0).max(table + count * size);
    file.truncate(end);
    for (at, bytes) in SECTIONS {
        file[at..at + bytes].fill(0);
    }
    file
}

/// The names of the programs: those of the files in `src/bin`.
fn names(package: &Path) -> Vec<OsString> {
    let folder = package.join("src/bin");
    let files = fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!("{}: no programs: {error}", folder.display())
    });
    let files = files.filter_map(|entry| Some(entry.ok()?.path()));
    let sources = files.filter(|file| file.extension() == Some("rs".as_ref()));
    sources
        .filter_map(|file| file.file_stem().map(OsString::from))
        .collect()
}

/// The flags of the kernel, with another linker script.
fn flags(script: &Path) -> OsString {
    let all = text("CARGO_ENCODED_RUSTFLAGS");
    let is_script = |flag: &str| flag.starts_with("-Clink-arg=-T");
    let kept = all.split(SEPARATOR);
    let kept = kept.filter(|flag| !flag.is_empty() && !is_script(flag));
    let mut flags: Vec<OsString> = kept.map(OsString::from).collect();
    let mut own = OsString::from("-Clink-arg=-T");
    own.push(script);
    flags.push(own);
    flags.join(SEPARATOR.as_ref())
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| {
        panic!("{name} is not set: only a build script can call this")
    })
}

fn text(name: &str) -> String {
    let value = variable(name).into_string();
    value.unwrap_or_else(|_| panic!("{name} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with two segments, and sections behind them.
    fn elf() -> Vec<u8> {
        let mut file = vec![0xEE; 400];
        let mut put = |at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(28, &52_u32.to_le_bytes());
        put(42, &32_u16.to_le_bytes());
        put(44, &2_u16.to_le_bytes());
        for (header, offset, size) in [(52, 0_u32, 116_u32), (84, 200, 56)] {
            put(header + 4, &offset.to_le_bytes());
            put(header + 16, &size.to_le_bytes());
        }
        file
    }

    #[test]
    fn a_program_ends_with_its_last_segment_and_names_no_sections() {
        let program = loadable(elf());
        assert_eq!(program.len(), 256);
        assert_eq!(program[32..36], [0; 4]);
        assert_eq!(program[48..52], [0; 4]);
        assert_eq!(program[116], 0xEE);
    }
}

//! `cargo xtask dist`: what is given to others, in one folder.
//!
//! An archive with the command, its completions, manual pages, units and
//! manifests, and the licences of all that is linked into it; an image for
//! containers; and checksums. The same tree gives the same bytes, as far as the
//! compiler does.

mod files;
pub mod image;
pub mod licences;

use crate::place;
use files::{copy, sum, tarred};
use flate2::{Compression, GzBuilder};
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The version of everything in the tree.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the tree that are in the archive.
const FILES: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deploy",
];

/// Shells, each with the file of its completions.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "lguest.bash"),
    ("zsh", "_lguest"),
    ("fish", "lguest.fish"),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// `cargo xtask dist [FOLDER]`.
pub fn main(words: &[&str]) -> ExitCode {
    let root = place::root();
    let folder = match words {
        [] => root.join("target/dist"),
        [folder] if !folder.starts_with('-') => PathBuf::from(folder),
        _ => {
            eprintln!("usage: cargo xtask dist [FOLDER]");
            return ExitCode::from(2);
        }
    };
    match make(&root, &folder) {
        Ok(sums) => {
            print!("{sums}");
            println!("in {}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask dist: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes everything in `folder`. Returns the checksums.
fn make(root: &Path, folder: &Path) -> Result<String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--package", "lguest"]);
    succeed(cargo.current_dir(root))?;
    let program = place::release(root);
    if files::has_interpreter(&fs::read(&program)?) {
        return Err(format!(
            "{} is linked to libraries of this machine, and the image has \
             none: unset RUSTFLAGS, and install a static libc",
            program.display()
        )
        .into());
    }
    let name = format!("lguest-{VERSION}-x86_64-linux");
    let stage = folder.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(&stage)?;
    fs::copy(&program, stage.join("lguest"))?;
    for file in FILES {
        copy(&root.join(file), &stage.join(file))?;
    }
    add_documents(&program, &stage)?;
    fs::write(stage.join("LICENCES"), licences::all(root)?)?;

    let archive = format!("{name}.tar.gz");
    let file = File::create(folder.join(&archive))?;
    let packed = GzBuilder::new().write(file, Compression::best());
    let mut packed = tarred(&stage, &name, packed)?.finish()?;
    packed.flush()?;
    let image = format!("lguest-{VERSION}-image.tar");
    let file = File::create(folder.join(&image))?;
    image::write(&fs::read(&program)?, VERSION, file)?;

    let mut sums = String::new();
    for file in [archive, image] {
        let sum = sum(&fs::read(folder.join(&file))?);
        // As `sha256sum --check` reads it.
        writeln!(sums, "{sum}  {file}")?;
    }
    fs::write(folder.join("SHA256SUMS"), &sums)?;
    Ok(sums)
}

/// Runs a program that has to succeed.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}").into()),
        Err(error) => Err(format!("{command:?}: {error}").into()),
    }
}

/// Has `program` write its completions and manual pages.
fn add_documents(program: &Path, stage: &Path) -> Result<()> {
    let completions = stage.join("completions");
    fs::create_dir(&completions)?;
    for (shell, file) in SHELLS {
        let file = File::create(completions.join(file))?;
        let mut command = Command::new(program);
        succeed(command.args(["completion", shell]).stdout(file))?;
    }
    let manual = stage.join("man");
    fs::create_dir(&manual)?;
    succeed(Command::new(program).arg("man").arg(manual))
}

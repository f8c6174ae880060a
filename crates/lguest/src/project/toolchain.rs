//! A Rust compiler that makes guests, which are 32-bit programs.
//!
//! Any compiler since 1.85 does that has the target. It is looked for, in this
//! order:
//!
//! 1. `$LGUEST_I686_RUSTC`, if that is set: it is taken, or refused;
//! 2. the rustc that cargo uses, if it has the target;
//! 3. the same after rustup has added the target;
//! 4. Debian's packages, unpacked in the user's cache by a script
//!    (`guests/toolchain.sh`), which is also how this tree's own guests are
//!    built. Nothing is installed.

use super::error::ProjectError;
use super::files::{TARGET, TOOLCHAIN};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest compiler that will do: 1.85 has the edition of the kit.
const OLDEST: u32 = 85;

/// A compiler and a linker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// The compiler, if it is not the one that cargo takes anyway.
    pub(super) rustc: Option<PathBuf>,
    /// The linker: a path, or a name that the compiler finds.
    pub(super) linker: PathBuf,
}

/// Finds a compiler, or fetches one. Says what it does.
pub(super) fn find(say: &dyn Fn(&str)) -> Result<Toolchain, ProjectError> {
    if output(Path::new("cargo"), &["--version"]).is_none() {
        return Err(ProjectError::NoCargo);
    }
    if let Some(named) = env::var_os("LGUEST_I686_RUSTC") {
        let named = PathBuf::from(named);
        if !compiles(&named) {
            return Err(ProjectError::Named(named));
        }
        return with_linker(Some(named));
    }
    if compiles(Path::new("rustc")) {
        return with_linker(None);
    }
    if output(Path::new("rustup"), &["--version"]).is_some() {
        say(&format!("rustup adds the target {TARGET} ..."));
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]).stdin(Stdio::null());
        let added = rustup.status().is_ok_and(|status| status.success());
        if added && compiles(Path::new("rustc")) {
            return with_linker(None);
        }
        say("rustup cannot add it; Debian's compiler may do");
    }
    let rustc = debians(say).ok_or(ProjectError::NoCompiler)?;
    with_linker(Some(rustc))
}

/// Debian's compiler, unpacked in the user's cache, now or before.
fn debians(say: &dyn Fn(&str)) -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let place = cache.or_else(home)?.join("lguest/toolchain");
    let rustc = place.join("bin/rustc");
    if !compiles(&rustc) {
        say("Debian's packages of a compiler are fetched (130 MB) ...");
        let mut script = Command::new("bash");
        script
            .args(["-c", TOOLCHAIN])
            .env("LGUEST_TOOLCHAIN", &place);
        script.stdin(Stdio::null()).stdout(Stdio::null());
        script.status().ok()?;
    }
    compiles(&rustc).then_some(rustc)
}

/// Whether `rustc` compiles for guests.
fn compiles(rustc: &Path) -> bool {
    let minor = || {
        let version = output(rustc, &["--version"])?;
        let minor = version.strip_prefix("rustc 1.")?.split('.').next()?;
        minor.parse::<u32>().ok()
    };
    let has_core = || {
        let arguments = ["--print", "target-libdir", "--target", TARGET];
        let folder = output(rustc, &arguments)?;
        let mut names = fs::read_dir(folder).ok()?.filter_map(Result::ok);
        let is_core =
            |name: &OsStr| name.as_encoded_bytes().starts_with(b"libcore-");
        names.any(|file| is_core(&file.file_name())).then_some(())
    };
    minor().is_some_and(|minor| minor >= OLDEST) && has_core().is_some()
}

/// The compiler with a linker: the one beside it, the one that rustup's
/// toolchains bring, or one that is installed.
fn with_linker(rustc: Option<PathBuf>) -> Result<Toolchain, ProjectError> {
    let program = rustc.clone().unwrap_or_else(|| "rustc".into());
    let beside = program.with_file_name("lld");
    let is_beside = rustc.is_some() && beside.is_file();
    let installed = || {
        let path = env::var_os("PATH")?;
        let mut found = env::split_paths(&path).map(|dir| dir.join("ld.lld"));
        found.find(|file| file.is_file())
    };
    let linker = if is_beside {
        Some(beside)
    } else if has_rust_lld(&program) {
        Some("rust-lld".into())
    } else {
        installed()
    };
    match linker {
        Some(linker) => Ok(Toolchain { rustc, linker }),
        None => Err(ProjectError::NoLinker(program)),
    }
}

/// Whether `rustc` finds a linker by the name rust-lld.
fn has_rust_lld(rustc: &Path) -> bool {
    let found = || {
        let sysroot = output(rustc, &["--print", "sysroot"])?;
        let targets = fs::read_dir(Path::new(&sysroot).join("lib/rustlib"));
        let mut targets = targets.ok()?.filter_map(Result::ok);
        targets
            .any(|target| target.path().join("bin/rust-lld").is_file())
            .then_some(())
    };
    found().is_some()
}

/// What a program prints, without the end of the line. `None` if it fails, or
/// is not there. It fetches nothing.
fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("RUSTUP_AUTO_INSTALL", "0");
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

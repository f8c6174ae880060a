//! `lguest new`: a crate of a guest, which cargo builds, runs and tests.
//!
//! The compiler is found first, because without one there is no use in the
//! rest. Then all files are written.

use super::error::ProjectError;
use super::files::{
    CONFIG, COURSE, KIT, KIT_MANIFEST, LOCK, MANIFEST, Template,
};
use super::toolchain::{self, Toolchain};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Names that cargo refuses, or that the crate has already.
const TAKEN: [&str; 10] = [
    "alloc",
    "core",
    "kit",
    "lg-abi",
    "lg-guest",
    "lg-user",
    "proc_macro",
    "programs",
    "std",
    "test",
];

/// Makes a crate in the new folder `place`. Says what it does.
///
/// # Errors
///
/// [`ProjectError`]: the name, the folder, or what this machine lacks.
pub fn make(
    place: &Path,
    template: Template,
    say: &dyn Fn(&str),
) -> Result<(), ProjectError> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    check(&name)?;
    let is_empty = |mut files: fs::ReadDir| files.next().is_none();
    if place.symlink_metadata().is_ok()
        && !fs::read_dir(place).is_ok_and(is_empty)
    {
        return Err(ProjectError::Exists(place.into()));
    }
    let toolchain = toolchain::find(say)?;
    let config = config(&toolchain)?;
    for &(file, text) in KIT {
        write(place, &format!("kit/{file}"), text)?;
    }
    let kit = KIT_MANIFEST.replace("VERSION", env!("CARGO_PKG_VERSION"));
    write(place, "kit/Cargo.toml", &kit)?;
    write(place, ".cargo/config.toml", &config)?;
    write(place, ".gitignore", "/target\n")?;
    let what = match template {
        Template::Course => {
            for &(file, text) in COURSE {
                write(place, file, text)?;
            }
            "has the course: go to the folder of a lesson"
        }
        _ => {
            write_crate(place, &name, template)?;
            "is a crate of a guest: go there"
        }
    };
    say(&format!(
        "{} {what}, and say 'cargo run' or 'cargo test'",
        place.display()
    ));
    Ok(())
}

/// Writes the files of a crate that are its own.
fn write_crate(
    place: &Path,
    name: &str,
    template: Template,
) -> Result<(), ProjectError> {
    write(place, "Cargo.toml", &manifest(name, template))?;
    write(place, "Cargo.lock", LOCK)?;
    let library = name.replace('-', "_");
    for &(file, text) in template.files() {
        write(place, file, &text.replace("LIBRARY", &library))?;
    }
    Ok(())
}

/// The manifest of a crate.
fn manifest(name: &str, template: Template) -> String {
    MANIFEST
        .replace("NAME", name)
        .replace("DEPENDENCIES", template.dependencies())
        .replace("FEATURES", template.features())
        .replace("MEMBERS", template.members())
}

/// Checks the name of a crate.
fn check(name: &str) -> Result<(), ProjectError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let why = if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "it does not begin with a letter"
    } else if !name.chars().all(fits) {
        "it has other characters"
    } else if TAKEN.contains(&name) {
        "the name has another meaning"
    } else {
        return Ok(());
    };
    Err(ProjectError::Name(name.into(), why))
}

/// The configuration of cargo: compiler, linker, runner.
fn config(toolchain: &Toolchain) -> Result<String, ProjectError> {
    let rustc = match &toolchain.rustc {
        Some(rustc) => format!("rustc = {}\n", quoted(rustc)?),
        None => String::new(),
    };
    let lguest = quoted(&this_program()?)?;
    let linker = quoted(&toolchain.linker)?;
    Ok(CONFIG
        .replace("RUSTC", &rustc)
        .replace("LGUEST", &lguest)
        .replace("LINKER", &linker))
}

/// How the runner finds this program: by its name, if that leads here.
fn this_program() -> Result<PathBuf, ProjectError> {
    let read = |error| ProjectError::Process("find my own file", error);
    let here = env::current_exe().map_err(read)?;
    let path = env::var_os("PATH").unwrap_or_default();
    let first = env::split_paths(&path)
        .map(|dir| dir.join("lguest"))
        .find(|file| file.is_file());
    let leads_here = first
        .and_then(|file| file.canonicalize().ok())
        .is_some_and(|file| file == here);
    Ok(if leads_here { "lguest".into() } else { here })
}

/// A path as a string of TOML.
fn quoted(path: &Path) -> Result<String, ProjectError> {
    let text = path
        .to_str()
        .ok_or_else(|| ProjectError::NoText(path.into()));
    Ok(toml::Value::String(text?.to_owned()).to_string())
}

/// Writes a file of the new crate, and the folders above it.
fn write(place: &Path, name: &str, text: &str) -> Result<(), ProjectError> {
    let path = place.join(name);
    let folder = path.parent().unwrap_or(place);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| ProjectError::Write { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn names_are_those_that_cargo_takes() {
        for name in ["hello", "my-guest2", "a_b"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "1st", "a b", "test", "ä", "-x", "a/b", "a\n"] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn paths_are_quoted_for_cargo() {
        let quoted = |path: &str| quoted(Path::new(path)).unwrap();
        assert_eq!(quoted("/usr/bin/lld"), r#""/usr/bin/lld""#);
        let odd = "/a \"b\\c/lld";
        let text = format!("x = {}", quoted(odd));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["x"].as_str(), Some(odd));
    }

    /// What a reader of a template has to understand: not more than the guide
    /// promises.
    #[test]
    fn templates_are_short() {
        let is_code = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with("//")
        };
        for (template, most) in [
            (Template::Hello, 20),
            (Template::Http, 100),
            (Template::Scheduler, 150),
        ] {
            let is_own = |file: &&(&str, &str)| {
                let name = Path::new(file.0);
                !name.starts_with("tests")
                    && name.extension() == Some("rs".as_ref())
            };
            let own = template.files().iter().filter(is_own);
            let lines = own.map(|file| file.1.lines().filter(is_code).count());
            let lines: usize = lines.sum();
            assert!((1..=most).contains(&lines), "{template:?}: {lines}");
        }
    }

    #[test]
    fn manifests_are_complete() {
        for &template in Template::value_variants() {
            let text = manifest("x", template);
            let table: toml::Table = text.parse().unwrap();
            assert!(table.contains_key("workspace"), "{template:?}");
        }
        let names: Vec<&str> = KIT.iter().map(|file| file.0).collect();
        for name in [
            "lg-abi/Cargo.toml",
            "lg-abi/src/lib.rs",
            "lg-guest/link.ld",
            "lg-guest/src/testing.rs",
            "lg-user/src/lib.rs",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        for (name, text) in KIT {
            let is_manifest = name.ends_with("Cargo.toml");
            let leads_out = text.contains("../");
            assert!(!(is_manifest && leads_out), "{name}: a path of this tree");
        }
        let course = COURSE.iter().find(|file| file.0 == "Cargo.toml");
        let course = course.unwrap().1;
        assert!(course.contains("\"kit/lg-guest\"") && !course.contains("../"));
    }
}

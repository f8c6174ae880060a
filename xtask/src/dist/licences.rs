//! The licences of everything that is linked into the command.
//!
//! The command cargo knows which crates these are; their own files have the
//! texts.

use super::files::sorted;
use crate::place::TARGET;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The manifests of what is in the command, each with its package: the
/// Launcher, the view that it carries, and the built-in guest.
const PARTS: [(&str, &str); 3] = [
    ("Cargo.toml", "lguest"),
    ("crates/lg-view/Cargo.toml", "lg-view"),
    ("guests/Cargo.toml", "default"),
];

/// What cargo does not know of.
const OTHERS: &str = "\
Besides the crates below, the command contains:

- the standard library of Rust: MIT OR Apache-2.0
- the GNU C Library, unless it was linked to that of the machine:
  LGPL-2.1-or-later. To link the command to another one, build it from its
  sources (`cargo build --release`).
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A crate.
#[derive(Debug)]
struct Package {
    licence: String,
    repository: String,
    folder: PathBuf,
}

/// All licences as one text.
///
/// # Errors
///
/// The command cargo fails, or a crate does not name its licence.
pub fn all(root: &Path) -> Result<String> {
    let mut packages = BTreeMap::new();
    for (manifest, package) in PARTS {
        packages.append(&mut linked_into(&root.join(manifest), package)?);
    }
    let mut text = String::from(OTHERS);
    for ((name, version), package) in &packages {
        write!(
            text,
            "\n{line}\n{name} {version}\n{}\n{}\n{line}\n",
            package.licence,
            package.repository,
            line = "=".repeat(78),
        )?;
        for file in texts(&package.folder)? {
            let words = fs::read(&file)?;
            let words = String::from_utf8_lossy(&words);
            let name = file.file_name().unwrap_or_default();
            let name = name.to_string_lossy();
            write!(text, "\n--- {name}\n\n{}\n", words.trim_end())?;
        }
    }
    Ok(text)
}

/// The files of a crate that have licences.
fn texts(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    const NAMES: [&str; 5] =
        ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().to_uppercase();
        path.is_file() && NAMES.iter().any(|start| name.starts_with(start))
    };
    Ok(sorted(folder)?.into_iter().filter(is_one).collect())
}

/// The crates of others that are linked into `package`, by name and version.
fn linked_into(
    manifest: &Path,
    package: &str,
) -> Result<BTreeMap<(String, String), Package>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--locked", "--format-version=1"]);
    cargo.args(["--filter-platform", TARGET, "--manifest-path"]);
    let said = cargo.arg(manifest).output()?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into());
    }
    let known: Value = serde_json::from_slice(&said.stdout)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = list(&known["packages"]);
    let start = packages.iter().find(|found| found["name"] == package);
    let start = start.ok_or_else(|| format!("there is no {package}"))?;
    let nodes: BTreeMap<String, Value> = list(&known["resolve"]["nodes"])
        .into_iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut found = BTreeSet::new();
    let mut next = vec![text(&start["id"])];
    while let Some(id) = next.pop() {
        if !found.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            let kinds = list(&dependency["dep_kinds"]);
            // Others are for build scripts and tests.
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                next.push(text(&dependency["pkg"]));
            }
        }
    }
    let mut all = BTreeMap::new();
    for package in &packages {
        let ours = package["source"].is_null();
        if ours || !found.contains(&text(&package["id"])) {
            continue;
        }
        let name = text(&package["name"]);
        let licence = text(&package["license"]);
        if licence.is_empty() {
            return Err(format!("{name} does not name its licence").into());
        }
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let known = Package {
            licence,
            repository: text(&package["repository"]),
            folder: manifest.parent().unwrap_or(&manifest).to_owned(),
        };
        all.insert((name, text(&package["version"])), known);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{cargo_runs, skip};

    /// Whether the sources of all crates are here now. If not, and they cannot
    /// be downloaded, returns `false`; anything else is a fault.
    fn are_here() -> bool {
        PARTS.iter().all(|(manifest, _)| {
            let mut cargo = Command::new("cargo");
            cargo.args(["fetch", "--locked", "--manifest-path"]);
            cargo.arg(crate::place::root().join(manifest));
            let ended = cargo.output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            let no_network = said.contains("download");
            assert!(ended.status.success() || no_network, "{said}");
            ended.status.success()
        })
    }

    #[test]
    fn all_that_is_linked_has_a_licence() {
        let test = "all_that_is_linked_has_a_licence";
        if !cargo_runs() {
            return skip(test, "no cargo");
        }
        if !are_here() {
            return skip(test, "crates are missing and cannot be downloaded");
        }
        let text = all(&crate::place::root()).unwrap();
        // A crate of the Launcher, one behind it, and one of the guest.
        for name in ["\nclap 4", "\nlinux-raw-sys ", "\nsmoltcp "] {
            assert!(text.contains(name), "{name}");
        }
        assert!(!text.contains("\nproptest "), "that is for tests");
        assert!(!text.contains("\nlg-host "), "that is ours");
        assert!(text.contains("Permission is hereby granted"));
    }
}

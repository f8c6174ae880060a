//! Packages: dependencies between them, and reasons for foreign ones.
//!
//! This checks that crates depend on each other as the architecture says. The
//! packages and their dependencies come from `cargo metadata`, the reasons for
//! foreign ones from comments in the manifests.

use super::tree::Tree;
use crate::place::WORKSPACES;
use serde_json::Value;
use std::process::Command;

/// Which of our crates each of our crates may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("lg-abi", &[]),
    ("lg-exec", &[]),
    ("lg-agent", &["lg-exec"]),
    ("lg-memory", &[]),
    ("lg-seccomp", &[]),
    ("lg-wire", &["lg-abi"]),
    ("lg-host", &["lg-abi", "lg-memory", "lg-wire"]),
    (
        "lg-switcher",
        &["lg-abi", "lg-seccomp", "lg-wire", "lg-host"],
    ),
    ("lg-view", &["lg-wire", "lg-switcher"]),
    (
        "lguest",
        &["lg-abi", "lg-exec", "lg-memory", "lg-seccomp", "lg-wire"],
    ),
    ("lg-user", &[]),
    ("lg-guest", &["lg-abi", "lg-user"]),
    (
        "lg-fuzz",
        &["lg-abi", "lg-exec", "lg-wire", "lg-host", "lguest"],
    ),
    ("lg-fuzz-targets", &["lg-fuzz"]),
    ("xtask", &[]),
];

/// Further crates that their tests may use.
const TESTS_MAY: &[(&str, &[&str])] =
    &[("lguest", &["lg-host", "lg-switcher"])];

/// A Guest is a package below this folder. It may use the kit.
const GUESTS: &str = "/guests/";
const GUESTS_MAY: &[&str] = &["lg-abi", "lg-guest", "lg-user"];

/// A guest of the course is one below this folder. It may use those that made
/// what later ones need, too.
const COURSE: &str = "/docs/course/";
const COURSE_MAY: &[&str] = &["lg-guest", "lesson01", "lesson02", "lesson03"];

const LICENCE: &str = "MIT OR Apache-2.0";

/// Uses among our crates that the architecture does not allow.
pub(super) fn arrows(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for package in all_packages(tree) {
        let name = text(&package, "name");
        let own = ARROWS.iter().find(|(of, _)| *of == name);
        let may = match own {
            Some((_, may)) => *may,
            None if text(&package, "manifest_path").contains(GUESTS) => {
                GUESTS_MAY
            }
            None if text(&package, "manifest_path").contains(COURSE) => {
                COURSE_MAY
            }
            None => {
                found.push(format!(
                    "{name}: say in xtask which crates it may use"
                ));
                continue;
            }
        };
        for dependency in list(&package, "dependencies") {
            let other = text(dependency, "name");
            let ours = dependency["path"].is_string();
            let in_tests = text(dependency, "kind") == "dev"
                && TESTS_MAY
                    .iter()
                    .any(|(of, more)| *of == name && more.contains(&other));
            if ours && !may.contains(&other) && !in_tests {
                found.push(format!("{name} may not use {other}"));
            }
        }
    }
    found
}

/// Packages without a required field.
pub(super) fn packages(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for package in all_packages(tree) {
        let name = text(&package, "name");
        if text(&package, "license") != LICENCE {
            found.push(format!("{name}: license = \"{LICENCE}\" is missing"));
        }
        for field in ["description", "rust_version"] {
            if !package[field].is_string() {
                found.push(format!("{name}: {field} is missing"));
            }
        }
        if package["publish"] != Value::Array(Vec::new()) {
            found.push(format!("{name}: publish = false is missing"));
        }
    }
    for (path, text) in tree.texts("Cargo.toml") {
        if !text.contains("unsafe_code = \"deny\"")
            && !text.contains("[lints]\nworkspace = true")
        {
            found.push(format!("{path}: it has no lints"));
        }
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        if !tree.has(file) {
            found.push(format!("{file} is missing"));
        }
    }
    found
}

/// Dependencies on foreign packages that have no comment above or beside them.
pub(super) fn reasons(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.texts("Cargo.toml") {
        found.extend(without_reason(text).map(|d| format!("{path}: {d}")));
    }
    found
}

fn without_reason(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    let mut above = "";
    let mut open = false;
    manifest.lines().filter_map(move |line| {
        let last = std::mem::replace(&mut above, line);
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
            return None;
        }
        // The middle of a list that is longer than a line.
        let within = open;
        open = (open || line.ends_with(['[', '{']))
            && !line.starts_with([']', '}']);
        let (name, _) = line.split_once(['.', ' ', '='])?;
        let ours = line.contains("path = ") || line.contains(".workspace");
        let told = last.starts_with('#') || line.contains(" # ");
        let foreign = inside && !within && !ours && !told;
        (foreign && !line.starts_with('#')).then_some(name)
    })
}

/// The packages of every workspace, as cargo describes them.
fn all_packages(tree: &Tree) -> Vec<Value> {
    let manifests = WORKSPACES.map(|(_, path)| path);
    let manifests = manifests.into_iter().filter(|path| tree.has(path));
    let all = manifests.map(|path| {
        let out = Command::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .arg("--manifest-path")
            .arg(tree.root.join(path))
            .output()
            .expect("cargo can be started");
        let all: Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|_| panic!("{path}: cargo cannot read it"));
        list(&all, "packages").to_vec()
    });
    all.flatten().collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_package_needs_a_reason_above_or_beside() {
        let manifest = "\
[dependencies]
lg-abi.workspace = true
# Because.
one = \"1\"
two = { version = \"1\", features = [
    \"three\",
] }
four = \"1\" # beside it
[lints]
five = \"1\"
";
        let found: Vec<_> = without_reason(manifest).collect();
        assert_eq!(found, ["two"]);
    }
}

//! The tree for the checks: paths and texts.
//!
//! It is read once. Files that are built, fetched or found by fuzzing are not
//! part of it. Binary files have no text here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of the tree, by its path from the root.
#[derive(Default)]
pub(super) struct Tree {
    /// The root; empty in tests.
    pub(super) root: PathBuf,
    files: BTreeMap<String, Kept>,
}

struct Kept {
    size: u64,
    /// `None` for a binary file.
    text: Option<String>,
}

/// Folders that are not part of the tree.
const NOT_OURS: [&str; 5] =
    ["target", ".git", "artifacts", "coverage", "node_modules"];

impl Tree {
    /// Reads all of it.
    ///
    /// # Panics
    ///
    /// If a file cannot be read.
    pub(super) fn read(root: &Path) -> Self {
        let mut tree = Self {
            root: root.to_path_buf(),
            files: BTreeMap::new(),
        };
        tree.add(root);
        tree
    }

    fn add(&mut self, folder: &Path) {
        let entries = fs::read_dir(folder).expect("a folder can be listed");
        for entry in entries {
            let entry = entry.expect("a folder can be listed");
            let kind = entry.file_type().expect("a file has a type");
            let path = entry.path();
            if kind.is_dir() {
                let name = entry.file_name();
                if !NOT_OURS.iter().any(|other| name == *other) {
                    self.add(&path);
                }
            } else if kind.is_file() && entry.file_name() != ".git" {
                let bytes = fs::read(&path).expect("a file can be read");
                let name = path.strip_prefix(&self.root).expect("below it");
                let kept = Kept {
                    size: bytes.len() as u64,
                    text: String::from_utf8(bytes).ok(),
                };
                let name = name.to_string_lossy().into_owned();
                self.files.insert(name, kept);
            }
        }
    }

    /// A tree for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let kept = |text: &str| Kept {
            size: text.len() as u64,
            text: Some(text.to_owned()),
        };
        Self {
            root: PathBuf::new(),
            files: files.iter().map(|(p, t)| ((*p).into(), kept(t))).collect(),
        }
    }

    /// Paths and texts of the files whose names end like this.
    pub(super) fn texts<'a>(
        &'a self,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let texts = self.files.iter().filter_map(|(path, kept)| {
            Some((path.as_str(), kept.text.as_deref()?))
        });
        texts.filter(move |(path, _)| path.ends_with(ending))
    }

    /// The text of one file.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    /// Whether there is a file, or a folder with something in it.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.files.contains_key(path)
            || self.files.keys().any(|file| file.starts_with(&folder))
    }

    /// Paths and sizes of everything.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files
            .iter()
            .map(|(path, kept)| (path.as_str(), kept.size))
    }
}

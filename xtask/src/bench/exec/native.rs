//! The same commands natively, in the root folder.
//!
//! The machine runs i386 programs itself. Only the root folder is changed, by
//! chroot, so that they find their own libraries.

use super::timed::{Ran, timed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a program runs in the root folder.
pub(super) struct Native {
    root: PathBuf,
    /// The words before those of chroot.
    before: &'static [&'static str],
}

/// With root, and in a user namespace.
const WAYS: [&[&str]; 2] = [&[], &["unshare", "--map-root-user"]];

impl Native {
    /// Finds a way to run programs in `root`. The error says why there is none.
    pub(super) fn in_root(root: &Path) -> Result<Self, String> {
        if !root.is_dir() {
            return Err("--root is no folder".into());
        }
        let mut why = String::new();
        for before in WAYS {
            let native = Self {
                root: root.into(),
                before,
            };
            match native.run(&["/bin/true"], None) {
                Ok(_) => return Ok(native),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    pub(super) fn run(
        &self,
        words: &[&str],
        input: Option<&Path>,
    ) -> Result<Ran, String> {
        let mut all = self.before.iter().chain(&["chroot"]);
        let mut command = Command::new(all.next().unwrap_or(&"chroot"));
        command.args(all).arg(&self.root).args(words);
        command.env_clear().env("HOME", "/root").env("PATH", PATH);
        timed(&mut command, input)
    }
}

/// As the agent has it in a guest, and folders of this machine's chroot.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

//! The images: one without a snapshot, and two with.
//!
//! The image is built once. The folders of the others have links to the same
//! files. All of it is in a place of its own, which the next run makes again.

use super::options::Options;
use super::timed::{Ran, timed};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An image that boots.
pub(super) const COLD: &str = "cold";
/// One with a snapshot in which nothing has run.
pub(super) const WARM: &str = "warm";
/// One with a snapshot in which an interpreter has run.
pub(super) const PYTHON: &str = "warm-python";

/// The images of this run.
pub(super) struct Images {
    lguest: PathBuf,
    pub(super) place: PathBuf,
    /// Why there is no image with an interpreter.
    pub(super) no_python: Option<String>,
}

impl Images {
    /// Builds them.
    pub(super) fn make(
        options: &Options,
        lguest: &Path,
        folder: &Path,
    ) -> Result<Self, String> {
        let place = folder.join("place");
        let failed = |error| format!("{}: {error}", place.display());
        let _ = fs::remove_dir_all(&place);
        let mut private = fs::DirBuilder::new();
        let made = private.recursive(true).mode(0o700).create(&place);
        made.map_err(failed)?;
        let mut images = Self {
            lguest: lguest.to_owned(),
            place: place.clone(),
            no_python: None,
        };
        eprintln!("exec: building the image");
        let mut build = images.command(&["image", "build", COLD]);
        build.arg("--from").arg(&options.root);
        build.arg("--kernel").arg(&options.kernel);
        timed(&mut build, None)?;
        for name in [WARM, PYTHON] {
            images.link(name).map_err(failed)?;
        }
        eprintln!("exec: taking the snapshots");
        timed(&mut images.command(&["image", "warm", WARM]), None)?;
        let words = ["image", "warm", PYTHON, "--", "python3", "-c", "pass"];
        let warm = timed(&mut images.command(&words), None);
        images.no_python = warm.err();
        Ok(images)
    }

    /// Another name for the image.
    fn link(&self, name: &str) -> std::io::Result<()> {
        let images = self.place.join("lguest/images");
        let to = images.join(name);
        fs::create_dir(&to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o700))?;
        for file in fs::read_dir(images.join(COLD))? {
            let file = file?;
            fs::hard_link(file.path(), to.join(file.file_name()))?;
        }
        Ok(())
    }

    /// The disk of all images.
    pub(super) fn disk(&self) -> PathBuf {
        self.place.join("lguest/images").join(COLD).join("disk.img")
    }

    /// A command of lguest.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.lguest);
        command.args(words).env("XDG_DATA_HOME", &self.place);
        command.env("XDG_RUNTIME_DIR", &self.place);
        command.env("TMPDIR", &self.place);
        command.stdin(Stdio::null());
        command
    }

    /// The command that runs `words` in a machine of this image.
    pub(super) fn exec(&self, image: &str, words: &[&str]) -> Command {
        let mut command = self.command(&["exec", "--image", image, "--"]);
        command.args(words);
        command
    }

    pub(super) fn run(
        &self,
        image: &str,
        words: &[&str],
        input: Option<&Path>,
    ) -> Result<Ran, String> {
        timed(&mut self.exec(image, words), input)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

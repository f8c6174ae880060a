//! What is known of an image beside its disk and its kernel: `image.toml`.
//!
//! A user may change the file. It is read again for each run.

use super::oci::Start;
use serde::{Deserialize, Serialize};

/// The version of the file.
const VERSION: u32 = 1;

/// The words by which a kernel finds the disk, and its console.
const ARGUMENTS: &str = "root=/dev/vda rw console=hvc0";

/// The memory of a guest when nothing else is said.
const MEMORY: &str = "128M";

/// How guests of an image are started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version of this format.
    pub version: u32,
    /// The folder or archive that it is from.
    pub from: String,
    /// When it was built, in seconds since 1970.
    pub built: u64,
    /// Files on the disk.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// The release of the kernel.
    pub kernel: String,
    /// Where the agent is on the disk. Empty if it is not there.
    pub agent: String,
    /// Memory, with its unit.
    pub memory: String,
    /// Arguments of the kernel.
    pub arguments: String,
    /// The command of a container, and its words.
    pub command: Vec<String>,
    /// The environment of a container, as NAME=VALUE.
    pub environment: Vec<String>,
    /// The user of a container. Empty: root.
    pub user: String,
    /// The folder of a container. Empty: the root folder.
    pub folder: String,
}

impl Recipe {
    /// The recipe of an image of files from `from`, whose containers start as
    /// `start` says.
    pub(super) fn new(from: &str, start: Start) -> Self {
        Self {
            version: VERSION,
            from: from.into(),
            built: now(),
            files: 0,
            bytes: 0,
            kernel: String::new(),
            agent: String::new(),
            memory: MEMORY.into(),
            arguments: ARGUMENTS.into(),
            command: start.command,
            environment: start.environment,
            user: start.user,
            folder: start.folder,
        }
    }

    /// The recipe in `text`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found: Self = toml::from_str(text)
            .map_err(|error| super::shown::shown(error.message().as_bytes()))?;
        match found.version {
            VERSION => Ok(found),
            other => Err(format!(
                "its version is {other}, and this lguest knows {VERSION}: \
                 build the image again"
            )),
        }
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        // There is nothing in it that TOML cannot say.
        toml::to_string(self).unwrap_or_default()
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_read_as_it_was_written() {
        let start = Start {
            command: vec!["sh".into(), "-c".into(), "echo \"a\nb\"".into()],
            environment: vec!["PATH=/bin".into(), "X=\u{1b}[2J".into()],
            user: "1000:100".into(),
            folder: "/srv/\u{e4}".into(),
        };
        let recipe = Recipe::new("a.tar", start);
        assert_eq!(Recipe::parse(&recipe.text()), Ok(recipe.clone()));
        let later = recipe.text().replace("version = 1", "version = 2");
        assert!(Recipe::parse(&later).unwrap_err().contains("build"));
        let unknown = format!("{}\nmore = 1\n", recipe.text());
        assert!(Recipe::parse(&unknown).unwrap_err().contains("more"));
    }
}

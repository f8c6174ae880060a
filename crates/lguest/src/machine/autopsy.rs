//! What is done for the explanation of a Guest's end: `--explain`, `--core`.
//!
//! The core's file is opened before the Guest starts, like all files, and
//! written only if the Guest dies.

use super::build::Built;
use super::config::Config;
use super::stats::OpenFile;
use super::{stats, terminal};
use crate::explain::{LARGEST, Remains, Symbols, core_file, report};
use crate::loader::Image;
use std::io;

/// What was asked for.
pub(super) struct Autopsy {
    explain: bool,
    core: Option<OpenFile>,
}

impl Autopsy {
    /// Opens the file for the core, if there is to be one.
    pub(super) fn prepare(config: &Config) -> io::Result<Self> {
        // All that the Guest has in memory is in it: keys, passwords.
        let open = |path| stats::open(path, 0o600);
        let core = config.core.as_deref().map(open).transpose()?;
        let explain = config.explain;
        Ok(Self { explain, core })
    }

    /// The Guest has died for this reason. The file `names` has the names of
    /// its kernel's functions.
    pub(super) fn perform(
        self,
        reason: &str,
        built: &Built,
        names: Option<&Image>,
    ) {
        let Some(last) = built.guest.last_words() else {
            return;
        };
        let remains = Remains {
            memory: built.guest.memory(),
            last,
            interface: built.interface,
            paging: built.paging,
        };
        // The core comes first: names may come from the file of a stranger.
        if let Some(core) = self.core {
            let written = core
                .empty()
                .and_then(|file| core_file::write(&file, &remains));
            if let Err(error) = written {
                let what = "the core (--core) could not be written";
                terminal::tell(&format!("{what}: {error}"));
            }
        }
        if self.explain {
            let bytes = names.and_then(|names| names.whole(LARGEST));
            let symbols = Symbols::new(bytes.as_deref().unwrap_or_default());
            terminal::tell(&report(reason, &remains, &symbols));
        }
    }
}

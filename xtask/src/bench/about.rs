//! What was measured, and on which machine.
//!
//! This names the commit, the kind and number of processors, and the kernel, so
//! that figures can be compared later. It does not identify a particular
//! machine.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The commit and the machine that the figures are about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct About {
    pub(super) commit: String,
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) kernel: String,
    /// The load of the machine when the run began.
    pub(super) load: String,
}

impl About {
    pub(super) fn this(root: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let name = processors.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let load = read("/proc/loadavg");
        let known = std::thread::available_parallelism();
        Self {
            commit: commit(root).unwrap_or_else(|| "unknown".into()),
            processor: name.unwrap_or_else(|| "unknown".into()),
            processors: known.map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        format!(
            "lguest {}, {} x {}, Linux {}, load {}",
            self.commit,
            self.processors,
            self.processor,
            self.kernel,
            self.load
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "commit": self.commit,
            "processor": self.processor,
            "processors": self.processors,
            "kernel": self.kernel,
            "load": self.load,
        })
    }
}

fn commit(root: &Path) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"])
        .current_dir(root);
    let out = git.output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_facts() {
        let about = About {
            commit: "0123456".into(),
            processor: "Some Processor".into(),
            processors: 2,
            kernel: "6.18.0".into(),
            load: "0.10".into(),
        };
        assert_eq!(
            about.line(),
            "lguest 0123456, 2 x Some Processor, Linux 6.18.0, load 0.10"
        );
        assert!(About::this(Path::new("/")).processors > 0);
    }
}

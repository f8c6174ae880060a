//! A process and all that it has started.
//!
//! A system under test is such a family, and so is a program that must be
//! ended. Its helpers count, and none of them may keep running. What a process
//! has in memory is here, too.

use std::fs;

/// A process, its children, and theirs; parents come before their children.
pub(crate) fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        for task in tasks(parent) {
            let path = format!("{task}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().flat_map(str::parse::<u32>));
        }
        next += 1;
    }
    all
}

/// The folders of a process's threads.
pub(crate) fn tasks(process: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.map(|t| t.path().display().to_string()).collect()
}

/// KiB that a process has in memory. A shared page is divided among its users.
pub(crate) fn pss(process: u32) -> f64 {
    field(&format!("/proc/{process}/smaps_rollup"), "Pss:")
}

/// A figure in a file of /proc; 0 if it is not there.
pub(crate) fn field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_part_of_the_family() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let family = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(family[0], std::process::id());
        assert!(family.contains(&child.id()), "{family:?}");
    }

    #[test]
    fn a_process_has_memory() {
        assert!(pss(std::process::id()) > 0.0);
        assert_eq!(field("/proc/meminfo", "Nothing:"), 0.0);
    }
}

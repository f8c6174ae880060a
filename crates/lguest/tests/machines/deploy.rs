//! What `deploy` has for schedulers of containers and processes.

use crate::place::Place;
use crate::support::{is_here, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(name)
}

/// The manifests for Kubernetes.
fn manifests() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder("kubernetes")).unwrap();
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() >= 4, "{paths:?}");
    paths
}

#[test]
fn manifests_of_kubernetes_are_valid() {
    let test = "manifests_of_kubernetes_are_valid";
    if !is_here("kubernetes-validate") {
        return skip(test, "there is no kubernetes-validate");
    }
    let mut command = Command::new("kubernetes-validate");
    let end = command.arg("--strict").args(manifests()).output().unwrap();
    assert!(end.status.success(), "{end:?}");
}

#[test]
fn the_job_of_nomad_is_valid() {
    let test = "the_job_of_nomad_is_valid";
    if !is_here("nomad") {
        return skip(test, "there is no nomad");
    }
    let mut command = Command::new("nomad");
    let job = folder("nomad/lguest.nomad.hcl");
    // This does not ask a server.
    let end = command.args(["fmt", "-check"]).arg(job).output().unwrap();
    assert!(end.status.success(), "{end:?}");
}

#[test]
fn no_manifest_gives_a_machine_more_than_it_needs() {
    for path in manifests() {
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "drop: [ALL]",
            "runAsNonRoot: true",
            "type: RuntimeDefault",
            "automountServiceAccountToken: false",
        ] {
            assert!(text.contains(line), "{}: {line}", path.display());
        }
        for line in ["privileged: true", "hostPath", "hostNetwork", "add:"] {
            assert!(!text.contains(line), "{}: {line}", path.display());
        }
    }
}

/// The arguments in a manifest: the lines of its list `args`.
fn arguments(text: &str) -> Vec<String> {
    let list = text
        .lines()
        .skip_while(|line| line.trim() != "args:")
        .skip(1);
    let list = list.filter(|line| !line.trim().starts_with('#'));
    let items = list.map_while(|line| line.trim().strip_prefix("- "));
    let unquoted = |item: &str| {
        let inner = item.strip_prefix('"').and_then(|i| i.strip_suffix('"'));
        inner.unwrap_or(item).to_owned()
    };
    items.map(unquoted).collect()
}

/// Each manifest is started here, with its own words.
#[test]
fn commands_of_manifests_are_understood() {
    let place = Place::new("manifests");
    for path in manifests() {
        let text = fs::read_to_string(&path).unwrap();
        let mut words = arguments(&text);
        assert!(words.len() > 2, "{}", path.display());
        // An option that is wrong is found first; this one always is. After
        // two dashes, the words are those of a command in the guest.
        let dashes = words.iter().position(|word| word == "--");
        let at = dashes.unwrap_or(words.len());
        words.insert(at, "--no-such-option".into());
        let mut command = place.command("");
        let end = command.args(words).output().unwrap();
        let said = String::from_utf8_lossy(&end.stderr).into_owned();
        assert_eq!(end.status.code(), Some(2), "{said}");
        assert!(said.contains("'--no-such-option'"), "{said}");
        for line in text.lines().filter(|line| line.contains("[/lguest,")) {
            let list = line.split_once('[').unwrap().1;
            let list = list.split_once(']').unwrap().0;
            let words: Vec<&str> = list.split(',').map(str::trim).collect();
            // There is no such machine, so the words were understood.
            let end = place.run(&words[1..].join(" "));
            assert_eq!(end.code(), 127, "{line}: {end:?}");
        }
    }
}

#[test]
fn the_job_carries_out_its_command() {
    let place = Place::new("job");
    let text = fs::read_to_string(folder("kubernetes/job.yaml")).unwrap();
    let mut command = place.command("");
    command.args(arguments(&text));
    let end = crate::support::run(&mut command, b"").ends_well(0);
    assert!(end.stdout.contains("up "), "{end:?}");
}

/// The folder for machines lives as long as a pod, and a container ends more
/// often.
#[test]
fn a_container_that_was_killed_starts_again() {
    let place = Place::new("again");
    let text = fs::read_to_string(folder("kubernetes/deployment.yaml"));
    let mut words = arguments(&text.unwrap());
    // Another test may have the port.
    words.retain(|word| !word.starts_with("--metrics="));
    let start = || {
        let mut command = place.command("");
        crate::support::run(command.args(&words).arg("--detach"), b"")
    };
    start().ends_well(0);
    // One that runs is not replaced.
    let end = start();
    assert_eq!(end.code(), 126, "{end:?}");
    assert!(end.stderr.contains("'vm' runs already"), "{end:?}");
    let launcher = place.launcher("vm");
    launcher.signal(libc::SIGKILL);
    launcher.wait_until_gone();
    start().ends_well(0);
    assert!(place.launcher("vm") != launcher);
    // Nor is one that has powered off in the way.
    place.done("stop vm");
    start().ends_well(0);
    place.done("inspect vm --ready");
    for name in ["deployment", "statefulset"] {
        let path = folder(&format!("kubernetes/{name}.yaml"));
        let words = arguments(&fs::read_to_string(path).unwrap());
        assert!(words.iter().any(|word| word == "--replace"), "{name}");
    }
}

#[test]
fn a_probe_says_whether_a_machine_is_ready() {
    let place = Place::new("probe");
    let mut command = place.command("run --name vm --detach");
    assert!(command.status().unwrap().success());
    place.done("inspect vm --ready");
    place.done("pause vm");
    let said = place.fails(126, "inspect vm --ready");
    assert!(said.contains("'vm' is not ready: it is paused"), "{said}");
    place.done("inspect vm");
}

//! The image of containers runs in Docker, with the restrictions of the
//! manifests in `deploy`.
//!
//! The image has what that of `cargo xtask dist` has: the program and `/tmp`.

use crate::support::skip;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// All that the manifests take away. The filter is Docker's own.
const RESTRICTED: [&str; 4] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
];

/// An image of this test run, which is removed at the end.
struct Image(String);

fn docker(words: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn done(words: &[&str]) -> String {
    let end = docker(words);
    assert!(end.status.success(), "{words:?}: {end:?}");
    String::from_utf8(end.stdout).unwrap()
}

impl Image {
    /// Makes it. `None`: there is no Docker that answers.
    fn make() -> Option<Self> {
        let asked = Command::new("docker").arg("version").output();
        if !asked.is_ok_and(|end| end.status.success()) {
            return None;
        }
        let name = format!("lguest-test:{}", std::process::id());
        let mut import = Command::new("docker");
        import.args(["import", "--change", "ENTRYPOINT [\"/lguest\"]"]);
        import.args(["--change", "USER 65532:65532", "-", &name]);
        import.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut import = import.spawn().unwrap();
        let input = import.stdin.take().unwrap();
        let mut archive = tar::Builder::new(input);
        // Docker knows no entries with holes.
        archive.sparse(false);
        let program = env!("CARGO_BIN_EXE_lguest");
        archive.append_path_with_name(program, "lguest").unwrap();
        let mut folder = tar::Header::new_gnu();
        folder.set_entry_type(tar::EntryType::Directory);
        folder.set_mode(0o1777);
        folder.set_size(0);
        let empty = std::io::empty();
        archive.append_data(&mut folder, "tmp/", empty).unwrap();
        drop(archive.into_inner().unwrap());
        assert!(import.wait().unwrap().success());
        Some(Self(name))
    }

    /// Runs the program with these words. Returns its output and its code.
    fn run(&self, words: &[&str]) -> (String, Option<i32>) {
        let before: Vec<&str> = [&["run", "--rm"], &RESTRICTED[..]].concat();
        let end = docker(&[&before[..], &[&self.0], words].concat());
        let text = String::from_utf8_lossy(&end.stdout).into_owned();
        let errors = String::from_utf8_lossy(&end.stderr).into_owned();
        (text + &errors, end.status.code())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = docker(&["rmi", "--force", &self.0]);
    }
}

/// A container, which is removed at the end.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", &self.0]);
    }
}

#[test]
fn the_image_runs_in_docker_as_the_manifests_say() {
    let test = "the_image_runs_in_docker_as_the_manifests_say";
    let Some(image) = Image::make() else {
        return skip(test, "there is no Docker that answers");
    };
    let ends = "quiet run=\"poweroff 7\"";
    for wall in ["--isolation=guest", "--isolation=user"] {
        let (said, code) = image.run(&["run", wall, "--append", ends]);
        assert_eq!(code, Some(7), "{wall}: {said}");
    }
    let (said, code) = image.run(&["doctor"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("guests can run here"), "{said}");

    // A machine with a name, in a folder like an emptyDir of Kubernetes.
    let container = Container(format!("lguest-test-{}", std::process::id()));
    let name = &*container.0;
    let place = "/run/machines:mode=2777,gid=65532";
    let before = ["run", "--detach", "--name", name, "--tmpfs", place];
    let place = ["--env", "XDG_RUNTIME_DIR=/run/machines", &image.0];
    let machine = ["run", "--name=vm", "--replace", "--until=lguest> "];
    done(&[&before[..], &RESTRICTED[..], &place[..], &machine[..]].concat());
    let start = Instant::now();
    let ready = ["exec", name, "/lguest", "inspect", "vm", "--ready"];
    while !docker(&ready).status.success() {
        let time = start.elapsed();
        assert!(time < Duration::from_secs(60), "{:?}", docker(&ready));
        std::thread::sleep(Duration::from_millis(100));
    }
    let counts = done(&["exec", name, "/lguest", "stats", "--prometheus"]);
    assert!(counts.contains("lguest_up{machine=\"vm\"} 1"), "{counts}");
    done(&["exec", name, "/lguest", "stop", "vm"]);
    assert_eq!(done(&["wait", name]).trim(), "0");
}

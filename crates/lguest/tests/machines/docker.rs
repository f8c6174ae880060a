//! The image of containers runs in Docker, with the restrictions of the
//! manifests in `deploy`.
//!
//! The image has what that of `cargo xtask dist` has: the program and `/tmp`.

use crate::support::{Scratch, is_here, lguest, run, skip, tool};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// All that the manifests take away. The filter is Docker's own.
const RESTRICTED: [&str; 4] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
];

/// An image of one test, which is removed at the end.
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
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let asked = Command::new("docker").arg("version").output();
        if !asked.is_ok_and(|end| end.status.success()) {
            return None;
        }
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lguest-test:{}-{n}", std::process::id());
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

/// A place for images of Linux, which containers read.
struct Guests {
    scratch: Scratch,
    /// The user to whom the images belong: never root.
    user: u32,
}

impl Guests {
    /// Builds the images `cold` and `warm`. `Err`: why there are none.
    fn make() -> Result<Self, &'static str> {
        let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let kernel = given("LGUEST_TEST_VMLINUX");
        let kernel = kernel.ok_or("give LGUEST_TEST_VMLINUX")?;
        let files = given("LGUEST_TEST_ROOTFS");
        let files = files.ok_or("give LGUEST_TEST_ROOTFS")?;
        let bytes = std::fs::read(&kernel).unwrap();
        for part in ["virtio-ports", "EXT4-fs"] {
            let part = part.as_bytes();
            if !bytes.windows(part.len()).any(|found| found == part) {
                return Err("the kernel has no virtio console or no ext4");
            }
        }
        if !is_here("mke2fs") || !is_here("debugfs") {
            return Err("there is no mke2fs or no debugfs");
        }
        let scratch = Scratch::new("volume");
        let root = scratch.path("root");
        for folder in ["root", "run"] {
            std::fs::create_dir(scratch.path(folder)).unwrap();
        }
        let mut dump = tool("debugfs");
        dump.arg("-R").arg(format!("rdump / {}", root.display()));
        dump.arg(files).output().unwrap();
        let mut guests = Self { scratch, user: 0 };
        for name in ["cold", "warm"] {
            let mut build = guests.lguest(&["image", "build", name, "--from"]);
            build.arg(&root).arg("--kernel").arg(&kernel);
            let end = run(&mut build, b"");
            assert_eq!(end.code(), 0, "{end:?}");
        }
        let end = run(&mut guests.lguest(&["image", "warm", "warm"]), b"");
        assert_eq!(end.code(), 0, "{end:?}");
        let data = guests.scratch.path("data");
        guests.user = data.metadata().unwrap().uid();
        if guests.user == 0 {
            guests.user = 65532;
            give(&data, guests.user);
        }
        Ok(guests)
    }

    fn lguest(&self, words: &[&str]) -> Command {
        let mut command = lguest();
        command.env("XDG_DATA_HOME", self.scratch.path("data"));
        command.env("XDG_RUNTIME_DIR", self.scratch.path("run"));
        command.args(words);
        command
    }

    /// Runs the program in a container that may only read the images.
    fn run(&self, image: &Image, options: &[&str], words: &[&str]) -> Output {
        let volume =
            format!("{}:/data:ro", self.scratch.path("data").display());
        let user = self.user.to_string();
        let before = ["run", "--rm", "--user", &user];
        let place = ["--env=XDG_DATA_HOME=/data", "--volume", &volume];
        let mut command = Command::new("docker");
        command
            .args(before)
            .args(RESTRICTED)
            .args(place)
            .args(options);
        command.arg(&image.0).args(words).stdin(Stdio::null());
        command.output().unwrap()
    }
}

/// Gives a folder, and all that is in it, to another user.
fn give(path: &Path, user: u32) {
    lchown(path, Some(user), Some(user)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for file in path.read_dir().unwrap() {
            give(&file.unwrap().path(), user);
        }
    }
}

#[test]
fn commands_run_in_docker_with_an_image_in_a_volume() {
    let test = "commands_run_in_docker_with_an_image_in_a_volume";
    let Some(image) = Image::make() else {
        return skip(test, "there is no Docker that answers");
    };
    let guests = match Guests::make() {
        Ok(guests) => guests,
        Err(why) => return skip(test, why),
    };
    let said = |end: &Output| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (end.status.code(), text(&end.stdout), text(&end.stderr))
    };
    let ends = |options: &[&str], words: &[&str]| {
        let line = ["--timeout=60s", "--", "sh", "-c"];
        let shell = ["echo out; echo new >/new && cat /new; exit 7"];
        let words = [&["exec"], words, &line, &shell].concat();
        said(&guests.run(&image, options, &words))
    };
    let right = (Some(7), "out\nnew\n".to_owned(), String::new());
    // What the guest writes needs a place.
    let changes = ["--tmpfs=/tmp"];
    let (code, _, why) = ends(&[], &["--image=warm"]);
    assert_eq!(code, Some(120), "{why}");
    assert!(why.contains("set TMPDIR to a folder"), "{why}");
    assert_eq!(ends(&changes, &["--image=cold"]), right);
    assert_eq!(ends(&changes, &["--image=warm"]), right);
    let folder = "--snapshot=/data/lguest/images/warm/warm";
    let base = "--base=/data/lguest/images/warm/disk.img";
    assert_eq!(ends(&changes, &[folder, base]), right);
}

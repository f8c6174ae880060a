//! Images of guests: built from folders and archives, and run.
//!
//! e2fsprogs says what is on the disks. The archives of strangers that are
//! refused are in the unit tests of `lguest::images`.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{
    Finished, PATIENCE, Running, Scratch, built_in, is_here, lguest, program,
    run, skip, spare_user, tool,
};

/// The folder of a place: no option of a disk is in its name, although it looks
/// like one.
const FOLDER: &str = "data,ro";

/// A place for images that is removed at the end of the test.
struct Place(Scratch);

impl Place {
    /// `None` if this machine cannot build images.
    fn new(test: &str) -> Option<Self> {
        if !is_here("mke2fs") || !is_here("debugfs") {
            skip(test, "there is no mke2fs or no debugfs");
            return None;
        }
        let scratch = Scratch::new(test);
        let run = scratch.path(FOLDER).join("run");
        std::fs::create_dir_all(run).unwrap();
        Some(Self(scratch))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(FOLDER).join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.path("lguest/images").join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = lguest();
        command.env("XDG_DATA_HOME", self.path(""));
        command.env("XDG_RUNTIME_DIR", self.path("run")).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Finished {
        run(&mut self.command(words), b"")
    }

    /// Builds an image with the built-in guest as its kernel.
    fn build(&self, from: &Path, name: &str) -> Finished {
        run(&mut self.build_command(from, name), b"")
    }

    fn build_command(&self, from: &Path, name: &str) -> Command {
        let mut command = self.command(&["image", "build", name]);
        command.arg("--from").arg(from);
        command.arg("--kernel").arg(built_in());
        command
    }

    /// What is in the place: hidden folders, too.
    fn all(&self) -> Vec<String> {
        let Ok(files) = self.path("lguest/images").read_dir() else {
            return Vec::new();
        };
        let name = |file: std::fs::DirEntry| file.file_name().into_string();
        let mut all: Vec<_> = files.flatten().flat_map(name).collect();
        all.sort();
        all
    }

    /// What `debugfs` answers about the disk of an image.
    fn ask(&self, image: &str, command: &str) -> String {
        let mut debugfs = tool("debugfs");
        debugfs.arg("-R").arg(command);
        debugfs.arg(self.image(image).join("disk.img"));
        String::from_utf8_lossy(&debugfs.output().unwrap().stdout).into()
    }

    /// Checks the disk of an image.
    fn check(&self, image: &str) {
        let mut e2fsck = tool("e2fsck");
        e2fsck.arg("-fn").arg(self.image(image).join("disk.img"));
        let found = e2fsck.output().unwrap();
        assert!(found.status.success(), "{found:?}");
    }

    /// A file on the disk: its mode, owner, group and kind.
    fn stat(&self, image: &str, path: &str) -> String {
        let all = self.ask(image, &format!("stat \"{path}\""));
        let words = all.split_whitespace().collect::<Vec<_>>();
        let after = |name: &str| {
            let at = words.iter().position(|&word| word == name);
            at.map_or("?", |at| words[at + 1])
        };
        let values = ["Type:", "Mode:", "User:", "Group:", "Links:"].map(after);
        values.join(" ")
    }
}

/// An archive with files of several owners, made by the program `tar`.
fn archive(place: &Place) -> PathBuf {
    let root = place.path("root");
    for folder in ["bin", "etc", "dev", "odd name"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (file, mode) in [
        ("bin/sh", 0o4755),
        ("etc/shadow", 0o400),
        ("odd name/it's \"quoted\" <5> !#", 0o644),
    ] {
        std::fs::write(root.join(file), file).unwrap();
        let mode = Permissions::from_mode(mode);
        std::fs::set_permissions(root.join(file), mode).unwrap();
    }
    std::fs::hard_link(root.join("bin/sh"), root.join("bin/ash")).unwrap();
    symlink("../bin/sh", root.join("etc/link")).unwrap();
    let path = place.path("root.tar");
    let mut tar = tool("tar");
    tar.args(["--owner=0", "--group=42", "-C"]);
    tar.arg(&root).arg("-cf").arg(&path).arg(".");
    assert!(tar.status().unwrap().success());
    path
}

#[test]
fn an_archive_becomes_a_disk_with_its_owners_and_modes() {
    let Some(place) = Place::new("archive") else {
        return;
    };
    let built = place.build(&archive(&place), "deb").ends_well(0);
    assert!(built.stdout.contains("image 'deb'"), "{built:?}");
    place.check("deb");
    let stat = |path| place.stat("deb", path);
    assert_eq!(stat("/bin/sh"), "regular 04755 0 42 2");
    assert_eq!(stat("/etc/shadow"), "regular 0400 0 42 1");
    let odd = "/odd name/it's \"\"quoted\"\" <5> !#";
    let text = place.ask("deb", &format!("cat \"{odd}\""));
    assert_eq!(text, "odd name/it's \"quoted\" <5> !#");
    let link = place.ask("deb", "stat /etc/link");
    assert!(link.contains("\"../bin/sh\""), "{link}");
    // What a kernel needs and the archive lacks.
    let console = place.ask("deb", "stat /dev/console");
    assert!(console.contains("number: 05:01"), "{console}");
    assert_eq!(stat("/usr/lib/lguest/agent"), "regular 0755 0 0 1");
    // Nobody writes to it any more.
    let disk = place.image("deb").join("disk.img");
    assert_eq!(disk.metadata().unwrap().mode() & 0o777, 0o400);
    let mode = place.image("deb").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut files: Vec<_> = place
        .image("deb")
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["disk.img", "image.toml", "kernel"]);
}

#[test]
fn packed_archives_and_standard_input_are_read() {
    let Some(place) = Place::new("packed") else {
        return;
    };
    let plain = archive(&place);
    let mut gzip = tool("gzip");
    assert!(gzip.arg("-k").arg(&plain).status().unwrap().success());
    place.build(&place.path("root.tar.gz"), "gz").ends_well(0);
    let bytes = std::fs::read(&plain).unwrap();
    let mut command = place.build_command(Path::new("-"), "stdin");
    run(&mut command, &bytes).ends_well(0);
    for image in ["gz", "stdin"] {
        place.check(image);
        assert_eq!(place.ask(image, "cat /bin/ash"), "bin/sh");
    }
    assert_eq!(place.all(), ["gz", "stdin"]);
}

#[test]
fn a_user_without_rights_builds_from_a_folder() {
    let test = "folder";
    let Some(place) = Place::new(test) else {
        return;
    };
    if !rustix::process::geteuid().is_root() || !is_here("setpriv") {
        return skip(test, "not root, or there is no setpriv");
    }
    let root = place.path("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/sh"), "sh").unwrap();
    std::fs::write(root.join("bin/other"), "other").unwrap();
    symlink("/etc/passwd", root.join("bin/link")).unwrap();
    let mut mkfifo = tool("mkfifo");
    assert!(mkfifo.arg(root.join("pipe")).status().unwrap().success());
    let user = spare_user();
    let around = place.0.path("");
    for path in [around, place.path(""), root.clone(), root.join("bin/sh")] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    let copied = place.0.lguest("command");
    let kernel = place.0.program("kernel", &built_in());
    let mut command = tool("setpriv");
    let user = user.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.env("XDG_DATA_HOME", place.path(""));
    command
        .arg(copied)
        .args(["image", "build", "mine", "--from"]);
    command.arg(&root).arg("--kernel").arg(kernel);
    let built = run(&mut command, b"");
    assert_eq!(built.code(), 0, "{built:?}");
    place.check("mine");
    // Files of the user who builds are root's in the image.
    let all = place.ask("mine", "ls -l /bin");
    for name in ["sh", "other", "link"] {
        let line = all.lines().find(|line| line.ends_with(name)).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[3..5], ["0", "0"], "{line}");
    }
    let link = place.ask("mine", "stat /bin/link");
    assert!(link.contains("\"/etc/passwd\""), "{link}");
    let pipe = place.ask("mine", "stat /pipe");
    assert!(pipe.contains("FIFO"), "{pipe}");
}

#[test]
fn images_are_listed_inspected_run_and_removed() {
    let Some(place) = Place::new("life") else {
        return;
    };
    place.build(&archive(&place), "web").ends_well(0);
    let list = place.run(&["image", "ls"]).ends_well(0);
    assert!(list.stdout.contains("web"), "{list:?}");
    let shown = place
        .run(&["image", "inspect", "web", "--json"])
        .ends_well(0);
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(json["name"], "web");
    assert_eq!(json["warm"], false);
    assert!(json["files"].as_u64().unwrap() > 5);
    let lines = place.run(&["image", "inspect", "web"]).ends_well(0);
    assert!(lines.stdout.contains("arguments"), "{lines:?}");
    let before = std::fs::read(place.image("web").join("disk.img")).unwrap();
    // The first disk of the guest is the image.
    let mut words = vec!["run", "--image", "web", "--append", "quiet"];
    let mut boot = place.command(&words);
    let booted = run(&mut boot, b"help\npoweroff\n");
    assert_eq!(booted.code(), 0, "{booted:?}");
    words.extend(["--keep", "work"]);
    let mut kept = place.command(&words);
    assert_eq!(run(&mut kept, b"poweroff\n").code(), 0);
    assert!(place.image("web").join("kept-work.qcow2").exists());
    let after = std::fs::read(place.image("web").join("disk.img")).unwrap();
    assert!(before == after, "the disk has changed");
    let refused = place.run(&["image", "rm", "web"]);
    assert_eq!(refused.code(), 126);
    assert!(refused.stderr.contains("work"), "{refused:?}");
    place.run(&["image", "rm", "--force", "web"]).ends_well(0);
    assert_eq!(place.all(), [""; 0]);
    let gone = place.run(&["run", "--image", "web"]);
    assert_eq!(gone.code(), 127);
    assert!(gone.stderr.contains("lguest image ls"), "{gone:?}");
    for words in [
        &["exec", "--image", "web", "--", "true"][..],
        &["image", "warm", "web"],
    ] {
        assert_eq!(place.run(words).code(), 127, "{words:?}");
    }
}

#[test]
fn an_image_whose_guest_does_not_start_is_not_warm() {
    let Some(place) = Place::new("cold") else {
        return;
    };
    place.build(&archive(&place), "web").ends_well(0);
    let kernel = place.image("web").join("kernel");
    std::fs::remove_file(kernel).unwrap();
    let cold = place.run(&["image", "warm", "web"]);
    assert_eq!(cold.code(), 120, "{cold:?}");
    assert!(cold.stderr.contains("/web/kernel"), "{cold:?}");
    // A disk whose name is understood, although it has a comma in it.
    let disk = place.image("web").join("disk.img");
    let moved = place.image("web").join("moved");
    std::fs::rename(&disk, &moved).unwrap();
    std::fs::copy(built_in(), place.image("web").join("kernel")).unwrap();
    let cold = place.run(&["image", "warm", "web"]);
    assert_eq!(cold.code(), 120, "{cold:?}");
    assert!(cold.stderr.contains("data,ro/lguest/images/web/disk.img: "));
    assert!(!cold.stderr.contains("overlay="), "{cold:?}");
    std::fs::rename(&moved, &disk).unwrap();
    assert_eq!(place.all(), ["web"]);
    let left = place.run(&["ps", "--json"]).ends_well(0);
    assert!(!left.stdout.contains("warm-"), "{left:?}");
    // An image of an lguest that had no agent.
    let recipe = place.image("web").join("image.toml");
    let text = std::fs::read_to_string(&recipe).unwrap();
    let text = text.replace("/usr/lib/lguest/agent", "");
    std::fs::write(&recipe, text).unwrap();
    for words in [
        &["exec", "--image", "web", "--", "true"][..],
        &["image", "warm", "web"],
    ] {
        let none = place.run(words);
        assert_eq!(none.code(), 120, "{none:?}");
        assert!(none.stderr.contains("has no agent"), "{none:?}");
    }
}

#[test]
fn a_wrong_build_says_why_and_leaves_nothing() {
    let Some(place) = Place::new("wrong") else {
        return;
    };
    let tar = archive(&place);
    let text = place.0.file("text", b"no archive");
    let empty = place.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (tar, text) = (path(&tar), path(&text));
    let (empty, absent) = (path(&empty), path(&place.path("absent")));
    let layout = place.path("layout");
    std::fs::create_dir(&layout).unwrap();
    for file in ["oci-layout", "index.json"] {
        std::fs::write(layout.join(file), "{}").unwrap();
    }
    let layout = path(&layout);
    let kernel = path(&built_in());
    for (from, kernel, name, code, part) in [
        (&*text, &*kernel, "a", 120, "no tar archive"),
        (&*absent, &kernel, "a", 120, "cannot be read"),
        (&*empty, &kernel, "a", 120, "no files"),
        (&*layout, &kernel, "a", 120, "and give the archive"),
        (&*tar, &text, "a", 120, "kernel"),
        (&*tar, &kernel, "../a", 2, "a name has"),
        (&*tar, &kernel, ".a", 2, "a name has"),
    ] {
        let words = ["image", "build", "--from", from, "--kernel", kernel];
        let wrong = place.run(&[&words[..], &[name]].concat());
        assert_eq!(wrong.code(), code, "{wrong:?}");
        assert!(wrong.stderr.contains(part), "{part}: {wrong:?}");
    }
    // Packed, as the message says, it is an OCI image, although an empty one.
    let mut pack = Command::new("tar");
    let packed = pack.args(["c", "-C", &layout, "."]).output().unwrap();
    let words = ["image", "build", "a", "--from", "-", "--kernel", &kernel];
    let wrong = run(&mut place.command(&words), &packed.stdout);
    assert!(wrong.stderr.contains("it names the file"), "{wrong:?}");
    let none = place.run(&["image", "build", "--from", &tar, "a"]);
    assert!(none.stderr.contains("--kernel FILE"), "{none:?}");
    assert_eq!(place.all(), [""; 0]);
    // The disk is too small for the files.
    let zeros = vec![1; 30 << 20];
    std::fs::write(place.path("root/big"), zeros).unwrap();
    let root = path(&place.path("root"));
    let words = ["image", "build", "a", "--from", &root, "--kernel", &kernel];
    let full = place.run(&[&words[..], &["--size", "32M"]].concat());
    assert_eq!(full.code(), 120, "{full:?}");
    assert!(full.stderr.contains("larger --size"), "{full:?}");
    assert_eq!(place.all(), [""; 0]);
}

/// A build that waits for the rest of its archive.
fn waiting(place: &Place, name: &str) -> Running {
    let mut running =
        Running::start(&mut place.build_command(Path::new("-"), name));
    running.type_in(&[b'x'; 16]);
    let hidden = place.image(&format!(".{name}.new"));
    let deadline = Instant::now() + PATIENCE;
    while !hidden.join("archive").exists() {
        assert!(Instant::now() < deadline, "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    running
}

#[test]
fn a_build_that_is_ended_leaves_nothing() {
    let Some(place) = Place::new("ended") else {
        return;
    };
    let running = waiting(&place, "web");
    running.signal(libc::SIGTERM);
    assert_eq!(running.finish().code(), 128 + libc::SIGTERM);
    assert_eq!(place.all(), [""; 0]);
    let running = waiting(&place, "web");
    running.signal(libc::SIGKILL);
    assert_eq!(running.finish().signal(), Some(libc::SIGKILL));
    assert_eq!(place.all(), [".web.new"]);
    // The next command removes what it has left.
    place.run(&["image", "ls"]).ends_well(0);
    assert_eq!(place.all(), [""; 0]);
}

#[test]
fn the_second_build_of_a_name_is_told_to_wait() {
    let Some(place) = Place::new("second") else {
        return;
    };
    let tar = archive(&place);
    let first = waiting(&place, "web");
    let second = place.build(&tar, "web");
    assert_eq!(second.code(), 126);
    assert!(second.stderr.contains("another command"), "{second:?}");
    place.build(&tar, "other").ends_well(0);
    drop(first);
    place.build(&tar, "web").ends_well(0);
    let again = place.build(&tar, "web");
    assert_eq!(again.code(), 126);
    assert!(again.stderr.contains("--replace"), "{again:?}");
    let mut replace = place.build_command(&tar, "web");
    run(replace.arg("--replace"), b"").ends_well(0);
    assert_eq!(place.all(), ["other", "web"]);
    // Kept changes are above this disk, and no other.
    std::fs::write(place.image("web").join("kept-work.qcow2"), "").unwrap();
    let kept = run(&mut replace, b"");
    assert_eq!(kept.code(), 126, "{kept:?}");
    assert!(kept.stderr.contains("rm --force web"), "{kept:?}");
    place.run(&["image", "rm", "--force", "web"]).ends_well(0);
    run(&mut replace, b"").ends_well(0);
}

#[test]
fn without_the_tools_the_message_has_the_cure() {
    let scratch = Scratch::new("tools");
    if !rustix::process::geteuid().is_root() {
        return skip("tools", "not root: no other root folder");
    }
    // An empty root folder with nothing but the command.
    let jail = scratch.path("jail");
    std::fs::create_dir(&jail).unwrap();
    for (from, to) in [(lguest_path(), "lguest"), (built_in(), "kernel")] {
        let mut copy = tool("cp");
        copy.arg(from).arg(jail.join(to));
        assert!(copy.status().unwrap().success());
    }
    // They are looked for before the archive is read.
    std::fs::write(jail.join("archive"), "no archive").unwrap();
    let inside = |words: &[&str]| {
        let mut command = program("chroot");
        command.arg(&jail).arg("/lguest").args(words);
        run(command.env("XDG_DATA_HOME", "/data"), b"")
    };
    let words = ["image", "build", "web", "--from", "/archive"];
    let lacks = inside(&[&words[..], &["--kernel", "/kernel"]].concat());
    assert_eq!(lacks.code(), 121, "{lacks:?}");
    let cure = "apt-get install e2fsprogs";
    assert!(lacks.stderr.contains(cure), "{lacks:?}");
    let doctor = inside(&["doctor"]);
    for name in ["mke2fs", "debugfs"] {
        let start = format!("lacks     {name} ");
        let mut lines = doctor.stdout.lines();
        let line = lines.find(|line| line.starts_with(&start)).unwrap();
        assert!(line.contains("image build"), "{line}");
        assert!(line.contains(cure), "{line}");
    }
}

/// A command in a mount namespace with a file system of a few megabytes at the
/// folder that is its first word.
fn in_a_small_disk(megabytes: u32, command: &str) -> Command {
    let mut own = tool("unshare");
    own.args(["--map-root-user", "--mount", "sh", "-c"]);
    own.arg(format!(
        "mount -t tmpfs -o mode=700,size={megabytes}m none \"$0\" || exit 99
         {command}"
    ));
    own
}

#[test]
fn a_build_on_a_full_disk_says_so() {
    let test = "a_build_on_a_full_disk_says_so";
    let Some(place) = Place::new("room") else {
        return;
    };
    let mut may = in_a_small_disk(1, "");
    if !may.arg("/tmp").output().is_ok_and(|o| o.status.success()) {
        return skip(test, "this user cannot mount a file system here");
    }
    let root = place.path("root");
    std::fs::create_dir(&root).unwrap();
    // The same bytes would become a hole.
    let noise: Vec<u8> = (0..6 << 20).map(|n: u32| (n % 251) as u8).collect();
    std::fs::write(root.join("big"), noise).unwrap();
    let archive = place.path("root.tar");
    let mut tar = tool("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    assert!(tar.status().unwrap().success());
    let mut gzip = tool("gzip");
    assert!(gzip.arg("-k").arg(&archive).status().unwrap().success());
    let data = place.path("small");
    std::fs::create_dir(&data).unwrap();
    // It is full while the archive is unpacked, while its files are kept, and
    // while the file system is written.
    for (megabytes, from) in [
        (4, "root.tar.gz"),
        (4, "root.tar"),
        (8, "root.tar.gz"),
        (9, "root"),
    ] {
        let mut command = in_a_small_disk(
            megabytes,
            "shift 0; XDG_DATA_HOME=$0 \"$@\"; code=$?
             ls -A \"$0/lguest/images\"; exit $code",
        );
        command.arg(&data).arg(lguest_path());
        command.args(["image", "build", "web", "--from"]);
        command
            .arg(place.path(from))
            .arg("--kernel")
            .arg(built_in());
        let full = run(&mut command, b"");
        assert_eq!(full.code(), 120, "{from} {megabytes}: {full:?}");
        for part in ["No space left on device", "XDG_DATA_HOME"] {
            assert!(full.stderr.contains(part), "{from} {megabytes}: {full:?}");
        }
        assert!(!full.stderr.contains("--size"), "{full:?}");
        assert_eq!(full.stdout, "", "{full:?}");
    }
}

#[test]
fn an_archive_is_not_unpacked_beyond_the_size_of_the_disk() {
    let Some(place) = Place::new("large") else {
        return;
    };
    let root = place.path("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("big"), vec![0; 48 << 20]).unwrap();
    let mut tar = tool("tar");
    let path = place.path("root.tar.gz");
    tar.arg("-C").arg(&root).arg("-czf").arg(&path).arg(".");
    assert!(tar.status().unwrap().success());
    let mut build = place.build_command(&path, "web");
    let large = run(build.args(["--size", "32M"]), b"");
    assert_eq!(large.code(), 120, "{large:?}");
    assert!(large.stderr.contains("when it is unpacked"), "{large:?}");
    assert!(large.stderr.contains("larger --size"), "{large:?}");
    assert_eq!(place.all(), [""; 0]);
    let mut build = place.build_command(&path, "web");
    run(build.args(["--size", "96M"]), b"").ends_well(0);
}

/// An archive of one file with these extended attributes, and perhaps one more.
fn with_attributes(path: &Path, attributes: &[(&str, usize)], more: &str) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let keys = attributes.iter().map(|(name, bytes)| {
        (format!("SCHILY.xattr.{name}"), vec![b'v'; *bytes])
    });
    let keys: Vec<_> = keys.collect();
    let keys = keys.iter().map(|(name, value)| (&**name, &**value));
    archive.append_pax_extensions(keys).unwrap();
    for name in ["file", more] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(4);
        archive
            .append_data(&mut header, name, &b"text"[..])
            .unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn what_a_file_system_has_no_room_for_is_refused_by_name() {
    let Some(place) = Place::new("room-inside") else {
        return;
    };
    let path = place.path("root.tar");
    let names: Vec<_> = (0..9).map(|n| format!("user.{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, 424)).collect();
    let full = [("security.capability", 20), ("user.a", 3980)];
    // As much as there is room for.
    for fits in [&many[..], &full] {
        with_attributes(&path, fits, "lost+found/file");
        let mut build = place.build_command(&path, "web");
        run(build.arg("--replace"), b"").ends_well(0);
        place.check("web");
        let found = place.ask("web", "ea_list /file");
        for (name, bytes) in fits {
            let line = format!("{name} ({bytes})");
            assert!(found.contains(&line), "{line}: {found}");
        }
        assert_eq!(place.ask("web", "cat /lost+found/file"), "text");
    }
    let too_many = [&many[..], &[("user.more", 400)]].concat();
    for (attributes, more, part) in [
        (&too_many[..], "other", "'file' is refused"),
        (&[("user.a", 5000)], "other", "--no-xattrs"),
        (&[], "lost+found", "'/lost+found' is not a folder"),
    ] {
        with_attributes(&path, attributes, more);
        let refused = place.build(&path, "other");
        assert_eq!(refused.code(), 120, "{refused:?}");
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        assert!(!refused.stderr.contains("debugfs"), "{refused:?}");
    }
}

fn lguest_path() -> PathBuf {
    env!("CARGO_BIN_EXE_lguest").into()
}

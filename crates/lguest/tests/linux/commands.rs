//! Commands by `lguest exec` in machines of an image.
//!
//! The image has the files of `LGUEST_TEST_ROOTFS` (busybox with `sh`), and the
//! agent as its first process. The kernel needs `CONFIG_VIRTIO_CONSOLE` and
//! ext4, and e2fsprogs makes the image.

use crate::kit::{Given, Machine, ROOTFS, Scratch, VMLINUX, skip};
use crate::support::{Finished, Running, run};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name of the image, and of a machine that runs.
const NAME: &str = "web";

/// Far more than anything here needs.
const PATIENCE: &str = "--timeout=60s";

/// An image in a place of its own.
struct Image {
    scratch: Scratch,
    given: Given,
}

impl Image {
    /// Builds it. `None`: the test is skipped.
    fn new(test: &str) -> Option<Self> {
        let given = Given::to(test, &[VMLINUX, ROOTFS])?;
        if !has(given.path(VMLINUX), "virtio-ports")
            || !has(given.path(VMLINUX), "EXT4-fs")
        {
            skip(test, "the kernel has no virtio console or no ext4");
            return None;
        }
        let tool = Command::new("debugfs").arg("-V").output();
        if tool.is_err() {
            skip(test, "there is no debugfs");
            return None;
        }
        // The paths of sockets are short.
        let scratch = Scratch::new("exec");
        for folder in ["root", "run"] {
            std::fs::create_dir(scratch.path(folder)).unwrap();
        }
        let mut dump = Command::new("debugfs");
        let to = scratch.path("root");
        dump.arg("-R").arg(format!("rdump / {}", to.display()));
        let dumped = dump.arg(given.path(ROOTFS)).output().unwrap();
        assert!(to.join("bin").exists(), "{dumped:?}");
        let image = Self { scratch, given };
        let mut build = image.lguest(&["image", "build", NAME, "--from"]);
        build
            .arg(&to)
            .arg("--kernel")
            .arg(image.given.path(VMLINUX));
        run(&mut build, b"").must_be(0);
        Some(image)
    }

    /// Takes the snapshot from which commands go on.
    fn warm(&self) {
        run(&mut self.lguest(&["image", "warm", NAME]), b"").must_be(0);
    }

    fn lguest(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lguest"));
        command.env("XDG_DATA_HOME", self.scratch.path(""));
        command.env("XDG_RUNTIME_DIR", self.scratch.path("run"));
        command.args(words);
        command
    }

    /// A command of the shell in a machine of its own.
    fn shell(&self, options: &[&str], line: &str) -> Command {
        let mut command = self.lguest(&["exec", "--image", NAME]);
        if !options.iter().any(|word| word.starts_with("--timeout")) {
            command.arg(PATIENCE);
        }
        command.args(options).args(["--", "sh", "-c", line]);
        command
    }

    fn run(&self, options: &[&str], line: &str) -> Finished {
        run(&mut self.shell(options, line), b"")
    }

    /// A machine that runs on.
    fn start(&self, options: &[&str]) -> Guest<'_> {
        let words = ["run", "--image", NAME, "--agent", "--name", NAME];
        let mut detached = self.lguest(&words);
        let init = "--append=quiet init=/usr/lib/lguest/agent";
        detached.args(["--detach", init]).args(options);
        run(&mut detached, b"").must_be(0);
        Guest(self)
    }

    /// The names of machines that are there.
    fn machines(&self) -> String {
        let list = run(&mut self.lguest(&["ps", "--json"]), b"");
        list.must_be(0);
        list.stdout
    }
}

/// A machine that is ended with the test.
struct Guest<'i>(&'i Image);

impl Guest<'_> {
    fn shell(&self, line: &str) -> Command {
        self.0
            .lguest(&["exec", NAME, PATIENCE, "--", "sh", "-c", line])
    }

    fn run(&self, line: &str) -> Finished {
        run(&mut self.shell(line), b"")
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.0.lguest(&["kill", NAME]).output();
    }
}

/// Whether the file has this text in it.
fn has(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// What a test expects of a command that has ended.
trait Expected {
    fn must_be(&self, code: i32);
    fn must_have_said(&self, code: i32, stdout: &str, stderr: &str);
}

impl Expected for Finished {
    #[track_caller]
    fn must_be(&self, code: i32) {
        assert_eq!(self.code(), code, "{self:?}");
    }

    #[track_caller]
    fn must_have_said(&self, code: i32, stdout: &str, stderr: &str) {
        self.must_be(code);
        let said = (self.stdout.as_str(), self.stderr.as_str());
        assert_eq!(said, (stdout, stderr));
    }
}

#[test]
fn commands_have_their_codes_and_streams_booted_and_warm() {
    let test = "commands_have_their_codes_and_streams_booted_and_warm";
    let Some(image) = Image::new(test) else {
        return;
    };
    for warm in [false, true] {
        if warm {
            image.warm();
        }
        let line = "echo out; echo err >&2; exit 7";
        image.run(&[], line).must_have_said(7, "out\n", "err\n");
        image.run(&[], "kill -9 $$").must_be(137);
        image.run(&[], "exec /nothing").must_be(127);
        let mut none =
            image.lguest(&["exec", "--image", NAME, "--", "nothing"]);
        run(&mut none, b"").must_be(127);
        let options = ["--env=A=b c", "--cwd=/tmp", "--user=user"];
        let line = "echo \"$A\"; pwd; id -u";
        image
            .run(&options, line)
            .must_have_said(0, "b c\n/tmp\n500\n", "");
        // More than any window, in both directions.
        let input: Vec<u8> = (0..3_000_000_u32)
            .map(|n| b'a' + u8::try_from(n % 23).unwrap())
            .collect();
        let mut cat = image.shell(&[], "cat");
        let through = run(&mut cat, &input);
        through.must_be(0);
        assert!(
            through.stdout.as_bytes() == input,
            "{}",
            through.stdout.len()
        );
    }
    // Nothing is left of the machines.
    assert!(
        !image.machines().contains("\"name\""),
        "{}",
        image.machines()
    );
}

#[test]
fn files_go_in_and_out_and_what_is_written_is_thrown_away() {
    let test = "files_go_in_and_out_and_what_is_written_is_thrown_away";
    let Some(image) = Image::new(test) else {
        return;
    };
    image.warm();
    let folder = image.scratch.path("in");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("numbers"), "3\n1\n2\n").unwrap();
    let tar = |words: &[&str], input: &[u8]| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).args(words).stdin(Stdio::piped());
        let pipes = tar.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let line = "tar x && sort numbers >sorted && tar c sorted";
    let command = &mut image.shell(&["--cwd=/tmp"], line);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let archive = tar(&["-c", "numbers"], b"").stdout;
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let unpacked = tar(&["-x"], &output.stdout);
    assert!(unpacked.status.success(), "{unpacked:?}");
    let sorted = std::fs::read_to_string(folder.join("sorted")).unwrap();
    assert_eq!(sorted, "1\n2\n3\n");
    image.run(&[], "test -e /tmp/sorted").must_be(1);
}

#[test]
fn copies_have_the_time_and_random_numbers_of_their_own() {
    let test = "copies_have_the_time_and_random_numbers_of_their_own";
    let Some(image) = Image::new(test) else {
        return;
    };
    image.warm();
    let line = "date +%s; head -c 32 /dev/urandom | md5sum";
    let copy = || {
        let said = image.run(&[], line);
        said.must_be(0);
        let mut lines = said.stdout.lines();
        let seconds: i64 = lines.next().unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let late = now.as_secs().cast_signed() - seconds;
        assert!((0..=60).contains(&late), "{late} s");
        lines.next().unwrap().to_owned()
    };
    assert_ne!(copy(), copy());
}

#[test]
fn a_terminal_and_signals_reach_a_command() {
    let test = "a_terminal_and_signals_reach_a_command";
    let Some(image) = Image::new(test) else {
        return;
    };
    let running = image.start(&[]);
    // A terminal with a size, in which ^C is a signal.
    let line = "stty size; trap 'echo GOT; exit 5' INT; echo REA''DY; \
                while :; do sleep 1; done";
    let mut terminal = Machine::of_command(&running.shell(line));
    terminal.wait_for("READY");
    terminal.type_in("\x03");
    let ended = terminal.end();
    assert!(ended.shown.contains("GOT"), "{}", ended.shown);
    assert_eq!(ended.code, 5, "{}", ended.shown);
    // Without a terminal, signals are passed on.
    let line = "trap 'echo GOT; exit 3' TERM; echo READY; \
                while :; do sleep 1; done";
    let mut command = Running::start(&mut running.shell(line));
    command.close_input();
    command.wait_for("READY\n");
    command.signal(libc::SIGTERM);
    // The shell may say that its `sleep` was ended, too.
    let ended = command.finish();
    ended.must_be(3);
    assert_eq!(ended.stdout, "READY\nGOT\n");
    // The machine powers off under a command.
    let off = running.run("poweroff -f; sleep 60");
    off.must_be(122);
    assert!(
        off.stderr.contains("has ended before the command"),
        "{off:?}"
    );
}

#[test]
fn limits_end_a_command_and_are_told() {
    let test = "limits_end_a_command_and_are_told";
    let Some(image) = Image::new(test) else {
        return;
    };
    image.warm();
    let late = image.run(&["--timeout=500ms"], "sleep 60");
    late.must_have_said(124, "", "lguest: ended by --timeout after 500ms\n");
    let flood = image.run(&["--output-limit=64K"], "yes");
    flood.must_be(125);
    assert!(flood.stdout.len() <= 64 << 10, "{}", flood.stdout.len());
    // A program with more memory than it may have.
    let line = "dd if=/dev/zero of=/dev/null bs=64M count=1";
    let memory = image.run(&["--memory=16M"], line);
    assert_ne!(memory.code(), 0, "{memory:?}");
    image.run(&["--memory=100M"], line).must_be(0);
    // SIGXFSZ.
    let line = "exec dd if=/dev/zero of=/tmp/file bs=4096 count=100";
    image.run(&["--file-limit=64K"], line).must_be(128 + 25);
    let line = "for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait";
    let options = ["--processes=4", "--user=user"];
    let many = image.run(&options, line);
    assert_ne!(many.code(), 124, "{many:?}");
    assert!(many.stderr.contains("fork"), "{many:?}");
}

#[test]
fn a_share_is_mounted_in_a_copy() {
    let test = "a_share_is_mounted_in_a_copy";
    let Some(image) = Image::new(test) else {
        return;
    };
    if !has(image.given.path(VMLINUX), "9pnet_virtio") {
        return skip(test, "the kernel cannot mount by 9P");
    }
    // A machine with a share boots also where there is a snapshot.
    image.warm();
    let folder = image.scratch.path("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hello"), "from here\n").unwrap();
    let share = format!("--share={},tag,ro", folder.display());
    let line = "mount -t 9p -o trans=virtio,version=9p2000.L tag /mnt && \
                cat /mnt/hello && ! touch /mnt/new";
    let said = image.run(&[&share], line);
    said.must_be(0);
    assert_eq!(said.stdout, "from here\n");
    assert!(!folder.join("new").exists());
    // One without a tag is mounted, and the command runs there.
    let share = format!("--share={},ro", folder.display());
    let said = image.run(&[&share], "pwd; cat hello; ! touch new");
    said.must_be(0);
    assert_eq!(said.stdout, "/mnt/share\nfrom here\n");
    let said = image.run(&[&share, "--cwd=/"], "pwd; cat /mnt/share/hello");
    assert_eq!(said.stdout, "/\nfrom here\n");
    let share = format!("--share={}", folder.display());
    image.run(&[&share], "echo out >new").must_be(0);
    let new = std::fs::read_to_string(folder.join("new")).unwrap();
    assert_eq!(new, "out\n");
    // The guest in a snapshot has no share, and another word for an image.
    let words = ["exec", "--snapshot", NAME, "--", "true"];
    let wrong = run(&mut image.lguest(&words), b"");
    wrong.must_be(2);
    assert!(wrong.stderr.contains("give '--image web'"), "{wrong:?}");
    let words = ["exec", "--snapshot", NAME, "--share=.,ro", "--", "true"];
    let wrong = run(&mut image.lguest(&words), b"");
    wrong.must_be(2);
    assert!(wrong.stderr.contains("'--share DIR,TAG'"), "{wrong:?}");
}

/// What the guest's root does to its machine, and the codes with which `lguest
/// exec` may end. 124 is that of the time limit.
const ATTACKS: &[(&str, &[i32])] = &[
    // The kernel crashes, restarts (some kernels end the shell instead), or
    // powers off.
    ("echo c >/proc/sysrq-trigger; sleep 60", &[122]),
    ("echo b >/proc/sysrq-trigger; sleep 60", &[122, 139]),
    ("poweroff -f; sleep 60", &[122]),
    // Processes and memory without end.
    ("f() { f | f & }; f; sleep 60", &[122, 124, 126, 137]),
    ("tail /dev/zero; exit 9", &[9, 122, 124, 137]),
    ("exec dd if=/dev/zero of=/dev/shm/f bs=1M", &[1, 122, 124]),
    // Output without end, with every byte in it.
    ("exec cat /dev/urandom", &[125]),
    // The agent is the first process, and its port is a file.
    ("kill -9 1; kill -STOP 1; exit 9", &[9]),
    ("cat /dev/urandom >/dev/vport*p1; exit 9", &[9]),
    // The clock.
    ("date -s 1971-01-01; date -s 2037-01-01; exit 9", &[9]),
    // The disk under the root file system.
    (
        "dd if=/dev/zero of=/dev/vda bs=1M; sync; exit 9",
        &[9, 122, 124],
    ),
];

#[test]
fn a_guests_root_harms_its_own_machine_only() {
    let test = "a_guests_root_harms_its_own_machine_only";
    let Some(image) = Image::new(test) else {
        return;
    };
    image.warm();
    let disk = image.scratch.path("lguest/images/web/disk.img");
    let before = std::fs::read(&disk).unwrap();
    // Another run, which notices nothing.
    let line = "read line; echo \"got $line\"";
    let mut other = Running::start(&mut image.shell(&["--timeout=10m"], line));
    for (line, codes) in ATTACKS {
        // Only endless commands have a short time.
        let time = match codes.contains(&124) {
            true => "--timeout=5s",
            false => PATIENCE,
        };
        let ended = image.run(&[time, "--output-limit=1M"], line);
        assert!(codes.contains(&ended.code()), "{line}: {ended:?}");
        let told = (120..128).contains(&ended.code());
        assert!(
            !told || ended.stderr.contains("lguest: "),
            "{line}: {ended:?}"
        );
        assert!(ended.stdout.chars().count() <= 1 << 20, "{line}");
        assert!(!ended.stderr.contains('\x1b'), "{line}: {ended:?}");
    }
    assert!(!other.has_ended());
    other.type_in(b"a line\n");
    other.close_input();
    other.finish().must_have_said(0, "got a line\n", "");
    assert!(
        before == std::fs::read(&disk).unwrap(),
        "the image has changed"
    );
    image.run(&[], "exit 3").must_be(3);
    assert_eq!(image.machines().matches("\"name\"").count(), 0);
}

#[test]
fn a_restricted_guest_reaches_what_is_allowed() {
    let test = "a_restricted_guest_reaches_what_is_allowed";
    if Command::new("passt").arg("--version").output().is_err() {
        return skip(test, "there is no passt");
    }
    let Some(image) = Image::new(test) else {
        return;
    };
    image.warm();
    let listener = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    };
    let (here, port) = listener();
    let (other, closed) = listener();
    other.set_nonblocking(true).unwrap();
    let net = format!(
        "--net=user,restrict,allow=10.0.2.2:{port},allow=known.example:443"
    );
    let line = format!(
        "ifconfig eth0 10.0.2.15 up && route add default gw 10.0.2.2
        echo nameserver 10.0.2.3 >/etc/resolv.conf
        nslookup known.example
        nslookup secret.example
        nc -w 1 10.0.2.2 {closed} </dev/null
        ping -c 1 -W 1 10.0.2.2
        echo hello | nc 10.0.2.2 {port}"
    );
    // The Launcher looks names up with this program.
    let getent = image.scratch.path("getent");
    let script = "#!/bin/sh\necho 192.0.2.7 STREAM\n";
    std::fs::write(&getent, script).unwrap();
    executable(&getent);
    let path = std::env::var("PATH").unwrap();
    let mut command = image.shell(&[&net], &line);
    let folder = image.scratch.path("");
    command.env("PATH", format!("{}:{path}", folder.display()));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = here.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let said = run(&mut command, b"");
    assert!(said.stdout.contains("192.0.2.7"), "{said:?}");
    assert!(said.stdout.contains("NXDOMAIN"), "{said:?}");
    assert!(said.stdout.contains(" 0 packets received"), "{said:?}");
    said.must_be(0);
    assert_eq!(server.join().unwrap(), "hello\n");
    assert!(other.accept().is_err(), "it has reached another port");
}

fn executable(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

//! Crates of guests, outside the tree.
//!
//! They are made, run and tested as a new user would do it.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::gdb::real;
use support::{
    PATIENCE, Running, Scratch, end_of, free_port, guests, is_here, lguest,
    program, skip,
};

/// The compiler of the tree's guests, if there is one: unpacked already, or
/// installed with the target of guests.
fn compiler(test: &str) -> Option<PathBuf> {
    let target = "i686-unknown-linux-gnu";
    let compiles = |rustc: &Path| {
        let print = ["--print", "target-libdir", "--target", target];
        let folder = printed(rustc, &print)?;
        Path::new(folder.trim()).is_dir().then(|| rustc.to_owned())
    };
    let named = std::env::var_os("LGUEST_I686_RUSTC").map(PathBuf::from);
    let kept = guests().join("../target/guest-toolchain/bin/rustc");
    let kept = kept.canonicalize().ok();
    let all = [named, kept, Some("rustc".into())];
    let found = all.iter().flatten().find_map(|rustc| compiles(rustc));
    let Some(rustc) = found else {
        skip(
            test,
            "there is no compiler for guests (guests/toolchain.sh)",
        );
        return None;
    };
    if minor_version(&rustc) < Some(85) {
        skip(test, "the compiler for guests is older than Rust 1.85");
        return None;
    }
    if !has_linker(&rustc) {
        skip(test, "there is no linker for guests (lld or rust-lld)");
        return None;
    }
    Some(rustc)
}

/// What a compiler prints about itself.
fn printed(rustc: &Path, words: &[&str]) -> Option<String> {
    let output = program(rustc).args(words).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// The number behind `rustc 1.`.
fn minor_version(rustc: &Path) -> Option<u32> {
    let version = printed(rustc, &["--version"])?;
    let minor = version.strip_prefix("rustc 1.")?.split('.').next()?;
    minor.parse().ok()
}

/// Whether a linker is beside the compiler, among its own files, or installed.
fn has_linker(rustc: &Path) -> bool {
    let has_own = || {
        let sysroot = printed(rustc, &["--print", "sysroot"])?;
        let targets = Path::new(sysroot.trim()).join("lib/rustlib");
        let mut targets = fs::read_dir(targets).ok()?.filter_map(Result::ok);
        let own = |target: fs::DirEntry| target.path().join("bin/rust-lld");
        targets.any(|target| own(target).is_file()).then_some(())
    };
    rustc.with_file_name("lld").is_file()
        || has_own().is_some()
        || is_here("ld.lld")
}

/// A command that cargo's settings for this test do not reach.
fn apart(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_") && text != "CARGO_HOME"
            || text.starts_with("RUST") && !text.starts_with("RUSTUP_")
        {
            command.env_remove(name);
        }
    }
    command
}

/// A new crate in `scratch`.
fn new(scratch: &Scratch, name: &str, template: &str, rustc: &Path) -> PathBuf {
    let place = scratch.path(name);
    let mut command = apart(lguest());
    command
        .arg("new")
        .args(["--template", template])
        .arg(&place);
    if rustc.is_absolute() {
        command.env("LGUEST_I686_RUSTC", rustc);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    place
}

/// Runs cargo in a crate. Packages are compiled once for all crates.
fn cargo(place: &Path, words: &[&str]) -> Output {
    let mut command = apart(program("cargo"));
    command.current_dir(place).args(words).stdin(Stdio::null());
    command.env("CARGO_TARGET_DIR", place.with_file_name("target"));
    command.output().unwrap()
}

/// Runs a command whose input stays open until it has ended.
fn with_input(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut typed = child.stdin.take().unwrap();
    typed.write_all(input.as_bytes()).unwrap();
    end_of(&mut child).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(typed);
    output
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn every_template_builds_runs_and_passes_its_tests() {
    let test = "every_template_builds_runs_and_passes_its_tests";
    let Some(rustc) = compiler(test) else { return };
    let scratch = Scratch::new("crates");
    for (template, printed, tests) in [
        ("hello", "Hello from a kernel with 32 MiB of memory!", 1),
        ("shell", "A shell. Say help, or ^D to leave.", 1),
        ("test", "Hello!", 3),
        ("scheduler", "ticks: Exit(5); the timer has ended ", 4),
    ] {
        let place = new(&scratch, &format!("a-{template}"), template, &rustc);
        let mut run = vec!["run", "--", "word"];
        if template == "shell" {
            // There is no input, and the end of the input is no ^D.
            let settings = "timeout = \"5s\"\n";
            fs::write(place.join("lguest.toml"), settings).unwrap();
            run.pop();
        }
        let ran = cargo(&place, &run);
        assert!(said(&ran).contains(printed), "{}", said(&ran));
        let code = if template == "shell" { 124 } else { 0 };
        assert_eq!(ran.status.code(), Some(code), "{}", said(&ran));
        let tested = cargo(&place, &["test"]);
        let result = format!("test result: ok. {tests} passed; 0 failed;");
        assert!(said(&tested).contains(&result), "{}", said(&tested));
        assert!(tested.status.success());
        // Cargo's own warnings are about the user's settings.
        let compilers = |line: &str| {
            line.starts_with("warning: `") && line.contains("` generated ")
        };
        let said = said(&tested);
        assert!(!said.lines().any(compilers), "{said}");
    }
    failures_are_reported_as_cargos_own(&scratch);
    the_web_server_answers(&scratch, &rustc);
    a_page_fault_is_found(&scratch, &rustc);
    gdb_stops_in_a_program(&scratch);
}

/// The template `http`, by a port of this machine.
fn the_web_server_answers(scratch: &Scratch, rustc: &Path) {
    let place = new(scratch, "web", "http", rustc);
    let built = cargo(&place, &["build"]);
    assert!(built.status.success(), "{}", said(&built));
    if !is_here("passt") {
        return skip("the_web_server_answers", "there is no passt");
    }
    let (running, port) = serving(scratch, &place);
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("you are visitor 1.\n"), "{answer}");
    running.signal(libc::SIGTERM);
    assert_eq!(running.finish().code(), 143);
}

/// The web server, at a port that was free a moment ago. If another program has
/// taken that meanwhile, it gets another one.
fn serving(scratch: &Scratch, place: &Path) -> (Running, u16) {
    for _ in 0..8 {
        let port = free_port();
        let net = format!("net = \"user,publish={port}:80\"\n");
        fs::write(place.join("lguest.toml"), net).unwrap();
        let mut command = apart(lguest());
        command.env("CARGO_MANIFEST_DIR", place).arg("runner");
        command.arg(image(scratch, "web"));
        let mut running = Running::start(&mut command);
        let deadline = Instant::now() + PATIENCE;
        while !running.has_ended() {
            if running.printed().contains("serve port 80") {
                return (running, port);
            }
            assert!(Instant::now() < deadline, "{}", running.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = running.finish();
        assert!(ended.stderr.contains("cannot publish a port"), "{ended:?}");
    }
    panic!("no port can be published")
}

/// A guest that uses the kit by the traits of other crates.
#[test]
fn the_kit_works_by_the_traits_of_other_crates() {
    let test = "the_kit_works_by_the_traits_of_other_crates";
    let Some(rustc) = compiler(test) else { return };
    let scratch = Scratch::new("faces");
    let place = new(&scratch, "faces", "hello", &rustc);
    // Its dependencies, with the kit where it is in such a crate.
    let own = fs::read_to_string(guests().join("faces/Cargo.toml")).unwrap();
    let own = own.split("[dependencies]").nth(1).unwrap();
    let own = own.split("[lints]").next().unwrap();
    let own = own.replace("workspace = true", "path = \"kit/lg-guest\"");
    let file = place.join("Cargo.toml");
    let manifest = fs::read_to_string(&file).unwrap();
    let kit = "lg-guest = { path = \"kit/lg-guest\" }\n";
    assert!(manifest.contains(kit), "{manifest}");
    fs::write(&file, manifest.replace(kit, &own)).unwrap();
    let main = guests().join("faces/src/main.rs");
    fs::copy(main, place.join("src/main.rs")).unwrap();
    let built = cargo(&place, &["build"]);
    assert!(built.status.success(), "{}", said(&built));

    let mut command = apart(lguest());
    command
        .args(["run", "--kernel"])
        .arg(image(&scratch, "faces"));
    let ran = with_input(command, "World\nxy");
    let output = said(&ran).replace('\r', "");
    assert_eq!(ran.status.code(), Some(0), "{output}");
    for line in [
        "INFO  faces: the console is there\n",
        "Your name? Hello, World.\n",
        "then 'x', more: true\nand y\n",
        "waited: true, timed out: true\n",
        "ended: [1, 2, 3]\n",
    ] {
        assert!(output.contains(line), "{line} is missing in {output}");
    }
    assert!(!output.contains("too low"), "{output}");
}

/// A guest that writes to the screen of a PC, which it does not have.
const MISTAKE: &str = "//! A guest with a mistake.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use lg_guest::boot::Boot;
use lg_guest::{power, println};

lg_guest::entry!(main);

const SCREEN: usize = 0xB_8000;
static COUNT: AtomicU32 = AtomicU32::new(40);

#[allow(unsafe_code)]
#[inline(never)]
fn put(place: usize, byte: u8) {
    COUNT.fetch_add(2, Relaxed);
    let screen = SCREEN as *mut u8;
    // SAFETY: there is none.
    unsafe { screen.add(place * 2).write_volatile(byte) }
}

#[inline(never)]
fn show(text: &str) {
    for (place, byte) in text.bytes().enumerate() {
        put(place, byte);
    }
}

fn main(boot: &'static Boot) {
    println!(\"{} MiB\", boot.memory >> 20);
    show(\"Hello\");
    power::off(0);
}
";

/// The image of the crate `name` in `scratch`.
fn image(scratch: &Scratch, name: &str) -> PathBuf {
    let folder = scratch.path("target/i686-unknown-linux-gnu/debug");
    folder.join(name)
}

/// What GDB says if it starts this guest, and then gets these commands. `None`
/// if there is no GDB.
fn gdb(test: &str, image: &Path, commands: &[&str]) -> Option<String> {
    let lguest = env!("CARGO_BIN_EXE_lguest");
    let image = image.display();
    let run = format!("{lguest} run --gdb stdio --gdb-wait --kernel {image}");
    let file = format!("file {image}");
    let target = format!("target remote | {run}");
    let all = [&[file.as_str(), &target], commands].concat();
    let Some(gdb) = real(&all) else {
        skip(test, "there is no gdb");
        return None;
    };
    let ended = Running::start(&mut apart(gdb)).finish();
    Some(format!("{}{}", ended.stdout, ended.stderr))
}

/// A page fault leads to the function with the mistake, by the explanation and
/// by GDB.
fn a_page_fault_is_found(scratch: &Scratch, rustc: &Path) {
    let place = new(scratch, "mistake", "hello", rustc);
    fs::write(place.join("src/main.rs"), MISTAKE).unwrap();
    let ran = cargo(&place, &["run"]);
    let text = said(&ran);
    assert_eq!(ran.status.code(), Some(1), "{text}");
    for line in [
        "CRASH: panic: trap 14 at 0xc01",
        "  addresses in the reason:\n        c01",
        "in mistake::put (",
        "src/main.rs:20)\n",
        "mistake::show (",
        "src/main.rs:26)\n",
        "page tables for 000b8000:",
        "usual cause: a page fault of the kernel's own code",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let commands = [
        "tbreak mistake::main",
        "continue",
        "next",
        "watch mistake::COUNT",
        "continue",
        "delete",
        "tbreak core::panicking::panic_fmt",
        "continue",
        "bt",
        "kill",
    ];
    let image = image(scratch, "mistake");
    let Some(text) = gdb("a_page_fault_is_found", &image, &commands) else {
        return;
    };
    for line in ["mistake::main (boot=", "src/main.rs:3", "Old value"] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    // The frames of the code that has faulted.
    let (_, frames) = text.split_once("<signal handler called>").unwrap();
    for line in [
        "mistake::put (place=0, byte=72) at src/main.rs:20",
        "in mistake::show (",
        "in mistake::main (",
    ] {
        assert!(frames.contains(line), "{line} is missing in {text}");
    }
}

/// The file of a program with its debug information, which is not in the file
/// of the kernel.
fn program_file(scratch: &Scratch, name: &str) -> PathBuf {
    let builds = fs::read_dir(image(scratch, "build")).unwrap();
    let below = "out/programs/i686-unknown-linux-gnu/debug";
    let files = builds.map(|build| build.unwrap().path().join(below));
    let mut files = files.map(|folder| folder.join(name));
    files.find(|file| file.is_file()).unwrap()
}

/// GDB in a program in user mode, that of the template `scheduler`.
fn gdb_stops_in_a_program(scratch: &Scratch) {
    let program = program_file(scratch, "primes");
    let add = format!("add-symbol-file {}", program.display());
    let commands = [
        "tbreak a_scheduler::main",
        "continue",
        &add,
        // The other program has the same addresses.
        "hbreak primes::main if limit == 100000",
        "continue",
        "info registers cs",
        "next",
        "bt",
        "kill",
    ];
    let image = image(scratch, "a-scheduler");
    let Some(text) = gdb("gdb_stops_in_a_program", &image, &commands) else {
        return;
    };
    for line in [
        "primes::main (limit=100000) at programs/src/bin/primes.rs:8",
        "cs             0x73",
        "for number in 2..limit {",
        " in lg_user_start ()",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

/// The crate of the template `test` with tests that fail, each in its own way.
fn failures_are_reported_as_cargos_own(scratch: &Scratch) {
    let place = scratch.path("a-test");
    let file = place.join("tests/guest.rs");
    let tests = fs::read_to_string(&file).unwrap();
    let bad = "lg_guest::tests! {
    fn a_wrong_sum() {
        lg_guest::println!(\"\\x1b[31mred\");
        assert_eq!(1 + 1, 3);
    }
    fn an_endless_loop() {
        loop {
            core::hint::spin_loop();
        }
    }
    #[should_panic]
    fn no_panic() {}
    #[ignore]
    fn not_now() {}
    fn powers_off() {
        lg_guest::power::off(7);
    }
";
    let tests = tests.replace("lg_guest::tests! {\n", bad);
    fs::write(&file, tests).unwrap();
    // Only the endless one has a short time: others may need more of it where
    // the machine is busy.
    let endless = "an_endless_loop";
    let tested = cargo(&place, &["test", "--", "--timeout", "2s", endless]);
    let text = said(&tested);
    for line in [
        "running 1 test\n",
        "the test took longer than 2s",
        "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 7 \
         filtered out",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let tested = cargo(&place, &["test", "--", "--skip", endless]);
    let text = said(&tested);
    for line in [
        "running 7 tests",
        "test not_now ... ignored",
        "test a_wrong_sum ... FAILED",
        "---- a_wrong_sum output ----\n\\u{1b}[31mred\nlguest: CRASH: panic: \
         assertion `left == right` failed",
        "frames, newest first:",
        "guest::a_wrong_sum",
        "tests/guest.rs:11)",
        "usual cause: the guest's own code has panicked",
        "the test has not panicked as it should",
        "the guest has ended with code 7",
        "\nfailures:\n    ",
        "test result: FAILED. 3 passed; 3 failed; 1 ignored; 0 measured; 1 \
         filtered out",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert_eq!(tested.status.code(), Some(101));
    // One of them, by a part of its name.
    let one = cargo(&place, &["test", "--", "reversed"]);
    assert!(said(&one).contains("running 1 test\n"), "{}", said(&one));
    assert!(said(&one).contains("7 filtered out"), "{}", said(&one));
    assert!(one.status.success());
    let listed = cargo(&place, &["test", "--", "--list"]);
    assert!(
        said(&listed).contains("powers_off: test\n"),
        "{}",
        said(&listed)
    );
}

/// What the guest of each lesson is run with (its words, its input), and what
/// it prints then.
const LESSONS: &[(&str, &[&str], &str, &str)] = &[
    ("01-mark", &[], "", "Hello, I am a kernel."),
    (
        "02-memory",
        &["a", "b=c"],
        "",
        "My command line is \"a b=c\".",
    ),
    ("03-traps", &[], "", "I have answered 3 traps."),
    (
        "04-pages",
        &[],
        "",
        "100 pages are written to: 100 page faults.",
    ),
    (
        "05-interrupts",
        &[],
        "",
        "The timer has interrupted me 2 times.",
    ),
    ("06-heap", &["10"], "", "Prime 10 is 29."),
    ("07-shell", &[], "echo \"a  b\" c\nexit\n", "a  b c"),
    (
        "08-disk",
        &["add", "A cow"],
        "",
        "0: Buy milk\r\n1: A cow\r\n",
    ),
    ("09-network", &["say", "hello"], "", "answers: re: hello"),
    ("10-programs", &[], "", "work: Exit(64), Counts { calls: 1,"),
];

#[test]
fn lessons_run_and_exercises_fail_until_they_are_solved() {
    let test = "lessons_run_and_exercises_fail_until_they_are_solved";
    let Some(rustc) = compiler(test) else { return };
    let scratch = Scratch::new("course");
    let place = new(&scratch, "course", "course", &rustc);
    fail_and_be_solved(&place);
    let built = cargo(&place, &["build", "--workspace"]);
    assert!(built.status.success(), "{}", said(&built));
    // The lesson on networks has a second guest.
    let folder = place.join("09-network");
    private_file(&folder.join("lan"));
    let mut command = apart(lguest());
    command.current_dir(&folder);
    command.env("CARGO_MANIFEST_DIR", &folder).arg("runner");
    command.arg(scratch.path("target").join(LISTENER));
    let listener = Running::start(command.arg("listen"));
    listener.wait_for("and listen.");
    for &(lesson, words, input, printed) in LESSONS {
        let output = run_lesson(&place, lesson, words, input);
        let text = said(&output);
        assert!(text.contains(printed), "{lesson}: {text}");
        assert!(output.status.success(), "{lesson}: {text}");
    }
    listener.wait_for("says: hello");
    listener.signal(libc::SIGTERM);
    assert_eq!(listener.finish().code(), 143);
}

/// Runs the tests of all lessons: only those of exercises fail. Then puts the
/// solutions in their places, and runs these again.
fn fail_and_be_solved(place: &Path) {
    let count = |text: &str, part: &str| text.matches(part).count();
    // What the copy is locked to is what the tree is.
    let words = ["test", "--locked", "--no-fail-fast", "--test", "lesson"];
    let words = [&words[..], &["--test", "exercise"]].concat();
    let text = said(&cargo(place, &words));
    assert!(!text.contains("\nwarning: "), "{text}");
    assert_eq!(count(&text, "test result: ok."), LESSONS.len(), "{text}");
    assert_eq!(count(&text, "\n    `-p lesson"), LESSONS.len(), "{text}");
    for &(lesson, ..) in LESSONS {
        let folder = place.join(lesson);
        let solution = folder.join("solution/exercise.rs");
        fs::copy(solution, folder.join("src/exercise.rs")).unwrap();
    }
    let solved = cargo(place, &["test", "--test", "exercise"]);
    let text = said(&solved);
    assert!(solved.status.success(), "{text}");
    assert!(!text.contains("\nwarning: "), "{text}");
    assert_eq!(count(&text, "test result: ok."), LESSONS.len(), "{text}");
}

/// The guest of the lesson on networks, below the target folder.
const LISTENER: &str = "i686-unknown-linux-gnu/debug/lesson09";

/// Makes the file of a network.
fn private_file(path: &Path) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).mode(0o600).open(path);
    file.unwrap().set_len(4096).unwrap();
}

/// Runs the guest of a lesson as a reader does.
fn run_lesson(
    place: &Path,
    lesson: &str,
    words: &[&str],
    input: &str,
) -> Output {
    let mut command = apart(program("cargo"));
    command.current_dir(place.join(lesson)).args(["run", "--"]);
    command.args(words);
    command.env("CARGO_TARGET_DIR", place.with_file_name("target"));
    with_input(command, input)
}

#[test]
fn what_cannot_be_made_is_refused_with_a_cure() {
    let scratch = Scratch::new("new");
    let place = scratch.path("taken");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("file"), "mine").unwrap();
    let empty = scratch.path("empty");
    fs::create_dir(&empty).unwrap();
    let tell = |name: &str, rustc: &str| {
        let mut command = apart(lguest());
        command.arg("new").arg(scratch.path(name));
        if rustc.is_empty() {
            // No cargo and no compiler is there.
            command.env("PATH", &empty).env("HOME", &empty);
        } else {
            // rustup finds cargo by HOME.
            command.env("LGUEST_I686_RUSTC", rustc);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), said(&output))
    };
    // Another user's cargo may be in the path, and not be reachable.
    let has_cargo = Command::new("cargo").arg("--version").output().is_ok();
    for (name, rustc, code, words) in [
        ("1st", "", 2, "begin with a letter"),
        ("taken", "", 2, "it exists: give another name"),
        ("fresh", "", 121, "install Rust 1.85 or later"),
        ("fresh", "/bin/true", 121, "unset it, or name a rustc"),
    ] {
        if !rustc.is_empty() && !has_cargo {
            skip("a_compiler_that_is_none", "this user has no cargo");
            continue;
        }
        let (got, text) = tell(name, rustc);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(words), "{text}");
    }
    assert!(!scratch.path("fresh").exists(), "nothing is left behind");
    let file = fs::read_to_string(place.join("file")).unwrap();
    assert_eq!(file, "mine");
}

#[test]
fn a_runner_runs_any_guest_with_words_and_settings() {
    let scratch = Scratch::new("runner");
    let mut command = apart(lguest());
    command.env("CARGO_MANIFEST_DIR", scratch.path("."));
    let settings = "memory = \"48M\"\n";
    fs::write(scratch.path("lguest.toml"), settings).unwrap();
    command.arg("runner").arg(support::built_in());
    command.args(["quiet", "run=\"mem;poweroff 9\""]);
    command.stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    let code = end_of(&mut child).unwrap().code();
    let output = child.wait_with_output().unwrap();
    assert!(said(&output).contains("48"), "{}", said(&output));
    assert_eq!(code, Some(9));
}

//! The rows that run one command at a time.
//!
//! Each round runs the command once on every system, so that other work on the
//! machine meets all of them. Programs that compute say themselves for how
//! long; everything else is from the start of a command to its end.

use super::images::{COLD, Images, PYTHON, WARM};
use super::native::Native;
use super::options::Options;
use super::qemu::Qemu;
use super::results::{NATIVE, Results};
use super::timed::{Ran, timed};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-tcg";

/// What the rows are measured on, or why it is not here.
pub(super) struct Systems<'a> {
    pub(super) images: &'a Images,
    pub(super) native: Result<Native, String>,
    pub(super) qemu: Result<Qemu, String>,
}

/// A command that prints something.
struct Job {
    row: &'static str,
    words: &'static [&'static str],
    prints: &'static str,
}

const SHORT: [Job; 2] = [
    Job {
        row: "true",
        words: &["/bin/true"],
        prints: "",
    },
    Job {
        row: "python",
        words: &["python3", "-c", "print(1)"],
        prints: "1",
    },
];

const BOOT: &str = "boot";

/// Programs that compute, and print for how many seconds.
const COMPUTE: [(&str, &str); 2] = [
    (
        "compute-python",
        "import time; t = time.perf_counter(); x = 0\n\
         for i in range(3000000): x = (x * 31 + i) % 1000003\n\
         print(time.perf_counter() - t)",
    ),
    ("compute-c", COMPUTE_C),
];

const COMPUTE_C: &str = r#"#include <stdio.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
int main(void) {
    double start = now();
    volatile unsigned result;
    unsigned x = 1, table[4096] = {0};
    for (unsigned i = 0; i < 200000000; i++) {
        x = x * 1664525 + 1013904223;
        table[x >> 20] += x;
    }
    result = table[7];
    (void)result;
    printf("%f\n", now() - start);
    return 0;
}
"#;

/// Compiles and runs the program that is on standard input.
const RUN_C: &str = "D=$(mktemp -d) && cc -O2 -o $D/x -x c - && $D/x; C=$?; \
                     rm -rf $D; exit $C";

/// Unpacks the archive on standard input and runs a command there, in a shell
/// of its own, which it may end.
fn unpack_and(run: &str) -> String {
    format!(
        "D=$(mktemp -d) && cd $D && tar x && ({run}) >log 2>&1; C=$?; \
         tail -n 1 log >&2; cd /; rm -rf $D; exit $C"
    )
}

/// Measures them.
pub(super) fn measure(
    options: &Options,
    systems: &Systems,
    results: &mut Results,
) {
    for job in SHORT.iter().filter(|job| options.wants(job.row)) {
        short(job, options, systems, results);
    }
    if options.wants(BOOT) {
        boot(options, systems, results);
    }
    for (row, program) in COMPUTE {
        if options.wants(row) {
            compute(row, program, options, systems, results);
        }
    }
    let make = "make";
    let tests = "python3 -m unittest";
    for (row, folder, run) in [
        ("build", &options.build, make),
        ("tests", &options.tests, tests),
    ] {
        if !options.wants(row) {
            continue;
        }
        match folder {
            None => results.lacks(row, "all", &format!("give --{row}")),
            Some(folder) => {
                let done = work(row, folder, run, options, systems, results);
                if let Err(why) = done {
                    results.lacks(row, "all", &why);
                }
            }
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Records the time of a run, or what was wrong with it.
fn record(
    row: &str,
    system: &str,
    ran: Result<(String, Duration), String>,
    prints: &str,
    results: &mut Results,
) {
    match ran {
        Ok((output, time)) if output.trim() == prints => {
            results.add(row, system, milliseconds(time), "ms");
        }
        Ok((output, _)) => {
            results.lacks(row, system, &format!("it prints {output:?}"));
        }
        Err(why) => results.lacks(row, system, &why),
    }
}

/// A short command, many times.
fn short(job: &Job, options: &Options, on: &Systems, results: &mut Results) {
    eprintln!("exec: {}", job.row);
    let both = |ran: Ran| (ran.output, ran.time);
    let mut record = |system: &str, ran| {
        record(job.row, system, ran, job.prints, results);
    };
    for round in 0..options.runs {
        match &on.native {
            Ok(native) => record(NATIVE, native.run(job.words, None).map(both)),
            Err(why) => record(NATIVE, Err(why.clone())),
        }
        for image in [WARM, PYTHON] {
            let ran = match (&on.images.no_python, image) {
                (Some(why), PYTHON) => Err(why.clone()),
                _ => on.images.run(image, job.words, None).map(both),
            };
            record(image, ran);
        }
        if round >= options.peer_runs {
            continue;
        }
        match &on.qemu {
            Ok(qemu) => record(QEMU, qemu.run(&shell(job.words))),
            Err(why) => record(QEMU, Err(why.clone())),
        }
    }
}

/// Words as a line for a shell.
fn shell(words: &[&str]) -> String {
    let quoted = |word: &&str| format!("'{}'", word.replace('\'', "'\\''"));
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// From the shell to the first output without a snapshot.
fn boot(options: &Options, on: &Systems, results: &mut Results) {
    eprintln!("exec: {BOOT}");
    for _ in 0..options.peer_runs {
        let mut command = on.images.exec(COLD, &["/bin/echo", "up"]);
        let first = first_output(&mut command);
        record(BOOT, COLD, first, "u", results);
        let booted = match &on.qemu {
            Ok(qemu) => qemu.boot(None).map(|(_, time)| time),
            Err(why) => Err(why.clone()),
        };
        let booted = booted.map(|time| ("u".into(), time));
        record(BOOT, QEMU, booted, "u", results);
    }
}

/// The first byte that a command prints, and when.
fn first_output(command: &mut Command) -> Result<(String, Duration), String> {
    let failed = |error| format!("it cannot be started: {error}");
    let start = Instant::now();
    let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let mut byte = [0];
    let read = child.stdout.take().map(|mut out| out.read(&mut byte));
    let time = start.elapsed();
    child.wait().map_err(failed)?;
    match read {
        Some(Ok(1)) => Ok((char::from(byte[0]).into(), time)),
        _ => Err("it prints nothing".into()),
    }
}

/// A program that says for how long it has computed.
fn compute(
    row: &str,
    program: &str,
    options: &Options,
    on: &Systems,
    results: &mut Results,
) {
    eprintln!("exec: {row}");
    let c = row == "compute-c";
    let file = on.images.place.join("program.c");
    if let Err(error) = std::fs::write(&file, program) {
        return results.lacks(row, "all", &error.to_string());
    }
    let words = match c {
        true => ["sh", "-c", RUN_C],
        false => ["python3", "-c", program],
    };
    let input = c.then_some(&*file);
    let mut record = |system: &str, output: Result<String, String>| {
        let seconds = output.and_then(|output| {
            let number = output.trim().parse::<f64>();
            number.map_err(|_| format!("it prints {output:?}"))
        });
        match seconds {
            Ok(time) => results.add(row, system, time * 1000.0, "ms"),
            Err(why) => results.lacks(row, system, &why),
        }
    };
    for round in 0..options.peer_runs {
        match &on.native {
            Ok(native) => {
                record(NATIVE, native.run(&words, input).map(|r| r.output));
            }
            Err(why) => record(NATIVE, Err(why.clone())),
        }
        let ran = on.images.run(WARM, &words, input);
        record(WARM, ran.map(|ran| ran.output));
        // An emulator is slow.
        if round > 1 {
            continue;
        }
        match &on.qemu {
            Ok(qemu) if c => {
                let line =
                    format!("mount -t tmpfs none /tmp; ({RUN_C}) </dev/vdb");
                record(QEMU, in_qemu(qemu, &line, &file).map(|(out, _)| out));
            }
            Ok(qemu) => {
                let ran = qemu.run(&shell(&words));
                record(QEMU, ran.map(|(output, _)| output));
            }
            Err(why) => record(QEMU, Err(why.clone())),
        }
    }
}

/// Boots QEMU with a file as its second disk, and runs a line there.
fn in_qemu(
    qemu: &Qemu,
    line: &str,
    file: &Path,
) -> Result<(String, Duration), String> {
    // A disk has whole sectors. What reads it ends before them.
    let whole = file.with_extension("disk");
    let mut bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let fill = if file.ends_with("program.c") {
        b'\n'
    } else {
        0
    };
    bytes.resize(bytes.len().next_multiple_of(1 << 20), fill);
    std::fs::write(&whole, bytes).map_err(|e| e.to_string())?;
    let (mut machine, _) = qemu.boot(Some(&whole))?;
    Qemu::answer(&mut machine, line)
}

/// A folder whose files go into the machine by standard input, and a command
/// that works with them.
fn work(
    row: &str,
    folder: &Path,
    run: &str,
    options: &Options,
    on: &Systems,
    results: &mut Results,
) -> Result<(), String> {
    eprintln!("exec: {row}");
    let archive: PathBuf = on.images.place.join(format!("{row}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-cf").arg(&archive).arg(".");
    timed(&mut tar, None)?;
    let script = unpack_and(run);
    let words = ["sh", "-c", &script];
    let mut record = |system: &str, ran| record(row, system, ran, "", results);
    let both = |ran: Ran| (ran.output, ran.time);
    for round in 0..options.peer_runs.min(3) {
        match &on.native {
            Ok(native) => {
                record(NATIVE, native.run(&words, Some(&archive)).map(both));
            }
            Err(why) => record(NATIVE, Err(why.clone())),
        }
        let ran = on.images.run(WARM, &words, Some(&archive));
        record(WARM, ran.map(both));
        if round > 0 {
            continue;
        }
        match &on.qemu {
            Ok(qemu) => {
                let line = format!(
                    "mount -t tmpfs none /tmp; ({script}) </dev/vdb \
                     2>/dev/null || echo failed"
                );
                record(QEMU, in_qemu(qemu, &line, &archive));
            }
            Err(why) => record(QEMU, Err(why.clone())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_in_a_shell() {
        let line = shell(&["echo", "it's $HOME", "a  b"]);
        let mut command = Command::new("sh");
        let ran = timed(command.args(["-c", &line]), None).unwrap();
        assert_eq!(ran.output, "it's $HOME a  b\n");
    }

    #[test]
    fn the_first_output_is_seen_before_the_end() {
        let mut command = Command::new("sh");
        // It ends when nobody reads any more.
        command.args(["-c", "echo up; while echo down; do :; done"]);
        let (byte, _) = first_output(&mut command).unwrap();
        assert_eq!(byte, "u");
        assert!(first_output(&mut Command::new("true")).is_err());
    }

    #[test]
    fn work_with_an_archive_has_the_code_of_its_command() {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("xtask-work-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "text").unwrap();
        let archive = folder.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg("-cf").arg(&archive).arg(".");
        timed(&mut tar, None).unwrap();
        let run = |run: &str| {
            let mut shell = Command::new("sh");
            timed(shell.args(["-c", &unpack_and(run)]), Some(&archive))
        };
        assert_eq!(run("grep text file").unwrap().output, "");
        let why = run("echo no; exit 3").err().unwrap();
        assert!(why.contains('3') && why.contains("no"), "{why}");
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::remove_file(archive).unwrap();
    }
}

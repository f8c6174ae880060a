//! Every question of the test guest, and its transcript.
//!
//! `guests/questions` asks one question per run, as a Guest of 2007 or of a
//! later release. The output of Guest and Launcher is compared with
//! `tests/questions/NAME.txt`, which begins with the question and ends with the
//! exit code of the Launcher. `UPDATE_EXPECT=1` writes the files again. Read
//! what has changed.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use support::later::{LATER, Later, ON_PCI};
use support::{Finished, Running, Scratch, guests, lguest, questions, run};

/// The folder of the transcripts.
fn records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/questions")
}

/// A way to run the Guest.
struct Way {
    /// Its name, for the names of files.
    name: &'static str,
    /// The Launcher's options.
    options: &'static [&'static str],
    /// The part of a line that is compared with the transcript.
    look_at: fn(&str) -> &str,
    /// Whether it asks a question, by its name and topic.
    asks: fn(&str, &str) -> bool,
    /// The release that the Guest says it is, unless it is one of 2007.
    later: Option<Later>,
}

impl Way {
    /// All questions of a Guest of 2007.
    const OF_2007: Self = Self {
        name: "exact",
        options: &["--isolation=guest", "--no-fast-path=flat-code"],
        look_at: |line| line,
        asks: |_, _| true,
        later: None,
    };

    /// The Guest. `scratch` must live as long as it is used.
    fn kernel(&self, scratch: &Scratch) -> PathBuf {
        match self.later {
            Some(later) => later.of(&questions(), scratch),
            None => questions(),
        }
    }
}

#[test]
fn every_answer_is_as_it_was() {
    compare(&Way::OF_2007, UPDATE);
}

/// A Guest of the last releases with virtio gets the same answers as one of
/// 2007, as far as they can be asked in both. It has questions of its own.
#[test]
fn every_answer_to_a_later_guest_is_as_it_was() {
    let later = Way {
        name: "later",
        later: Some(LATER[0]),
        ..Way::OF_2007
    };
    compare(&later, UPDATE);
}

#[test]
fn later_guests_get_the_same_answers_with_user_processes() {
    let walled_in = Way {
        name: "later-user",
        options: &["--isolation=user"],
        asks: is_of_later_guests,
        later: Some(LATER[0]),
        ..Way::OF_2007
    };
    compare(&walled_in, !UPDATE);
}

/// Devices are the same for each later release.
#[test]
fn devices_of_every_later_release_give_the_same_answers() {
    for later in &LATER[1..] {
        let way = Way {
            name: later.release,
            options: &["--isolation=guest"],
            asks: |_, topic| ["virtio", "frames"].contains(&topic),
            later: Some(*later),
            ..Way::OF_2007
        };
        compare(&way, !UPDATE);
    }
}

/// So does one with devices on a PCI bus.
#[test]
fn every_answer_to_a_guest_with_a_pci_bus_is_as_it_was() {
    let pci = Way {
        name: "pci",
        later: Some(ON_PCI[0]),
        ..Way::OF_2007
    };
    compare(&pci, UPDATE);
}

#[test]
fn guests_with_a_pci_bus_get_the_same_answers_with_user_processes() {
    let walled_in = Way {
        name: "pci-user",
        options: &["--isolation=user"],
        asks: is_of_later_guests,
        later: Some(ON_PCI[0]),
        ..Way::OF_2007
    };
    compare(&walled_in, !UPDATE);
}

#[test]
fn the_first_release_with_a_pci_bus_gives_the_same_answers() {
    let first = Way {
        name: "pci-first",
        options: &["--isolation=guest"],
        asks: |_, topic| ["virtio", "pci"].contains(&topic),
        later: Some(ON_PCI[1]),
        ..Way::OF_2007
    };
    compare(&first, !UPDATE);
}

/// Whether a topic is one of later Guests only.
fn is_of_later_guests(_: &str, topic: &str) -> bool {
    ["later", "virtio", "frames", "pci"].contains(&topic)
}

/// For [`compare`]: transcripts may be written.
const UPDATE: bool = true;

/// If the code segment has no limit, a program that jumps into its kernel gets
/// its fault at the first instruction there that traps.
#[test]
fn every_answer_is_the_same_by_default_except_after_a_stray_jump() {
    const STRAYED: &str = "trap 14: error 5 eip c010000";
    let default = Way {
        name: "default",
        options: &["--isolation=guest"],
        look_at: |line| match line.starts_with(STRAYED) {
            true => STRAYED,
            false => line,
        },
        ..Way::OF_2007
    };
    compare(&default, !UPDATE);
}

#[test]
fn every_answer_is_the_same_with_user_processes() {
    let walled_in = Way {
        name: "user",
        options: &["--isolation=user"],
        ..Way::OF_2007
    };
    compare(&walled_in, !UPDATE);
}

/// Without patches the Host carries out each load of a kernel's own segments.
#[test]
fn answers_about_a_kernels_own_segments_are_the_same_without_patches() {
    let unpatched = Way {
        name: "unpatched",
        options: &["--isolation=guest", "--no-fast-path=segments"],
        asks: |name, _| name.starts_with("own_"),
        ..Way::OF_2007
    };
    compare(&unpatched, !UPDATE);
}

/// Compares the answers with the transcripts, or writes them, if that is asked
/// for.
fn compare(way: &Way, may_update: bool) {
    let update = may_update && std::env::var_os("UPDATE_EXPECT").is_some();
    let texts = texts();
    let scratch = Scratch::new(way.name);
    let kernel = way.kernel(&scratch);
    let mut names = names(&kernel);
    let topic = |name: &String| texts.get(name).map_or("", |q| &q.topic);
    names.retain(|name| (way.asks)(name, topic(name)));
    assert!(!names.is_empty(), "no question for {:?}", way.name);
    let left = Mutex::new(names);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(name) = { left.lock().unwrap().pop() } {
            let question = texts.get(&name);
            let question =
                question.unwrap_or_else(|| panic!("{name} asks nothing"));
            let has_peer = texts.contains_key(&format!("{name}_peer"));
            let mut answer = question.on_record();
            let asked = ask(&name, &question.topic, has_peer, way, &kernel);
            for finished in asked {
                record(&mut answer, &finished);
            }
            let path = records().join(format!("{name}.txt"));
            let before = fs::read_to_string(&path).unwrap_or_default();
            let seen = |text: &str| -> Vec<String> {
                text.lines().map(|l| (way.look_at)(l).to_owned()).collect()
            };
            if seen(&before) == seen(&answer) {
                continue;
            }
            if update {
                fs::write(&path, &answer).unwrap();
            } else {
                wrong.lock().unwrap().push((name, before, answer));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from)
        {
            scope.spawn(work);
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let mut report = String::new();
    for (name, before, answer) in &wrong {
        let _ = write!(
            report,
            "\n==== {name}, on record:\n{before}==== {name}, now:\n{answer}"
        );
    }
    assert!(wrong.is_empty(), "{} answers differ:{report}", wrong.len());
}

#[test]
fn every_record_has_its_question() {
    let scratch = Scratch::new("records");
    let mut all = names(&questions());
    for later in [LATER[0], ON_PCI[0]] {
        all.extend(names(&later.of(&questions(), &scratch)));
    }
    let names = all;
    let texts = texts();
    for name in &names {
        assert!(
            texts.get(name).is_some_and(|q| q.text.contains('?')),
            "{name} has no question"
        );
    }
    for entry in fs::read_dir(records()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".txt").unwrap();
        assert!(
            names.iter().any(|n| n == name),
            "there is no question {name}"
        );
    }
}

/// All names, as the Guest lists them.
fn names(kernel: &Path) -> Vec<String> {
    let list = run(lguest().arg("16").arg(kernel).arg("ask=list"), b"");
    let list = list.ends_well(0).stdout;
    list.lines().map(|line| line.trim().to_owned()).collect()
}

/// A question in the Guest's sources.
struct Question {
    /// The doc comment.
    text: String,
    /// The module, which decides the devices that it needs.
    topic: String,
}

impl Question {
    /// Its form in the transcript: lines of the usual length.
    fn on_record(&self) -> String {
        let mut lines = String::from("?");
        let mut length = 1;
        for word in self.text.split_whitespace() {
            if length + word.len() > 79 {
                lines.push_str("\n ");
                length = 1;
            }
            lines.push(' ');
            lines.push_str(word);
            length += word.len() + 1;
        }
        lines + "\n"
    }
}

/// All functions in the Guest's sources that are questions, by name.
fn texts() -> BTreeMap<String, Question> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(guests().join("questions/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let topic = path.file_stem().unwrap().to_str().unwrap();
        let mut text = String::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(more) = line.strip_prefix("/// ") {
                text = format!("{text} {more}").trim().to_owned();
                continue;
            }
            let name = line.strip_prefix("pub(crate) fn ");
            if let Some(name) = name.and_then(|n| n.strip_suffix("() {")) {
                let question = Question {
                    text: text.clone(),
                    topic: topic.to_owned(),
                };
                texts.insert(name.to_owned(), question);
            }
            text.clear();
        }
    }
    texts
}

/// Runs the Guest with one question and the devices that it needs. Some
/// questions need two Guests, and then both answer.
fn ask(
    name: &str,
    topic: &str,
    has_peer: bool,
    way: &Way,
    kernel: &Path,
) -> Vec<Finished> {
    let scratch = Scratch::new(&format!("{name}-{}", way.name));
    let options = devices(name, topic, &scratch);
    let command = |ask: &str| {
        let mut command = lguest();
        command.args(["run", "--memory", "16", "--kernel"]);
        command.arg(kernel).args(&options);
        command.args(way.options);
        command.arg(format!("--append=ask={ask}"));
        command
    };
    let typed = ["console", "interrupts"].contains(&topic)
        || name.starts_with("typed_into_");
    let input: &[u8] = if typed { b"one two\n" } else { b"" };
    if !has_peer {
        return vec![run(&mut command(name), input)];
    }
    let first = Running::start(&mut command(name));
    // The first one takes the first slot, and then prints something.
    first.wait_for("\n");
    let peer = run(&mut command(&format!("{name}_peer")), b"");
    vec![first.finish(), peer]
}

/// The options that a question needs.
fn devices(name: &str, topic: &str, scratch: &Scratch) -> Vec<String> {
    let disk = |name: &str, first: u8| {
        let sectors = (0..=255).flat_map(|n: u8| [n ^ first; 512]);
        let bytes: Vec<u8> = sectors.collect();
        scratch.file(name, &bytes).display().to_string()
    };
    match (topic, name) {
        ("block", "read_only") => {
            vec![format!("--disk={},ro", disk("disk", 0))]
        }
        ("block", "two_disks" | "bus") => vec![
            format!("--disk={}", disk("disk", 0)),
            format!("--disk={}", disk("another", 0xF0)),
        ],
        ("block", _) => vec![format!("--disk={}", disk("disk", 0))],
        ("virtio", "sectors_of_a_read_only_disk") => {
            vec![format!("--disk={},ro", disk("disk", 0))]
        }
        ("virtio" | "pci", _) => vec![format!("--disk={}", disk("disk", 0))],
        ("net" | "frames", _) => {
            let file = scratch.file("lan", &[0; 4096]);
            vec![format!("--net=sharenet={}", file.display())]
        }
        _ => Vec::new(),
    }
}

/// Adds the output and the end of a run. Lines that are too long are continued
/// in the next one, after a backslash.
fn record(record: &mut String, finished: &Finished) {
    let mut text = finished.stdout.replace("\r\n", "\n");
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str("(no end of line)\n");
    }
    let end = format!("[exit {}] {}", finished.code(), finished.stderr);
    text.push_str(end.trim_end());
    text.push('\n');
    for line in text.lines() {
        let mut rest: Vec<char> = line.chars().collect();
        while rest.len() > LONGEST {
            let later = rest.split_off(LONGEST - 1);
            record.extend(rest);
            record.push_str("\\\n");
            rest = later;
        }
        record.extend(rest);
        record.push('\n');
    }
}

/// The longest line of a transcript.
const LONGEST: usize = 99;

//! Every question that a Guest can ask, and the answer on record.
//!
//! `guests/questions` asks one question per run; what it and the Launcher say
//! is compared with `tests/questions/NAME.txt`, which begins with the question
//! and ends with how the Launcher ended. `UPDATE_EXPECT=1` writes the files
//! anew: then it is for you to read what has changed.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use support::{Finished, Scratch, guests, lguest, questions, run};

/// Where the answers are.
fn records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/questions")
}

#[test]
fn every_answer_is_as_it_was() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let texts = texts();
    let left = Mutex::new(names());
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(name) = { left.lock().unwrap().pop() } {
            let text = texts.get(&name);
            let text = text.unwrap_or_else(|| panic!("{name} asks nothing"));
            let answer = record(text, &ask(&name));
            let path = records().join(format!("{name}.txt"));
            let before = fs::read_to_string(&path).unwrap_or_default();
            if before == answer {
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
    let names = names();
    let texts = texts();
    for name in &names {
        assert!(
            texts.get(name).is_some_and(|text| text.contains('?')),
            "{name} has no question"
        );
    }
    for entry in fs::read_dir(records()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".txt").unwrap();
        assert!(names.iter().any(|n| n == name), "nobody asks {name}");
    }
}

/// All names, as the Guest knows them.
fn names() -> Vec<String> {
    let list = run(lguest().arg("16").arg(questions()).arg("ask=list"), b"");
    let list = list.ends_well(0).stdout;
    list.lines().map(|line| line.trim().to_owned()).collect()
}

/// The doc comment of every function in the Guest's sources, by name.
fn texts() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(guests().join("questions/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let mut text = String::new();
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some(more) = line.strip_prefix("/// ") {
                text = format!("{text} {more}").trim().to_owned();
                continue;
            }
            let name = line.strip_prefix("pub(crate) fn ");
            if let Some(name) = name.and_then(|n| n.strip_suffix("() {")) {
                texts.insert(name.to_owned(), text.clone());
            }
            text.clear();
        }
    }
    texts
}

/// Runs the Guest with one question, and with what that one needs.
fn ask(name: &str) -> Finished {
    let scratch = Scratch::new(name);
    let mut command = lguest();
    command
        .arg("16")
        .arg(questions())
        .arg(format!("ask={name}"));
    let input = prepare(name, &scratch, &mut command);
    run(&mut command, &input)
}

/// Adds the devices that a question is about; answers what is typed.
fn prepare(name: &str, scratch: &Scratch, command: &mut Command) -> Vec<u8> {
    let _ = (name, scratch, command);
    Vec::new()
}

/// How it looks on record.
fn record(text: &str, finished: &Finished) -> String {
    let mut record = format!("? {text}\n");
    let output = finished.stdout.replace("\r\n", "\n");
    record.push_str(&output);
    if !record.ends_with('\n') {
        record.push_str("(no end of line)\n");
    }
    let stderr = finished.stderr.trim_end_matches('\n');
    let code = finished.code();
    match stderr {
        "" => writeln!(record, "[exit {code}]"),
        message => writeln!(record, "[exit {code}] {message}"),
    }
    .unwrap();
    record
}

//! A Launcher that was taken over cannot speak to the terminal of a command.
//!
//! It can write any text into the files of its folder, and send any text by its
//! socket. `console` and `logs` to a file are left out: they print what a guest
//! has printed.

use crate::place::Place;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// Text that a terminal acts on, as JSON: ESC and CSI.
const ESCAPES: &str = "\\u001b[2J\\u009b5m";

/// Runs a command, and checks all that it prints.
#[track_caller]
fn is_harmless(place: &Place, code: i32, words: &str) -> String {
    let end = place.run(words);
    assert_eq!(end.code(), code, "{words}: {end:?}");
    let said = format!("{}{}", end.stdout, end.stderr);
    let bad = said.chars().any(|c| c.is_control() && c != '\n');
    assert!(!bad, "{words}: {said:?}");
    said
}

#[test]
fn the_reason_of_an_end_has_no_escape_sequences() {
    let place = Place::new("escapes-end");
    place.start("web");
    place.done("stop web");
    let end =
        format!("{{\"exit_code\": 1, \"reason\": \"{ESCAPES}\", \"at\": 0}}");
    fs::write(place.file("web", "end"), end).unwrap();
    let refused = [
        "run --name web",
        "run --name web --detach",
        "console web",
        "stop web",
        "kill web",
        "pause web",
        "send web text",
        "stats web",
    ];
    for words in refused {
        let said = is_harmless(&place, 126, words);
        assert!(said.contains("web' has ended (\\u{1b}[2J"), "{said}");
    }
    for words in ["ps", "ps --json", "inspect web", "inspect web --toml"] {
        is_harmless(&place, 0, words);
    }
    is_harmless(&place, 1, "wait web");
}

/// Answers each call with everything that an answer may have. The call `wait`
/// is answered after the call that follows, as by a machine that is stopped.
fn answer(stream: &UnixStream, result: &str) {
    let mut lines = BufReader::new(stream).lines();
    let mut late = String::new();
    while let Some(Ok(line)) = lines.next() {
        let id = line.split_once("\"id\":").unwrap().1;
        let id: String = id.chars().take_while(char::is_ascii_digit).collect();
        let answer = format!(
            "{{\"jsonrpc\": \"2.0\", \"id\": {id}, \"result\": {result}}}\n"
        );
        if line.contains("\"wait\"") {
            late = answer;
            continue;
        }
        let answers = answer + &std::mem::take(&mut late);
        // The command may have ended.
        let _ = (&*stream).write_all(answers.as_bytes());
    }
}

#[test]
fn answers_of_a_launcher_have_no_escape_sequences() {
    let place = Place::new("escapes-socket");
    place.start("web");
    place.done("stop web");
    // From now on, this process is the Launcher.
    let lock = File::open(place.file("web", "lock")).unwrap();
    lock.lock().unwrap();
    fs::write(place.file("web", "end"), "").unwrap();
    let control = place.file("web", "control");
    let _ = fs::remove_file(&control);
    let listener = UnixListener::bind(control).unwrap();
    let facts = fs::read_to_string(place.file("web", "facts")).unwrap();
    let facts = facts.strip_suffix('}').unwrap().replace("32M", ESCAPES);
    assert!(facts.contains(ESCAPES), "{facts}");
    let result = |state: &str| {
        format!(
            "{facts}, \"state\": \"{state}\", \"output_first\": 0, \
             \"output_end\": 0, \"clients\": 1, \
             \"host\": {{\"{ESCAPES}\": 1}}, \"devices\": [], \
             \"huge_pages\": 0, \"typed\": \"{ESCAPES}\", \
             \"exit_code\": 1, \"reason\": \"{ESCAPES}\", \"at\": 0}}"
        )
    };
    let (good, bad) = (result("running"), result(ESCAPES));
    let server = std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            answer(&stream.unwrap(), if n == 0 { &bad } else { &good });
        }
    });
    let said = is_harmless(&place, 126, "inspect web");
    assert!(said.contains("variant `\\u{1b}[2J"), "{said}");
    for words in ["inspect web", "inspect web --toml", "stats web"] {
        let said = is_harmless(&place, 0, words);
        assert!(said.contains("[2J"), "{said}");
    }
    is_harmless(&place, 0, "stats web --json");
    let said = is_harmless(&place, 0, "stop web");
    assert!(said.contains("machine 'web': \\u{1b}[2J"), "{said}");
    // The place kills no machine at its end: this process would be killed.
    fs::remove_dir_all(place.folder("web")).unwrap();
    drop(server);
}
